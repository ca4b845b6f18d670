"""The store: tiles on disk and their account, on both databases, with real files and threads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from ocpproxy.concurrency.threads import LanedThreadPool
from ocpproxy.config import IndexUrl
from ocpproxy.imagery import png
from ocpproxy.index import leases
from ocpproxy.index.database import Database, DatabaseUnavailable
from ocpproxy.index.leases import Leases
from ocpproxy.metrics import Metrics
from ocpproxy.model.stack import Tile
from ocpproxy.store import keys, rows
from ocpproxy.store import pending as pending_module
from ocpproxy.store import tile_store as store_module
from ocpproxy.store.capacity import CacheLimits
from ocpproxy.store.files import TileFiles, TornTile
from ocpproxy.store.fsck import Fsck
from ocpproxy.store.journal import Journal
from ocpproxy.store.rows import Usage
from ocpproxy.store.tile_store import CacheDirectory, TileStore
from tests.databases import OnMariaDB, OnSQLite, started
from tests.volumes import em

STACK = "kat/xy/image/0123abcd"
PICTURES = [png.grey(em()[n % 20, :512, :512]) for n in range(4)]


def tile(slice_: int, row: int = 0, col: int = 0, level: int = 0, stack: str = STACK) -> Tile:
    """One tile."""
    return Tile(stack, 0, level, slice_, row, col)


tiles = st.builds(
    Tile,
    st.sampled_from([STACK, "a/zy/b-c/00000000", f"{'t' * 64}/yz/{'c' * 64}/ffffffff"]),
    st.integers(0, 2**23 - 1),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**23 - 1),
    st.integers(0, 2**20 - 1),
    st.integers(0, 2**20 - 1),
)


class KeysTests(SynchronousTestCase):
    """Path and key of a tile, both ways."""

    @given(tiles, st.integers(1, 2**24 - 1))
    def test_both_ways(self, one: Tile, id_: int) -> None:
        """Neither loses anything, and both fit their columns."""
        path, key = keys.path(one), keys.pack(one, id_)
        self.assertEqual(keys.tile_at(path), one)
        self.assertEqual(keys.unpack(key, one.stack), one)
        self.assertEqual(keys.datasetid(key[0]), id_)
        self.assertLessEqual(len(path), 255)
        self.assertTrue(all(0 <= half < 2**63 for half in key))

    def test_historical_bits(self) -> None:
        """Level, dataset, column, row and slice are where they were in the old cache."""
        self.assertEqual(keys.pack(Tile(STACK, 0, 3, 1200, 7, 5), 9), (3 | 9 << 16, 5 | 7 << 20 | 1200 << 40))

    def test_never_wrapped(self) -> None:
        """What does not fit is refused: (level 1, time 2) and (level 2, time 1) had one key once."""
        for wrong in (
            Tile(STACK, 0, 1 << 16, 0, 0, 0),
            Tile(STACK, 1 << 23, 0, 0, 0, 0),
            Tile(STACK, 0, 0, 1 << 23, 0, 0),
            Tile(STACK, 0, 0, 0, 1 << 20, 0),
            Tile(STACK, 0, 0, 0, 0, -1),
        ):
            self.assertRaises(keys.NotIndexable, keys.pack, wrong, 1)
            self.assertRaises(keys.NotIndexable, keys.path, wrong)
        self.assertRaises(keys.NotIndexable, keys.pack, tile(1), 1 << 24)
        self.assertEqual(len({keys.pack(Tile(STACK, t, n, 0, 0, 0), 1) for t in range(5) for n in range(5)}), 25)

    @given(st.text(max_size=60) | st.from_regex(r"[a-z/_.0-9]{0,60}", fullmatch=True))
    def test_hostile_paths(self, path: str) -> None:
        """A path is a tile's own or no tile's."""
        found = keys.tile_at(path)
        self.assertTrue(found is None or keys.path(found) == path)
        for wrong in (
            "../../x.png",
            STACK + "/0/0/0_0/01.png",
            STACK + "/0/0/0_0/1.png\n",
            "/" + STACK + "/0/0/0_0/1.png",
        ):
            self.assertIsNone(keys.tile_at(wrong))


class FilesTests(SynchronousTestCase):
    """Whole or not there."""

    def setUp(self) -> None:
        """An empty directory."""
        self.files = TileFiles(Path(self.mktemp()), "me")

    def all(self) -> list[str]:
        """Every file there is."""
        return sorted(path for path, _ in self.files.walk())

    def test_create_read_remove(self) -> None:
        """A file is created once, read as it was written, and leaves nothing behind."""
        one = tile(3)
        self.assertIsNone(self.files.read(one))
        self.assertTrue(self.files.create(one, PICTURES[0]))
        self.assertFalse(self.files.create(one, PICTURES[1]), "there already: left as it is")
        stored = self.files.read(one)
        assert stored is not None
        self.assertEqual(stored.picture, PICTURES[0])
        self.assertEqual(self.all(), [keys.path(one)])
        self.files.remove(one)
        self.files.remove(one)
        self.assertIsNone(self.files.read(one))
        self.assertEqual(list(self.files.directory.iterdir()), [])

    def test_disk_full(self) -> None:
        """A write that fails leaves nothing."""
        import resource
        import signal

        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
            self.assertRaises(OSError, self.files.create, tile(1), PICTURES[0])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        self.assertEqual(self.all(), [])

    def test_no_hard_links(self) -> None:
        """A file system without links gets a rename instead."""

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        self.patch(os, "link", refuse)
        self.assertTrue(self.files.create(tile(1), PICTURES[0]))
        self.assertFalse(self.files.create(tile(1), PICTURES[1]))
        self.assertEqual(self.all(), [keys.path(tile(1))])

    def test_broken(self) -> None:
        """Torn files, foreign files and links are no tiles."""
        place = self.files.directory / keys.path(tile(1))
        place.parent.mkdir(parents=True)
        for content in (b"", PICTURES[0][:-1], b"x" * 5000):
            place.write_bytes(content)
            self.assertRaises(TornTile, self.files.read, tile(1))
        place.unlink()
        place.symlink_to("/etc/passwd")
        self.assertRaises(TornTile, self.files.read, tile(1))
        self.assertIsNone(self.files.stat(tile(1)))

    def test_without_waiting(self) -> None:
        """What is in the page cache is read at once, what is not has to be waited for, and nothing is waited for."""
        self.assertRaises(BlockingIOError, self.files.open_now, tile(1))  # nobody has looked there yet
        self.files.create(tile(1), PICTURES[0])
        self.assertIsNone(self.files.read(tile(2)))
        try:
            self.assertIsNone(self.files.open_now(tile(2)), "it is known not to be there")
        except BlockingIOError:
            raise SkipTest("this kernel or file system cannot tell what is in memory") from None
        self.files.read(tile(1))
        opened = self.files.open_now(tile(1))
        assert opened is not None
        self.assertEqual(bytes(opened.picture), PICTURES[0])
        self.assertEqual(os.fstat(opened.fd).st_size, len(PICTURES[0]))
        os.fsync(opened.fd)
        os.posix_fadvise(opened.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        opened.close()
        self.assertRaises(BlockingIOError, self.files.open_now, tile(1))
        self.files.read(tile(1))
        again = self.files.open_now(tile(1))
        assert again is not None
        again.close()

    def test_torn_without_waiting(self) -> None:
        """What is no whole tile is for somebody else to look at; descriptors are closed."""
        place = self.files.directory / keys.path(tile(1))
        place.parent.mkdir(parents=True)
        before = len(os.listdir("/proc/self/fd"))
        for content in (b"", PICTURES[0][:-1], b"x" * 5000):
            place.write_bytes(content)
            self.assertRaises(BlockingIOError, self.files.open_now, tile(1))
        place.unlink()
        os.mkfifo(place)
        self.assertRaises(BlockingIOError, self.files.open_now, tile(1))
        self.assertRaises(TornTile, self.files.read, tile(1))
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_one_value(self) -> None:
        """Tiles of one single value have no file of their own, and are otherwise like all others."""
        black, grey = (png.grey(np.full((512, 512), value, np.uint8)) for value in (0, 7))
        for n, picture in enumerate([black, grey] * 5):
            self.assertTrue(self.files.create(tile(n), picture))
            self.assertFalse(self.files.create(tile(n), PICTURES[0]))
            stored = self.files.read(tile(n))
            assert stored is not None
            self.assertEqual(stored.picture, picture)
        self.files.create(tile(99), PICTURES[0])
        inodes = [os.stat(self.files.directory / keys.path(tile(n))).st_ino for n in range(10)]
        self.assertEqual(len(set(inodes)), 2)
        shared = self.files.directory.parent / "uniform"
        self.assertEqual(len(list(shared.iterdir())), 2)
        for n in range(0, 10, 2):
            self.files.remove(tile(n))
        (shared / ("0" * 32 + ".png.dead.tmp")).write_bytes(b"half")
        (shared / ("0" * 32 + ".png.other.tmp")).write_bytes(b"half")
        self.files.remove_unshared({"me", "other"})
        self.assertEqual(sorted(path.name[-10:] for path in shared.iterdir())[0], ".other.tmp")
        self.assertEqual(len(list(shared.iterdir())), 2)
        next(path for path in shared.iterdir() if path.suffix == ".png").write_bytes(b"torn")
        self.assertRaises(TornTile, self.files.read, tile(1))
        self.files.remove(tile(1))
        self.assertTrue(self.files.create(tile(1), grey))
        stored = self.files.read(tile(1))
        assert stored is not None
        self.assertEqual(stored.picture, grey)

    def test_one_value_in_many_threads(self) -> None:
        """Threads that meet a value for the first time, all at once, are in nobody's way."""
        for turn in range(20):
            black, start = png.grey(np.full((512, 512), turn, np.uint8)), Barrier(4)

            def create(n: int, black: bytes = black, start: Barrier = start) -> bytes | None:
                start.wait()
                self.files.create(tile(n, n), black)
                stored = self.files.read(tile(n, n))
                return stored.picture if stored else None

            with ThreadPoolExecutor(4) as threads:
                self.assertEqual(list(threads.map(create, range(4 * turn, 4 * turn + 4))), [black] * 4)

    def test_more_links_than_a_file_can_have(self) -> None:
        """When a shared file has all the links that the file system allows, another one begins."""
        self.files.directory.mkdir(parents=True)
        most = os.pathconf(self.files.directory, "PC_LINK_MAX")
        if not 1000 < most < 70_000:
            raise SkipTest("this file system has no bound that could be reached in a test")
        black = png.grey(np.zeros((512, 512), np.uint8))
        for n in range(most + 10):
            self.assertTrue(self.files.create(tile(n), black))
        self.assertEqual(len({os.stat(self.files.directory / path).st_ino for path in self.all()}), 2)

    def test_left_over(self) -> None:
        """A temporary file of a write that was cut short is in nobody's way."""
        left = self.files.directory / (keys.path(tile(1)) + ".me.tmp")
        left.parent.mkdir(parents=True)
        left.write_bytes(b"half")
        self.assertTrue(self.files.create(tile(1), PICTURES[0]))
        self.assertEqual(self.all(), [keys.path(tile(1))])


