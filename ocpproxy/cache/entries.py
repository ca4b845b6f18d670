"""What is known of one token: the source of its voxels, its dataset, and why it is not described.

Tiles of voxels that may change are fetched again from time to time. Time is cut into *epochs*, and the epoch is part of
a stack's version: in a new epoch the old tiles are not found any more, and age out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from math import inf, isfinite

from cachetools import LRUCache

from ocpproxy.model.address import ImageBase
from ocpproxy.model.chunks import ChunkedVolume, View
from ocpproxy.model.dataset import Channel, Dataset
from ocpproxy.model.display import DEFAULT_DISPLAY, DisplaySettings
from ocpproxy.model.stack import MAX_CUTOUT, Stack
from ocpproxy.upstream.base import Upstream, UpstreamFailure
from ocpproxy.upstream.breaker import Breakers, BreakerState

_WRITABLE_FOR = 3600.0
"""Seconds that tiles are good for whose voxels the upstream calls writable."""
_MOST_STACKS = 1000


@dataclass(frozen=True)
class DatasetSource:
    """Where a token's voxels come from, and how they are shown."""

    upstream: Upstream
    info_max_age: float
    """Seconds that a description is good for."""
    flights: int
    """Cuboids that are fetched, rendered and stored at a time."""
    patience: float
    """Seconds that a flight waits for its slot, or for another process's fetch."""
    alias_of: str | None = None
    """The upstream's token, where it is another."""
    display: DisplaySettings = DEFAULT_DISPLAY
    max_cutout: int = MAX_CUTOUT
    """Bytes of voxels that one cuboid may take."""
    max_age: float | None = None
    """Seconds after which tiles are fetched again, infinity for never; None to decide by channel."""
    breakers: tuple[Breakers, ...] = ()
    """Those of the homes of the upstream."""
    homes: tuple[tuple[str, str], ...] = ()
    """The name of each home (`upstream.breaker.GuardedUpstream.home`), and its address."""
    allowed: frozenset[str] = frozenset()
    """The groups that may see it; empty where everybody may."""
    is_asked: bool = True
    """False where the upstream is not asked for anything."""

    def is_resting(self, token: str) -> bool:
        """Return whether no home of the upstream is asked for voxels of a token now."""
        resting = bool(self.breakers) and all(one.state(token) is not BreakerState.CLOSED for one in self.breakers)
        return resting or not self.is_asked

    def lifetime(self, channels: Iterable[Channel]) -> float:
        """Return the seconds after which tiles that show these channels are fetched again."""
        if self.max_age is not None:
            return self.max_age
        return _WRITABLE_FOR if any(channel.writable for channel in channels) else inf

    def origin(self) -> str:
        """Return what descriptions from here are stored under, at most 255 characters."""
        origin = f"{self.upstream.origin} {self.alias_of}" if self.alias_of else self.upstream.origin
        return origin if len(origin) <= 255 else f"{origin[:200]} {sha256(origin.encode()).hexdigest()[:32]}"

    def dataset(self, token: str, description: str) -> Dataset:
        """Return the dataset of a description, under our token.

        :raises UpstreamBroken: when the description makes no sense.
        """
        upstream_token = self.alias_of or token
        return replace(self.upstream.dataset(upstream_token, description), token=token, alias_of=upstream_token)


class Undescribed(Exception):
    """A token has no description, so that nothing of it can be shown.

    :param configured: whether the token has a section of its own.
    """

    def __init__(self, token: str, failure: UpstreamFailure, *, configured: bool) -> None:
        super().__init__(f"{token}: {failure.fault}: {failure}")
        self.failure = failure
        self.configured = configured


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an upstream does not describe a token."""

    failure: UpstreamFailure
    since: float
    """Seconds since 1970."""


@dataclass(eq=False)
class CatalogueEntry:
    """One token."""

    source: DatasetSource
    dataset: Dataset
    read_at: float
    """When the upstream described the dataset; seconds since 1970, like all times here."""
    refresh_at: float
    """When the dataset is to be described again; 0 once another entry has replaced this one."""
    epoch: int = 0
    """The epoch of tiles that are fetched again from time to time; 0 when there are none such."""
    epoch_ends: float = inf
    stacks: LRUCache[ImageBase, Stack] = field(default_factory=lambda: LRUCache(_MOST_STACKS))
    volumes: dict[str, ChunkedVolume] = field(default_factory=dict)

    def stack(self, base: ImageBase) -> Stack:
        """Return the stack of an image base.

        :raises CannotDisplay: there is no such channel, or it cannot be drawn this way.
        """
        stack = self.stacks.get(base)
        if stack is None:
            display, most = self.source.display, self.source.max_cutout
            stack = self.stacks[base] = Stack.build(self.dataset, base, display, most, self._epoch_of)
        return stack

    def volume(self, name: str) -> ChunkedVolume:
        """Return a channel in chunks.

        :param name: that of one of the channels.
        :raises CannotDisplay: not even a small chunk of it fits into a cutout.
        """
        volume = self.volumes.get(name)
        if volume is None:
            dataset, source = self.dataset, self.source
            channel = next(one for one in dataset.channels if one.name == name)  # not by its number
            native = partial(source.upstream.native_chunks, dataset, channel)
            volume = ChunkedVolume.build(dataset, channel, source.max_cutout, self._epoch_of, native)
            self.volumes[channel.name] = volume
        return volume

    def _epoch_of(self, channels: Sequence[Channel]) -> int:
        return self.epoch if isfinite(self.source.lifetime(channels)) else 0

    def expires(self, stack: View) -> float | None:
        """Return when tiles of the stack are fetched again, None for never."""
        return self.epoch_ends if stack.epoch else None

    def is_like(self, other: CatalogueEntry) -> bool:
        """Return whether both describe the same dataset in the same epoch."""
        return self.epoch == other.epoch and repr(self.dataset) == repr(other.dataset)


def make_entry(source: DatasetSource, dataset: Dataset, read_at: float) -> CatalogueEntry:
    """Return the entry of a dataset that was described at `read_at`."""
    lifetime, refresh_at = source.lifetime(dataset.channels), read_at + source.info_max_age
    if not isfinite(lifetime):
        return CatalogueEntry(source, dataset, read_at, refresh_at)
    # Derived from `read_at`, so that all processes, and the next start, agree.
    epoch = int(read_at // lifetime) + 1
    return CatalogueEntry(source, dataset, read_at, refresh_at, epoch, epoch * lifetime)
