"""Tiles as files: whole or not there.

A file is written under a temporary name in its own directory and then linked to its name, which fails if that exists.
So a file never changes until it is removed, and only its creator inserts its row. Its time of modification is when its
tile was made (`flush`). Tiles of one single value, of which sparse volumes have millions, have no file of their own:
their names are links to a file that they share with the other tiles of the same day, kept beside the directory of
tiles.

Everything here blocks and is called in a thread, except `TileFiles.open_now`, which the event loop calls.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock, get_ident
from typing import NamedTuple, TypeVar

from ocpproxy.model.stack import Tile
from ocpproxy.store import contents, keys, provenance
from ocpproxy.store.page_cache import PageCache
from ocpproxy.store.provenance import Provenance

B = TypeVar("B", bytes, memoryview)

LARGEST = 8 * 2**20
"""Bytes of a tile; a longer file is none of ours."""
_READING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""No link is followed, and nothing waits for a FIFO."""
_MOST_LOOKED_AT = 200_000
"""Files that are looked at to find the oldest."""
_MOST_NAMES = 10_000
"""Paths of tiles that are remembered: to make one takes as long as to look for a tile in memory."""
_DAY = 86400
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV}


@dataclass(frozen=True, slots=True)
class StoredTile:
    """A tile as it is on disk."""

    picture: bytes
    modified: float
    """Seconds since 1970."""
    provenance: Provenance


class FileStatus(NamedTuple):
    """What is known of a tile's file."""

    size: int
    """Bytes."""
    modified: float
    """Seconds since 1970."""
    made: float
    """Seconds since 1970, as `flush.Flush` understands it."""
    stored: float
    """Seconds since 1970: when the file got its name."""


