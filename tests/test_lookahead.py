"""Look-ahead: where viewers go, and what is fetched before they ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.cache.lookahead import AheadContext, LookAhead
from ocpproxy.cache.tracks import Track
from ocpproxy.concurrency import work
from ocpproxy.concurrency.work import Lane
from ocpproxy.metrics import Metrics
from ocpproxy.model.address import ImageBase
from ocpproxy.model.dataset import Channel, Dataset, Level, Plane
from ocpproxy.model.stack import Cuboid, Stack, Tile
from ocpproxy.store.space.usage import Usage
from tests import ocpserver
from tests.daemons import DaemonCase, pause
from tests.volumes import em


def level(number: int) -> Level:
    """Return a level; z is the same at all of them."""
    side, edge = 8192 >> number, Fraction(2**number)
    return Level((side, side, 1024), (0, 0, 0), (64, 64, 16), (edge, edge, Fraction(10)))


DATASET = Dataset(
    "kat",
    {n: level(n) for n in range(4)},
    (Channel("image", "image", "uint8"),),
    "image",
)
STACK = Stack.build(DATASET, ImageBase("kat"))
VIEW = [(row, col) for row in (2, 3) for col in (4, 5, 6)]


def tile(slice_: int, place: tuple[int, int] = (2, 4), level: int = 1) -> Tile:
    """Return a tile of the stack."""
    return Tile(STACK.name, 0, level, slice_, *place)


class TrackTests(SynchronousTestCase):
    """`Track`."""

    def fly(self, slices: list[int], seconds: float = 0.1) -> Track:
        """Return the track of somebody who looks at these slices, one after another."""
        track = Track(STACK, tile(slices[0]), 0.0)
        for n, slice_ in enumerate(slices):
            for place in VIEW:
                track.saw(tile(slice_, place), n * seconds)
        return track

    def test_run(self) -> None:
        """Three slices in one direction are a flight, whose pace and view are known."""
        for step in (1, -1, 10):
            track = self.fly([500, 500 + step])
            self.assertFalse(track.flies)
            track = self.fly([500 + n * step for n in range(6)])
            self.assertTrue(track.flies)
            self.assertEqual(track.step, step)
            self.assertAlmostEqual(track.pace, 10 * abs(step), delta=0.01)
            self.assertEqual(track.view, set(VIEW))

    def test_no_run(self) -> None:
        """Jumps, standing still, turning and long pauses are no flight."""
        for slices in ([5, 100, 300], [7, 7, 7], [5, 6, 7, 8, 7], [5, 6, 5, 6, 5]):
            self.assertFalse(self.fly(slices).flies, slices)
        self.assertFalse(self.fly([5, 6, 7, 8], seconds=60).flies)

    def test_programs(self) -> None:
        """Who asks for everything at once, or faster than anybody looks, or for one tile of many, is no viewer."""
        for seconds in (0, 0.001, 0.005):
            self.assertFalse(self.fly(list(range(10, 16)), seconds).flies)
        track = Track(STACK, tile(10), 0.0)
        for n in range(8):
            track.saw(tile(10 + n), n / 24)
        self.assertFalse(track.flies)

    def test_late_requests(self) -> None:
        """A tile of a slice that was passed is late, unless it was asked for before."""
        track = self.fly([10, 11, 12, 13])
        self.assertFalse(track.saw(tile(12, (9, 9)), 0.4))
        self.assertTrue(track.flies)
        self.assertTrue(track.saw(tile(12), 0.5))
        self.assertEqual((track.flies, track.step), (False, -1))

    def test_to_and_fro(self) -> None:
        """After two turns a run is not expected to be much longer than those before, until it is; a jump is a turn."""
        there, back = list(range(100, 140)), list(range(138, 99, -1))
        self.assertIsNone(self.fly([*there, *back]).expected)
        self.assertEqual(self.fly([*there, *back, *range(101, 111)]).expected, int(1.05 * 39) - 10)
        self.assertIsNone(self.fly([*there, *back, *range(101, 150)]).expected)
        jumped = Track(STACK, tile(600), 9.0, before=self.fly([*there, *back]))
        self.assertEqual(jumped.expected, int(1.05 * 39))
        self.assertIsNone(self.fly([100, 101, 102, 101, 100, 101, 102, 103]).expected)
        self.assertIsNone(Track(STACK, tile(600), 9.0, before=self.fly(there)).expected)

    @given(st.permutations(range(24)))
    def test_mixed(self, order: list[int]) -> None:
        """However the requests of four slices are mixed, and of the next four, nobody seems to turn."""
        track = self.fly([96, 97, 98, 99])
        for first in (100, 104):
            for n in order:
                track.saw(tile(first + n // 6, VIEW[n % 6]), 0.5)
                self.assertGreater(track.step, 0)
        self.assertEqual(track.slice, 107)

    def test_zoom(self) -> None:
        """Two levels in one direction are a zoom; the next view has the same middle."""
        track = Track(STACK, tile(100, (1, 1), 3), 0.0)
        track.saw(tile(100, (2, 2), 2), 0.2)
        self.assertFalse(track.zooms)
        for place in ((4, 4), (4, 5), (5, 4), (5, 5)):
            track.saw(tile(100, place, 1), 0.4)
        self.assertTrue(track.zooms)
        self.assertEqual(track.view_at_next_level(), {(row, col) for row in (9, 10) for col in (9, 10)})
        track.saw(tile(100, (9, 9), 0), 0.6)
        self.assertEqual(track.view_at_next_level(), set())


class Fetches:
    """Fetches that end when the test says so."""

    def __init__(self) -> None:
        self.resting = False
        self.begun: dict[Cuboid, Deferred[bool]] = {}
        self.lanes: set[Lane] = set()
        self.cancelled: list[Cuboid] = []
        self.seconds = 0.5

    async def fill(self, cuboid: Cuboid) -> bool:
        """Begin a fetch."""
        self.lanes.add(work.current().lane)
        self.begun[cuboid] = Deferred(lambda _: self.cancelled.append(cuboid))
        return await self.begun[cuboid]

    def is_flying(self, cuboid: Cuboid) -> bool:
        """Return False: nobody else fetches anything."""
        return False

    def is_resting(self, token: str) -> bool:
        """Return whether the upstream is left alone."""
        return self.resting

    def expected_seconds(self, token: str) -> float:
        """Return half a second, or what the test says."""
        return self.seconds


class Space:
    """Space in the cache, as much as the test says."""

    enough = True
    since = 0.0
    asked = 0

    @asynccontextmanager
    async def hold_space(self, wanted: Usage, unused_since: float) -> AsyncIterator[bool]:
        """Keep space, or not."""
        self.since = unused_since
        self.asked += 1
        yield self.enough


class LookAheadTests(SynchronousTestCase):
    """`LookAhead`."""

    def setUp(self) -> None:
        """Make a look-ahead whose fetches never end by themselves."""
        self.clock, self.fetches, self.metrics = Clock(), Fetches(), Metrics()
        self.space = Space()
        self.ahead = self.make(enabled=True)
        self.ahead.startService()
        self.addCleanup(self.ahead.stopService)

    def make(self, *, enabled: bool) -> LookAhead:
        """Return a look-ahead."""
        fetches: Any = self.fetches
        space: Any = self.space
        context = AheadContext(fetches, space, self.clock, lambda: 5000.0)
        return LookAhead(context, self.metrics, enabled=enabled)

    def look(self, slices: range | list[int], pace: float = 24, client: str = "a", stack: Stack = STACK) -> None:
        """Look at slices, one after another."""
        for slice_ in slices:
            for place in VIEW:
                self.ahead.note(client, stack, tile(slice_, place)._replace(stack=stack.name))
            self.clock.advance(1 / pace)

    def slabs(self) -> set[tuple[int, int]]:
        """Return the slabs of which all cuboids in view were begun."""
        slabs: dict[tuple[int, int], int] = {}
        for cuboid in self.fetches.begun:
            slabs[cuboid.slices] = slabs.get(cuboid.slices, 0) + 1
        self.assertLessEqual(set(slabs.values()), {len(VIEW)})
        return set(slabs)

    def count(self, result: str) -> float:
        """Return how many cuboids had this result."""
        return self.metrics.registry.get_sample_value("ocpproxy_lookahead_cuboids_total", {"result": result}) or 0.0

    def test_in_time(self) -> None:
        """The next slab is begun when it is as far away as a cuboid takes time, neither later nor much earlier."""
        for pace, before in ((24, 16), (5, 5)):
            self.setUp()
            begun = None
            for slice_ in range(64, 96):
                self.look([slice_], pace)
                if (80, 96) in self.slabs():
                    begun = begun or slice_
            assert begun is not None
            self.assertLessEqual(begun, 80 - 0.5 * pace)
            self.assertGreaterEqual(begun, 80 - before)
        self.assertEqual(self.fetches.lanes, {Lane.LOOKAHEAD})

    def test_backwards(self) -> None:
        """Downwards it is the slab before."""
        self.look(range(79, 68, -1), 10)
        self.assertIn((48, 64), self.slabs())
        self.assertNotIn((80, 96), self.slabs())

    def test_other_planes(self) -> None:
        """Along y and x as along z."""
        stack = Stack.build(DATASET, ImageBase("kat", Plane.XZ))
        self.look(range(40, 64), 24, stack=stack)
        self.assertTrue(self.fetches.begun)
        self.assertTrue(all(cuboid.stack.plane is Plane.XZ for cuboid in self.fetches.begun))

    def test_edge(self) -> None:
        """There is nothing behind the last slice."""
        self.look(range(1000, 1024), 24)
        self.assertEqual(self.slabs(), {(1008, 1024), (992, 1008)} & self.slabs())

    def test_turn(self) -> None:
        """When the viewer turns, what has not come is given up."""
        self.look(range(64, 78))
        begun = len(self.fetches.begun)
        self.look([77, 76])
        self.assertEqual(len(self.fetches.cancelled), begun)
        self.assertEqual(self.count("given_up"), begun)

    def test_other_upstream(self) -> None:
        """Who flies on after a reload gets cuboids of the new description, though the stack has the same name."""
        self.look(range(64, 70))
        other = Stack.build(replace(DATASET, upstream_data="new"), ImageBase("kat"))
        self.assertEqual(other.name, STACK.name)
        self.fetches.begun.clear()
        self.look(range(70, 130), stack=other)
        self.assertTrue(self.fetches.begun)
        self.assertEqual({cuboid.stack.dataset.upstream_data for cuboid in self.fetches.begun}, {"new"})

    def test_results(self) -> None:
        """A cuboid that is asked for was of use, also while it is on its way; one that is not was wasted."""
        self.look(range(64, 78))
        for fetch in self.fetches.begun.values():
            fetch.callback(True)
        self.look(range(78, 82))
        self.assertEqual(self.count("used"), len(VIEW))
        self.look(range(82, 100))
        for fetch in self.fetches.begun.values():
            if not fetch.called:
                fetch.callback(True)
        self.assertEqual((self.count("used"), len(self.fetches.begun)), (2 * len(VIEW), 3 * len(VIEW)))
        self.clock.advance(100)
        self.look([300])
        self.assertEqual(self.count("wasted"), len(VIEW))

    def test_bounds(self) -> None:
        """One client has 64 cuboids at most, and all have 256."""
        self.fetches.seconds = 5.0
        for n in range(8):
            self.look(range(64, 80), 50, f"client {n}")
        self.assertLessEqual(len(self.fetches.begun), 256)
        self.assertGreater(len(self.fetches.begun), 60)
        self.setUp()
        self.fetches.seconds = 5.0
        self.look(range(64, 80), 50)
        self.assertEqual(len(self.fetches.begun), 64)

    def test_no_space(self) -> None:
        """Where space is short, nothing goes that was used in the last ten minutes, and nothing is fetched."""
        self.space.enough = False
        self.look(range(64, 96))
        self.assertEqual((self.fetches.begun, self.space.since), ({}, 4400.0))

    def test_ended_at_once(self) -> None:
        """What ends as soon as it is begun is noted like everything else: it is not begun again with the next step."""
        self.space.enough = False
        self.look(range(64, 80))
        self.assertEqual(self.space.asked, len(VIEW))

    def test_impossible_tile(self) -> None:
        """A tile that needs more voxels than a cuboid may have disturbs no other viewer."""
        self.look(range(64, 78))
        small = Stack.build(DATASET, ImageBase("kat"), max_cutout=1)
        self.ahead.note("b", small, tile(5)._replace(stack=small.name))
        self.look(range(78, 96))
        self.assertIn((96, 112), self.slabs())

    def test_zoom_out_of_the_volume(self) -> None:
        """A finer level that does not have the slice is left alone; one that has it is fetched in view."""
        for offset, expected in ((0, 4), (500, 0)):
            self.setUp()
            levels = {n: level(n) for n in range(4)}
            levels[0] = replace(levels[0], offset=(0, 0, offset), size=(8192, 8192, 400))
            stack = Stack.build(replace(DATASET, levels=levels), ImageBase("kat"))
            for number, places in ((3, [(1, 1)]), (2, [(2, 2)]), (1, [(4, 4), (4, 5), (5, 4), (5, 5)])):
                for place in places:
                    self.ahead.note("a", stack, tile(100, place, number)._replace(stack=stack.name))
                self.clock.advance(0.2)
            self.assertEqual(len(self.fetches.begun), expected)

    def test_resting(self) -> None:
        """While the upstream is left alone nothing is fetched, and no space is made for it."""
        self.fetches.resting = True
        self.look(range(64, 96))
        self.assertEqual(len(self.fetches.begun), 0)

    def test_off(self) -> None:
        """Switched off, it does nothing."""
        self.ahead = self.make(enabled=False)
        self.look(range(64, 96))
        self.assertEqual((self.fetches.begun, self.clock.getDelayedCalls()), ({}, []))


class LookAheadDaemonTests(DaemonCase):
    """The real daemon."""

    async def test_flight(self) -> None:
        """The slabs that a viewer flies into are there before it comes; switched off they are not."""
        for switch, asked in (("on", 4), ("off", 2)):
            service = ocpserver.Service(em(), 2, side=512, depth=16)
            path = self.configure(
                self.serve(service),
                cache_lookahead=switch,
                cache_directory=switch,
                index_url=f"sqlite:///{switch}.sqlite",
            )
            daemon = await self.start(path)
            for slice_ in range(1, 12):
                for col in range(2):
                    code, _, _ = await daemon.get(f"kat/{slice_}/0_{col}_0.png")
                    self.assertEqual(code, 200)
                await pause(0.02)
            while service.asked["cutout"] < asked:
                await pause(0.02)
            await daemon.rest()
            self.assertEqual(service.asked["cutout"], asked)
            used = await daemon.metric('ocpproxy_lookahead_cuboids_total{result="used"}')
            self.assertEqual(used, 0)
            await daemon.get("kat/17/0_0_0.png")
            while switch == "on" and not await daemon.metric('ocpproxy_lookahead_cuboids_total{result="used"}'):
                await pause(0.02)
            self.assertEqual(service.asked["cutout"], 4 if switch == "on" else 3)
            await daemon.stop()
