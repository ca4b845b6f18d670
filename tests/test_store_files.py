"""What a store writes: keys and paths of tiles, their files, and the journal."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ocpproxy.imagery import png
from ocpproxy.model.stack import Tile
from ocpproxy.store import keys
from ocpproxy.store.files import TileFiles, TornTile
from ocpproxy.store.journal import Journal
from tests.stores import PICTURES, STACK, journalled, tile

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
        """Path and key keep the whole tile, and fit their columns."""
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
    """Files that are whole or not there."""

    def setUp(self) -> None:
        """Make an empty directory."""
        self.files = TileFiles(Path(self.mktemp()), "me")

    def all(self) -> list[str]:
        """Return every file there is."""
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

    def test_links_to_elsewhere(self) -> None:
        """A directory that is a link is not followed: what it leads to is neither read, changed nor removed."""
        self.files.create(tile(1), PICTURES[0])
        elsewhere = Path(self.mktemp()).absolute()
        own = (self.files.directory / keys.path(tile(1))).parent
        for directory in (own, own.parent, own.parents[3]):
            if elsewhere.exists():
                shutil.rmtree(elsewhere)
            elsewhere.parent.mkdir(exist_ok=True)
            directory.rename(elsewhere)
            directory.symlink_to(elsewhere)
            before = sorted(elsewhere.rglob("*"))
            with self.assertRaises(BlockingIOError):
                self.files.open_now(tile(1))
            self.assertIsNone(self.files.read(tile(1)))
            self.assertIsNone(self.files.stat(tile(1)))
            self.files.remove(tile(1))
            self.assertTrue(self.files.create(tile(1), PICTURES[0]))
            self.assertEqual(sorted(elsewhere.rglob("*")), before)
            self.assertEqual(self.all(), [keys.path(tile(1))])

    def test_directory_in_place_of_a_tile(self) -> None:
        """It is torn, and removed with all that is in it."""
        place = self.files.directory / keys.path(tile(1))
        (place / "inner").mkdir(parents=True)
        self.assertRaises(TornTile, self.files.read, tile(1))
        self.files.remove(tile(1))
        self.assertTrue(self.files.create(tile(1), PICTURES[0]))

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
        """A file in the page cache is read at once; for another one, `open_now` raises instead of waiting."""
        self.files.directory.mkdir()
        self.assertRaises(BlockingIOError, self.files.open_now, tile(1))  # nobody has looked there yet
        self.files.create(tile(1), PICTURES[0])
        self.assertIsNone(self.files.read(tile(2)))
        try:
            self.assertIsNone(self.files.open_now(tile(2)), "it is known not to be there")
        except BlockingIOError:
            raise SkipTest("this kernel or file system does not report what is in memory") from None
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
        """A file that is no whole tile is left to `read`; its descriptor is closed."""
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
        """Threads that meet a value for the first time, all at once, do not disturb each other."""
        for value in range(20):
            black, start = png.grey(np.full((512, 512), value, np.uint8)), Barrier(4)

            def create(n: int, black: bytes = black, start: Barrier = start) -> bytes | None:
                start.wait()
                self.files.create(tile(n, n), black)
                stored = self.files.read(tile(n, n))
                return stored.picture if stored else None

            with ThreadPoolExecutor(4) as threads:
                self.assertEqual(list(threads.map(create, range(4 * value, 4 * value + 4))), [black] * 4)

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
        """A temporary file of a write that was cut short does no harm."""
        left = self.files.directory / (keys.path(tile(1)) + ".me.tmp")
        left.parent.mkdir(parents=True)
        left.write_bytes(b"half")
        self.assertTrue(self.files.create(tile(1), PICTURES[0]))
        self.assertEqual(self.all(), [keys.path(tile(1))])


class JournalTests(SynchronousTestCase):
    """The tiles that a crash would leave pending."""

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
        """A journal without pending tiles has no file."""
        journal = Journal(Path(self.mktemp()), "one")
        journal.open()
        journal.note([tile(1)])
        journal.clear()
        journal.clear()
        self.assertEqual(journalled(journal), set())
        journal.note([tile(2)])
        self.assertEqual(journalled(journal), {tile(2)})
        journal.close()
