"""What fsck finds and mends, on both databases: what a crash leaves, and every other difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from ocpproxy.imagery import png
from ocpproxy.store import keys, rows
from ocpproxy.store.rows import Usage
from tests.databases import OnMariaDB, OnSQLite
from tests.stores import PICTURES, KeptMixin, tile


class FsckTests(KeptMixin):
    """Differences between files, rows and totals."""

    async def test_crash_while_storing(self) -> None:
        """TileFiles without rows after a crash are found by the journal alone and accounted for; half files go."""
        dead, kept = await self.kept("dead"), await self.kept("one")
        dead.store.journal.note([tile(n) for n in range(4)])
        for n in range(3):
            dead.store.files.create(tile(n), PICTURES[n])
        half = dead.store.files.directory / (keys.path(tile(3)) + ".dead.tmp")
        half.write_bytes(PICTURES[3][:99])
        dead.die()
        await kept.mender.recover()
        self.assertEqual({what for what, _ in kept.mended}, {"file without a row"})
        await kept.store.refresh()
        self.assertEqual((await kept.agree()).tiles, 3)
        self.assertEqual(sorted(path.name for path in (self.directory / "journal").iterdir()), ["one"])
        kept.mended.clear()
        await kept.mender.sweep(read_all=True)
        self.assertEqual(kept.mended, [])

    async def test_crash_while_reclaiming(self) -> None:
        """Rows that went before their files: the files are accounted for again."""
        dead, kept = await self.kept("dead"), await self.kept("one")
        await dead.store.write([(tile(n), PICTURES[0]) for n in range(6)])
        await dead.store.pending.reconciled()
        await dead.database.run(rows.delete_least_recent, 4, Usage(), dead.store.journal.note)
        dead.die()
        await kept.mender.recover()
        self.assertEqual(len(kept.mended), 4)
        await kept.store.refresh()
        await kept.agree()

    async def test_living_work_is_left_alone(self) -> None:
        """A sweep does not touch what another process has in hand, nor its temporary files."""
        busy, kept = await self.kept("busy"), await self.kept("one")
        busy.store.journal.note([tile(1), tile(2)])
        busy.store.files.create(tile(1), PICTURES[0])
        half = busy.store.files.directory / (keys.path(tile(2)) + ".busy.tmp")
        half.write_bytes(b"half")
        await kept.mender.recover()
        await kept.mender.sweep(read_all=True)
        self.assertEqual(kept.mended, [])
        self.assertTrue(half.exists())
        half.unlink()
        busy.store.pending.add({tile(1): 0})
        await busy.store.pending.reconciled()

    async def test_sweep(self) -> None:
        """Every kind of difference is found, told and mended; a second look finds nothing."""
        kept = await self.kept()
        await kept.store.write([(tile(n), PICTURES[n % 4]) for n in range(30)])
        await kept.store.pending.reconciled()
        place = kept.store.files.directory
        kept.store.files.create(tile(50), PICTURES[0])
        kept.store.files.remove(tile(5))
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

        await kept.database.run(spoil)
        await kept.mender.sweep(read_all=True)
        self.assertEqual(
            sorted(what for what, _ in kept.mended),
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
        await kept.agree()
        kept.mended.clear()
        await kept.mender.sweep(read_all=True)
        self.assertEqual(kept.mended, [])
        self.assertTrue(Path("/etc/passwd").exists())

    async def test_index_lost(self) -> None:
        """The whole index can be rebuilt from the disk."""
        kept = await self.kept()
        await kept.store.write([(tile(n, level=n % 3), PICTURES[n % 4]) for n in range(40)])
        before = await kept.agree()
        await kept.database.run(lambda tx: [tx.run(f"DELETE FROM {t}") for t in ("contents", "datasets")])
        await kept.mender.sweep()
        self.assertEqual(await kept.agree(), before)

    async def test_totals_mended_twice(self) -> None:
        """Two who find the same wrong totals mend them once."""
        kept = await self.kept()
        await kept.store.write([(tile(1), PICTURES[0])])
        await kept.store.pending.reconciled()
        await kept.database.run(lambda tx: tx.run("UPDATE metadata SET numtiles = 9"))
        await gatherResults([Deferred.fromCoroutine(kept.mender._correct_totals()) for _ in range(4)])
        await kept.store.refresh()
        await kept.agree()


class SQLiteFsckTests(OnSQLite, FsckTests, TestCase):
    """On SQLite."""


class MariaDBFsckTests(OnMariaDB, FsckTests, TestCase):
    """On MariaDB."""