def noted(journal: Journal) -> set[Tile]:
    """What a journal says now."""
    place = journal._own / "tiles"
    return {one for line in place.read_text().split() if (one := keys.tile_at(line))} if place.exists() else set()


class JournalTests(SynchronousTestCase):
    """What a crash would leave in doubt."""

    def test_living_and_dead(self) -> None:
        """The journal of a process that lives is read by others; that of a dead one is taken over, once."""
        place = Path(self.mktemp())
        one, two = Journal(place, "one"), Journal(place, "two")
        one.open()
        two.open()
        one.note([tile(1), tile(2)])
        (place / "one" / "tiles").open("a").write("../hostile\n")
        self.assertEqual(two.living(), ({"one", "two"}, {tile(1), tile(2)}))
        self.assertEqual(two.dead(), [])
        one.close()
        (found,) = two.dead()
        self.assertEqual((found.owner, found.tiles), ("one", {tile(1), tile(2)}))
        three = Journal(place, "three")
        three.open()
        self.assertEqual(three.dead(), [], "it is being looked after")
        found.release()
        (found,) = three.dead()
        found.remove()
        self.assertEqual(two.dead(), [])
        for journal in (two, three):
            journal.close()
        self.assertEqual(list(place.iterdir()), [])

    def test_clear(self) -> None:
        """At rest there is no file."""
        journal = Journal(Path(self.mktemp()), "one")
        journal.open()
        journal.note([tile(1)])
        journal.clear()
        journal.clear()
        self.assertEqual(noted(journal), set())
        journal.note([tile(2)])
        self.assertEqual(noted(journal), {tile(2)})
        journal.close()


