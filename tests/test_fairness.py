"""Clients take turns: the semaphore, and the real daemon under clients who want everything."""

from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.concurrency.fairness import FairSemaphore, TooManyWaiting
from ocpproxy.concurrency.work import Claim, Lane, Work, working_for
from ocpproxy.web.front import network
from tests import ocpserver
from tests.daemons import DaemonCase, pause
from tests.volumes import em


def claim(client: str, lane: Lane = Lane.INTERACTIVE) -> Claim:
    """Return a claim of a client."""
    return Claim(lane, client)


class SemaphoreTests(SynchronousTestCase):
    """`FairSemaphore`."""

    def acquire(self, places: FairSemaphore, client: str) -> Deferred[Claim]:
        """Ask for a place for a client."""
        with working_for(client):
            return places.acquire()

    def test_turns(self) -> None:
        """A client who comes late is served before the many that another one wants."""
        places = FairSemaphore(2, Clock())
        first = [self.acquire(places, "a") for _ in range(6)]
        late = self.acquire(places, "b")
        self.assertEqual([one.called for one in first], [True, True, *[False] * 4])
        places.release(claim("a"))
        self.assertFalse(late.called, "it is the turn of the one who waits first")
        places.release(claim("a"))
        self.assertTrue(late.called)

    def test_kept_for_others(self) -> None:
        """A client who wants hundreds of things leaves some places to others; one with a screen of tiles has all."""
        places = FairSemaphore(8, Clock(), kept=5)
        for _ in range(40):
            self.acquire(places, "a")
        self.assertEqual(len(places), 32)
        more = [self.acquire(places, "a") for _ in range(60)]
        for _ in range(5):
            places.release(claim("a"))
        self.assertEqual(len(places), 92)
        self.assertTrue(self.acquire(places, "b").called)
        places.release(claim("a"))
        self.assertEqual(len(places), 91)
        self.assertFalse(any(one.called for one in more))

    def test_bounds(self) -> None:
        """A queue has an end, and nobody has more than an eighth of it."""
        places = FairSemaphore(1, Clock(), most=16)
        self.acquire(places, "x")
        for client in "abcdefgh":
            waiting = [self.acquire(places, client) for _ in range(3)]
            self.failureResultOf(waiting[2], TooManyWaiting)
        self.failureResultOf(self.acquire(places, "new"), TooManyWaiting)
        self.assertEqual(len(places), 16)

    def test_done_at_once(self) -> None:
        """Thousands whose work is done at once leave the semaphore as it was."""
        places = FairSemaphore(1, Clock())
        self.acquire(places, "x")
        queue = [self.acquire(places, client).addCallback(places.release) for client in "abc" * 2000]
        places.release(claim("x"))
        self.assertTrue(all(one.called for one in queue))
        self.assertEqual([self.acquire(places, "y").called for _ in range(2)], [True, False])

    def test_leave(self) -> None:
        """Who leaves has no turn."""
        places = FairSemaphore(1, Clock())
        self.acquire(places, "x")
        left, stays = self.acquire(places, "a"), self.acquire(places, "b")
        left.cancel()
        self.failureResultOf(left, CancelledError)
        places.release(claim("x"))
        self.assertTrue(stays.called)

    def test_join(self) -> None:
        """What another client wants too is done when it is the turn of either."""
        places = FairSemaphore(1, Clock())
        self.acquire(places, "x")
        queue = [self.acquire(places, "a") for _ in range(4)]
        work = Work(claim("a"))
        with work.as_current():
            queue.append(places.acquire())
        work.claim(claim("b"))
        places.release(claim("x"))
        places.release(claim("a"))
        self.assertEqual([one.called for one in queue], [True, False, False, False, True])
        self.assertEqual(len(places), 3)

    def in_lane(self, places: FairSemaphore, lane: Lane, count: int) -> list[Deferred[Claim]]:
        """Ask for places for a client of a lane."""
        with working_for(f"client of {lane.name}", lane):
            return [places.acquire() for _ in range(count)]

    def test_lanes(self) -> None:
        """A lane is served when nobody waits in those before it, and what is done ahead leaves places free."""
        clock = Clock()
        places = FairSemaphore(8, clock)
        prefetch = self.in_lane(places, Lane.PREFETCH, 10)
        self.assertEqual(sum(one.called for one in prefetch), 4)
        ahead = self.in_lane(places, Lane.LOOKAHEAD, 10)
        self.assertEqual(sum(one.called for one in ahead), 3)
        viewer = self.in_lane(places, Lane.INTERACTIVE, 2)
        self.assertEqual([one.called for one in viewer], [True, False])
        places.release(self.successResultOf(prefetch[0]))
        self.assertTrue(viewer[1].called)
        for one in [*prefetch[1:4], *viewer]:
            places.release(self.successResultOf(one))
        self.assertEqual(sum(one.called for one in ahead), 7)
        for one in ahead:
            places.release(self.successResultOf(one))
        self.assertEqual(sum(one.called for one in prefetch), 5, "one at a time, for a viewer was here just now")
        clock.advance(10)
        places.release(self.successResultOf(prefetch[4]))
        self.assertEqual(sum(one.called for one in prefetch), 9)

    def test_promoted(self) -> None:
        """What was begun ahead, and is wanted now, is served with what is wanted now."""
        places = FairSemaphore(1, Clock())
        (first,) = self.in_lane(places, Lane.INTERACTIVE, 1)
        queue = self.in_lane(places, Lane.LOOKAHEAD, 2)
        work = Work(claim("job 1", Lane.PREFETCH))
        with work.as_current():
            promoted = places.acquire()
        work.claim(claim("viewer"))
        places.release(self.successResultOf(first))
        self.assertEqual(self.successResultOf(promoted), claim("viewer"))
        self.assertFalse(any(one.called for one in queue))

    def test_several_of_one_work(self) -> None:
        """Of a work with several that wait, a new claim may let one go on while the others are told of it."""
        clock = Clock()
        places = FairSemaphore(16, clock)
        self.acquire(places, "viewer").addCallback(places.release)
        job = Work(claim("job 1", Lane.PREFETCH))
        with job.as_current():
            queue = [places.acquire() for _ in range(4)]
        self.assertEqual([one.called for one in queue], [True, True, False, False])
        clock.advance(6)
        job.claim(claim("viewer", Lane.LOOKAHEAD))
        self.assertEqual([one.called for one in queue], [True] * 4)
        for one in queue:
            places.release(self.successResultOf(one))
        self.assertEqual(len(places), 0)
        self.assertEqual(sum(one.called for one in self.in_lane(places, Lane.PREFETCH, 9)), 8)

    def test_single_place(self) -> None:
        """Whoever comes has the only place if nobody else wants it."""
        for lane in Lane:
            (one,) = self.in_lane(FairSemaphore(1, Clock()), lane, 1)
            self.assertTrue(one.called)

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(("take", "give", "leave"))), max_size=60))
    def test_anything(self, steps: list[tuple[str, str]]) -> None:
        """Never more places than there are, and none is lost."""
        places = FairSemaphore(4, Clock())
        held: list[Claim] = []
        queue: list[Deferred[Claim]] = []
        for client, step in steps:
            if step == "take":
                queue.append(self.acquire(places, client))
            elif step == "give" and held:
                places.release(held.pop())
            elif step == "leave" and queue:
                queue[0].addErrback(lambda failure: failure.trap(CancelledError) and None)
                queue.pop(0).cancel()
            held += [self.successResultOf(one) for one in queue if one.called]
            queue = [one for one in queue if not one.called]
            self.assertLessEqual(len(held), 4)
        while held:
            places.release(held.pop())
            held += [self.successResultOf(one) for one in queue if one.called]
            queue = [one for one in queue if not one.called]
        self.assertEqual((queue, len(places)), ([], 0))

    def test_network(self) -> None:
        """An IPv6 client is its /64."""
        self.assertEqual(network("2001:db8::1"), network("2001:db8::2"))
        self.assertNotEqual(network("2001:db8::1"), network("2001:db8:0:1::1"))
        self.assertEqual(network("192.0.2.1"), "192.0.2.1")


