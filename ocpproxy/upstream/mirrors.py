"""Several homes of one volume: when one fails, the next is asked.

The homes are asked in the order in which the configuration has them. One whose breaker is open is passed over, so that
only the first few requests wait for a home that is gone. Each home makes its own dataset of the same description.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from ocpproxy.log import Logger
from ocpproxy.model.dataset import Cutout, Dataset
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import Picture, UpstreamFailure
from ocpproxy.upstream.breaker import GuardedUpstream, counts

T = TypeVar("T")


class Mirrored:
    """The homes of one volume as one upstream."""

    _log = Logger()

    def __init__(self, homes: Sequence[GuardedUpstream]) -> None:
        self._homes = homes
        self.origin = homes[0].origin

    async def describe(self, token: str) -> str:
        """Return a description from the first home that gives one; see `Upstream.describe`."""
        return await self._first(lambda _, home: home.describe(token))

    def dataset(self, token: str, description: str) -> Dataset:
        """Return a dataset, whose `upstream_data` are the datasets of all homes."""
        datasets = [home.dataset(token, description) for home in self._homes]
        return replace(datasets[0], upstream_data=tuple(datasets))

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Return voxels from the first home that gives them; see `Upstream.cutout`."""
        return await self._first(lambda n, home: home.cutout(_at(cutout, n)))

    async def picture(self, cutout: Cutout, known: Picture | None) -> Picture | None:
        """Return a picture from the first home that gives one; see `Upstream.picture`."""
        return await self._first(lambda n, home: home.picture(_at(cutout, n), known))

    async def _first(self, ask: Callable[[int, GuardedUpstream], Awaitable[T]]) -> T:
        numbered = list(enumerate(self._homes))
        ready = [one for one in numbered if one[1].breaker.is_ready] or numbered[:1]
        for tries_left, (number, home) in zip(range(len(ready) - 1, -1, -1), ready, strict=True):
            try:
                return await ask(number, home)
            except UpstreamFailure as failure:
                if not tries_left or not counts(failure):
                    raise
                self._log.debug("{origin} is passed over: {reason}", origin=home.origin, reason=str(failure))
        raise AssertionError("there is at least one home")


def _at(cutout: Cutout, number: int) -> Cutout:
    """Return a cutout as one home knows it."""
    dataset: Dataset = cutout.dataset.upstream_data[number]
    return replace(cutout, dataset=replace(dataset, token=cutout.dataset.token, alias_of=cutout.dataset.upstream_token))
