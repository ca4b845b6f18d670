"""The limits of the cache, and the space that is reserved for what is about to be stored.

Space is reserved before anything is stored, so the cache is bounded even in a burst, and while the index is
unavailable. `ocpproxy.cache.eviction` makes space.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from ocpproxy.log import Logger
from ocpproxy.store.space.usage import Usage

_PATIENCE = 5.0
"""Seconds that a reservation waits for space."""
_PLENTY = 2**60
"""Tiles, where there is no bound."""
_PAUSE = 0.05
"""Seconds between two looks at the usage while another process evicts."""


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """How much the cache may hold: `size` bytes, and `max_tiles` tiles when that is not 0.

    An eviction pass begins when more than the share `above` of a limit is used, and goes down to the share `to`.
    """

    size: int
    max_tiles: int
    above: float
    to: float

    def is_full(self, usage: Usage) -> bool:
        """Return whether it is time to evict."""
        return usage.bytes > self.above * self.size or bool(
            self.max_tiles and usage.tiles > self.above * self.max_tiles
        )

    def allows(self, usage: Usage) -> bool:
        """Return whether so much may lie on disk at all."""
        return usage.bytes <= self.size and not (self.max_tiles and usage.tiles > self.max_tiles)

    def target(self, incoming: Usage) -> Usage:
        """Return the usage after an eviction pass, with space for what is about to be stored."""
        tiles = min(int(self.to * self.max_tiles), self.max_tiles - incoming.tiles) if self.max_tiles else 2**62
        return Usage(max(0, tiles), max(0, min(int(self.to * self.size), self.size - incoming.bytes)))

    def room(self, wanted: Usage) -> Usage:
        """Return the usage to which so much can be added before it is time to evict."""
        tiles = int(self.above * self.max_tiles) - wanted.tiles if self.max_tiles else 2**62
        return Usage(max(0, tiles), max(0, int(self.above * self.size) - wanted.bytes))


class _Bound:
    """How much of something the cache may hold: what is configured, or less where the disk has no space for it.

    What is evicted does not always make space: links to shared files have none of their own, and there may be
    snapshots. When it did not, the bound is not lowered further, unless still less is free.
    """

    def __init__(self, configured: int) -> None:
        self._configured = self._now = configured
        self._last: tuple[int, int] | None = None
        self._gains_nothing_at: int | None = None

    def adapt(self, used: int, spare: int) -> int:
        """Return how much the cache may hold, at least 1."""
        if self._last is not None:
            evicted, gained = self._last[0] - used, spare - self._last[1]
            if evicted > 0 and spare < 0 and 2 * gained < evicted:
                self._gains_nothing_at = spare
        self._last = (used, spare)
        if self._gains_nothing_at is not None and not self._gains_nothing_at <= spare < 0:
            self._gains_nothing_at = None
        if self._gains_nothing_at is None:
            self._now = max(1, min(self._configured, used + spare))
        return self._now


class MakesSpace(Protocol):
    """An evictor, as `Capacity` sees it."""

    def start_if_full(self) -> None:
        """Start an eviction pass if the cache is full enough for one."""

    async def make_space(self) -> bool:
        """Run an eviction pass, or wait for the running one. Return False when that gains nothing for now."""


class Capacity:
    """The space of one store.

    :param stored: returns what is stored now.
    """

    _log = Logger()
    evictor: MakesSpace
    """Set by the evictor, which is made after the store."""

    def __init__(self, limits: CacheLimits, stored: Callable[[], Usage], clock: IReactorTime) -> None:
        self.limits = self._configured = limits
        """What the cache may hold now."""
        self._size, self._tiles = _Bound(limits.size), _Bound(limits.max_tiles or _PLENTY)
        self._is_lowered = False
        self._stored = stored
        self._clock = clock
        self._reserved = Usage()
        self._requested = Usage()
        self._queue = DeferredLock()

    def adapt(self, usage: Usage, spare: Usage) -> None:
        """Lower the limits to what fits on the disk, or raise them again.

        :param usage: what is stored now.
        :param spare: what may still be stored; less than 0 when some has to go.
        """
        configured = self._configured
        size = self._size.adapt(usage.bytes, spare.bytes)
        tiles = self._tiles.adapt(usage.tiles, spare.tiles)
        bounded = tiles < _PLENTY
        self.limits = replace(configured, size=size, max_tiles=tiles if bounded else configured.max_tiles)
        fewer_tiles = tiles < configured.max_tiles if configured.max_tiles else spare.tiles < 0
        is_lowered = size < configured.size or fewer_tiles
        if is_lowered and not self._is_lowered and self.limits.is_full(usage):
            self._log.warn(
                "the disk has no space for all that the cache may hold: {size} bytes, {tiles} tiles at most",
                size=size,
                tiles=tiles if bounded else "any number of",
            )
            self._is_lowered = True
        elif not is_lowered and self._is_lowered:
            self._log.info("the disk has space again for all that the cache may hold")
            self._is_lowered = False

    @property
    def used(self) -> Usage:
        """The usage once everything reserved is written."""
        return self._stored() + self._reserved

    @property
    def incoming(self) -> Usage:
        """The space that is reserved or requested."""
        return self._reserved + self._requested

    @property
    def expected(self) -> Usage:
        """The usage once everything reserved or requested is written."""
        return self.used + self._requested

    @property
    def is_requested(self) -> bool:
        """True while a reservation waits for space."""
        return self._requested != Usage()

    @asynccontextmanager
    async def reserve(self, wanted: Usage) -> AsyncIterator[int]:
        """Reserve space for the duration of a block, and yield the number of bytes that may be stored.

        This is all that is wanted, at most half of the cache, or 0 when no space could be made in time. Reservations
        are served in the order in which they come.
        """
        wanted = Usage(wanted.tiles, min(wanted.bytes, self.limits.size // 2))
        await self._queue.acquire()
        try:
            self._requested = wanted
            granted = wanted if await self._fits(wanted) else Usage()
            self._reserved += granted
        finally:
            self._requested = Usage()
            self._queue.release()
        try:
            yield granted.bytes
        finally:
            self._reserved -= granted
            self.evictor.start_if_full()

    async def _fits(self, wanted: Usage) -> bool:
        """Return whether the wanted space is free, or could be freed in time."""
        self.evictor.start_if_full()
        deadline = self._clock.seconds() + _PATIENCE
        while not self.limits.allows(self.used + wanted):
            possible = await self.evictor.make_space()
            if not possible or self._clock.seconds() > deadline:
                return self.limits.allows(self.used + wanted)
            if not self.limits.allows(self.used + wanted):
                await deferLater(self._clock, _PAUSE)  # another process evicts
        return True