class OpenTile:
    """A tile's file: open, whole, and in the page cache a moment ago. The caller closes it."""

    __slots__ = ("fd", "made", "modified", "picture")

    def __init__(self, fd: int, picture: memoryview, status: FileStatus) -> None:
        self.fd = fd
        self.picture = picture
        """The content, valid until the next tile is opened."""
        self.modified = status.modified
        """Seconds since 1970."""
        self.made = status.made
        """Seconds since 1970, as `flushing.flush.Flush` understands it."""

    def read_home(self) -> str:
        """Return the homes that have given its voxels (`Provenance.home`)."""
        return provenance.read_home(self.fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


class TornTile(Exception):
    """The file exists but is no whole tile."""


def _content(fd: int, read: Callable[[int, int], B], is_fine: Callable[[B], bool]) -> tuple[B, FileStatus]:
    """Return the content and the status of a tile's file."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
        raise TornTile
    picture = read(fd, found.st_size)
    if not is_fine(picture):
        raise TornTile
    return picture, _status(found)


def _status(found: os.stat_result) -> FileStatus:
    """Return the status of a file. A shared one was modified when it got its latest link, which is never too early."""
    modified = found.st_mtime if found.st_nlink == 1 else found.st_ctime
    return FileStatus(found.st_size, modified, found.st_mtime, found.st_ctime)


def _give_name(temporary: str, name: str) -> bool:
    """Give a file its name, unless that exists: return whether it has it. The temporary one may stay."""
    try:
        os.link(temporary, name)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links: here the check and the rename are two steps.
        if os.path.lexists(name):
            return False
        os.rename(temporary, name)
    return True


class TileFiles:
    """The directory of tiles.

    :param owner: a name of this process, part of its temporary files' names.
    """

    def __init__(self, directory: Path, owner: str) -> None:
        self.directory = Path(os.path.realpath(directory))
        self._uniform = self.directory.parent / "uniform"
        self._sharing = Lock()  # threads of one process would write to the same temporary file
        self._temporary = f".{owner}.tmp"
        self._page_cache = PageCache(_READING)
        self._at = lru_cache(_MOST_NAMES)(self._make_name)
        """Returns the path of a tile's file."""

    def _make_name(self, tile: Tile) -> str:
        return os.path.join(self.directory, keys.path(tile))

    def _at_own(self, tile: Tile) -> str:
        """Return the path of a tile, none of whose directories is a symbolic link: links are removed.

        What a link leads to is not ours: it is neither read nor changed.
        """
        name = self._at(tile)
        at = len(os.fspath(self.directory))
        while (at := name.find("/", at + 1)) > 0:
            if os.path.islink(name[:at]):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name[:at])
        return name

    def read(self, tile: Tile) -> StoredTile | None:
        """Return the tile, or None when it has no file: one ``open``.

        :raises TornTile: when the file is torn or not a tile.
        """
        try:
            fd = os.open(self._at_own(tile), _READING)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise TornTile from None
            raise
        try:
            picture, status = _content(fd, lambda fd, size: os.pread(fd, size, 0), partial(contents.is_undamaged, tile))
            return StoredTile(picture, status.modified, Provenance(status.made, provenance.read_home(fd)))
        finally:
            os.close(fd)

    def open_now(self, tile: Tile) -> OpenTile | None:
        """Return the tile, or None when it has no file, without waiting for the disk. For one thread.

        :raises BlockingIOError: when that needs the disk, or the file is not as it should be; use `read`.
        """
        try:
            fd = self._page_cache.open(self._at(tile))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            raise BlockingIOError from None
        try:
            return OpenTile(fd, *_content(fd, self._page_cache.read, partial(contents.is_whole, tile)))
        except (TornTile, OSError):
            os.close(fd)
            raise BlockingIOError from None

    def stat(self, tile: Tile) -> FileStatus | None:
        """Return the status of the tile's file, or None when it has none."""
        try:
            found = os.stat(self._at_own(tile), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _status(found) if stat.S_ISREG(found.st_mode) else None

    def keep_validators(self, tile: Tile, validators: bytes) -> None:
        """Keep some bytes with a tile's file; not with a shared one, nor where the file system cannot."""
        provenance.keep_validators(self._at(tile), validators)

    def read_validators(self, tile: Tile) -> bytes | None:
        """Return the bytes that are kept with a tile's file, or None."""
        return provenance.read_validators(self._at(tile))

    def create(self, tile: Tile, picture: bytes, origin: Provenance | None = None, shared_since: float = 0.0) -> bool:
        """Make the tile's file. Return False when it exists already; then it stays as it is.

        :param origin: where the tile comes from; by default it is made now.
        :param shared_since: let it share the file of tiles that were made since then.
        :raises OSError: when the disk refuses; then nothing is left behind.
        """
        name = self._at_own(tile)
        origin = Provenance(time.time()) if origin is None else origin
        if contents.is_uniform(tile, picture):
            try:
                return self._link_uniform(name, picture, origin, max(shared_since, origin.made // _DAY * _DAY))
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
        with self._written(name + self._temporary, picture, origin) as temporary:
            return _give_name(temporary, name)

    @contextlib.contextmanager
    def _written(self, temporary: str, picture: bytes, origin: Provenance) -> Iterator[str]:
        """Write a file with this content and provenance, for the time of a block."""
        fd = self._open_new(temporary)
        try:
            with open(fd, "wb", buffering=0) as file:
                written = file.write(picture)
                if written != len(picture):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), temporary)
                provenance.write(file.fileno(), origin)
            yield temporary
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    def _link_uniform(self, name: str, picture: bytes, origin: Provenance, since: float) -> bool:
        """Create the tile as a link to the file that tiles with this picture share which were made since then."""
        digest = blake2b(picture + origin.home.encode(), digest_size=16).hexdigest()
        shared = self._uniform / f"{digest}-{int(since * 1e6)}.png"
        origin = origin._replace(made=max(origin.made, since))
        for _ in range(10):
            if not shared.exists() or shared.read_bytes() != picture:
                self._share(shared, picture, origin)
            try:
                os.link(shared, name)
            except FileExistsError:
                return False
            except FileNotFoundError:  # mostly the directory of the tile
                with contextlib.suppress(FileNotFoundError):
                    os.makedirs(os.path.dirname(name), exist_ok=True)
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
                self._share(shared, picture, origin)  # it has as many links as can be: a new one takes its name
            else:
                return True
        raise OSError(errno.EIO, "the directory vanishes while a tile is written", name)

    def _share(self, shared: Path, picture: bytes, origin: Provenance) -> None:
        with self._sharing, self._written(f"{shared}{self._temporary}", picture, origin) as temporary:
            os.rename(temporary, shared)

    def remove_unshared(self, owners: Collection[str]) -> None:
        """Remove the shared files that no tile is linked to, and the temporary ones of dead processes.

        :param owners: the living processes.
        """
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._uniform):
                _, png, owner = entry.name.removesuffix(".tmp").partition(".png.")
                if entry.stat().st_nlink == 1 and not (png and owner in owners):
                    os.unlink(entry.path)

    def _open_new(self, name: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        for _ in range(10):
            try:
                return os.open(name, flags, 0o644)
            except FileNotFoundError:  # also when an eviction has just removed the empty directory
                with contextlib.suppress(FileNotFoundError):  # or a directory above it
                    os.makedirs(os.path.dirname(name), exist_ok=True)
            except FileExistsError:  # left by a write that was cut short
                os.unlink(name)
        raise OSError(errno.EIO, "the directory vanishes while a tile is written", name)

    def remove(self, tile: Tile) -> None:
        """Remove the tile's file, and the directories that become empty with it."""
        name = self._at_own(tile)
        try:
            os.unlink(name)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (IsADirectoryError, PermissionError):  # by the system: a directory cannot be unlinked
            if not os.path.isdir(name) or os.path.islink(name):
                raise
            shutil.rmtree(name)
        self._remove_empty(Path(name).parent)

    def _remove_empty(self, parent: Path) -> None:
        """Remove a directory if it is empty, and then those above it."""
        while parent != self.directory:
            try:
                parent.rmdir()
            except OSError:
                return
            parent = parent.parent

    def remove_if(self, tile: Tile, wanted: Callable[[float], bool]) -> bool:
        """Remove the tile's file if `wanted` returns True for when it was made; return whether it was removed.

        Another process may put a new file in its place at any time: then that one stays.
        """
        status = self.stat(tile)
        if status is None or not wanted(status.made):
            return False
        name = self._at(tile)
        taken = f"{name}.{get_ident()}{self._temporary}"
        try:
            os.rename(name, taken)
        except FileNotFoundError:
            return False
        try:
            is_old = wanted(os.lstat(taken).st_mtime)
            if not is_old:
                _give_name(taken, name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(taken)
        if is_old:
            self._remove_empty(Path(name).parent)
        return is_old

    def remove_oldest(self, size: int, at_most: int) -> list[Tile]:
        """Remove the files that were made or read longest ago, until so many bytes are free; return their tiles.

        Of those that are looked at half stay.

        Of a large cache only a part is looked at. Shared files are left, for a name of one takes no space.
        """
        found: list[tuple[float, int, Tile]] = []
        for path, _ in islice(self.walk(), _MOST_LOOKED_AT):
            tile = keys.tile_at(path)
            with contextlib.suppress(FileNotFoundError):
                file = os.lstat(os.path.join(self.directory, path))
                if tile is not None and stat.S_ISREG(file.st_mode) and file.st_nlink == 1:
                    found.append((max(file.st_atime, file.st_mtime), file.st_size, tile))
        removed: list[Tile] = []
        for _, bytes_, tile in heapq.nsmallest(min(at_most, -(-len(found) // 2)), found):
            if size <= 0:
                break
            self.remove(tile)
            removed.append(tile)
            size -= bytes_
        return removed

    def remove_temporary(self, path: str) -> None:
        """Remove a temporary file of a dead process."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.directory, path))

    def remove_temporaries(self, tiles: Iterable[Tile], owner: str) -> None:
        """Remove all temporary files that a dead process may have left of these tiles."""
        for tile in tiles:
            self.remove_temporary(f"{keys.path(tile)}.{owner}.tmp")

    def check_writable(self) -> None:
        """Write a file and remove it.

        :raises OSError: when tiles cannot be written.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=self.directory, prefix="probe", suffix=self._temporary) as probe:
            probe.write(b"written")
            probe.flush()

    def walk(self) -> Iterator[tuple[str, int]]:
        """Yield (path, bytes) of every file below the directory; links are not followed."""
        for directory, folders, names in os.walk(self.directory):
            folders.sort()
            for name in names:
                full = os.path.join(directory, name)
                with contextlib.suppress(FileNotFoundError):
                    yield os.path.relpath(full, self.directory), os.lstat(full).st_size
