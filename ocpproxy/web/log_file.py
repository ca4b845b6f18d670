"""Files that lines are added to, by several processes and threads, and that others may move away at any time."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Lock


class LogFile:
    """One such file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._lock = Lock()
        self._unfinished = b""
        """The rest of lines of which the disk has taken the beginning."""

    def write(self, lines: bytes) -> None:
        """Write whole lines, into a new file where the old one was moved away and there can be a new one.

        Of lines that the disk takes in part the rest comes first the next time.

        :raises OSError: the disk takes nothing of them.
        """
        with self._lock:
            fd = self._current()
            left = self._unfinished + lines
            try:
                while left:
                    left = left[os.write(fd, left) :]
            except OSError:
                if len(left) >= len(lines):
                    self._unfinished = left[: len(left) - len(lines)]
                    raise
            self._unfinished = left

    def _current(self) -> int:
        """Return the descriptor of the file; of the old one where it was moved away, and there can be no new one."""
        if self._fd is not None:
            if self._was_moved(self._fd):
                with suppress(OSError):
                    return self._open()
            return self._fd
        return self._open()

    def reopen(self) -> None:
        """Open the file again.

        :raises OSError: that is impossible; the old one stays open.
        """
        with self._lock:
            self._open()

    def _open(self) -> int:
        new = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        old, self._fd = self._fd, new
        if old is not None:
            os.close(old)
        return new

    def rotate(self) -> None:
        """Begin a new file, and keep the old one as ``FILE.1``; the one that was that becomes ``FILE.2``, and so on.

        :raises OSError: that is impossible; the old one stays open.
        """
        with self._lock:
            if os.path.lexists(self.path):  # else somebody has moved it away
                last = next(n for n in count(1) if not os.path.lexists(f"{self.path}.{n}"))
                for n in range(last, 1, -1):
                    os.rename(f"{self.path}.{n - 1}", f"{self.path}.{n}")
                os.rename(self.path, f"{self.path}.1")
            self._open()

    def _was_moved(self, fd: int) -> bool:
        with suppress(OSError):
            return not os.path.samestat(os.fstat(fd), os.stat(self.path))
        return True
