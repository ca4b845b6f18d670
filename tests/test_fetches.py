"""A cuboid's flight: which of its tiles stay in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.cache.entries import DatasetSource
from ocpproxy.cache.fetch_times import FetchTimes
from ocpproxy.cache.fetches import CuboidFetches, FetchContext
from ocpproxy.cache.lookup import Found, Result, TileLookup
from ocpproxy.cache.rendering import RenderThreads
from ocpproxy.cache.shared_cutouts import SharedCutouts
from ocpproxy.index.descriptions import Description
from ocpproxy.metrics import Metrics
from ocpproxy.model.dataset import Cutout, Dataset
from ocpproxy.model.stack import Tile
from ocpproxy.model.voxels import Voxels
from ocpproxy.store.files import StoredTile
from ocpproxy.store.flushing.flush import Flush
from ocpproxy.store.flushing.flushes import FlushContext, Flushes
from ocpproxy.store.part import TilePart
from ocpproxy.store.provenance import Provenance
from ocpproxy.upstream.base import VoxelsOnly
from tests.test_rendering import STACK, ManualLane, tile


class NoStore:
    """A store in which nothing is found, and nothing stays."""

    def __init__(self) -> None:
        async def written() -> None:
            """Return at once."""

        context = FlushContext("test", set, written, lambda: None, lambda *_: Deferred(), Clock())
        self.flushes = Flushes(Path("unused"), context)

    def open_now(self, tile: Tile) -> None:
        """Return None: nothing is stored."""

    async def read(self, tile: Tile) -> StoredTile | None:
        """Return None: nothing is stored."""
        return None

    async def discard(self, tiles: Iterable[Tile]) -> None:
        """Return at once: nothing is stored."""

    def note_use(self, tile: Tile) -> None:
        """Record nothing."""

    async def store(self, pictures: list[tuple[Tile, bytes]], origin: Provenance) -> int:
        """Store nothing."""
        return 0

    async def sizes(self, tiles: Sequence[Tile]) -> dict[Tile, int]:
        """Return nothing: nothing is stored."""
        return {}

    async def keep_validators(self, tile: Tile, validators: Mapping[str, str]) -> None:
        """Store nothing."""

    async def read_with_validators(self, tile: Tile) -> None:
        """Return None: nothing is stored."""


class EveryLease:
    """Leases that can always be taken."""

    async def acquire(self, name: str) -> bool:
        """Take the lease."""
        return True

    async def release(self, name: str) -> None:
        """Release the lease."""


class NoDescriptions:
    """Descriptions that are never saved."""

    async def load(self, token: str, origin: str) -> Description | None:
        """Return None: nothing is saved."""
        return None

    async def save(self, dataset: Dataset, origin: str, description: Description) -> None:
        """Do not save it."""


class Noise(VoxelsOnly):
    """An upstream of noise."""

    origin = "noise"

    async def describe(self, token: str) -> str:
        """Return an empty description."""
        return ""

    def dataset(self, token: str, description: str) -> Dataset:
        """Return the dataset of the stack."""
        return STACK.dataset

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Return the noise."""
        return np.random.default_rng(1).integers(0, 256, cutout.box.shape, np.uint8)


class FetchTests(SynchronousTestCase):
    """Flights on lanes that do their work when the test says so."""

    def setUp(self) -> None:
        """Start a flight that has its voxels, and has rendered none of its tiles."""
        clock, store = Clock(), NoStore()
        self.flushes = store.flushes
        self.urgent, self.ahead = ManualLane(), ManualLane()
        self.lookup = TileLookup(store, 2**24)
        catalogue = Catalogue({}, DatasetSource(Noise(), 60, 4, 60), NoDescriptions(), clock, clock.seconds)
        threads: Any = RenderThreads(self.urgent, self.ahead)
        context = FetchContext(
            catalogue, SharedCutouts(clock, 2**24), threads, clock, Metrics(), FetchTimes(clock.seconds)
        )
        self.fetches = CuboidFetches(self.lookup, store, EveryLease(), context)

    def fetch(self, slice_: int) -> Deferred[Found]:
        """Request a tile of the cuboid."""
        return Deferred.fromCoroutine(self.fetches.fetch(STACK.cuboid(tile(0)), tile(slice_)))

    def test_wanted_tiles_stay_in_memory(self) -> None:
        """Tiles that had a waiter, before or after they were rendered, stay in memory; others do not."""
        first = self.fetch(9)
        self.urgent.do()
        self.assertEqual(self.successResultOf(first).result, Result.MISS)
        self.ahead.do()  # slices 0 to 3
        late = self.fetch(2)
        self.assertEqual(self.successResultOf(late).result, Result.COLLAPSED)
        while self.ahead.queued:
            self.ahead.do()
        self.assertEqual(len(self.fetches), 0)
        self.assertEqual([n for n in range(16) if self.lookup.find_now(tile(n))], [2, 9])

    def test_flushed(self) -> None:
        """A flight that is flushed answers its waiters, and leaves nothing in memory; the next request is not its."""
        self.flushes.when_flushed(self.lookup.forget)
        self.flushes.when_flushed(self.fetches.detach)
        first, second = self.fetch(9), self.fetch(10)
        self.urgent.do()
        self.assertEqual(self.successResultOf(first).result, Result.MISS)
        self.assertTrue(self.lookup.find_now(tile(9)))
        self.flushes._see({"1": Flush(self.flushes.looked + 1, TilePart(STACK.dataset.token))}, {"1"})
        self.assertIsNone(self.lookup.find_now(tile(9)))
        again = self.fetch(9)
        self.assertEqual((len(self.fetches), self.fetches.waiters), (2, 2))
        self.urgent.do()
        self.assertEqual(self.successResultOf(second).result, Result.COLLAPSED)
        self.assertIsNone(self.lookup.find_now(tile(10)))
        self.assertNoResult(again)
        self.flushes.looked += 2
        late = self.fetch(11)
        while self.ahead.queued or self.urgent.queued:
            (self.urgent if self.urgent.queued else self.ahead).do()
        self.assertEqual(self.successResultOf(again).result, Result.MISS)
        self.assertEqual(self.successResultOf(late).result, Result.COLLAPSED)
        self.assertEqual(len(self.fetches), 0)
