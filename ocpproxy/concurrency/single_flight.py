"""One fetch at a time: among those who wait, however many they are.

A *flight* brings what belongs to one key (a cuboid, a token) for all who wait for items of it (its tiles). Everyone who
joins gets a Deferred of his own: one who leaves disturbs nobody, and a failure reaches each. A flight delivers item by
item, what is awaited first, and what it has delivered stays in hand until it ends, for those who join late.

When the last one leaves, the flight is called off, unless it is *arriving*: then most of the price is paid, and it is
finished into the cache.

A failure is remembered for a moment, so that a broken upstream is not asked again by everyone who comes.

Among processes the same is done by leases (`Lease`, kept in the index); `ocpproxy.cache` joins the two.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, Protocol, TypeVar

from cachetools import TTLCache
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

K = TypeVar("K", bound=Hashable)
I = TypeVar("I", bound=Hashable)  # noqa: E741 - an item
R = TypeVar("R")
T = TypeVar("T")

NOT_AGAIN_FOR = 1.0
"""Seconds that a failure is remembered when nothing else is said."""


_FINISH_WITHIN = 3.0
"""Seconds that what is arriving has to be finished when everything stops."""
_ROUNDS = 3
"""Somebody may board while a flight is ending, and want what it has not brought: then it flies again."""


class NotDelivered(Exception):
    """A flight ended without an item that it was to bring."""


class Lease(Protocol):
    """One process at a time."""

    async def take(self, name: str) -> bool:
        """Whether it is ours now; then `give_back` must follow.

        :raises DatabaseAway: nobody can tell.
        """

    async def give_back(self, name: str) -> None:
        """Let go."""


class Flight(Generic[K, I, R]):
    """One fetch in the air."""

    def __init__(self, key: K) -> None:
        self.key = key
        self.arriving = False
        self._waiting: dict[I, list[Deferred[R]]] = {}
        self._delivered: dict[I, R] = {}
        self._heralds: list[Callable[[], None]] = []
        self._asked: Callable[[I], None] | None = None
        self.course: Deferred[None] | None = None

    def awaited(self) -> list[I]:
        """The items somebody waits for now, first come first."""
        return list(self._waiting)

    def mark_arriving(self) -> None:
        """From here on the flight is finished, whoever leaves."""
        self.arriving = True
        heralds, self._heralds = self._heralds, []
        for herald in heralds:
            herald()

    def tell_asked(self, asked: Callable[[I], None] | None) -> None:
        """Call it for each item that somebody waits for, now or from now on, when the first one does; None ends it."""
        self._asked = asked
        for item in self.awaited():
            if asked is not None:
                asked(item)

    def tell(self, herald: Callable[[], None]) -> None:
        """Call it when the flight is arriving, or now if it is."""
        if self.arriving:
            herald()
        else:
            self._heralds.append(herald)

    def deliver(self, item: I, result: R) -> None:
        """Hand the item to all who wait for it, and to those who come before the flight ends."""
        self._delivered[item] = result
        for waiting in self._waiting.pop(item, ()):
            waiting.callback(result)

    def _board(self, item: I, left: Callable[[], None]) -> Deferred[R]:
        if item in self._delivered:
            ready: Deferred[R] = Deferred()
            ready.callback(self._delivered[item])
            return ready

        def leave(waiting: Deferred[R]) -> None:
            crowd = self._waiting.get(item, [])
            if waiting in crowd:
                crowd.remove(waiting)
                if not crowd:
                    del self._waiting[item]
            left()

        waiting: Deferred[R] = Deferred(leave)
        crowd = self._waiting.setdefault(item, [])
        crowd.append(waiting)
        if len(crowd) == 1 and self._asked is not None:
            self._asked(item)
        return waiting

    def _fail(self, failure: BaseException) -> None:
        stranded = [waiting for crowd in self._waiting.values() for waiting in crowd]
        self._waiting.clear()
        for waiting in stranded:
            waiting.errback(Failure(failure.with_traceback(None)))

    @property
    def waiters(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))


class OneFetch(Generic[K, I, R]):
    """The flights in the air, one a key at the most.

    :param fly: makes one flight: it is to deliver every awaited item, or to raise what all who still wait shall get.
    :param not_again_for: seconds that a failure is remembered.
    :param finishes: what is arriving is finished though everybody has left.
    """

    _log = Logger()

    def __init__(
        self,
        fly: Callable[[Flight[K, I, R]], Awaitable[None]],
        clock: IReactorTime,
        not_again_for: float = NOT_AGAIN_FOR,
        *,
        finishes: bool = True,
    ) -> None:
        self._fly = fly
        self._finishes = finishes
        self._clock = clock
        self._flights: dict[K, Flight[K, I, R]] = {}
        self._failures: TTLCache[K, Exception] = TTLCache(10_000, not_again_for, clock.seconds)
        self._stopped = False

    def in_the_air(self, key: K) -> bool:
        """Whether somebody who joins now shares a fetch."""
        return key in self._flights

    def in_flight(self) -> list[K]:
        """The keys of all that is in the air."""
        return list(self._flights)

    def join(self, key: K, item: I, arriving: Callable[[], None] | None = None) -> Deferred[R]:
        """The item, by the flight in the air or by a new one. Cancel it to leave.

        Fails with whatever the fetch fails with.

        :param arriving: called once the flight is arriving.
        """
        failed = self._failures.get(key)
        if failed is not None:
            return _failed(failed.with_traceback(None))
        if self._stopped:
            return _failed(CancelledError())
        flight = self._flights.get(key)
        new = flight is None
        if flight is None:
            flight = self._flights[key] = Flight(key)
        if arriving is not None:
            flight.tell(arriving)
        boarded = flight._board(item, lambda: self._left(flight))
        if new:
            flight.course = Deferred.fromCoroutine(self._run(flight))
            if flight.course.called:
                flight.course = None
        return boarded

    async def _run(self, flight: Flight[K, I, R]) -> None:
        error: Exception = NotDelivered(str(flight.key))
        try:
            for _ in range(_ROUNDS):
                await self._fly(flight)
                if not flight.waiters:
                    break
        except CancelledError as cancelled:
            error = cancelled
        except Exception as failure:
            error = failure
            self._failures[flight.key] = failure
        finally:
            # The way is free for the next flight before anyone is told: whoever is told may ask again at once.
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
        flight._fail(error)

    def _left(self, flight: Flight[K, I, R]) -> None:
        finished = flight.arriving and self._finishes
        if not flight.waiters and not finished and self._flights.get(flight.key) is flight:
            del self._flights[flight.key]  # who comes now begins anew
            if flight.course is not None:
                flight.course.cancel()

    @property
    def waiters(self) -> int:
        """How many wait, for whatever."""
        return sum(flight.waiters for flight in list(self._flights.values()))  # also asked from a thread

    def __len__(self) -> int:
        return len(self._flights)

    async def stop(self) -> None:
        """Call off what is not arriving, and wait for the rest, but not for long."""
        self._stopped = True
        courses = {flight.course: flight.arriving for flight in self._flights.values() if flight.course is not None}
        ended: list[Deferred[None]] = []
        for course, arriving in courses.items():
            end: Deferred[None] = Deferred()
            course.addBoth(end.callback)
            ended.append(end)
            if not arriving:
                course.cancel()
        late = self._clock.callLater(_FINISH_WITHIN, _cancel_all, list(courses))
        await gatherResults(ended)
        if late.active():
            late.cancel()


def _cancel_all(courses: list[Deferred[None]]) -> None:
    for course in courses:
        course.cancel()


def _failed(error: Exception) -> Deferred[R]:
    failed: Deferred[R] = Deferred()
    failed.errback(Failure(error))
    return failed
