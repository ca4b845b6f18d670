"""What fsck finds and mends, on both databases: what a crash leaves, and every other difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from ocpproxy.imagery import png
from ocpproxy.index.dialect import Transaction
from ocpproxy.store import keys, rows
from ocpproxy.store.space import accounts
from ocpproxy.store.space.evicting import delete_least_recent
from ocpproxy.store.space.usage import Usage
from tests.databases import OnMariaDB, OnSQLite
from tests.stores import PICTURES, STACK, OpenStoreMixin, tile


class FsckTests(OpenStoreMixin):
    """Differences between files, rows and totals."""

    async def test_crash_while_storing(self) -> None:
        """Files without rows after a crash are found by the journal alone and get rows; half files go."""
        dead, opened = await self.open_store("dead"), await self.open_store("one")
        dead.store.journal.note([tile(n) for n in range(4)])
        for n in range(3):
            dead.store.files.create(tile(n), PICTURES[n])
        half = dead.store.files.directory / (keys.path(tile(3)) + ".dead.tmp")
        half.write_bytes(PICTURES[3][:99])
        dead.die()
        await opened.fsck.recover()
        self.assertEqual({what for what, _ in opened.mended}, {"file without a row"})
        await opened.store.refresh()
        self.assertEqual((await opened.assert_consistent()).tiles, 3)
        self.assertEqual(sorted(path.name for path in (self.directory / "journal").iterdir()), ["one"])
        opened.mended.clear()
        await opened.fsck.sweep(read_all=True)
        self.assertEqual(opened.mended, [])

    async def test_crash_while_evicting(self) -> None:
        """Rows that went before their files: the files get rows again."""
        dead, opened = await self.open_store("dead"), await self.open_store("one")
        await dead.store.write([(tile(n), PICTURES[0]) for n in range(6)])
        await dead.store.pending.reconciled()
        await dead.database.run(delete_least_recent, 4, Usage(), dead.store.journal.note)
        dead.die()
        await opened.fsck.recover()
        self.assertEqual(len(opened.mended), 4)
        await opened.store.refresh()
        await opened.assert_consistent()

    async def test_living_work_is_left_alone(self) -> None:
        """A sweep does not touch what another process has in hand, nor its temporary files."""
        busy, opened = await self.open_store("busy"), await self.open_store("one")
        busy.store.journal.note([tile(1), tile(2)])
        busy.store.files.create(tile(1), PICTURES[0])
        half = busy.store.files.directory / (keys.path(tile(2)) + ".busy.tmp")
        half.write_bytes(b"half")
        await opened.fsck.recover()
        await opened.fsck.sweep(read_all=True)
        self.assertEqual(opened.mended, [])
        self.assertTrue(half.exists())
        half.unlink()
        busy.store.pending.add({tile(1): 0})
        await busy.store.pending.reconciled()

    async def test_sweep(self) -> None:
        """Every kind of difference is found, reported and mended; a second look finds nothing."""
        opened = await self.open_store()
        await opened.store.write([(tile(n), PICTURES[n % 4]) for n in range(30)])
        await opened.store.pending.reconciled()
        place = opened.store.files.directory
        opened.store.files.create(tile(50), PICTURES[0])
        opened.store.files.remove(tile(5))
        (place / keys.path(tile(6))).write_bytes(PICTURES[3] + b"longer")
        (place / keys.path(tile(7))).write_bytes(png.blank(clear=False))
        (place / (keys.path(tile(8)) + ".gone.tmp")).write_bytes(b"half")
        (place / "notes.txt").write_text("a person's")

        def spoil(tx: Any) -> None:
            tx.run("UPDATE metadata SET numtiles = numtiles + 5, bytes = bytes - 17")
            for low, name in ((5, "/data/cache/kat_xy/r0/sl1/y0x1.png"), (6, "../../etc/passwd")):
                tx.run(
                    "INSERT INTO contents (highkey, lowkey, filename, reftime) VALUES (?, ?, ?, ?)",
                    77 << 16,
                    low,
                    name,
                    rows.stamp(1e9),
                )

        await opened.database.run(spoil)
        await opened.fsck.sweep(read_all=True)
        self.assertEqual(
            sorted(what for what, _ in opened.mended),
            sorted(
                [
                    "file without a row",
                    "row without a file",
                    "torn tile",
                    "row with a wrong size",
                    "temporary file of a dead process",
                    "row that names no tile",
                    "row that names no tile",
                    "totals",
                ]
            ),
        )
        (place / "notes.txt").unlink()
        await opened.assert_consistent()
        opened.mended.clear()
        await opened.fsck.sweep(read_all=True)
        self.assertEqual(opened.mended, [])
        self.assertTrue(Path("/etc/passwd").exists())

    async def test_index_lost(self) -> None:
        """The whole index can be rebuilt from the disk."""
        opened = await self.open_store()
        await opened.store.write([(tile(n, level=n % 3), PICTURES[n % 4]) for n in range(40)])
        before = await opened.assert_consistent()
        await opened.database.run(lambda tx: [tx.run(f"DELETE FROM {t}") for t in ("contents", "datasets")])
        await opened.fsck.sweep()
        self.assertEqual(await opened.assert_consistent(), before)

    async def test_totals_mended_twice(self) -> None:
        """Two who find the same wrong totals mend them once."""
        opened = await self.open_store()
        await opened.store.write([(tile(1), PICTURES[0])])
        await opened.store.pending.reconciled()
        await opened.database.run(lambda tx: tx.run("UPDATE metadata SET numtiles = 9"))
        await gatherResults([Deferred.fromCoroutine(opened.fsck._correct_totals()) for _ in range(4)])
        await opened.store.refresh()
        await opened.assert_consistent()

    async def test_accounts(self) -> None:
        """Accounts follow what is stored, resized, removed and evicted; wrong ones are mended, and the uses kept."""
        opened = await self.open_store()
        began = opened.store.flushes.context.now() - 1
        await opened.store.write([(tile(n, level=n % 3), PICTURES[n % 4]) for n in range(30)])
        await opened.assert_consistent()
        found = {one.level: one for one in await opened.database.read(accounts.read)}
        self.assertEqual({level: one.usage.tiles for level, one in found.items()}, {0: 10, 1: 10, 2: 10})
        self.assertTrue(all(one.stack == STACK and one.used >= int(began) for one in found.values()))
        await opened.store.discard([tile(n, level=0) for n in range(0, 30, 3)])
        opened.store.note_use(tile(1, level=1))
        await opened.store._uses.write()
        await opened.store.evict(Usage(15, 2**40), 100)
        self.assertEqual((await opened.assert_consistent()).tiles, 15)
        await opened.fsck.sweep()
        self.assertEqual(opened.mended, [])
        before = await opened.database.read(accounts.read)
        self.assertEqual({one.level for one in before}, {1, 2})
        (high,) = await opened.database.read(lambda tx: tx.one("SELECT MIN(highkey) FROM accounts"))
        for statement in (
            "DELETE FROM accounts WHERE highkey = ?",
            "UPDATE accounts SET tiles = -7 WHERE highkey = ?",
            "UPDATE accounts SET highkey = 5 WHERE highkey = ?",
        ):
            await opened.database.run(Transaction.run, statement, high)
            await opened.fsck.sweep()
            self.assertEqual({what for what, _ in opened.mended}, {"account"}, statement)
            opened.mended.clear()
            await opened.assert_consistent()
        after = await opened.database.read(accounts.read)
        self.assertEqual([one.usage for one in after], [one.usage for one in before])


class SQLiteFsckTests(OnSQLite, FsckTests, TestCase):
    """The same on SQLite."""


class MariaDBFsckTests(OnMariaDB, FsckTests, TestCase):
    """The same on MariaDB."""
