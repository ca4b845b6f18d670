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
from ocpproxy.store.usage import Usage

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


class MakesSpace(Protocol):
    """An evictor, as `Capacity` sees it."""

    def start_if_full(self) -> None:
        """Start an eviction pass if the cache is full enough for one."""

    async def make_space(self) -> bool:
        """Run an eviction pass, or wait for the running one. Return False when the index is unavailable."""


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
        self._stored = stored
        self._clock = clock
        self._reserved = Usage()
        self._requested = Usage()
        self._queue = DeferredLock()

    def adapt(self, usage: Usage, spare: Usage) -> None:
        """Lower the limits to what fits on the disk.

        :param usage: what is stored now.
        :param spare: what may still be stored; less than 0 when some has to go.
        """
        configured, possible = self._configured, usage + spare
        size = max(1, min(configured.size, possible.bytes))
        tiles = configured.max_tiles
        if possible.tiles < (tiles or _PLENTY):
            tiles = max(1, possible.tiles)
        limited = replace(configured, size=size, max_tiles=tiles)
        if (limited == configured) != (self.limits == configured):
            if limited == configured:
                self._log.info("the disk has space again for all that the cache may hold")
            else:
                self._log.warn(
                    "the disk has no space for all that the cache may hold: {size} bytes, {tiles} tiles at most",
                    size=size,
                    tiles=tiles or "any number of",
                )
        self.limits = limited

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
