"""Single flight: callers in one process that want the same thing at the same time share one fetch.

A *flight* fetches what belongs to one key (a cuboid, a token), and delivers its items (the tiles) to their waiters.
Each caller gets a Deferred of its own: to cancel it disturbs no other waiter, and a failure reaches all of them. A
flight delivers item by item, and keeps the delivered items until it ends, for callers that join late.

When the last waiter leaves, the flight is cancelled, unless its answer is already arriving (`progress`): then it is
finished into the cache. A failure is remembered for a moment, so that a broken upstream does not get a request from
every caller.

Between processes, leases do the same (`ocpproxy.index.leases`); `ocpproxy.cache.fetches` joins the two.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from cachetools import TTLCache
from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from ocpproxy.concurrency import progress, work
from ocpproxy.concurrency.progress import Progress
from ocpproxy.concurrency.work import Work

K = TypeVar("K", bound=Hashable)
I = TypeVar("I", bound=Hashable)  # noqa: E741 - an item
R = TypeVar("R")

REMEMBER_FAILURE = 1.0
"""Seconds that a failure is remembered by default."""
_FAILURES = 10_000
"""Failures remembered at most; each is good for `REMEMBER_FAILURE` seconds."""
_FINISH_WITHIN = 3.0
"""Seconds that flights whose answers are arriving have to finish when everything stops."""
_ROUNDS = 3
"""Fetches of one flight at most. It fetches again for an item that a caller wants only when it is about to end."""


class NotDelivered(Exception):
    """A flight ended without an item that somebody waited for."""


class Flight(Generic[K, I, R]):
    """One fetch in progress."""

    def __init__(self, key: K) -> None:
        self.key = key
        self.progress = Progress()
        self.work = Work()
        self.joined: list[Work] = []
        """The works of those that have joined."""
        self._waiting: dict[I, list[Deferred[R]]] = {}
        self._delivered: dict[I, R] = {}
        self._on_item_wanted: Callable[[I], None] | None = None
        self.running: Deferred[None] | None = None

    def waiting_items(self) -> list[I]:
        """Return the items that somebody waits for now, first come first."""
        return list(self._waiting)

    def is_waited_for(self, item: I) -> bool:
        """Return whether somebody waits for the item now."""
        return item in self._waiting

    def on_item_wanted(self, callback: Callable[[I], None] | None) -> None:
        """Call `callback` for each item as soon as the first one waits for it, those waiting now included.

        None ends it.
        """
        self._on_item_wanted = callback
        if callback is not None:
            for item in self.waiting_items():
                callback(item)

    def deliver(self, item: I, result: R) -> None:
        """Give the item to its waiters, and to callers that join before the flight ends."""
        self._delivered[item] = result
        for waiter in self._waiting.pop(item, ()):
            waiter.callback(result)

    def wait(self, item: I, on_leave: Callable[[], None]) -> Deferred[R]:
        """Return a Deferred of the item; `on_leave` is called when it is cancelled."""
        if item in self._delivered:
            return succeed(self._delivered[item])

        def leave(waiter: Deferred[R]) -> None:
            waiters = self._waiting.get(item, [])
            if waiter in waiters:
                waiters.remove(waiter)
                if not waiters:
                    del self._waiting[item]
            on_leave()

        waiter: Deferred[R] = Deferred(leave)
        waiters = self._waiting.setdefault(item, [])
        waiters.append(waiter)
        if len(waiters) == 1 and self._on_item_wanted is not None:
            self._on_item_wanted(item)
        return waiter

    def fail(self, error: BaseException) -> None:
        """Fail everyone who still waits."""
        stranded = [waiter for waiters in self._waiting.values() for waiter in waiters]
        self._waiting.clear()
        for waiter in stranded:
            waiter.errback(Failure(error.with_traceback(None)))

    @property
    def waiters(self) -> int:
        """The number of waiters."""
        return sum(map(len, self._waiting.values()))


class SingleFlight(Generic[K, I, R]):
    """The flights of one kind, at most one for each key.

    :param fetch: makes one flight. It must deliver every item that is waited for, or raise; then the waiters receive
        the exception.
    :param remember_failure: seconds that a failure is remembered.
    :param forget: failures that are not remembered.
    :param finish: finish a flight whose answer is arriving though everybody has left.
    """

    def __init__(
        self,
        fetch: Callable[[Flight[K, I, R]], Awaitable[None]],
        clock: IReactorTime,
        *,
        remember_failure: float = REMEMBER_FAILURE,
        forget: tuple[type[Exception], ...] = (),
        finish: bool = True,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._forget = forget
        self._finish = finish
        self._flights: dict[K, Flight[K, I, R]] = {}
        self._detached: set[Flight[K, I, R]] = set()
        self._failures: TTLCache[K, Exception] = TTLCache(_FAILURES, remember_failure, clock.seconds)
        self._stopped = False

    def is_flying(self, key: K) -> bool:
        """Return whether somebody who joins now shares a fetch."""
        return key in self._flights

    def flying_keys(self) -> list[K]:
        """Return the keys of all flights."""
        return list(self._flights)

    def join(self, key: K, item: I) -> Deferred[R]:
        """Return the item, by the flight of this key or by a new one. Cancel the Deferred to leave.

        The first byte that the flight receives is reported to the caller's own flight too, if there is one. Whoever
        the caller works for gets a claim to the flight's work.

        :raises: whatever the fetch raises, or raised a moment ago; CancelledError once everything stops.
        """
        failed = self._failures.get(key)
        if failed is not None:
            return fail(failed.with_traceback(None))
        if self._stopped:
            return fail(CancelledError())
        flight = self._flights.get(key)
        new = flight is None
        if flight is None:
            flight = self._flights[key] = Flight(key)
        flight.progress.on_first_byte(progress.current().report)
        joining = work.current()
        flight.work.join(joining)
        flight.joined.append(joining)
        waiter = flight.wait(item, lambda: self._left(flight))
        if new:
            with flight.progress.as_current(), flight.work.as_current():  # the coroutine's context is a copy of this
                flight.running = Deferred.fromCoroutine(self._run(flight))
            if flight.running.called:
                flight.running = None
        return waiter

    def detach(self, wanted: Callable[[K], bool]) -> None:
        """Let nobody else join the flights of these keys: who wants the same from now on gets a new one."""
        for key in [key for key in (*self._flights, *self._failures) if wanted(key)]:
            self.detach_key(key)

    def detach_key(self, key: K) -> None:
        """Let nobody else join the flight of a key, if there is one."""
        flight = self._flights.pop(key, None)
        if flight is not None:
            self._detached.add(flight)
        self._failures.pop(key, None)

    async def _run(self, flight: Flight[K, I, R]) -> None:
        error: Exception = NotDelivered(str(flight.key))
        try:
            for _ in range(_ROUNDS):
                await self._fetch(flight)
                if not flight.waiters:
                    break
        except CancelledError as cancelled:
            error = cancelled
        except Exception as failure:
            error = failure
            if flight not in self._detached and not isinstance(failure, self._forget):
                self._failures[flight.key] = failure
        finally:
            # Before the waiters get the result: a waiter may join again at once, and that must be a new flight.
            self._end(flight)
        flight.fail(error)

    def _end(self, flight: Flight[K, I, R]) -> bool:
        current = self._flights.get(flight.key) is flight or flight in self._detached
        for joined in flight.joined:
            flight.work.leave(joined)
        flight.joined.clear()
        if flight in self._detached:
            self._detached.remove(flight)
        elif current:
            del self._flights[flight.key]
        return current

    def _left(self, flight: Flight[K, I, R]) -> None:
        finished_anyway = flight.progress.receiving and self._finish
        if not flight.waiters and not finished_anyway and self._end(flight) and flight.running is not None:
            flight.running.cancel()

    @property
    def waiters(self) -> int:
        """The number of waiters of all flights."""
        return sum(flight.waiters for flight in self._all())

    def _all(self) -> list[Flight[K, I, R]]:
        return [*list(self._flights.values()), *list(self._detached)]  # also asked from a thread

    def __len__(self) -> int:
        return len(self._flights) + len(self._detached)

    async def stop(self) -> None:
        """Cancel the flights that have received nothing, and wait for the others, but not for long."""
        self._stopped = True
        running = {flight.running: flight.progress for flight in self._all() if flight.running is not None}
        ended: list[Deferred[None]] = []
        for deferred, its_progress in running.items():
            end: Deferred[None] = Deferred()
            deferred.addBoth(end.callback)
            ended.append(end)
            if not its_progress.receiving:
                deferred.cancel()
        late = self._clock.callLater(_FINISH_WITHIN, _cancel_all, list(running))
        await gatherResults(ended)
        if late.active():
            late.cancel()


def _cancel_all(deferreds: list[Deferred[None]]) -> None:
    for deferred in deferreds:
        deferred.cancel()
