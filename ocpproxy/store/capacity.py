"""How much the cache may hold, and space that is reserved for what is about to be stored.

Who stores reserves space first, so the cache is bounded even in a burst, and while the index is unavailable.
`ocpproxy.cache.eviction` makes space.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from ocpproxy.store.rows import Usage

_PATIENCE = 5.0
"""Seconds that somebody who wants to store waits for space."""
_PAUSE = 0.05
"""Seconds between looks while another process evicts."""


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


class MakesSpace(Protocol):
    """An evictor, as `Capacity` sees it."""

    def start_if_full(self) -> None:
        """Start a pass if it is time for one."""

    async def make_space(self) -> bool:
        """Run a pass, or wait for the one that runs. Return False when the index is unavailable."""


class Capacity:
    """The space of one store.

    :param stored: returns what is stored now.
    """

    evictor: MakesSpace
    """Set by the evictor, which is made after the store."""

    def __init__(self, limits: CacheLimits, stored: Callable[[], Usage], clock: IReactorTime) -> None:
        self.limits = limits
        self._stored = stored
        self._clock = clock
        self._reserved = Usage()
        self._requested = Usage()
        self._queue = DeferredLock()

    @property
    def used(self) -> Usage:
        """What lies on disk when all that has a reservation is written."""
        return self._stored() + self._reserved

    @property
    def incoming(self) -> Usage:
        """What is reserved, and what somebody waits to reserve."""
        return self._reserved + self._requested

    @property
    def expected(self) -> Usage:
        """What lies on disk when all that is `incoming` is written too."""
        return self.used + self._requested

    @property
    def is_requested(self) -> bool:
        """True while somebody waits for space."""
        return self._requested != Usage()

    @asynccontextmanager
    async def reserve(self, wanted: Usage) -> AsyncIterator[int]:
        """Reserve space for the time of a block, and yield how many bytes may be stored.

        That is what is wanted or, when no space could be made in time, 0. One cuboid never takes more than half of the
        cache. First come, first served.
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
        """Return whether there is space, or can be made in time."""
        self.evictor.start_if_full()
        deadline = self._clock.seconds() + _PATIENCE
        while not self.limits.allows(self.used + wanted):
            possible = await self.evictor.make_space()
            if not possible or self._clock.seconds() > deadline:
                return self.limits.allows(self.used + wanted)
            if not self.limits.allows(self.used + wanted):
                await deferLater(self._clock, _PAUSE)  # another process evicts
        return True
