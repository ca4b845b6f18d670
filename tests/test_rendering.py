"""From voxels to tiles: what somebody waits for goes first, and nothing of it stays in memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from threading import Event
from typing import Any

import numpy as np
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ocpproxy.cache.lookup import EncodedTile, Found, Result
from ocpproxy.cache.rendering import CuboidFlight, CuboidRenderer, RenderThreads
from ocpproxy.concurrency import threads
from ocpproxy.concurrency.single_flight import SingleFlight
from ocpproxy.concurrency.threads import LanedThreadPool, Priority
from ocpproxy.model.address import ImageBase
from ocpproxy.model.chunks import AnyCuboid
from ocpproxy.model.dataset import Channel, Dataset, Level, Plane
from ocpproxy.model.stack import Stack, Tile
from ocpproxy.store.tile_store import Pictures

LEVEL = Level((512, 512, 16), (0, 0, 0), (512, 512, 16))
STACK = Stack.build(
    Dataset("t", {0: LEVEL}, (Channel("image", "image", "uint8"),), "image"), ImageBase("t", Plane.XY, ())
)


def tile(slice_: int) -> Tile:
    """Return a tile of the cuboid."""
    return Tile(STACK.name, 0, 0, slice_, 0, 0)


class ManualLane:
    """A lane whose work is done when the test says so."""

    def __init__(self) -> None:
        self.queued: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def __call__(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Queue the work."""
        done: Deferred[Any] = Deferred()
        self.queued.append((lambda: work(*args), done))
        return done

    def do(self) -> None:
        """Do the next work."""
        work, done = self.queued.pop(0)
        try:
            result = work()
        except Exception:
            done.errback(Failure())
        else:
            done.callback(result)


class RenderingTests(SynchronousTestCase):
    """On lanes that do their work when the test says so."""

    def setUp(self) -> None:
        """Prepare flights whose voxels are there."""
        self.urgent, self.ahead = ManualLane(), ManualLane()
        self.voxels: Any = np.random.default_rng(1).integers(0, 256, (16, 512, 512), np.uint8)
        self.kept: list[Pictures] = []
        self.fetches: SingleFlight[AnyCuboid, Tile | None, Found | None] = SingleFlight(self.fly, Clock())

    async def fly(self, flight: CuboidFlight) -> None:
        """Render the tiles of a flight."""

        def deliver(tile: Tile, picture: bytes) -> None:
            flight.deliver(tile, Found(EncodedTile.of(tile, picture, 0.0), Result.MISS))

        renderer = CuboidRenderer(flight, [self.voxels], RenderThreads(self.urgent, self.ahead), deliver)
        self.voxels = None
        async with renderer:
            async for made in renderer.pictures():
                self.kept.append(made)

    def join(self, slice_: int) -> Deferred[Found | None]:
        """Join the flight for a slice."""
        return self.fetches.join(STACK.cuboid(tile(0)), tile(slice_))

    def test_waiters_first(self) -> None:
        """Tiles with waiters are rendered first, each by itself; the others only when those have been answered."""
        first, second = self.join(9), self.join(3)
        self.assertEqual((len(self.urgent.queued), len(self.ahead.queued)), (2, 0))
        self.urgent.do()
        self.assertTrue(first.called)
        self.assertEqual((second.called, len(self.ahead.queued)), (False, 0))
        self.urgent.do()
        self.assertTrue(second.called)
        self.assertEqual(len(self.ahead.queued), 1)
        while self.ahead.queued:
            self.assertEqual(len(self.ahead.queued), 1)
            self.ahead.do()
        made = [one for some in self.kept for one, _ in some]
        self.assertEqual(made[:2], [tile(9), tile(3)])
        self.assertEqual(sorted(made), [tile(n) for n in range(16)])
        self.assertEqual(len(self.fetches), 0)

    def test_asked_for_meanwhile(self) -> None:
        """A tile that is requested while the rest waits for a thread overtakes it; nothing is rendered twice."""
        self.join(0)
        self.urgent.do()
        (work,) = self.ahead.queued
        late = self.join(2)
        self.assertEqual(len(self.urgent.queued), 1)
        self.urgent.do()
        self.assertTrue(late.called)
        self.assertIs(self.ahead.queued[0], work)
        self.assertEqual(len(self.ahead.queued), 1)
        early = self.join(0)
        self.assertTrue(early.called, "delivered already")
        self.assertEqual(self.urgent.queued, [])
        while self.ahead.queued:
            self.ahead.do()
        made = [one for some in self.kept for one, _ in some]
        self.assertEqual((len(made), len(set(made))), (16, 16))

    def test_prompt_threads(self) -> None:
        """Threads that finish at once: all tiles are stored all the same."""
        at_once = lambda work, *args: succeed(work(*args))  # noqa: E731 - a lane
        self.urgent = self.ahead = at_once  # type: ignore[assignment]
        waiting = self.join(9)
        self.assertTrue(waiting.called)
        made = [one for some in self.kept for one, _ in some]
        self.assertEqual(sorted(made), [tile(n) for n in range(16)])
        self.assertEqual(len(self.fetches), 0)

    def test_failure(self) -> None:
        """A render that fails reaches everyone who waits, and the flight ends."""
        self.voxels = np.zeros((1, 1, 1), np.uint8)
        waiting = self.join(9)
        self.urgent.do()
        self.failureResultOf(waiting, IndexError)
        self.assertEqual(len(self.fetches), 0)

    def test_nothing_stays(self) -> None:
        """Without a garbage collector the voxels and pictures go when the flight has ended."""
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        voxels = weakref.ref(self.voxels)
        self.join(0).addCallback(lambda _: None)
        self.urgent.do()
        self.join(5).addCallback(lambda _: None)
        self.urgent.do()
        while self.ahead.queued:
            self.ahead.do()
        self.assertEqual(len(self.fetches), 0)
        self.assertIsNone(voxels())


class PoolTests(TestCase):
    """Threads with lanes."""

    async def test_lanes(self) -> None:
        """Work with waiters overtakes other work; the work in hand is bounded; cancelled work is not begun."""
        pool = LanedThreadPool(reactor, 1, "test")
        done: list[str] = []
        doing = [pool.at(Priority.AHEAD)(done.append, f"ahead {n}") for n in range(3)]  # two of them are in hand
        doing.append(pool.run(done.append, "arrived"))
        doing.append(pool.at(Priority.URGENT)(done.append, "urgent"))
        left = pool.at(Priority.URGENT)(done.append, "cancelled")
        left.addErrback(lambda _: None)
        self.assertEqual(pool.queued(), 5)
        left.cancel()
        self.assertEqual(pool.queued(), 4)
        pool.startService()
        for one in doing:
            await one
        self.assertEqual(done, ["ahead 0", "ahead 1", "urgent", "arrived", "ahead 2"])
        failing = pool.run(lambda: 1 // 0)
        await self.assertFailure(failing, ZeroDivisionError)
        self.assertEqual(pool.queued(), 0)
        await pool.stopService()

    async def test_stuck(self) -> None:
        """A job that does not end is given up, and does not hold up the stop; others are waited for."""
        self.patch(threads, "_STUCK", 0.2)
        pool = LanedThreadPool(reactor, 2, "test")
        pool.startService()
        begun, end = Event(), Event()
        done: list[str] = []
        self.addCleanup(end.set)

        def stick() -> None:
            begun.set()
            end.wait(60)

        pool.run(stick)
        other = pool.run(done.append, "other")
        await deferToThread(begun.wait, 60)
        await pool.stopService()
        await other
        self.assertEqual(done, ["other"])
        self.assertFalse(end.is_set())
