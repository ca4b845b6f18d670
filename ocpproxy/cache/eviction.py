"""Eviction: the cache stays within its limits by forgetting the tiles that were used least recently.

The `Evictor` looks at the usage every `interval`, and whenever somebody reserves space (`store.space.capacity`). Above
``reclaim_above`` of the size an eviction pass goes down to ``reclaim_to`` in small slices, each a transaction and some
unlinks in threads, so nothing waits long. One process at a time runs a pass, by a lease. What is chosen and freed is
computed in the transaction, so even two would not free too much.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure

from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.index.leases import LeaseHolder
from ocpproxy.log import Logger
from ocpproxy.metrics import Metrics
from ocpproxy.store.space.capacity import CacheLimits, Capacity
from ocpproxy.store.space.usage import Usage

LEASE = "reclaim"
"""The name of the lease; processes of other versions use it too."""
_SLICE = 100
"""Tiles in one transaction: some 10 ms of work."""
_INTERRUPTED = 0.2
"""Seconds between two looks while another process runs a pass."""
_PATIENCE, _FUTILE_FOR = 1.0, 5.0
"""Seconds of passes that find nothing to evict, and then without any."""
_PAUSE = 0.02
"""Seconds between slices, so that hits do not notice. 3,000 tiles a second go, several times what fetches bring."""


class EvictableStore(Protocol):
    """A store, as the evictor sees it."""

    capacity: Capacity

    @property
    def usage(self) -> Usage:
        """What the store holds, as far as this process knows."""

    async def refresh(self) -> Usage:
        """Return what the store holds by the index, which other processes change too."""

    async def evict(self, keep: Usage, at_most: int, unused_since: float | None = None) -> Usage:
        """Evict the least recently used tiles, `at_most` of them, until `keep` is left; return what was evicted.

        :param unused_since: spare those that were used since then (seconds since 1970).
        """


class Evictor(Service):
    """The service that keeps one store within its limits."""

    _log = Logger()

    def __init__(
        self, store: EvictableStore, leases: LeaseHolder, interval: float, clock: IReactorTime, metrics: Metrics
    ) -> None:
        self._store = store
        self._capacity = store.capacity
        self._leases = leases
        self._interval = interval
        self._clock = clock
        self._metrics = metrics
        self._held = Usage()
        """The space that is kept for what is fetched ahead."""
        self._holding = DeferredLock()
        self._index_unavailable = False
        self._futile_until = 0.0
        self._without_gain = 0
        """Passes in a row that found nothing to evict."""
        self._no_gain_since = 0.0
        self._running_pass: Deferred[Any] | None = None
        self._again: IDelayedCall | None = None
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock
        self._capacity.evictor = self

    @property
    def _limits(self) -> CacheLimits:
        return self._capacity.limits  # they change with the space on the disk

    def startService(self) -> None:
        """Look at the usage every `interval` from now on."""
        super().startService()
        self._loop.start(self._interval, now=False)

    def stopService(self) -> Deferred[Any] | None:
        """Stop looking. A pass ends after its slice."""
        super().stopService()
        self._loop.stop()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        return self._pass_ended()

    async def _look(self) -> None:
        try:
            await self._store.refresh()
            if self._limits.is_full(self._capacity.used):
                await self.make_space()
        except DatabaseUnavailable:
            pass
        except CancelledError:
            raise
        except Exception:
            self._failed(Failure())

    def start_if_full(self) -> None:
        """Start a pass if it is time for one and none runs."""
        ready = self._running_pass is None and self.running and not self._is_futile()
        if ready and self._limits.is_full(self._capacity.expected):
            self._start_pass()

    def _is_futile(self) -> bool:
        """Return whether a pass found nothing to evict a moment ago."""
        return self._clock.seconds() < self._futile_until

    async def make_space(self) -> bool:
        """Run a pass, or wait for the one that runs. Return False when that gains nothing for now."""
        if self._running_pass is None:
            if self._is_futile():
                return False
            self._start_pass()
        await self._pass_ended()
        return not self._index_unavailable and not self._is_futile()

    @asynccontextmanager
    async def hold_space(self, wanted: Usage, unused_since: float) -> AsyncIterator[bool]:
        """Keep space free for the time of a block, below the share of the size at which a pass begins.

        So whoever stores there within the block evicts nothing. The space is made of what was not used since then
        (seconds since 1970), and others who hold space are waited for. Yield whether there is any.

        :raises DatabaseUnavailable: the index does not answer.
        """
        await self._holding.acquire()
        try:
            held = wanted if await self._make_space_held(wanted, unused_since) else Usage()
            self._held += held
        finally:
            self._holding.release()
        try:
            yield held is wanted
        finally:
            self._held -= held

    async def _make_space_held(self, wanted: Usage, unused_since: float) -> bool:
        """Evict what was not used since then, until there is the space; return whether there is."""
        while self._limits.is_full(self._capacity.expected + self._held + wanted):
            if self._running_pass is not None:
                await self._pass_ended()
            elif not await self._evict_unused(wanted, unused_since):
                if self._limits.is_full(self._capacity.expected + wanted):
                    return False
                await deferLater(self._clock, _INTERRUPTED)  # there will be space when others need theirs no more
        return True

    async def _evict_unused(self, wanted: Usage, unused_since: float) -> bool:
        """Evict a slice of what was not used; return False when there is nothing left."""
        if not await self._leases.acquire(LEASE):  # another process runs a pass
            await deferLater(self._clock, _INTERRUPTED)
            await self._store.refresh()
            return True
        try:
            room = self._limits.room(self._capacity.incoming + self._held + wanted)
            return bool((await self._store.evict(room, _SLICE, unused_since)).tiles)
        finally:
            await self._leases.release(LEASE)

    def _pass_ended(self) -> Deferred[None]:
        """Return a Deferred that fires when no pass runs. Cancelling it does not cancel the pass."""
        ended: Deferred[None] = Deferred(lambda _: None)
        if self._running_pass is None:
            ended.callback(None)
        else:
            self._running_pass.addBoth(lambda _: None if ended.called else ended.callback(None))
        return ended

    # -- one pass

    def _start_pass(self) -> None:
        self._index_unavailable = False
        self._running_pass = Deferred.fromCoroutine(self._pass())
        self._running_pass.addErrback(self._failed)
        self._running_pass.addBoth(self._finished)

    def _failed(self, failure: Failure) -> bool:
        if failure.check(DatabaseUnavailable):
            self._index_unavailable = True
            self._start_later()
        elif not failure.check(CancelledError):
            self._metrics.failed_passes.labels("reclaim").inc()
            self._log.failure("an eviction pass failed; it is tried again", failure)
        return False

    def _finished(self, complete: Any) -> None:
        self._running_pass = None
        if complete and self._limits.is_full(self._store.usage):
            self.start_if_full()  # what was stored during the last slice has come on top

    def _start_later(self) -> None:
        """Start a pass in a moment: somebody else has the lease, who may need less space, or the index is away."""
        if self.running and self._again is None:
            self._again = self._clock.callLater(_INTERRUPTED, self._start_again)

    def _start_again(self) -> None:
        self._again = None
        self.start_if_full()

    def _note_gain(self) -> None:
        self._without_gain, self._futile_until = 0, 0.0

    async def _note_no_gain(self) -> bool:
        """Note that nothing could be evicted; return whether another pass may gain something.

        It may when rows are pending, here or in another process. After a second of such passes it is futile.
        """
        now = self._clock.seconds()
        self._without_gain += 1
        if self._without_gain == 1:
            self._no_gain_since = now
            return True
        if now - self._no_gain_since < _PATIENCE:
            await deferLater(self._clock, _INTERRUPTED)
            return True
        if not self._futile_until:
            self._log.warn("the cache is full of what may not be evicted: new tiles are not stored")
        self._futile_until = now + _FUTILE_FOR
        return False

    async def _pass(self) -> bool:
        """Evict until the target is reached; return whether it was."""
        if not await self._leases.acquire(LEASE):
            await self._store.refresh()
            self._start_later()
            return False
        try:
            while self.running:
                target = self._limits.target(self._capacity.incoming)
                evicted = await self._store.evict(target, _SLICE)
                usage = self._store.usage
                if usage.tiles <= target.tiles and usage.bytes <= target.bytes:
                    self._note_gain()
                    return True
                if not evicted.tiles:
                    return await self._note_no_gain()
                if not self._capacity.is_requested:  # nobody waits for space, and others want the processor
                    await deferLater(self._clock, _PAUSE)
            return False
        finally:
            await self._leases.release(LEASE)
