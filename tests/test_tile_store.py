"""The store: tiles on disk and their rows, on both databases, with real files and threads."""

from __future__ import annotations

import os
import shutil
import time

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.store import keys, rows
from ocpproxy.store import pending as pending_module
from ocpproxy.store import tile_store as store_module
from ocpproxy.store.space import counts
from ocpproxy.store.space.capacity import CacheLimits
from ocpproxy.store.space.usage import Usage
from tests.databases import OnMariaDB, OnSQLite
from tests.stores import PICTURES, OpenStoreMixin, journalled, tile


class NoEvictor:
    """An evictor whose index is unavailable."""

    def start_if_full(self) -> None:
        """Start nothing."""

    async def make_space(self) -> bool:
        """Return False: no row can be deleted."""
        return False


class StoreTests(OpenStoreMixin):
    """What the store promises on every database."""

    async def test_write(self) -> None:
        """What is written can be read, and gets one row, whoever writes it again."""
        opened = await self.open_store()
        some = [(tile(n), PICTURES[n % 4]) for n in range(16)]
        self.assertEqual(await opened.store.write(some), 16)
        self.assertEqual(await opened.store.write(some), 0)
        usage = await opened.assert_consistent()
        self.assertEqual(usage.tiles, 16)
        stored = await opened.store.read(tile(3))
        assert stored is not None
        self.assertEqual(stored.picture, PICTURES[3])
        self.assertIsNone(await opened.store.read(tile(99)))
        self.assertEqual(journalled(opened.store.journal), set())

    async def test_times_of_files(self) -> None:
        """A file may have any time, of which the index holds 1970 to 2038; a sweep does not stop at it."""
        opened = await self.open_store()
        await opened.store.write([(tile(n), PICTURES[n % 4]) for n in range(4)])
        await opened.store.pending.reconciled()
        await opened.database.run(lambda tx: (tx.run("DELETE FROM contents"), tx.run("DELETE FROM metadata")))
        for n, made in enumerate((0, -(10**9), 4_102_444_800, 2**33)):
            os.utime(opened.store.files.directory / keys.path(tile(n)), (made, made))
        await opened.fsck.sweep()
        self.assertEqual((await opened.assert_consistent()).tiles, 4)

    async def test_two_processes(self) -> None:
        """Two that store the same and other tiles at once agree on every total."""
        one, two = await self.open_store("one"), await self.open_store("two")
        work = []
        for n in range(12):
            for opened, row in ((one, 0), (two, 0), (one, 1), (two, 2)):
                some = [(tile(z, row, n), PICTURES[z % 4]) for z in range(8)]
                work.append(Deferred.fromCoroutine(opened.store.write(some)))
        self.assertEqual(sum(await gatherResults(work)), 12 * 8 * 3)
        await one.store.pending.reconciled()
        await two.store.pending.reconciled()
        await one.store.refresh()
        await one.assert_consistent()

    async def test_oldest_go_first(self) -> None:
        """The least recently used tiles go first; a use that is only in memory counts."""
        opened = await self.open_store()
        for n in range(20):
            await opened.store.write([(tile(n), PICTURES[0])])
        await opened.store.pending.reconciled()
        opened.store.note_use(tile(0))
        size = len(PICTURES[0])
        removed = await opened.store.evict(Usage(12, 10**9), 100)
        self.assertEqual(removed, Usage(8, 8 * size))
        left = [n for n in range(20) if opened.store.files.stat(tile(n))]
        self.assertEqual(left, [0, *range(9, 20)])
        await opened.assert_consistent()
        self.assertEqual(await opened.store.evict(Usage(100, 5 * size), 3), Usage(3, 3 * size), "a slice at a time")
        self.assertEqual(await opened.store.evict(Usage(100, 5 * size), 100), Usage(4, 4 * size))
        self.assertEqual(await opened.store.evict(Usage(100, 5 * size), 100), Usage())
        await opened.assert_consistent()

    async def test_a_use_never_goes_back(self) -> None:
        """An older time that is written later does not make a tile older."""
        opened = await self.open_store()
        await opened.store.write([(tile(n), PICTURES[0]) for n in range(3)])
        await opened.store.pending.reconciled()
        now = reactor.seconds()
        await opened.database.run(rows.record_uses, {tile(1): now + 50, tile(2): now + 60})
        await opened.database.run(rows.record_uses, {tile(1): now - 99, tile(77): now, tile(1, stack="x/xy/y/0"): now})
        found = await opened.database.read(lambda tx: tx.many("SELECT lowkey, reftime FROM contents ORDER BY reftime"))
        self.assertEqual([int(low) >> 40 for low, _ in found], [0, 1, 2])
        self.assertIn(rows.stamp(now + 50)[:25], str(found[1][1]))

    async def test_torn_tile(self) -> None:
        """A torn file is never served: it is removed, with its row."""
        opened = await self.open_store()
        await opened.store.write([(tile(n), PICTURES[0]) for n in range(3)])
        await opened.store.pending.reconciled()
        place = opened.store.files.directory / keys.path(tile(1))
        place.write_bytes(PICTURES[0][:1000])
        self.assertIsNone(await opened.store.read(tile(1)))
        self.assertEqual((await opened.assert_consistent()).tiles, 2)
        await opened.store.write([(tile(1), PICTURES[1])])
        self.assertEqual((await opened.assert_consistent()).tiles, 3)

    async def test_index_unavailable(self) -> None:
        """Tiles are stored and read while the index is unavailable, and get their rows when it is back."""
        opened = await self.open_store()
        await opened.store.write([(tile(1), PICTURES[1])])
        await opened.store.pending.reconciled()
        opened.database._availability.down("for the test")
        self.assertEqual(await opened.store.write([(tile(n), PICTURES[0]) for n in range(1, 9)]), 7)
        self.assertIsNotNone(await opened.store.read(tile(5)))
        self.assertEqual((len(opened.store.pending), opened.store.usage.tiles), (7, 8))
        await opened.database.wait_available()
        self.assertEqual((await opened.assert_consistent()).tiles, 8)

    async def test_evict_unused(self) -> None:
        """What was used since a time is spared, also where the index does not know of the use yet."""
        opened = await self.open_store()
        await opened.store.write([(tile(n), PICTURES[n % 4]) for n in range(12)])
        await opened.store.pending.reconciled()
        await opened.database.run(lambda tx: tx.run("UPDATE contents SET reftime = ?", rows.stamp(1e9)))
        began = time.time() - 1
        for n in (3, 5, 9):
            opened.store.note_use(tile(n))
        removed = await opened.store.evict(Usage(), 100, began)
        self.assertEqual(removed.tiles, 9)
        self.assertEqual(set(await opened.store.sizes([tile(n) for n in range(12)])), {tile(n) for n in (3, 5, 9)})
        self.assertEqual((await opened.store.evict(Usage(), 100, began)).tiles, 0)
        await opened.assert_consistent()

    async def test_counts(self) -> None:
        """The tiles of a block are counted in the index, and their bytes are known from a sample."""
        opened = await self.open_store()
        await opened.store.write([(tile(n), PICTURES[n % 4]) for n in range(12)])
        await opened.store.pending.reconciled()
        stack, database = tile(0).stack, opened.database
        for first, last, expected in ((0, 11, 12), (3, 5, 3), (20, 30, 0)):
            counted = await database.read_within(5, counts.count_block, stack, tile(first), tile(last))
            self.assertEqual(counted, expected)
        beside = tile(0)._replace(row=1, col=1)
        end = beside._replace(slice=11)
        self.assertEqual(await database.read_within(5, counts.count_block, stack, beside, end), 0)
        number, nbytes = await database.read_within(5, counts.mean_bytes, tile(0), 4)
        self.assertEqual((number, nbytes > 0), (4, True))
        unknown = tile(0)._replace(stack="t/xy/c/00000000")
        self.assertEqual(await database.read_within(5, counts.mean_bytes, unknown), (0, 0))

    async def test_eviction_outlives_its_patience(self) -> None:
        """Rows that are forgotten when nobody waits any more: their files go too, or their rows come back."""
        opened = await self.open_store()
        await opened.store.write([(tile(n), PICTURES[0]) for n in range(20)])
        await opened.store.pending.reconciled()
        for keep, patience in ((15, 0.0), (10, 0.001), (5, 0.004), (3, 0.02), (1, 5.0)):
            self.patch(store_module, "PATIENCE", patience)
            work = Deferred.fromCoroutine(opened.store.evict(Usage(keep, 10**9), 100))
            work.addErrback(lambda failure: failure.trap(DatabaseUnavailable, CancelledError))
            if patience == 5:
                work.cancel()
            await work
            while opened.store.changes.count:
                await deferLater(reactor, 0.01)
            await opened.assert_consistent()
            self.assertEqual(journalled(opened.store.journal), set())

    async def test_overflow(self) -> None:
        """More tiles than are remembered while the index is unavailable: the sweep finds those that were not."""
        self.patch(pending_module, "_LIMIT", 10)
        opened = await self.open_store()
        opened.database._availability.down("for the test")
        await opened.store.write([(tile(n), PICTURES[0]) for n in range(40)])
        self.assertTrue(opened.store.pending.overflowed)
        await opened.database.wait_available()
        await opened.store.pending.reconciled()
        await opened.fsck.sweep()
        self.assertFalse(opened.store.pending.overflowed)
        self.assertEqual(journalled(opened.store.journal), set())
        self.assertEqual((await opened.assert_consistent()).tiles, 40)

    async def test_probes_side_by_side(self) -> None:
        """Many probes at once for whether tiles can be written get the same answer."""
        opened = await self.open_store()
        await gatherResults([opened.pool.run(opened.store.files.check_writable) for _ in range(200)])

    async def test_left_while_discarding(self) -> None:
        """A torn tile whose reader leaves in the middle is removed all the same."""
        opened = await self.open_store()
        await opened.store.write([(tile(1), PICTURES[0])])
        await opened.store.pending.reconciled()
        (opened.store.files.directory / keys.path(tile(1))).write_bytes(b"torn")
        work = Deferred.fromCoroutine(opened.store.discard([tile(1)]))
        work.addErrback(lambda failure: failure.trap(CancelledError))
        work.cancel()
        await work
        while opened.store.changes.count:
            await deferLater(reactor, 0.01)
        self.assertEqual((await opened.assert_consistent()).tiles, 0)

    async def test_no_space(self) -> None:
        """A tile for which there is no space is counted; those that fit are stored."""
        opened = await self.open_store(limits=CacheLimits(6 * len(PICTURES[0]), 0, 0.95, 0.9))
        opened.store.capacity.evictor = NoEvictor()
        for first, stored, unstored in ((0, 3, 2), (5, 3, 4), (10, 0, 9)):  # half of the cache, the other half, none
            some = [(tile(n), PICTURES[0]) for n in range(first, first + 5)]
            self.assertEqual((await opened.store.store(some), opened.unstored), (stored, unstored))
        self.assertEqual((await opened.assert_consistent()).tiles, 6)

    async def test_disk_refuses(self) -> None:
        """A disk that refuses costs the store of a tile, which is counted, and no exception."""
        opened = await self.open_store()
        shutil.rmtree(opened.store.files.directory)
        opened.store.files.directory.write_bytes(b"no directory")
        self.assertEqual(await opened.store.write([(tile(1), PICTURES[0])]), 0)
        self.assertEqual(opened.unstored, 1)
        opened.store.files.directory.unlink()
        self.flushLoggedErrors()


class SQLiteStoreTests(OnSQLite, StoreTests, TestCase):
    """The same on SQLite."""

    async def test_numbers_that_are_none(self) -> None:
        """SQLite keeps words in columns of numbers: eviction goes on, and a sweep mends them."""
        opened = await self.open_store()
        await opened.store.write([(tile(n), PICTURES[n % 4]) for n in range(8)])
        await opened.store.pending.reconciled()
        await opened.database.run(lambda tx: tx.run("UPDATE contents SET bytes = 'many' WHERE (lowkey >> 40) % 2 = 0"))
        await opened.database.run(lambda tx: tx.run("UPDATE metadata SET bytes = 'y', numtiles = NULL"))
        self.assertEqual((await opened.store.evict(Usage(2**62, 0), 2)).tiles, 2)
        await opened.fsck.sweep()
        self.assertEqual((await opened.assert_consistent()).tiles, 6)


class MariaDBStoreTests(OnMariaDB, StoreTests, TestCase):
    """The same on MariaDB."""
