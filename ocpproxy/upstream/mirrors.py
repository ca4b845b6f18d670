"""Several homes of one volume: when one fails, the next is asked.

The homes are asked in the order in which the configuration has them. One whose breaker is open is passed over, so that
only the first few requests wait for a home that is gone. Each home is read by its own description. One that describes
another volume than the first is not used, and neither is one that has not described it yet. What a home has described
once counts until it says something else, so that an outage of the first home changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from cachetools import LRUCache

from ocpproxy.concurrency.gather import gather
from ocpproxy.log import Logger
from ocpproxy.model.dataset import Cutout, Dataset
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import NoNativeChunks, NotUnderstood, Picture, UpstreamFailure
from ocpproxy.upstream.breaker import GuardedUpstream, counts

T = TypeVar("T")
_MOST_TOKENS = 1000


class Mirrored(NoNativeChunks):
    """The homes of one volume as one upstream. Each may store its chunks in its own way."""

    _log = Logger()

    def __init__(self, homes: Sequence[GuardedUpstream]) -> None:
        self._homes = homes
        self._described: LRUCache[tuple[str, int], str] = LRUCache(_MOST_TOKENS * len(homes))
        self.origin = f"homes of {homes[0].origin}"

    async def describe(self, token: str) -> str:
        """Return the descriptions of all homes that give one; see `Upstream.describe`.

        :raises UpstreamFailure: none has given one, now or before.
        """
        failures = [one for one in await gather([self._ask(token, n) for n in range(len(self._homes))]) if one]
        texts = [self._described.get((token, n)) for n in range(len(self._homes))]
        if len(failures) == len(self._homes):
            raise next(filter(counts, failures), failures[0])
        return json.dumps(texts)

    async def _ask(self, token: str, number: int) -> UpstreamFailure | None:
        """Ask one home for its description, and keep it; return its failure."""
        try:
            self._described[token, number] = await self._homes[number].describe(token)
        except UpstreamFailure as failure:
            return failure
        return None

    def dataset(self, token: str, description: str) -> Dataset:
        """Return the dataset of the first home, whose `upstream_data` are those of all; None for one that is not used.

        :raises UpstreamBroken: no description makes sense.
        """
        datasets: list[Dataset | None] = []
        first: Dataset | None = None
        notes: list[str] = []
        failed: UpstreamFailure | None = None
        for number, (home, text) in enumerate(zip(self._homes, _texts(description, len(self._homes)), strict=True), 1):
            found = None
            try:
                found = None if text is None else home.dataset(token, text)
            except UpstreamFailure as failure:
                failed = failed or failure
            if found is not None and first is not None and _geometry(found) != _geometry(first):
                notes.append(f"home {number} is not used: it describes another volume")
                found = None
            elif found is None:
                notes.append(f"home {number} is not used: it has not described the volume")
            first = first or found
            datasets.append(found)
        if first is None:
            raise failed or NotUnderstood("no home has described the volume")
        return replace(first, upstream_data=tuple(datasets), notes=(*first.notes, *notes))

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Return voxels from the first home that gives them; see `Upstream.cutout`."""
        return await self._first(cutout, lambda home, own: home.cutout(own))

    async def picture(self, cutout: Cutout, known: Picture | None) -> Picture | None:
        """Return a picture from the first home that gives one; see `Upstream.picture`."""
        return await self._first(cutout, lambda home, own: home.picture(own, known))

    async def _first(self, cutout: Cutout, ask: Callable[[GuardedUpstream, Cutout], Awaitable[T]]) -> T:
        usable = [
            (home, _at(cutout, dataset))
            for home, dataset in zip(self._homes, cutout.dataset.upstream_data, strict=True)
            if dataset is not None
        ]
        ready = [one for one in usable if one[0].breakers.of(one[1]).is_ready] or usable[:1]
        failures: list[UpstreamFailure] = []
        for home, own in ready:
            try:
                return await ask(home, own)
            except UpstreamFailure as failure:
                failures.append(failure)
                self._log.debug("{origin} is passed over: {reason}", origin=home.origin, reason=str(failure))
        raise next(filter(counts, failures), failures[0])


def _texts(description: str, count: int) -> list[Any]:
    """Return the description of each home, None where there is none."""
    try:
        texts = json.loads(description)
    except (ValueError, RecursionError):
        texts = None
    fine = isinstance(texts, list) and all(text is None or isinstance(text, str) for text in texts)
    if not fine:
        raise NotUnderstood("expected the descriptions of several homes")
    return [*texts, *[None] * count][:count]


def _geometry(dataset: Dataset) -> object:
    """Return what homes of one volume have in common."""
    return (
        {number: (level.size, level.offset, level.voxel) for number, level in dataset.levels.items()},
        [(channel.name, channel.kind, channel.dtype, channel.time) for channel in dataset.channels],
    )


def _at(cutout: Cutout, dataset: Dataset) -> Cutout:
    """Return a cutout as one home knows it."""
    own = replace(dataset, token=cutout.dataset.token, alias_of=cutout.dataset.upstream_token)
    channel = next(one for one in dataset.channels if one.name == cutout.channel.name)
    return replace(cutout, dataset=own, channel=channel)
