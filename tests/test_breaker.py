"""Circuit breakers and mirrors, on fake time; and what viewers notice of an upstream that is gone and comes back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.model.dataset import Cutout, Dataset
from ocpproxy.upstream.base import (
    NotSent,
    NotUnderstood,
    UnknownToken,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamDown,
    UpstreamRefused,
    UpstreamSlow,
    VoxelsOnly,
)
from ocpproxy.upstream.breaker import BROKEN_ANSWERS, FAILURES, Breakers, BreakerState, GuardedUpstream, UpstreamResting
from ocpproxy.upstream.mirrors import Mirrored
from tests.daemons import Stopwatch, pause
from tests.prefetching import PickyService, PrefetchCase
from tests.test_rendering import STACK, tile

OTHER = "home 2 is not used: it describes another volume"
CUTOUT = STACK.cuboid(tile(0)).cutouts()[0]


class Fickle(VoxelsOnly):
    """An upstream that answers when the test says so."""

    def __init__(self, origin: str = "fickle") -> None:
        self.origin = origin
        self.describes = True
        self.volume = STACK.dataset
        self.asked: list[Deferred[Any]] = []
        self.cutouts: list[Cutout] = []

    async def describe(self, token: str) -> str:
        """Return the origin."""
        if not self.describes:
            raise UpstreamDown("for the test")
        return self.origin

    def dataset(self, token: str, description: str) -> Dataset:
        """Return a dataset."""
        return self.volume

    async def cutout(self, cutout: Cutout) -> Any:
        """Wait for the test."""
        waiting: Deferred[Any] = Deferred()
        self.asked.append(waiting)
        self.cutouts.append(cutout)
        return await waiting


class BreakerTests(SynchronousTestCase):
    """One breaker."""

    def setUp(self) -> None:
        """Guard an upstream."""
        self.clock = Clock()
        self.upstream = Fickle()
        breakers = Breakers("test", self.clock)
        assert CUTOUT is not None
        self.breaker = breakers.of(CUTOUT)
        self.guarded = GuardedUpstream(self.upstream, breakers)

    def ask(self) -> Deferred[Any]:
        """Ask for a cutout."""
        assert CUTOUT is not None
        return Deferred.fromCoroutine(self.guarded.cutout(CUTOUT))

    def break_with(self, error: Exception) -> None:
        """Ask, and let the upstream fail."""
        asked = self.ask()
        self.upstream.asked[-1].errback(error)
        self.failureResultOf(asked, type(error))

    def test_opens_and_closes(self) -> None:
        """It opens after a few failures in a row; one probe at a time; longer pauses; closed by the first success."""
        for _ in range(FAILURES - 1):
            self.break_with(UpstreamDown("x"))
        late = self.ask()
        self.break_with(UpstreamSlow("x"))
        self.assertEqual(self.breaker.state, BreakerState.OPEN)
        pauses = []
        for _ in range(6):
            began = self.clock.seconds()
            while not self.breaker.is_ready:
                refused = self.failureResultOf(self.ask(), UpstreamResting)
                self.assertGreater(refused.value.retry_after, 0)
                self.clock.advance(0.05)
            pauses.append(round(self.clock.seconds() - began, 2))
            probe, count = self.ask(), len(self.upstream.asked)
            self.assertEqual(self.breaker.state, BreakerState.PROBING)
            self.failureResultOf(self.ask(), UpstreamResting)
            self.assertEqual(len(self.upstream.asked), count)
            self.upstream.asked[-1].errback(UpstreamDown("x"))
            self.failureResultOf(probe, UpstreamDown)
        for took, expected in zip(pauses, [0.25, 0.5, 1.0, 1.5, 1.5, 1.5], strict=True):
            self.assertTrue(expected - 0.01 <= took <= expected + 0.06, pauses)
        self.upstream.asked[FAILURES - 1].errback(UpstreamDown("late"))
        self.failureResultOf(late, UpstreamDown)
        self.assertEqual(self.breaker.state, BreakerState.OPEN, "a late failure does not count")
        self.clock.advance(1.5)
        probe = self.ask()
        self.upstream.asked[-1].callback("voxels")
        self.assertEqual((self.successResultOf(probe), self.breaker.state), ("voxels", BreakerState.CLOSED))
        for _ in range(FAILURES - 1):
            self.break_with(UpstreamDown("x"))
        self.assertEqual(self.breaker.state, BreakerState.CLOSED, "the count begins again")

    def test_bad_answers(self) -> None:
        """An upstream that answers, but not as it should, has a few tries more."""
        for _ in range(BROKEN_ANSWERS - 1):
            self.break_with(UpstreamBroken("x"))
        self.assertEqual(self.breaker.state, BreakerState.CLOSED)
        self.break_with(UpstreamBroken("x"))
        self.assertEqual(self.breaker.state, BreakerState.OPEN)

    def test_others(self) -> None:
        """Another dataset of the same upstream has a breaker of its own; who was not sent says nothing."""
        for _ in range(FAILURES * 2):
            self.break_with(NotSent("x"))
        self.assertEqual(self.breaker.state, BreakerState.CLOSED)
        for _ in range(FAILURES):
            self.break_with(UpstreamDown("x"))
        assert CUTOUT is not None
        other = replace(CUTOUT, dataset=replace(CUTOUT.dataset, token="other"))
        asked = Deferred.fromCoroutine(self.guarded.cutout(other))
        self.upstream.asked[-1].callback("voxels")
        self.assertEqual(self.successResultOf(asked), "voxels")
        self.assertEqual(self.guarded.breakers.state("other"), BreakerState.CLOSED)
        self.assertEqual(self.guarded.breakers.state(), BreakerState.OPEN)

    def test_no_pictures(self) -> None:
        """That an upstream draws no pictures says nothing about its health, and neither closes nor probes."""
        assert CUTOUT is not None
        for _ in range(FAILURES):
            asked = Deferred.fromCoroutine(self.guarded.picture(CUTOUT, None))
            self.assertIsNone(self.successResultOf(asked))
            self.break_with(UpstreamDown("x"))
        self.assertEqual(self.breaker.state, BreakerState.OPEN)
        self.clock.advance(1)
        self.successResultOf(Deferred.fromCoroutine(self.guarded.picture(CUTOUT, None)))
        self.assertEqual(self.breaker.state, BreakerState.OPEN)
        self.break_with(UpstreamDown("x"))

    def test_slow_probe(self) -> None:
        """A probe without an answer is followed by another one; what becomes of the first does no harm."""
        for _ in range(FAILURES):
            self.break_with(UpstreamDown("x"))
        self.clock.advance(0.3)
        slow = self.ask()
        first = self.upstream.asked[-1]
        self.clock.advance(1.4)
        self.failureResultOf(self.ask(), UpstreamResting)
        self.clock.advance(0.2)
        second = self.ask()
        first.errback(UpstreamSlow("x"))
        self.failureResultOf(slow, UpstreamSlow)
        self.assertEqual(self.breaker.state, BreakerState.PROBING)
        self.upstream.asked[-1].callback("voxels")
        self.assertEqual((self.successResultOf(second), self.breaker.state), ("voxels", BreakerState.CLOSED))

    def test_answers(self) -> None:
        """What is an answer, even of a kind that nobody wants, does not count as a failure, and ends a row of them."""
        for error in (UnknownToken("x"), UpstreamRefused("x"), NotUnderstood("x")):
            for _ in range(FAILURES - 1):
                self.break_with(UpstreamDown("x"))
            for _ in range(9):
                self.break_with(error)
            self.assertEqual(self.breaker.state, BreakerState.CLOSED)

    def test_retry_after(self) -> None:
        """An upstream that asks for time gets it, but not for ever."""
        self.break_with(UpstreamBusy("x", 40.0))
        self.clock.advance(39.9)
        self.failureResultOf(self.ask(), UpstreamResting)
        self.clock.advance(0.2)
        probe = self.ask()
        self.upstream.asked[-1].callback("voxels")
        self.successResultOf(probe)
        for asked_for in (7.0, 5.0, None):
            self.assertTrue(self.breaker.is_ready)
            self.break_with(UpstreamBusy("x", asked_for))
        self.clock.advance(6.9)
        self.failureResultOf(self.ask(), UpstreamResting)
        self.clock.advance(0.2)
        self.break_with(UpstreamBusy("x", 10.0**9))
        self.clock.advance(301)
        self.break_with(UpstreamDown("x"))

    def test_probe_is_given_up(self) -> None:
        """When nobody waits for the probe any more, the next request is one."""
        for _ in range(FAILURES):
            self.break_with(UpstreamDown("x"))
        self.clock.advance(1)
        probe = self.ask()
        probe.addErrback(lambda failure: failure.trap(CancelledError) and None)
        probe.cancel()
        again = self.ask()
        self.upstream.asked[-1].callback("voxels")
        self.assertEqual(self.successResultOf(again), "voxels")


class MirrorTests(SynchronousTestCase):
    """Two homes of one volume."""

    def setUp(self) -> None:
        """Make them."""
        self.clock = Clock()
        self.homes = [Fickle("one"), Fickle("two")]
        guarded = [GuardedUpstream(home, Breakers(home.origin, self.clock)) for home in self.homes]
        self.mirrored = Mirrored(guarded)
        assert CUTOUT is not None
        self.breakers = [one.breakers.of(CUTOUT) for one in guarded]

    def ask(self) -> Deferred[Any]:
        """Ask for a cutout."""
        assert CUTOUT is not None
        dataset = self.mirrored.dataset(
            "kat", self.successResultOf(Deferred.fromCoroutine(self.mirrored.describe("kat")))
        )
        cutout = Cutout(dataset, CUTOUT.channel, CUTOUT.time, CUTOUT.level, CUTOUT.box)
        return Deferred.fromCoroutine(self.mirrored.cutout(cutout))

    def test_next(self) -> None:
        """The next home answers what the first one cannot, and is asked alone while the breaker of that is open."""
        for n in range(FAILURES):
            asked = self.ask()
            self.homes[0].asked[-1].errback(UpstreamDown("x"))
            self.homes[1].asked[-1].callback(n)
            self.assertEqual(self.successResultOf(asked), n)
        asked = self.ask()
        self.assertEqual((len(self.homes[0].asked), len(self.homes[1].asked)), (FAILURES, FAILURES + 1))
        self.homes[1].asked[-1].errback(UpstreamDown("both"))
        self.failureResultOf(asked, UpstreamDown)
        self.clock.advance(1)
        asked = self.ask()
        self.homes[0].asked[-1].callback("back")
        self.assertEqual((self.successResultOf(asked), self.breakers[0].state), ("back", BreakerState.CLOSED))

    def test_answers(self) -> None:
        """A home that does not have something, or does not let us, is passed over; both gone is a failure."""
        for error in (UpstreamRefused("x"), UnknownToken("x")):
            asked = self.ask()
            self.homes[0].asked[-1].errback(error)
            self.homes[1].asked[-1].callback("voxels")
            self.assertEqual(self.successResultOf(asked), "voxels")
        asked = self.ask()
        self.homes[0].asked[-1].errback(UnknownToken("x"))
        self.homes[1].asked[-1].errback(UpstreamDown("x"))
        self.failureResultOf(asked, UpstreamDown)
        asked = self.ask()
        self.homes[0].asked[-1].callback("voxels")
        self.successResultOf(asked)
        self.breakers[1].succeeded()
        for n in range(FAILURES):
            asked = self.ask()
            self.homes[0].asked[-1].errback(UpstreamDown("x"))
            self.homes[1].asked[-1].errback(UpstreamDown(str(n)))
            self.failureResultOf(asked, UpstreamDown)
        self.failureResultOf(self.ask(), UpstreamResting)

    def test_descriptions(self) -> None:
        """Each home is read by its own description; one that describes another volume, or nothing, is not used."""
        self.homes[1].volume = replace(STACK.dataset, channels=())
        dataset = self.mirrored.dataset("kat", json.dumps(["one", "two"]))
        self.assertEqual((dataset.upstream_data[1], dataset.notes), (None, (OTHER,)))
        self.homes[1].volume = STACK.dataset
        self.assertEqual(self.mirrored.dataset("kat", json.dumps(["one", None])).upstream_data[1], None)
        self.assertIsNone(self.mirrored.dataset("kat", json.dumps([None, "two"])).upstream_data[0])
        for text in ("", "{}", "[1]", "[null, null]", "[]", "[" * 5000):
            self.assertRaises(NotUnderstood, self.mirrored.dataset, "kat", text)
        self.homes[0].describes = False
        described = Deferred.fromCoroutine(self.mirrored.describe("kat"))
        self.assertEqual(json.loads(self.successResultOf(described)), [None, "two"])
        self.homes[0].describes, self.homes[1].describes = True, False
        described = Deferred.fromCoroutine(self.mirrored.describe("kat"))
        self.assertEqual(json.loads(self.successResultOf(described)), ["one", "two"], "what it said before")
        self.homes[0].describes = False
        self.failureResultOf(Deferred.fromCoroutine(self.mirrored.describe("kat")), UpstreamDown)


class BreakerDaemonTests(PrefetchCase):
    """The real daemon."""

    async def test_gone_and_back(self) -> None:
        """Killed and back: few requests fail before the breaker opens, it shows, and it closes within two seconds."""
        daemon = await self.begin(upstream_retries="0")
        self.assertEqual((await daemon.get("kat/0/0_0_0.png"))[0], 200)
        self.service.bad = frozenset({"/"})
        cuboids = [f"kat/{z}/{place}_0.png" for z in range(0, 64, 16) for place in ("0_1", "1_0", "1_1")]
        statuses = [await daemon.get(path) for path in cuboids]
        self.assertEqual({status for status, _, _ in statuses}, {503})
        self.assertTrue(all(int(headers["retry-after"]) >= 1 for _, _, headers in statuses))
        self.assertLessEqual(self.service.asked["cutout"] - 1, 5 + 3, "five, and probes")
        self.assertEqual(await daemon.metric('ocpproxy_upstream_breaker{dataset="other tokens",home="1"}'), 2)
        self.assertIn("has failed 5 times in a row", daemon.log)
        _, page, _ = await daemon.get("")
        self.assertIn(b"Its upstream fails", page)
        self.assertEqual((await daemon.get("kat/0/0_0_0.png"))[0], 200, "what is cached is served")
        self.service.bad = frozenset()
        watch = Stopwatch(daemon.pid)
        while (await daemon.get("kat/0/0_1_0.png"))[0] != 200:
            await pause(0.05)
        self.assertLess(watch.elapsed, 2.6, "two seconds, and what the last failure is remembered for")
        self.assertEqual(await daemon.metric("ocpproxy_upstream_breaker"), 0)
        self.assertIn("answers again", daemon.log)

    async def test_mirror(self) -> None:
        """A mirror takes over without an error that anybody sees, and the first home is used again when it is back."""
        daemon = await self.begin(upstream_retries="0")
        await daemon.stop()
        other = PickyService(self.service.volume, 2, side=512, depth=16, offset=(0, 0, 0))
        url = f"{self.upstream}\n  {self.serve(other)}"
        config = self.configure(url, None, "two.ini", upstream_retries="0", cache_directory="other")
        daemon = await self.start(config)
        self.assertEqual((await daemon.get("kat/0/0_0_0.png"))[0], 200)
        self.assertEqual((self.service.asked["cutout"], other.asked["cutout"]), (1, 0))
        self.service.bad = frozenset({"/"})
        for z in range(0, 64, 16):
            self.assertEqual((await daemon.get(f"kat/{z}/0_1_0.png"))[0], 200)
            self.assertEqual((await daemon.get(f"kat/{z}/1_1_0.png"))[0], 200)
        self.assertEqual(other.asked["cutout"], 8)
        self.assertEqual(await daemon.metric('ocpproxy_upstream_breaker{dataset="other tokens",home="2"}'), 0)
        self.service.bad = frozenset()
        asked = self.service.asked["cutout"]
        await pause(1.6)
        self.assertEqual((await daemon.get("kat/0/1_0_0.png"))[0], 200)
        self.assertEqual(self.service.asked["cutout"], asked + 1)

    async def test_cache_only(self) -> None:
        """In maintenance the upstream is not asked, not even for a description; what is cached is served."""
        daemon = await self.begin()
        self.assertEqual((await daemon.get("kat/0/0_0_0.png"))[0], 200)
        await daemon.rest()
        await daemon.stop()
        asked = sum(self.service.asked.values())
        daemon = await self.start_again(upstream_mode="cache-only")
        self.assertEqual((await daemon.get("kat/3/0_0_0.png"))[0], 200)
        for path in ("kat/3/0_1_0.png", "other/3/0_1_0.png"):
            code, _, headers = await daemon.get(path)
            self.assertEqual((code, headers["cache-control"]), (503, "no-store"), path)
        self.assertEqual(sum(self.service.asked.values()), asked)
