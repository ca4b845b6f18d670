"""The store: tiles on disk and their rows, on both databases, with real files and threads."""

from __future__ import annotations

import shutil

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.store import keys, rows
from ocpproxy.store import pending as pending_module
from ocpproxy.store import tile_store as store_module
from ocpproxy.store.capacity import CacheLimits
from ocpproxy.store.rows import Usage
from tests.databases import OnMariaDB, OnSQLite
from tests.stores import PICTURES, KeptMixin, noted, tile


class NoEvictor:
    """An evictor whose index is unavailable."""

    def start_if_full(self) -> None:
        """Start nothing."""

    async def make_space(self) -> bool:
        """Return False: no row can be deleted."""
        return False


class StoreTests(KeptMixin):
    """What the store promises on every database."""

    async def test_write_and_account(self) -> None:
        """What is written can be read, and is accounted for once, whoever writes it again."""
        kept = await self.kept()
        some = [(tile(n), PICTURES[n % 4]) for n in range(16)]
        self.assertEqual(await kept.store.write(some), 16)
        self.assertEqual(await kept.store.write(some), 0)
        usage = await kept.agree()
        self.assertEqual(usage.tiles, 16)
        stored = await kept.store.read(tile(3))
        assert stored is not None
        self.assertEqual(stored.picture, PICTURES[3])
        self.assertIsNone(await kept.store.read(tile(99)))
        self.assertEqual(noted(kept.store.journal), set())

    async def test_two_processes(self) -> None:
        """Two that store the same and other tiles at once agree on every total."""
        one, two = await self.kept("one"), await self.kept("two")
        work = []
        for n in range(12):
            for kept, row in ((one, 0), (two, 0), (one, 1), (two, 2)):
                some = [(tile(z, row, n), PICTURES[z % 4]) for z in range(8)]
                work.append(Deferred.fromCoroutine(kept.store.write(some)))
        self.assertEqual(sum(await gatherResults(work)), 12 * 8 * 3)
        await one.store.pending.reconciled()
        await two.store.pending.reconciled()
        await one.store.refresh()
        await one.agree()

    async def test_oldest_go_first(self) -> None:
        """Least recently used goes first, to the tile; a use that is only in memory counts."""
        kept = await self.kept()
        for n in range(20):
            await kept.store.write([(tile(n), PICTURES[0])])
        await kept.store.pending.reconciled()
        kept.store.note_use(tile(0))
        size = len(PICTURES[0])
        removed = await kept.store.evict(Usage(12, 10**9), 100)
        self.assertEqual(removed, Usage(8, 8 * size))
        left = [n for n in range(20) if kept.store.files.stat(tile(n))]
        self.assertEqual(left, [0, *range(9, 20)])
        await kept.agree()
        self.assertEqual(await kept.store.evict(Usage(100, 5 * size), 3), Usage(3, 3 * size), "a slice at a time")
        self.assertEqual(await kept.store.evict(Usage(100, 5 * size), 100), Usage(4, 4 * size))
        self.assertEqual(await kept.store.evict(Usage(100, 5 * size), 100), Usage())
        await kept.agree()

    async def test_a_use_never_goes_back(self) -> None:
        """An older time that is written later does not make a tile older."""
        kept = await self.kept()
        await kept.store.write([(tile(n), PICTURES[0]) for n in range(3)])
        await kept.store.pending.reconciled()
        now = reactor.seconds()
        await kept.database.run(rows.record_uses, {tile(1): now + 50, tile(2): now + 60})
        await kept.database.run(rows.record_uses, {tile(1): now - 99, tile(77): now, tile(1, stack="x/xy/y/0"): now})
        found = await kept.database.read(lambda tx: tx.many("SELECT lowkey, reftime FROM contents ORDER BY reftime"))
        self.assertEqual([int(low) >> 40 for low, _ in found], [0, 1, 2])
        self.assertIn(rows.stamp(now + 50)[:25], str(found[1][1]))

    async def test_torn_tile(self) -> None:
        """A torn file is never served: it is removed, with its row."""
        kept = await self.kept()
        await kept.store.write([(tile(n), PICTURES[0]) for n in range(3)])
        await kept.store.pending.reconciled()
        place = kept.store.files.directory / keys.path(tile(1))
        place.write_bytes(PICTURES[0][:1000])
        self.assertIsNone(await kept.store.read(tile(1)))
        self.assertEqual((await kept.agree()).tiles, 2)
        await kept.store.write([(tile(1), PICTURES[1])])
        self.assertEqual((await kept.agree()).tiles, 3)

    async def test_index_away(self) -> None:
        """Tiles are stored and read while the index is away, and are accounted for when it is back."""
        kept = await self.kept()
        await kept.store.write([(tile(1), PICTURES[1])])
        await kept.store.pending.reconciled()
        kept.database._availability.down("for the test")
        self.assertEqual(await kept.store.write([(tile(n), PICTURES[0]) for n in range(1, 9)]), 7)
        self.assertIsNotNone(await kept.store.read(tile(5)))
        self.assertEqual((len(kept.store.pending), kept.store.usage.tiles), (7, 8))
        await kept.database.wait_available()
        self.assertEqual((await kept.agree()).tiles, 8)

    async def test_reclaim_outlives_its_patience(self) -> None:
        """Rows that are forgotten when nobody waits any more: their files go too, or their rows come back."""
        kept = await self.kept()
        await kept.store.write([(tile(n), PICTURES[0]) for n in range(20)])
        await kept.store.pending.reconciled()
        for keep, patience in ((15, 0.0), (10, 0.001), (5, 0.004), (3, 0.02), (1, 5.0)):
            self.patch(store_module, "PATIENCE", patience)
            work = Deferred.fromCoroutine(kept.store.evict(Usage(keep, 10**9), 100))
            work.addErrback(lambda failure: failure.trap(DatabaseUnavailable, CancelledError))
            if patience == 5:
                work.cancel()
            await work
            while kept.store._changes:
                await deferLater(reactor, 0.01)
            await kept.agree()
            self.assertEqual(noted(kept.store.journal), set())

    async def test_overflow(self) -> None:
        """More tiles than are remembered while the index is away: the sweep finds those that were not."""
        self.patch(pending_module, "_LIMIT", 10)
        kept = await self.kept()
        kept.database._availability.down("for the test")
        await kept.store.write([(tile(n), PICTURES[0]) for n in range(40)])
        self.assertTrue(kept.store.pending.overflowed)
        await kept.database.wait_available()
        await kept.store.pending.reconciled()
        await kept.mender.sweep()
        self.assertFalse(kept.store.pending.overflowed)
        self.assertEqual(noted(kept.store.journal), set())
        self.assertEqual((await kept.agree()).tiles, 40)

    async def test_probes_side_by_side(self) -> None:
        """Many who ask at once whether tiles can be written get the same answer."""
        kept = await self.kept()
        await gatherResults([kept.pool.run(kept.store.files.check_writable) for _ in range(200)])

    async def test_left_while_discarding(self) -> None:
        """A torn tile whose reader leaves in the middle is settled all the same."""
        kept = await self.kept()
        await kept.store.write([(tile(1), PICTURES[0])])
        await kept.store.pending.reconciled()
        (kept.store.files.directory / keys.path(tile(1))).write_bytes(b"torn")
        work = Deferred.fromCoroutine(kept.store.discard([tile(1)]))
        work.addErrback(lambda failure: failure.trap(CancelledError))
        work.cancel()
        await work
        while kept.store._changes:
            await deferLater(reactor, 0.01)
        self.assertEqual((await kept.agree()).tiles, 0)

    async def test_no_space(self) -> None:
        """A tile for which there is no space is counted; those that fit are stored."""
        kept = await self.kept(limits=CacheLimits(6 * len(PICTURES[0]), 0, 0.95, 0.9))
        kept.store.capacity.evictor = NoEvictor()
        for first, stored, unstored in ((0, 3, 2), (5, 3, 4), (10, 0, 9)):  # half of the cache, the other half, none
            some = [(tile(n), PICTURES[0]) for n in range(first, first + 5)]
            self.assertEqual((await kept.store.store(some), kept.unstored), (stored, unstored))
        self.assertEqual((await kept.agree()).tiles, 6)

    async def test_disk_refuses(self) -> None:
        """A disk that refuses costs the store of a tile, which is counted, and no exception."""
        kept = await self.kept()
        shutil.rmtree(kept.store.files.directory)
        kept.store.files.directory.write_bytes(b"no directory")
        self.assertEqual(await kept.store.write([(tile(1), PICTURES[0])]), 0)
        self.assertEqual(kept.unstored, 1)
        kept.store.files.directory.unlink()
        self.flushLoggedErrors()


class SQLiteStoreTests(OnSQLite, StoreTests, TestCase):
    """On SQLite."""


class MariaDBStoreTests(OnMariaDB, StoreTests, TestCase):
    """On MariaDB."""