class Kept:
    """A store on a database, as the daemon has it."""

    def __init__(self, case: TestCase, database: Database, directory: Path, owner: str) -> None:
        self.case = case
        self.metrics = Metrics()
        self.pool = LanedThreadPool(reactor, 2, "files")
        limits = CacheLimits(10**9, 0, 0.95, 0.9)
        cache = CacheDirectory(directory, owner, limits)
        self.store = TileStore(cache, database, reactor, self.pool.run, self.metrics)
        self.database = database
        self.mended: list[tuple[str, str]] = []

        async def forget(dead: str) -> None:
            await database.run(leases.release_all, dead)

        self.mender = Fsck(self.store, forget, lambda *what: self.mended.append(what))
        self.pool.startService()
        self.store.startService()
        case.addCleanup(self.pool.stopService)
        case.addCleanup(self.store.stopService)

    def die(self) -> None:
        """As a kill -9 would leave it: the lock is free, the journal stays."""
        self.store.journal._fd, fd = None, self.store.journal._fd
        assert fd is not None
        os.close(fd)

    async def agree(self) -> Usage:
        """Rows, totals and files are the same."""
        await self.store.pending.reconciled()
        found = await self.database.read(lambda tx: tx.many("SELECT filename, bytes FROM contents"))
        files = list(self.store.files.walk())
        self.case.assertEqual(sorted((str(name), int(size)) for name, size in found), sorted(files))
        usage = await self.database.read(rows.usage)
        self.case.assertEqual(usage, Usage(len(files), sum(size for _, size in files)))
        self.case.assertEqual(self.store.usage, usage)
        return usage