class CrowdTests(DaemonCase):
    """The real daemon under a client who wants too much."""

    async def test_many_misses(self) -> None:
        """A client with a hundred misses does not make another one wait for them."""
        service = ocpserver.Service(em(), 2, side=8, depth=1, delay=0.1)
        address = self.serve(service)
        daemon = await self.start(self.configure(address, server_trusted_proxies="127.0.0.1", upstream_connections="4"))
        await daemon.get("kat/")
        paths = [f"kat/{plane}/{n}/0_0_0.png" for plane in ("xz", "yz") for n in range(0, 384, 8)]
        crowd = [Deferred.fromCoroutine(daemon.get(path, **{"X-Forwarded-For": "192.0.2.1"})) for path in paths]
        while service.asked["cutout"] < 3:
            await pause(0.01)
        code, _, _ = await daemon.get("kat/3/0_0_0.png", **{"X-Forwarded-For": "192.0.2.2"})
        done = sum(one.called for one in crowd)
        self.assertEqual(code, 200)
        self.assertLess(done, 40)
        answers = await gatherResults(crowd)
        self.assertEqual({code for code, _, _ in answers}, {200})

    async def test_unknown_tokens(self) -> None:
        """Tokens that somebody makes up, and whose clients leave, take no place of anybody's misses."""
        service = ocpserver.Service(em(), 2)
        daemon = await self.start(self.configure(self.serve(service)))
        await daemon.get("kat/")
        service.mode = "info_mute"
        port = int(daemon.url.rpartition(":")[2])
        for n in range(200):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.sendall(b"GET /nobody%d/0/0_0_0.png HTTP/1.1\r\nHost: x\r\n\r\n" % n)
        code, _, _ = await daemon.get("kat/3/0_0_0.png")
        self.assertEqual(code, 200)
        while service.open_now:
            await pause(0.02)
        self.assertLessEqual(service.most_open, 3)
        self.assertNotIn("Traceback", daemon.log)

    async def test_queue_has_an_end(self) -> None:
        """Who asks for more tokens than may wait gets 503 with Retry-After."""
        service = ocpserver.Service(em(), 2, mode="info_mute")
        daemon = await self.start(self.configure(self.serve(service)))
        asked = [Deferred.fromCoroutine(daemon.get(f"nobody{n}/0/0_0_0.png")) for n in range(100)]
        while sum(one.called for one in asked) < 30:
            await pause(0.02)
        for one in asked:
            if one.called:
                code, _, headers = await one
                self.assertEqual((code, int(headers["retry-after"]) > 1), (503, True))
            else:
                one.addErrback(lambda _: None).cancel()
