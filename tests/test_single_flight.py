"""Single flight: one fetch for all that wait for a key."""

from __future__ import annotations

from contextvars import ContextVar, copy_context
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.concurrency.context import assigned
from ocpproxy.concurrency.single_flight import REMEMBER_FAILURE, Flight, NotDelivered, SingleFlight
from ocpproxy.concurrency.work import Claim, Lane, Work


class Broken(Exception):
    """A fetch that failed."""


class WorkTests(SynchronousTestCase):
    """For whom flights are made."""

    def test_nothing_stays(self) -> None:
        """A work that has joined thousands of flights keeps nothing of those that have ended."""

        async def fetch(flight: Flight[int, int, int]) -> None:
            flight.deliver(0, flight.key)

        flights: SingleFlight[int, int, int] = SingleFlight(fetch, Clock())
        job = Work(Claim(Lane.PREFETCH, "job 1"))
        with job.as_current():
            for n in range(1000):
                self.assertEqual(self.successResultOf(flights.join(n, 0)), n)
        self.assertEqual(len(job._listeners), 0)


class SingleFlightTests(SynchronousTestCase):
    """Flights whose upstream answers when the test says so."""

    def setUp(self) -> None:
        """Make flights on fake time."""
        self.clock = Clock()
        self.upstreams: list[Deferred[dict[str, str]]] = []
        self.cancelled = 0
        self.on_the_way: Any = None
        self.fetches: SingleFlight[str, str, str] = SingleFlight(self.fly, self.clock)

    async def fly(self, flight: Flight[str, str, str]) -> None:
        """Wait for the upstream, and deliver what it brings."""
        if self.on_the_way is not None:
            self.on_the_way(flight)

        def called_off(_: object) -> None:
            self.cancelled += 1

        upstream: Deferred[dict[str, str]] = Deferred(called_off)
        self.upstreams.append(upstream)
        for item, result in (await upstream).items():
            flight.deliver(item, result)

    def test_detached(self) -> None:
        """Nobody joins a detached flight. It serves its waiters, fails alone, is cancelled by the last, and counts."""
        first, leaving = self.fetches.join("a", "x"), self.fetches.join("b", "x")
        other = self.fetches.join("c", "x")
        self.fetches.detach(lambda key: key != "c")
        second = self.fetches.join("a", "x")
        self.assertEqual((len(self.upstreams), len(self.fetches), self.fetches.waiters), (4, 4, 4))
        self.upstreams[0].errback(Broken())
        self.failureResultOf(first, Broken)
        joined = self.fetches.join("a", "x")
        self.upstreams[3].callback({"x": "new"})
        self.assertEqual([self.successResultOf(one) for one in (second, joined)], ["new", "new"])
        leaving.addErrback(lambda failure: failure.trap(CancelledError) and None)
        leaving.cancel()
        self.assertEqual((self.cancelled, len(self.fetches)), (1, 1))
        self.fetches.detach(lambda key: True)
        stopping = Deferred.fromCoroutine(self.fetches.stop())
        self.failureResultOf(other, CancelledError)
        self.successResultOf(stopping)

    def test_one_fetch_for_all(self) -> None:
        """Many who wait for several items of one key cost one fetch; each has a Deferred of his own."""
        waiting = [self.fetches.join("k", item) for item in "aabbc"]
        self.assertEqual((len(self.upstreams), self.fetches.waiters, len(self.fetches)), (1, 5, 1))
        self.upstreams[0].callback({"a": "A", "b": "B", "c": "C"})
        self.assertEqual([self.successResultOf(one) for one in waiting], list("AABBC"))
        self.assertEqual((len(set(map(id, waiting))), self.fetches.waiters, len(self.fetches)), (5, 0, 0))

    def test_one_leaves(self) -> None:
        """Somebody who leaves disturbs nobody."""
        first, second, other = (self.fetches.join("k", item) for item in "aab")
        first.cancel()
        self.failureResultOf(first, CancelledError)
        other.cancel()
        self.failureResultOf(other, CancelledError)
        self.upstreams[0].callback({"a": "A", "b": "B"})
        self.assertEqual(self.successResultOf(second), "A")
        self.assertEqual(self.cancelled, 0)

    def test_all_leave(self) -> None:
        """When the last one leaves the fetch is called off, and who comes next begins a new one."""
        for _ in range(2):
            waiting = [self.fetches.join("k", item) for item in "ab"]
            for one in waiting:
                one.cancel()
                self.failureResultOf(one, CancelledError)
        self.assertEqual((self.cancelled, len(self.upstreams), len(self.fetches)), (2, 2, 0))
        last = self.fetches.join("k", "a")
        self.upstreams[2].callback({"a": "A"})
        self.assertEqual(self.successResultOf(last), "A")

    def test_receiving_is_finished(self) -> None:
        """A flight that receives its answer is finished though nobody waits; who comes meanwhile joins it."""
        self.on_the_way = lambda flight: flight.progress.report()
        gone = self.fetches.join("k", "a")
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        late = self.fetches.join("k", "b")
        self.assertEqual((self.cancelled, len(self.upstreams)), (0, 1))
        self.upstreams[0].callback({"a": "A", "b": "B"})
        self.assertEqual(self.successResultOf(late), "B")

    def test_delivered_stays_in_hand(self) -> None:
        """What was delivered is there for those who come before the flight ends, whoever it was for."""
        flights: list[Flight[str, str, str]] = []
        self.on_the_way = flights.append
        first, second = self.fetches.join("k", "a"), self.fetches.join("k", "b")
        flights[0].deliver("b", "B")
        self.assertEqual(self.successResultOf(second), "B")
        self.assertNoResult(first)
        self.assertEqual(flights[0].waiting_items(), ["a"])
        self.assertEqual(self.successResultOf(self.fetches.join("k", "b")), "B")
        self.upstreams[0].callback({"a": "A"})
        self.successResultOf(first)

    def test_failure_reaches_all(self) -> None:
        """Everyone who waits gets the failure; it is remembered for a moment; then there is a new fetch."""
        waiting = [self.fetches.join("k", item) for item in "aab"]
        self.upstreams[0].errback(Broken())
        for one in waiting:
            self.failureResultOf(one, Broken)
        self.failureResultOf(self.fetches.join("k", "c"), Broken)
        self.assertEqual(len(self.upstreams), 1)
        self.clock.advance(REMEMBER_FAILURE + 0.01)
        again = self.fetches.join("k", "a")
        self.upstreams[1].callback({"a": "A"})
        self.assertEqual(self.successResultOf(again), "A")

    def test_failure_is_of_its_key(self) -> None:
        """Another key is not concerned."""
        failed, other = self.fetches.join("k", "a"), self.fetches.join("l", "a")
        self.upstreams[0].errback(Broken())
        self.failureResultOf(failed, Broken)
        self.upstreams[1].callback({"a": "A"})
        self.assertEqual(self.successResultOf(other), "A")

    def test_waiters_may_join_again(self) -> None:
        """A waiter that joins again from its own callback gets a flight that has not ended."""
        first = self.fetches.join("k", "a")
        again: list[Deferred[str]] = []
        first.addCallback(lambda _: again.append(self.fetches.join("k", "z")))
        self.upstreams[0].callback({"a": "A"})
        self.assertEqual(len(self.upstreams), 2)
        self.upstreams[1].callback({"z": "Z"})
        self.assertEqual(self.successResultOf(again[0]), "Z")

    def test_not_delivered(self) -> None:
        """A fetch that never brings an item fails those who wait for it, and does not fly for ever."""
        waiting = self.fetches.join("k", "a")
        for n in range(3):
            self.upstreams[n].callback({})
        self.failureResultOf(waiting, NotDelivered)
        self.assertEqual(len(self.upstreams), 3)

    def test_stop(self) -> None:
        """Stopping calls off what only waits, finishes what arrives, and takes no more."""
        self.on_the_way = lambda flight: flight.key == "receiving" and flight.progress.report()
        waiting, receiving = self.fetches.join("waiting", "a"), self.fetches.join("receiving", "a")
        stopped = Deferred.fromCoroutine(self.fetches.stop())
        self.failureResultOf(waiting, CancelledError)
        self.assertNoResult(stopped)
        self.failureResultOf(self.fetches.join("new", "a"), CancelledError)
        self.upstreams[1].callback({"a": "A"})
        self.assertEqual(self.successResultOf(receiving), "A")
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_is_bounded(self) -> None:
        """What arrives too slowly is called off."""
        self.on_the_way = lambda flight: flight.progress.report()
        waiting = self.fetches.join("k", "a")
        stopped = Deferred.fromCoroutine(self.fetches.stop())
        self.clock.advance(60)
        self.successResultOf(stopped)
        self.failureResultOf(waiting, CancelledError)


class ContextTests(SynchronousTestCase):
    """Values of a context."""

    def test_closed_elsewhere(self) -> None:
        """A coroutine that is closed in another context, as the garbage collector does it, ends without an error."""
        variable: ContextVar[int] = ContextVar("of the test")

        async def waits() -> None:
            with assigned(variable, 1):
                await Deferred()

        coroutine = waits()
        copy_context().run(coroutine.send, None)
        coroutine.close()
        self.assertRaises(LookupError, variable.get)
