"""The tiles that a process is changing on disk, so that a crash leaves a short list instead of a whole disk to check.

Before files are created or removed their paths are written to the process's own journal. When the index knows about all
of them the journal is emptied. Each journal is a directory that its process keeps locked (``flock``). A lock that can
be taken belongs to a dead process, and its list names the tiles to reconcile. The list need not be exact, for
reconciling a tile is always right; it only must not miss one. It is not synced: it must outlive the process. After a
power failure the sweep at the start finds the rest.

Everything here blocks. `Journal.note` is called in threads, the rest from one thread at a time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from ocpproxy.model.stack import Tile
from ocpproxy.store import keys

_LIST = "tiles"


def _read(directory: Path) -> set[Tile]:
    try:
        lines = (directory / _LIST).read_text(encoding="ascii", errors="replace").splitlines()
    except FileNotFoundError:
        return set()
    return {tile for line in lines if (tile := keys.tile_at(line)) is not None}


@dataclass
class DeadJournal:
    """The journal of a dead process. Its lock is ours until `remove` or `release`."""

    owner: str
    tiles: set[Tile]
    _directory: Path
    _fd: int

    def remove(self) -> None:
        """Remove the journal: all its tiles are reconciled."""
        shutil.rmtree(self._directory, ignore_errors=True)
        os.close(self._fd)

    def release(self) -> None:
        """Leave the journal to the next process that looks: not all its tiles are reconciled."""
        os.close(self._fd)


class Journal:
    """The journal of this process, and its view of the journals of others."""

    def __init__(self, directory: Path, owner: str) -> None:
        self._all = directory
        self._own = directory / owner
        self._owner = owner
        self._lock = Lock()
        self._fd: int | None = None
        self._list: int | None = None

    def open(self) -> None:
        """Make the journal and lock it. Until the lock is held, its name hides it from other processes.

        :raises OSError: the disk refuses; the next `note` tries again.
        """
        self._all.mkdir(parents=True, exist_ok=True)
        new = self._all / f".{self._owner}"
        new.mkdir(exist_ok=True)
        fd = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(self._own)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def note(self, tiles: Iterable[Tile]) -> None:
        """Note that the files of these tiles are about to be created or removed.

        :raises OSError: the disk refuses.
        """
        lines = "".join(keys.path(tile) + "\n" for tile in tiles).encode()
        with self._lock:
            if self._fd is None:
                self.open()
            if self._list is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._list = os.open(self._own / _LIST, flags, 0o644)
            written = os.write(self._list, lines)
            if written != len(lines):
                os.ftruncate(self._list, os.fstat(self._list).st_size - written)  # no half line before the next one
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._own))

    def clear(self) -> None:
        """Forget everything that was noted: the index knows about it."""
        with self._lock:
            if self._list is not None:
                os.close(self._list)
                self._list = None
                (self._own / _LIST).unlink(missing_ok=True)

    def close(self) -> None:
        """Give up the lock. What is still noted is left for the next process."""
        with self._lock:
            if self._list is not None:
                os.close(self._list)
                self._list = None
        if self._fd is not None:
            with contextlib.suppress(OSError):  # not empty
                self._own.rmdir()
            os.close(self._fd)
            self._fd = None

    def _others(self) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError):
            for directory in sorted(self._all.iterdir()):
                if directory != self._own and not directory.name.startswith(".") and directory.is_dir():
                    yield directory

    def _locks(self, kind: int) -> Iterator[tuple[Path, int | None]]:
        """Yield the journals of other processes, each with a descriptor that has its lock; None where it lives.

        The caller closes the descriptors.
        """
        for directory in self._others():
            try:
                fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                yield directory, None
            else:
                yield directory, fd

    def dead(self) -> list[DeadJournal]:
        """Return the journals of dead processes, and hold their locks."""
        found = [(directory, fd) for directory, fd in self._locks(fcntl.LOCK_EX) if fd is not None]
        return [DeadJournal(directory.name, _read(directory), directory, fd) for directory, fd in found]

    def owners(self) -> set[str]:
        """Return the processes that live, this one included."""
        found = {self._owner}
        for directory, fd in self._locks(fcntl.LOCK_SH):
            if fd is None:
                found.add(directory.name)
            else:
                os.close(fd)
        return found

    def living(self) -> tuple[set[str], set[Tile]]:
        """Return the owners of all journals, ours included, and the tiles that other processes are changing."""
        others = list(self._others())
        tiles: set[Tile] = set()
        return {self._owner, *(directory.name for directory in others)}, tiles.union(*map(_read, others))