class StoreTests:
    """What the store promises on every database."""

    timeout = 600

    index_url: Callable[[], IndexUrl]

    async def kept(self: Any, owner: str = "one", url: IndexUrl | None = None, directory: Path | None = None) -> Kept:
        """A store; several may share a database and a directory."""
        self.url = url or getattr(self, "url", None) or self.index_url()
        self.directory = directory or getattr(self, "directory", None) or Path(self.mktemp()).absolute()
        return Kept(self, await started(self, self.url), self.directory, owner)

    async def test_write_and_account(self: Any) -> None:
        """What is written can be read, and is accounted for once, whoever writes it again."""
        kept = await self.kept()
        some = [(tile(n), PICTURES[n % 4]) for n in range(16)]
        self.assertEqual(await kept.store.write(some), 16)
        self.assertEqual(await kept.store.write(some), 0)
        usage = await kept.agree()
        self.assertEqual(usage.tiles, 16)
        stored = await kept.store.read(tile(3))
        self.assertEqual(stored.picture, PICTURES[3])
        self.assertIsNone(await kept.store.read(tile(99)))
        self.assertEqual(noted(kept.store.journal), set())

    async def test_two_processes(self: Any) -> None:
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

    async def test_oldest_go_first(self: Any) -> None:
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

    async def test_a_use_never_goes_back(self: Any) -> None:
        """An older time that is written later does not make a tile older."""
        kept = await self.kept()
        await kept.store.write([(tile(n), PICTURES[0]) for n in range(3)])
        await kept.store.pending.reconciled()
        now = reactor.seconds()  # type: ignore[attr-defined]
        await kept.database.run(rows.record_uses, {tile(1): now + 50, tile(2): now + 60})
        await kept.database.run(rows.record_uses, {tile(1): now - 99, tile(77): now, tile(1, stack="x/xy/y/0"): now})
        found = await kept.database.read(lambda tx: tx.many("SELECT lowkey, reftime FROM contents ORDER BY reftime"))
        self.assertEqual([int(low) >> 40 for low, _ in found], [0, 1, 2])
        self.assertIn(rows.stamp(now + 50)[:25], str(found[1][1]))

    async def test_torn_tile(self: Any) -> None:
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

    async def test_crash_while_storing(self: Any) -> None:
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

    async def test_crash_while_reclaiming(self: Any) -> None:
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

    async def test_living_work_is_left_alone(self: Any) -> None:
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

    async def test_sweep(self: Any) -> None:
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

    async def test_index_lost(self: Any) -> None:
        """The whole index can be rebuilt from the disk."""
        kept = await self.kept()
        await kept.store.write([(tile(n, level=n % 3), PICTURES[n % 4]) for n in range(40)])
        before = await kept.agree()
        await kept.database.run(lambda tx: [tx.run(f"DELETE FROM {t}") for t in ("contents", "datasets")])
        await kept.mender.sweep()
        self.assertEqual(await kept.agree(), before)

    async def test_index_away(self: Any) -> None:
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

    async def test_reclaim_outlives_its_patience(self: Any) -> None:
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

    async def test_overflow(self: Any) -> None:
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

    async def test_probes_side_by_side(self: Any) -> None:
        """Many who ask at once whether tiles can be written get the same answer."""
        kept = await self.kept()
        await gatherResults([kept.pool.run(kept.store.files.check_writable) for _ in range(200)])

    async def test_left_while_discarding(self: Any) -> None:
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

    async def test_totals_mended_twice(self: Any) -> None:
        """Two who find the same wrong totals mend them once."""
        kept = await self.kept()
        await kept.store.write([(tile(1), PICTURES[0])])
        await kept.store.pending.reconciled()
        await kept.database.run(lambda tx: tx.run("UPDATE metadata SET numtiles = 9"))
        await gatherResults([Deferred.fromCoroutine(kept.mender._correct_totals()) for _ in range(4)])
        await kept.store.refresh()
        await kept.agree()

    async def test_disk_refuses(self: Any) -> None:
        """A disk that refuses costs the store of a tile, and no exception."""
        kept = await self.kept()
        shutil.rmtree(kept.store.files.directory)
        kept.store.files.directory.write_bytes(b"no directory")
        self.assertEqual(await kept.store.write([(tile(1), PICTURES[0])]), 0)
        kept.store.files.directory.unlink()
        self.flushLoggedErrors()


