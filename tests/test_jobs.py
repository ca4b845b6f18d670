"""Prefetch jobs: their specification, plan, run and rows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.concurrency import work
from ocpproxy.concurrency.work import Lane
from ocpproxy.jobs.plan import Plan
from ocpproxy.jobs.progress import JobProgress
from ocpproxy.jobs.run import Run, RunContext, Stopped
from ocpproxy.jobs.service import deadline
from ocpproxy.jobs.spec import BadJob, JobSpec, read_spec, read_text
from ocpproxy.model.address import ImageBase
from ocpproxy.model.dataset import Box, Channel, Dataset, Level, Plane
from ocpproxy.model.region import Region, Segment, part
from ocpproxy.model.stack import Cuboid, Stack, Tile
from ocpproxy.store.space.usage import Usage
from ocpproxy.upstream.base import UpstreamBroken, UpstreamBusy
from ocpproxy.upstream.breaker import NotAsked, UpstreamResting

numbers = st.integers(0, 2**23)


@st.composite
def specs(draw: st.DrawFn) -> JobSpec:
    """Return any job."""
    low, high = sorted((draw(numbers), draw(numbers)))
    x0, x1, y0, y1, z0, z1 = (draw(st.integers(-(2**30), 2**30)) for _ in range(6))
    place = st.tuples(*(st.floats(-1e6, 1e6) for _ in range(3)))
    segments = draw(st.lists(st.builds(Segment, place, place), max_size=3))
    region = Region(segments=tuple(segments), radius=draw(st.floats(1, 1e6)), voxel=(4.0, 4.0, 40.0))
    if not segments:
        box = Box(min(x0, x1), max(x0, x1) + 1, min(y0, y1), max(y0, y1) + 1, min(z0, z1), max(z0, z1) + 1)
        region = Region(draw(st.sampled_from((None, box))))
    return JobSpec(
        draw(st.from_regex(r"\A[a-z][a-z0-9_-]{0,20}\Z")),
        tuple(draw(st.lists(st.sampled_from(("a", "b-c", "d_1")), unique=True))),
        tuple(draw(st.lists(st.sampled_from(Plane), min_size=1, unique=True))),
        draw(st.sampled_from((None, (low, high), (low, None)))),
        draw(st.sampled_from((None, (low, high)))),
        region,
        draw(st.sampled_from((None, 3))),
        draw(st.sampled_from((None, 2.5))),
        draw(st.sampled_from((None, 10**9))),
        draw(st.sampled_from((None, "06:00", "23:59"))),
        draw(st.floats(0, 1)),
    )


class SpecTests(SynchronousTestCase):
    """`read_spec`."""

    @given(specs())
    def test_round_trip(self, spec: JobSpec) -> None:
        """What is written is read."""
        self.assertEqual(read_text(json.dumps(spec.to_json())), spec)

    def test_bad(self) -> None:
        """What makes no sense is refused with a sentence that says what was expected."""
        bad: Any
        for bad in (
            [],
            None,
            {},
            {"token": "../etc"},
            {"token": "a" * 65},
            {"token": "a", "nonsense": 1},
            {"token": "a", "levels": [3, 1]},
            {"token": "a", "levels": [0.5, 1]},
            {"token": "a", "levels": [None, None]},
            {"token": "a", "levels": [True, True]},
            {"token": "a", "planes": []},
            {"token": "a", "planes": ["yx"]},
            {"token": "a", "channels": "image"},
            {"token": "a", "channels": ["a/b"]},
            {"token": "a", "box": [0, 1, 0, 1, 0]},
            {"token": "a", "box": [1, 1, 0, 1, 0, 1]},
            {"token": "a", "box": [0, float("inf"), 0, 1, 0, 1]},
            {"token": "a", "box": [0, 1, 0, 1, 0, 1], "segments": [[0] * 6]},
            {"token": "a", "segments": []},
            {"token": "a", "segments": [[0] * 5]},
            {"token": "a", "segments": [[0] * 6] * 100_001},
            {"token": "a", "segments": [["0"] * 6]},
            {"token": "a", "radius": -1},
            {"token": "a", "rate": 0},
            {"token": "a", "rate": float("nan")},
            {"token": "a", "max_bytes": 1.5},
            {"token": "a", "until": "25:00"},
            {"token": "a", "until": 6},
            {"token": "a", "fail_budget": 2},
            {"token": "a", "voxel": [0, 1, 1]},
        ):
            self.assertRaises(BadJob, read_spec, bad)
        huge = 10**400
        for bad in (
            {"rate": huge},
            {"box": [0, huge] * 3},
            {"radius": huge},
            {"max_bytes": huge},
            {"levels": [0, huge]},
        ):
            self.assertRaises(BadJob, read_spec, {"token": "a", **bad})
        for text in ("", "[" * 100_000, '{"token": '):
            self.assertRaises(BadJob, read_text, text)

    @given(st.dictionaries(st.sampled_from(("token", "levels", "box", "segments", "planes", "until")), st.text()))
    def test_anything(self, document: dict[str, Any]) -> None:
        """Nothing else is raised."""
        with contextlib.suppress(BadJob):
            read_spec({"token": "a", **document})


EDGE = Fraction(1)
STACK = Stack.build(
    Dataset(
        "kat",
        {0: Level((1024, 1024, 64), (0, 0, 0), (64, 64, 16), (EDGE, EDGE, EDGE))},
        (Channel("image", "image", "uint8"),),
        "image",
    ),
    ImageBase("kat"),
)


@dataclass
class Cache:
    """A cache whose fetches end at once, unless the test says otherwise."""

    tiles: dict[Tile, int] = field(default_factory=dict)
    filled: list[Cuboid] = field(default_factory=list)
    used: set[Tile] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)
    unstored: set[str] = field(default_factory=set)
    waiting: list[Deferred[None]] | None = None
    lanes: set[Lane] = field(default_factory=set)
    space: bool = True
    since: list[float] = field(default_factory=list)
    failure: Exception = field(default_factory=lambda: UpstreamBroken("for the test"))

    async def fill(self, cuboid: Cuboid) -> bool:
        """Fetch a cuboid."""
        self.lanes.add(work.current().lane)
        self.filled.append(cuboid)
        if self.waiting is not None:
            self.waiting.append(Deferred())
            await self.waiting[-1]
        if cuboid.name in self.bad:
            raise self.failure
        if cuboid.name not in self.unstored:
            self.tiles.update(dict.fromkeys(cuboid.tiles(), 1000))
        return True

    async def sizes(self, tiles: Sequence[Tile]) -> dict[Tile, int]:
        """Return what is stored."""
        return {tile: self.tiles[tile] for tile in tiles if tile in self.tiles}

    def note_use(self, tile: Tile) -> None:
        """Note a use."""
        self.used.add(tile)

    @contextlib.asynccontextmanager
    async def hold_space(self, wanted: Usage, unused_since: float) -> AsyncIterator[bool]:
        """Keep space, or not."""
        self.since.append(unused_since)
        yield self.space


class RunTests(SynchronousTestCase):
    """`Run`."""

    def setUp(self) -> None:
        """Make a cache, and a plan of 16 cuboids of 16 tiles."""
        self.cache, self.clock = Cache(), Clock()
        found = part(STACK, 0, 0, Region())
        assert found is not None
        self.part = found
        self.cuboids = [found.cuboid(place) for place in found.places()]
        self.assertEqual(len(self.cuboids), 16)

    def start(self, progress: JobProgress | None = None, failed: Sequence[str] = (), **options: Any) -> Deferred[None]:
        """Start a run."""
        plan = Plan(JobSpec("kat", **options), (self.part,))
        self.progress = progress or JobProgress(cuboids=16, tiles=256, began=5.0)
        context = RunContext(self.cache, self.cache, self.cache, self.clock, self.clock.seconds)
        self.run_ = Run("job 1", plan, self.progress, 3, context)
        return Deferred.fromCoroutine(self.run_.run(failed))

    def counts(self) -> tuple[int, int, int, int]:
        """Return how many cuboids are done, were fetched, were there, have failed."""
        progress = self.progress
        return (progress.done, progress.fetched, progress.cached, progress.failed)

    def test_everything(self) -> None:
        """Each cuboid is fetched once, in its lane; what is there counts as used, and is not fetched."""
        self.cache.tiles.update(dict.fromkeys(self.cuboids[4].tiles(), 7))
        self.successResultOf(self.start())
        self.assertEqual(
            sorted(c.name for c in self.cache.filled), sorted({c.name for c in self.cuboids[:4] + self.cuboids[5:]})
        )
        self.assertEqual(self.counts(), (16, 15, 1, 0))
        self.assertEqual((self.progress.position, self.progress.bytes), (16, 15 * 16 * 1000))
        self.assertEqual(self.cache.used, set(self.cuboids[4].tiles()))
        self.assertEqual((self.cache.lanes, set(self.cache.since)), ({Lane.PREFETCH}, {5.0}))

    def test_part_of_a_cuboid(self) -> None:
        """A cuboid of which one tile is missing is fetched, and only what is new counts."""
        self.cache.tiles.update({tile: 7 for cuboid in self.cuboids for tile in cuboid.tiles()[1:]})
        self.successResultOf(self.start())
        self.assertEqual((self.counts(), self.progress.bytes), ((16, 16, 0, 0), 16 * 1000))

    def test_failures(self) -> None:
        """What fails is noted with its reason, and does not hold up the rest."""
        self.cache.bad = {self.cuboids[n].name for n in (0, 7)}
        self.cache.unstored = {self.cuboids[9].name}
        self.successResultOf(self.start())
        self.assertEqual(self.counts(), (16, 13, 0, 3))
        failures, mended = self.run_.outcome.take()
        self.assertEqual({f.cuboid for f in failures}, {self.cuboids[n].name for n in (0, 7, 9)})
        self.assertEqual(
            {f.reason for f in failures},
            {"not readable: for the test", "not stored: 16 of its 16 tiles could not be stored"},
        )
        self.assertEqual((mended, len(self.cache.filled)), ([], 16))

    def test_mended(self) -> None:
        """A cuboid that had failed, and is there at the end, has not failed."""
        names = [self.cuboids[3].name, self.cuboids[5].name]
        self.cache.bad = {names[1]}
        self.successResultOf(self.start(JobProgress(cuboids=16, failed=2), names))
        self.assertEqual(self.progress.failed, 1)
        failures, mended = self.run_.outcome.take()
        self.assertEqual(([f.cuboid for f in failures], mended), ([names[1]], [names[0]]))

    def test_evicted_meanwhile(self) -> None:
        """What was evicted before the end is fetched again; what always goes has failed."""
        self.cache.waiting = []
        running = self.start()
        while self.cache.waiting:
            self.cache.waiting.pop(0).callback(None)
            if len(self.cache.filled) == 10:
                for cuboid in self.cuboids[:2]:
                    for tile in cuboid.tiles():
                        self.cache.tiles.pop(tile, None)
        self.successResultOf(running)
        self.assertEqual(len(self.cache.filled), 18)
        self.assertEqual(self.counts(), (16, 18, 0, 0))

    def test_position(self) -> None:
        """The position is the first cuboid that is not done, in whatever order they end."""
        self.cache.waiting = []
        running = self.start()
        self.assertEqual(len(self.cache.waiting), 3)
        self.cache.waiting[1].callback(None)
        self.cache.waiting[2].callback(None)
        self.assertEqual((self.progress.position, self.progress.done), (0, 2))
        self.cache.waiting[0].callback(None)
        self.assertEqual(self.progress.position, 3)
        running.addErrback(lambda failure: failure.trap(CancelledError) and None)
        running.cancel()
        self.cache.waiting = None
        self.cache.filled.clear()
        self.successResultOf(self.start(self.progress))
        self.assertEqual(sorted(c.name for c in self.cache.filled), sorted(c.name for c in self.cuboids[3:]))

    def test_no_space(self) -> None:
        """It stops when only what was used since it began could be evicted."""
        self.cache.space = False
        failure = self.failureResultOf(self.start(), Stopped)
        self.assertIn("used since the job began", str(failure.value))
        self.assertEqual(self.cache.filled, [])

    def test_limits(self) -> None:
        """Bytes, a time of day, and a share of failures stop it."""
        self.failureResultOf(self.start(max_bytes=50_000), Stopped)
        self.assertLess(self.progress.bytes, 50_000 + 3 * 16_000)
        self.clock.advance(10)
        self.failureResultOf(self.start(JobProgress(cuboids=16, deadline=9.0)), Stopped)

    def test_fail_budget(self) -> None:
        """More than twenty failures, and a larger share than allowed."""
        self.cache.bad = {self.cuboids[n].name for n in (0, 1)}
        before = JobProgress(cuboids=16, failed=25, done=300)
        self.failureResultOf(self.start(before, [str(n) for n in range(25)], fail_budget=0.05), Stopped)
        before = JobProgress(cuboids=16, failed=25, done=300)
        self.cache.filled.clear()
        self.successResultOf(self.start(before, [str(n) for n in range(25)], fail_budget=0.5))

    def test_pause_after_failures(self) -> None:
        """When everything fails, the upstream gets a rest."""
        self.cache.bad = {cuboid.name for cuboid in self.cuboids}
        running = self.start()
        self.assertFalse(running.called)
        begun = len(self.cache.filled)
        self.assertLess(begun, 10)
        for _ in range(20):
            self.clock.advance(30)
        self.successResultOf(running)

    def test_busy(self) -> None:
        """A cuboid whose upstream is busy is asked for again, when the upstream says or a while later, twice."""
        self.cache.bad = {self.cuboids[0].name}
        self.cache.failure = UpstreamBusy("for the test", 20)
        running = self.start()
        self.assertEqual(len(self.cache.filled), 16)
        self.clock.advance(19)
        self.assertEqual(len(self.cache.filled), 16)
        self.clock.advance(2)
        self.assertEqual(len(self.cache.filled), 17)
        self.clock.advance(21)
        self.successResultOf(running)
        self.assertEqual((len(self.cache.filled), self.progress.failed), (18, 1))
        self.cache.bad.clear()
        self.successResultOf(self.start(JobProgress(cuboids=16, failed=1), [self.cuboids[0].name]))
        self.assertEqual(self.progress.failed, 0)

    def test_resting(self) -> None:
        """While the upstream is left alone a job waits, and no cuboid counts as failed; in maintenance it stops."""
        self.cache.bad = {cuboid.name for cuboid in self.cuboids}
        self.cache.failure = UpstreamResting("for the test", 1.0)
        running = self.start()
        for _ in range(120):
            self.clock.advance(1)
        self.assertNoResult(running)
        self.assertEqual(self.progress.failed, 0)
        self.cache.bad.clear()
        self.clock.advance(1)
        self.successResultOf(running)
        self.assertEqual((self.progress.done, self.progress.failed), (16, 0))
        self.cache.tiles.clear()
        self.cache.bad = {cuboid.name for cuboid in self.cuboids}
        self.cache.failure = NotAsked("for the test", 60.0)
        self.failureResultOf(self.start(), Stopped)

    def test_rate(self) -> None:
        """So many cuboids a second, and no more."""
        running = self.start(rate=2.0)
        for _ in range(40):
            self.clock.advance(0.1)
        self.assertAlmostEqual(len(self.cache.filled), 8, delta=1)
        for _ in range(100):
            self.clock.advance(0.1)
        self.successResultOf(running)

    def test_saved_progress(self) -> None:
        """JobProgress is read as it was written; nonsense in the row is left out."""
        progress = JobProgress(cuboids=5, done=3, rate=1.5, title="x", checking=True)
        self.assertEqual(JobProgress.of(json.loads(json.dumps(progress.to_json()))), progress)
        self.assertEqual(JobProgress.of({"done": "many", "title": 3, "other": 1}), JobProgress())
        self.assertEqual(JobProgress.of([]), JobProgress())
        nonsense = {"done": float("inf"), "rate": float("nan"), "tiles": 10**400}
        self.assertEqual(JobProgress.of(nonsense), JobProgress())


class DeadlineTests(SynchronousTestCase):
    """``until``."""

    def test_next(self) -> None:
        """It is the next time that the clock shows this, today or tomorrow; without it there is none."""
        now = datetime(2026, 11, 30, 6, 30).astimezone()
        for until, hours in (("06:31", 1 / 60), ("23:00", 16.5), ("06:30", 24), ("6:00", 23.5)):
            found = deadline(JobSpec("a", until=until), now.timestamp())
            self.assertAlmostEqual((found - now.timestamp()) / 3600, hours, delta=0.001)
        self.assertEqual(deadline(JobSpec("a"), now.timestamp()), 0)
