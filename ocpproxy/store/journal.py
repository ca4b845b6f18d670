"""What a process is about to change on disk: so that a crash leaves a short list instead of a whole disk to look at.

Before files are created or removed their paths are noted in the process's own journal; when the index accounts for all
of them the journal is emptied. Each journal is a directory that its process keeps locked (``flock``): a lock that can
be taken belongs to a process that is dead, and its list says which tiles to look at again. The list need not be exact,
for looking again at a tile is always right; it only must not miss one. It is not synced: it is to outlive the
process, and after a power failure the sweep at the start finds the rest.

Everything here blocks; `note` is called in threads, the rest from one.
"""

from __future__ import annotations

import contextlib
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


def _read(place: Path) -> set[Tile]:
    try:
        lines = (place / _LIST).read_text(encoding="ascii", errors="replace").splitlines()
    except FileNotFoundError:
        return set()
    return {tile for line in lines if (tile := keys.tile_at(line)) is not None}


@dataclass
class DeadJournal:
    """What a dead process left; its lock is ours until `bury` or `leave`."""

    owner: str
    tiles: set[Tile]
    _place: Path
    _fd: int

    def bury(self) -> None:
        """Its tiles are accounted for: remove it."""
        shutil.rmtree(self._place, ignore_errors=True)
        os.close(self._fd)

    def leave(self) -> None:
        """Its tiles are not all accounted for: leave it to the next process that looks."""
        os.close(self._fd)


class Journal:
    """The journal of this process, and its view of the others'."""

    def __init__(self, directory: Path, owner: str) -> None:
        self._directory = directory
        self._place = directory / owner
        self._owner = owner
        self._lock = Lock()
        self._fd: int | None = None
        self._list: int | None = None

    def open(self) -> None:
        """Begin, locked; until the lock is held the directory has a name that nobody looks at."""
        self._directory.mkdir(parents=True, exist_ok=True)
        new = self._directory / f".{self._owner}"
        new.mkdir()
        self._fd = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(self._place)

    def note(self, tiles: Iterable[Tile]) -> None:
        """These tiles' files are about to be created or removed."""
        lines = "".join(keys.path(tile) + "\n" for tile in tiles).encode()
        with self._lock:
            if self._list is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._list = os.open(self._place / _LIST, flags, 0o644)
            os.write(self._list, lines)

    def clear(self) -> None:
        """Everything that was noted is accounted for."""
        with self._lock:
            if self._list is not None:
                os.close(self._list)
                self._list = None
                (self._place / _LIST).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go; what is still noted is left for the next process."""
        with self._lock:
            if self._list is not None:
                os.close(self._list)
                self._list = None
        if self._fd is not None:
            with contextlib.suppress(OSError):  # not empty
                self._place.rmdir()
            os.close(self._fd)
            self._fd = None

    def _others(self) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError):
            for place in sorted(self._directory.iterdir()):
                if place != self._place and not place.name.startswith(".") and place.is_dir():
                    yield place

    def dead(self) -> list[DeadJournal]:
        """The journals of dead processes, each taken over."""
        found = []
        for place in self._others():
            try:
                fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            found.append(DeadJournal(place.name, _read(place), place, fd))
        return found

    def living(self) -> tuple[set[str], set[Tile]]:
        """(owners, ours included; tiles that others have in hand) of all processes that live."""
        others = list(self._others())
        tiles: set[Tile] = set()
        return {self._owner, *(place.name for place in others)}, tiles.union(*map(_read, others))
