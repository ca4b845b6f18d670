"""Reclaiming: the cache stays within its size by forgetting what was used least recently.

The policy is pure (`CacheLimits`). The `Evictor` looks at the account every `interval`, and at once when something is
about to be stored that would fill the cache: whoever stores asks for `room` first. Over ``reclaim_above`` of the
size a turn goes down to ``reclaim_to`` in small slices, each a transaction and some unlinks in threads, so nothing
waits long. One process at a time reclaims, by a lease; what is chosen and freed is computed in the transaction, so
even two would not free too much.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.index.leases import Lease
from ocpproxy.metrics import Metrics
from ocpproxy.store.rows import Usage

LEASE = "reclaim"
_SLICE = 100
"""Tiles in one transaction: some 10 ms' work."""
_REST = 0.02
"""Seconds between slices, so that hits do not notice: 3,000 tiles a second go, several times what fetches bring."""
_PATIENCE = 5.0
"""Seconds that somebody who wants to store waits for room."""
_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """How much the cache may hold: `size` bytes, and `max_tiles` tiles when that is not 0."""

    size: int
    max_tiles: int
    above: float
    to: float

    def is_full(self, usage: Usage) -> bool:
        """Whether it is time to reclaim."""
        return usage.bytes > self.above * self.size or bool(
            self.max_tiles and usage.tiles > self.above * self.max_tiles
        )

    def holds(self, usage: Usage) -> bool:
        """Whether so much may lie on disk at all."""
        return usage.bytes <= self.size and not (self.max_tiles and usage.tiles > self.max_tiles)

    def keep(self, incoming: Usage) -> Usage:
        """What is left when a turn ends, with room for what is about to be stored."""
        tiles = min(int(self.to * self.max_tiles), self.max_tiles - incoming.tiles) if self.max_tiles else 2**62
        return Usage(max(0, tiles), max(0, min(int(self.to * self.size), self.size - incoming.bytes)))


class Account(Protocol):
    """What is reclaimed."""

    @property
    def usage(self) -> Usage:
        """What it holds now."""

    async def refresh(self) -> Usage:
        """DisplaySettings again what it holds."""

    async def shrink(self, keep: Usage, at_most: int) -> Usage:
        """Remove the least recently used until `keep` is left, `at_most` so many tiles; what was removed."""


class Evictor(Service):
    """Keeps one account within its limits."""

    _log = Logger()

    def __init__(
        self,
        account: Account,
        lease: Lease,
        limits: CacheLimits,
        interval: float,
        clock: IReactorTime,
        metrics: Metrics,
    ) -> None:
        self._account = account
        self._lease = lease
        self._limits = limits
        self._interval = interval
        self._clock = clock
        self._metrics = metrics
        self._granted = Usage()
        self._wanted = Usage()
        self._door = DeferredLock()
        self._index_away = False
        self._turning: Deferred[Any] | None = None
        self._loop = LoopingCall(self._tick)
        self._loop.clock = clock

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        self._loop.start(self._interval, now=False)

    def stopService(self) -> Deferred[None] | None:
        """Stop looking; a turn that is under way ends after its slice."""
        super().stopService()
        self._loop.stop()
        return self._turn_ended() if self._turning is not None else None

    async def _tick(self) -> None:
        try:
            await self._account.refresh()
            if self._limits.is_full(self._projected()):
                await self.turn()
        except DatabaseUnavailable:
            pass
        except CancelledError:
            raise
        except Exception:
            self._turn_failed(Failure())

    def _projected(self, wanted: Usage = Usage()) -> Usage:  # noqa: B008 - a value
        """What lies on disk when all that was granted, and this, is written."""
        usage, granted = self._account.usage, self._granted
        return Usage(usage.tiles + granted.tiles + wanted.tiles, usage.bytes + granted.bytes + wanted.bytes)

    @asynccontextmanager
    async def room(self, wanted: Usage) -> AsyncIterator[int]:
        """Room for storing: yields how many bytes may be stored, kept free until the end of the block.

        That is what is wanted or, when the cache could not be made small enough in time, 0: the cache is bounded even
        in a burst, and while the index is away. One cuboid never takes more than half of the cache. Who comes first
        is served first.
        """
        wanted = Usage(wanted.tiles, min(wanted.bytes, self._limits.size // 2))
        await self._door.acquire()
        try:
            granted = wanted if await self._make_room(wanted) else Usage()
            self._granted = Usage(self._granted.tiles + granted.tiles, self._granted.bytes + granted.bytes)
        finally:
            self._wanted = Usage()
            self._door.release()
        try:
            yield granted.bytes
        finally:
            self._granted = Usage(self._granted.tiles - granted.tiles, self._granted.bytes - granted.bytes)
            self._begin_if_full(self._projected())

    async def _make_room(self, wanted: Usage) -> bool:
        self._wanted = wanted
        self._begin_if_full(self._projected(wanted))
        deadline = self._clock.seconds() + _PATIENCE
        while not self._limits.holds(self._projected(wanted)):
            await self.turn()
            if self._index_away or self._clock.seconds() > deadline:
                return self._limits.holds(self._projected(wanted))
            if not self._limits.holds(self._projected(wanted)):
                await deferLater(self._clock, _PAUSE)  # another process reclaims
        return True

    def _begin_if_full(self, usage: Usage) -> None:
        if self._turning is None and self.running and self._limits.is_full(usage):
            self._begin()

    def _begin(self) -> None:
        turning: Deferred[Any] = Deferred.fromCoroutine(self._turn())
        self._turning = turning
        self._index_away = False
        turning.addErrback(self._turn_failed)
        turning.addBoth(self._turned)

    def _turn_failed(self, failure: Failure) -> bool:
        if failure.check(DatabaseUnavailable):
            self._index_away = True
        elif not failure.check(CancelledError):
            self._metrics.failed_turns.labels("reclaim").inc()
            self._log.failure("reclaiming failed; it is tried again", failure)
        return False

    def _turned(self, done: Any) -> None:
        self._turning = None
        if done:
            self._begin_if_full(self._account.usage)  # what was being stored while the turn ended has come on top

    def _turn_ended(self) -> Deferred[None]:
        ended: Deferred[None] = Deferred()
        if self._turning is None:
            ended.callback(None)
        else:
            self._turning.addBoth(lambda _: ended.callback(None))
        return ended

    async def turn(self) -> None:
        """One turn of reclaiming, shared by all who wait for one."""
        if self._turning is None:
            self._begin()
        await self._turn_ended()

    async def _turn(self) -> bool:
        """Whether the cache was made as small as it is to be."""
        if not await self._lease.take(LEASE):
            await self._account.refresh()
            return False
        try:
            while self.running:
                coming = Usage(self._granted.tiles + self._wanted.tiles, self._granted.bytes + self._wanted.bytes)
                keep = self._limits.keep(coming)
                removed = await self._account.shrink(keep, _SLICE)
                usage = self._account.usage
                if not removed.tiles or (usage.tiles <= keep.tiles and usage.bytes <= keep.bytes):
                    return True  # as far as the account goes; what is stored meanwhile is for the next turn
                if self._wanted == Usage():  # nobody waits for room, and others want the processor
                    await deferLater(self._clock, _REST)
            return False
        finally:
            await self._lease.release(LEASE)
