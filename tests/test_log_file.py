"""Files that lines are added to, whatever happens to them."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from threading import Event, Thread

from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.web.log_file import LogFile


class LogFileTests(SynchronousTestCase):
    """`LogFile`."""

    def test_moved(self) -> None:
        """A file that was moved away, or removed, is replaced by a new one; two processes may write to one."""
        path = Path(self.mktemp())
        one, two = LogFile(path), LogFile(path)
        one.write(b"1\n")
        two.write(b"2\n")
        self.assertEqual(path.read_bytes(), b"1\n2\n")
        path.rename(f"{path}.1")
        one.write(b"3\n")
        two.write(b"4\n")
        self.assertEqual((Path(f"{path}.1").read_bytes(), path.read_bytes()), (b"1\n2\n", b"3\n4\n"))
        os.truncate(path, 0)
        one.write(b"5\n")
        path.unlink()
        one.write(b"6\n")
        self.assertEqual(path.read_bytes(), b"6\n")

    def test_rotated(self) -> None:
        """The newest of the old ones has the lowest number; a file that was moved away just now changes none."""
        path = Path(self.mktemp())
        file = LogFile(path)
        for n in range(3):
            file.write(b"%d\n" % n)
            file.rotate()
        self.assertEqual([Path(f"{path}.{n}").read_bytes() for n in (1, 2, 3)], [b"2\n", b"1\n", b"0\n"])
        path.rename(f"{path}-moved")
        file.rotate()
        self.assertEqual((path.read_bytes(), Path(f"{path}.1").read_bytes()), (b"", b"2\n"))

    def test_full_disk(self) -> None:
        """Of lines that the disk takes in part the rest follows when there is space, and none is written twice."""
        path = Path(self.mktemp())
        file = LogFile(path)
        file.write(b"first\n")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            file.write(b"second\nthird\n")
            for _ in range(2):
                self.assertRaises(OSError, file.write, b"fourth\n")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        self.assertEqual(path.read_bytes(), b"first\nseco")
        file.write(b"fourth\n")
        self.assertEqual(path.read_bytes(), b"first\nsecond\nthird\nfourth\n")

    def test_threads(self) -> None:
        """Threads that write while the file is moved away lose no line, and leave no descriptor open."""
        path = Path(self.mktemp()).absolute()
        file, end = LogFile(path), Event()
        before = len(os.listdir("/proc/self/fd"))
        written: list[bytes] = []

        def write(name: int) -> None:
            n = 0
            while not end.is_set():
                line = b"%d-%d\n" % (name, n)
                file.write(line)
                written.append(line)
                n += 1

        threads = [Thread(target=write, args=(name,)) for name in range(3)]
        for thread in threads:
            thread.start()
        for n in range(100):
            while not path.exists():
                pass
            path.rename(f"{path}.{n}")
        end.set()
        for thread in threads:
            thread.join()
        found = b"".join(one.read_bytes() for one in path.parent.glob(f"{path.name}*")).splitlines(keepends=True)
        self.assertEqual(sorted(found), sorted(written))
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), before + 1)