class SQLiteStoreTests(OnSQLite, StoreTests, TestCase):
    """On SQLite."""


class MariaDBStoreTests(OnMariaDB, StoreTests, TestCase):
    """On MariaDB."""


class LeaseTests:
    """Leases on every database."""

    index_url: Callable[[], IndexUrl]

    async def leases(self: Any, owner: str, url: IndexUrl, term: float = 10) -> Leases:
        """The leases of one process."""
        found = Leases(await started(self, url), owner, term, Clock())
        found.startService()
        self.addCleanup(found.stopService)
        return found

    async def test_one_at_a_time(self: Any) -> None:
        """One has it; the other gets it when it is given back; a give-back of what one does not hold does nothing."""
        url = self.index_url()
        one, two = await self.leases("one", url), await self.leases("two", url)
        self.assertEqual([await one.acquire("a"), await two.acquire("a"), await two.acquire("b")], [True, False, True])
        await two.release("a")
        self.assertFalse(await two.acquire("a"))
        await one.release("a")
        self.assertTrue(await two.acquire("a"))

    async def test_race(self: Any) -> None:
        """Of many who take at once exactly one gets it."""
        url = self.index_url()
        found = [await self.leases(f"p{n}", url) for n in range(4)]
        for name in "abcdef":
            taken = await gatherResults([Deferred.fromCoroutine(one.acquire(name)) for one in found])
            self.assertEqual(sum(taken), 1)

    async def test_expiry(self: Any) -> None:
        """A dead owner's lease is taken when it has expired, and not before; a living one's is renewed."""
        url = self.index_url()
        one, two = await self.leases("one", url, 3600.0), await self.leases("two", url)
        for name in "abc":
            await one.acquire(name)
        await self.expire(one.database, "c")
        await one._renew()
        await self.expire(one.database, "b")
        self.assertEqual([await two.acquire(name) for name in "abc"], [False, True, False])
        await self.expire(one.database, "a")
        self.assertTrue(await two.acquire("a"))
        await one.release("a")
        self.assertFalse(await one.acquire("a"), "what was taken over is not given back by its old owner")

    @staticmethod
    async def expire(database: Database, name: str) -> None:
        """Let a lease expire a moment ago."""
        await database.run(lambda tx: tx.run("UPDATE fetching SET expires = expires - 3600000000 WHERE url = ?", name))

    async def test_real_time(self: Any) -> None:
        """A lease lasts as long as it says, by the database's clock."""
        url = self.index_url()
        one, two = await self.leases("one", url, 0.5), await self.leases("two", url)
        began = reactor.seconds()  # type: ignore[attr-defined]
        await one.acquire("a")
        while not await two.acquire("a"):
            pass
        self.assertGreater(reactor.seconds() - began, 0.45)  # type: ignore[attr-defined]

    async def test_stop_gives_back(self: Any) -> None:
        """A process that stops holds nothing; one that died is forgotten; what expired is swept."""
        url = self.index_url()
        one, two = await self.leases("one", url), await self.leases("two", url)
        for name in "abc":
            await one.acquire(name)
        await one._release_held()
        self.assertTrue(await two.acquire("a"))
        self.assertEqual(await two.database.run(leases.release_all, "two"), 1)
        await one.database.run(lambda tx: tx.run("INSERT INTO fetching (url) VALUES ('historical')"))
        self.assertEqual(await one.database.run(leases.delete_expired), ["historical"])

    async def test_successor(self: Any) -> None:
        """What is given back late, for somebody who left, is not the lease of who came next."""
        url = self.index_url()
        one, two = await self.leases("one", url), await self.leases("two", url)
        left = Deferred.fromCoroutine(one.acquire("a"))
        left.addErrback(lambda _: None)
        left.cancel()
        while not await one.acquire("a"):
            pass
        for _ in range(10):
            self.assertFalse(await two.acquire("a"))
            await one._renew()
        await one.release("a")
        self.assertTrue(await two.acquire("a"))

    async def test_given_up(self: Any) -> None:
        """A lease that comes when nobody waits any more is given back."""
        url = self.index_url()
        one, two = await self.leases("one", url), await self.leases("two", url)
        waiting = Deferred.fromCoroutine(one.acquire("a"))
        waiting.addErrback(lambda _: None)
        waiting.cancel()
        while not await two.acquire("a"):
            pass
        self.assertEqual(one._held, {})


class SQLiteLeaseTests(OnSQLite, LeaseTests, TestCase):
    """On SQLite."""


class MariaDBLeaseTests(OnMariaDB, LeaseTests, TestCase):
    """On MariaDB."""
