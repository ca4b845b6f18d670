"""Eviction: the limits, and an evictor on fake time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.cache.eviction import Evictor
from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.metrics import Metrics
from ocpproxy.store.space.capacity import CacheLimits, Capacity
from ocpproxy.store.space.usage import Usage

MIB = 2**20


class LimitsTests(SynchronousTestCase):
    """The limits of a cache."""

    def test_thresholds(self) -> None:
        """Over 95 % is full, 95 % is not; a pass ends at 90 %, or lower when more is about to come."""
        limits = CacheLimits(1000, 0, 0.95, 0.90)
        self.assertEqual([limits.is_full(Usage(9**9, n)) for n in (950, 951)], [False, True])
        self.assertEqual(limits.target(Usage()).bytes, 900)
        self.assertEqual(limits.target(Usage(1, 300)).bytes, 700)
        counted = CacheLimits(1000, 100, 0.95, 0.90)
        self.assertEqual([counted.is_full(Usage(n, 0)) for n in (95, 96)], [False, True])
        self.assertEqual(counted.target(Usage(20, 0)), Usage(80, 900))

    @given(st.integers(1, 10**6), st.integers(0, 10**6), st.floats(0.01, 1), st.floats(0, 1), st.integers(0, 10**7))
    def test_a_pass_is_enough(self, size: int, most: int, above: float, to: float, incoming: int) -> None:
        """The cache has space for what is kept and what comes, and is not full again if `to` is not over `above`."""
        limits = CacheLimits(size, most, max(above, to), to)
        keep = limits.target(Usage(0, min(incoming, size // 2)))
        self.assertTrue(limits.allows(Usage(keep.tiles, keep.bytes + min(incoming, size // 2))))
        self.assertFalse(limits.is_full(keep))
        self.assertGreaterEqual(min(keep.tiles, keep.bytes), 0)


class Cache:
    """A store in memory, and a lease."""

    def __init__(self, clock: Clock, limits: CacheLimits) -> None:
        self.usage = Usage()
        self.capacity = Capacity(limits, lambda: self.usage, clock)
        self.unused = 0
        """Tiles that were not used for long."""
        self.unavailable = False
        self.leased = False
        self.passes = 0
        self.broken = False
        self.pending = 0

    def store(self, nbytes: int) -> None:
        """Store one tile."""
        self.usage = Usage(self.usage.tiles + 1, self.usage.bytes + nbytes)

    async def refresh(self) -> Usage:
        """See `TileStore.refresh`."""
        if self.unavailable:
            raise DatabaseUnavailable("for the test")
        return self.usage

    async def evict(self, keep: Usage, at_most: int, unused_since: float | None = None) -> Usage:
        """Evict at most `at_most` tiles, of equal size; see `TileStore.evict`."""
        if unused_since is not None:
            at_most = min(at_most, self.unused)
            self.unused -= at_most
        await self.refresh()
        if self.broken:
            raise ValueError("for the test")
        size = self.usage.bytes // self.usage.tiles if self.usage.tiles else 1
        if self.pending:  # they have no rows yet; the next time they have
            keep = Usage(keep.tiles + self.pending, keep.bytes + self.pending * size)
            self.pending = 0
        tiles = 0
        while tiles < at_most and (
            self.usage.bytes - tiles * size > keep.bytes or self.usage.tiles - tiles > keep.tiles
        ):
            tiles += 1
        self.usage = Usage(self.usage.tiles - tiles, self.usage.bytes - tiles * size)
        return Usage(tiles, tiles * size)

    async def acquire(self, name: str) -> bool:
        """As in leases."""
        await self.refresh()
        self.passes += 1
        return not self.leased

    async def release(self, name: str) -> None:
        """As in leases."""


class EvictorTests(SynchronousTestCase):
    """The loop, and space for what is stored."""

    def setUp(self) -> None:
        """Make an evictor of 1000 bytes that looks every 30 s."""
        self.clock = Clock()
        self.cache = Cache(self.clock, CacheLimits(1000, 0, 0.95, 0.90))
        self.evictor = Evictor(self.cache, self.cache, 30, self.clock, Metrics())
        self.evictor.startService()
        self.addCleanup(self.evictor.stopService)
        self.holding: list[Deferred[None]] = []

    async def keep(self, nbytes: int) -> int:
        """Store one tile as the cache does, and return how much was granted."""
        async with self.cache.capacity.reserve(Usage(1, nbytes)) as granted:
            if granted:
                self.cache.store(nbytes)
            return granted

    def test_tick(self) -> None:
        """The tick evicts when it is full, and only then."""
        for _ in range(94):
            self.cache.store(10)
        self.clock.advance(30)
        self.assertEqual(self.cache.usage.bytes, 940)
        for _ in range(10):
            self.cache.store(10)
        self.clock.advance(30)
        self.assertEqual(self.cache.usage.bytes, 900)

    def test_burst(self) -> None:
        """A burst between two ticks never goes over the size, and rests below the mark."""
        for _ in range(500):
            self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.keep(10))), 10)
            self.assertLessEqual(self.cache.usage.bytes, 1000)
        self.assertLessEqual(self.cache.usage.bytes, 950)

    def test_stored_while_a_pass_ends(self) -> None:
        """What is stored while a pass gives its lease back is not forgotten until the next tick."""
        ending: Deferred[None] = Deferred()

        async def release(name: str) -> None:
            await ending

        self.patch(self.cache, "release", release)
        for _ in range(96):
            self.cache.store(10)
        storing = self.cache.capacity.reserve(Usage(1, 90))
        self.successResultOf(Deferred.fromCoroutine(storing.__aenter__()))
        self.cache.store(90)
        self.successResultOf(Deferred.fromCoroutine(storing.__aexit__(None, None, None)))
        self.assertEqual(self.cache.usage.bytes, 990)
        ending.callback(None)
        self.assertLessEqual(self.cache.usage.bytes, 900)

    def test_pending(self) -> None:
        """What has no row yet cannot be chosen, but is not forgotten when it has."""
        for _ in range(100):
            self.cache.store(10)
        self.cache.pending = 10
        self.clock.advance(30)
        self.assertLessEqual(self.cache.usage.bytes, 900)

    def test_half_at_most(self) -> None:
        """One cuboid gets half of the cache and no more."""
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.keep(400))), 400)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.keep(700))), 500)

    def test_index_unavailable(self) -> None:
        """While the index is unavailable there is space up to the size, and then none: nobody waits for ever."""
        self.cache.unavailable = True
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.keep(400))), 400)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.keep(500))), 500)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.keep(200))), 0)
        self.assertEqual(self.cache.usage.bytes, 900)
        self.cache.unavailable = False
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.keep(200))), 200)

    def test_another_process_evicts(self) -> None:
        """While another process has the lease, the evictor waits for the effect of its work."""
        self.cache.leased = True
        self.successResultOf(Deferred.fromCoroutine(self.keep(500)))
        self.successResultOf(Deferred.fromCoroutine(self.keep(450)))
        waiting = Deferred.fromCoroutine(self.keep(100))
        self.clock.advance(0.05)
        self.assertNoResult(waiting)
        self.cache.usage = Usage(1, 500)
        self.clock.advance(0.05)
        self.assertEqual(self.successResultOf(waiting), 100)
        self.cache.usage = Usage(1, 990)
        waiting = Deferred.fromCoroutine(self.keep(100))
        self.clock.pump([0.05] * 120)
        self.assertEqual(self.successResultOf(waiting), 0, "nobody waits for ever")

    def test_lease_elsewhere(self) -> None:
        """A pass that finds the lease taken, or the index away, is made up for soon, not with the next tick."""
        for hindrance in ("leased", "unavailable"):
            setattr(self.cache, hindrance, True)
            for _ in range(7):
                self.successResultOf(Deferred.fromCoroutine(self.keep(140)))
            self.assertGreater(self.cache.usage.bytes, 950)
            setattr(self.cache, hindrance, False)
            self.clock.pump([0.1] * 5)
            self.assertLessEqual(self.cache.usage.bytes, 900)
            self.cache.usage = Usage()

    def test_many_want_space_at_once(self) -> None:
        """Those who wait for space do not take it from each other: all store, and the cache is not emptied for them."""
        for _ in range(94):
            self.cache.store(10)
        self.successResultOf(gatherResults([Deferred.fromCoroutine(self.keep(110)) for _ in range(16)]))
        self.assertLessEqual(self.cache.usage.bytes, 1000)
        self.assertGreater(self.cache.usage.bytes, 700)

    def hold(self, nbytes: int, end: Deferred[None]) -> Deferred[bool]:
        """Hold space until `end` fires; return whether there was any."""
        found: Deferred[bool] = Deferred()

        async def within() -> None:
            async with self.evictor.hold_space(Usage(1, nbytes), 5.0) as enough:
                found.callback(enough)
                await end

        self.holding.append(Deferred.fromCoroutine(within()))  # else the garbage collector may end it at any time
        return found

    def test_hold_space(self) -> None:
        """Space for what is fetched ahead is made of what was not used, below where everybody's eviction begins."""
        for _ in range(9):
            self.cache.store(100)
        self.assertTrue(self.successResultOf(self.hold(50, Deferred())))
        self.assertEqual((self.cache.usage.bytes, self.cache.passes), (900, 0))
        self.cache.unused = 2
        self.assertTrue(self.successResultOf(self.hold(150, Deferred())))
        self.assertEqual(self.cache.usage.bytes, 700)
        end: Deferred[None] = Deferred()
        self.assertFalse(self.successResultOf(self.hold(300, end)), "what is left was used")
        self.assertEqual(self.cache.usage.bytes, 700)

    def test_hold_space_in_turn(self) -> None:
        """What one holds is not given to another, and is free again at the end."""
        for _ in range(5):
            self.cache.store(100)
        ends: list[Deferred[None]] = [Deferred() for _ in range(3)]
        first, second, third = (self.hold(size, end) for size, end in zip((300, 400, 900), ends, strict=True))
        self.assertTrue(self.successResultOf(first))
        self.assertNoResult(second)
        ends[0].callback(None)
        self.clock.advance(1)
        self.assertTrue(self.successResultOf(second))
        self.assertFalse(self.successResultOf(third), "it would not fit alone")

    def test_cannot_die(self) -> None:
        """A pass that fails is logged, and the next tick evicts."""
        for _ in range(99):
            self.cache.store(10)
        self.cache.broken = True
        self.clock.advance(30)
        self.clock.advance(30)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        self.cache.broken, self.cache.unavailable = False, True
        self.clock.advance(30)
        self.cache.unavailable = False
        self.clock.advance(30)
        self.assertEqual(self.cache.usage.bytes, 900)
