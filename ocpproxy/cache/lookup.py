"""Tiles that are in memory or on disk.

A tile in memory, or in a file that is in the page cache, is returned at once (see `ocpproxy.store.page_cache`). A file
that has to be read from the disk is read in a thread, so a slow disk never blocks the event loop. Either way a hit is
at most one ``open``: no lock, no SQL, no render, and it works without the database. The use is noted in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple, Protocol

from ocpproxy.cache.memory import S3FifoMemory
from ocpproxy.formats import chunk_file
from ocpproxy.imagery import pictures
from ocpproxy.model.chunks import is_chunk
from ocpproxy.model.stack import Tile
from ocpproxy.store.files import OpenTile, StoredTile
from ocpproxy.store.flushing.flush import Flush

CHUNK_TYPE = b"application/octet-stream"
"""The media type of chunks, in whatever encoding."""
_OVERHEAD = 1000
"""Bytes that a tile in memory takes beside its picture."""


class Result(Enum):
    """How a tile was found."""

    HIT_MEMORY = "hit_memory"
    HIT_DISK = "hit_disk"
    MISS = "miss"
    """Fetched for this request."""
    COLLAPSED = "collapsed"
    """Fetched for another request at the same time."""
    BLANK = "blank"
    """Outside the volume."""
    STALE = "stale"
    """Of an earlier epoch, as the upstream fails."""
    PLACEHOLDER = "placeholder"
    """Something else that viewers can show, as the upstream fails."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedTile:
    """A tile or a chunk that can be sent."""

    picture: bytes | memoryview
    etag: str
    """A strong validator, quoted."""
    modified: float
    """Seconds since 1970."""
    content_type: bytes = b"image/png"
    gzipped: bool = False
    """Whether `picture` is compressed by gzip: clients that do not accept that get another representation."""
    home: str = ""
    """Where it comes from (`store.provenance`); empty where that is not known, or the file is open."""
    file: OpenTile | None = None
    """The open file that `picture` is a view of; the caller of `TileLookup.find_now` closes it."""

    def read_home(self) -> str:
        """Return where it comes from; empty where that is not known."""
        return self.home if self.file is None else self.file.read_home()

    @classmethod
    def of(
        cls, tile: Tile, picture: bytes | memoryview, modified: float, home: str = "", file: OpenTile | None = None
    ) -> EncodedTile:
        """Return a tile with this picture, or a chunk with this content of its file.

        The ETag holds the identity of the tile too: to a shared cache, equal pictures of two tiles are two things.
        """
        if is_chunk(tile):
            body, digest, gzipped = chunk_file.unpack(picture)
            return cls(body, f'"{digest}-{_identity(tile)}"', modified, CHUNK_TYPE, gzipped, home, file)
        etag = f'"{pictures.fingerprint(picture)}-{_identity(tile)}"'
        return cls(picture, etag, modified, pictures.content_type(picture), False, home, file)


@lru_cache(maxsize=10_000)
def _identity(tile: Tile) -> str:
    return blake2b("/".join(map(str, tile)).encode(), digest_size=8).hexdigest()


class Timing(NamedTuple):
    """What a miss has spent its time on, in seconds."""

    queue: float
    """Waiting for a lease and a slot."""
    upstream: float
    """Until the upstream had given the voxels."""
    render: float
    """Until the tile was made of them."""


class Found(NamedTuple):
    """A tile, and how it was found."""

    tile: EncodedTile
    result: Result
    timing: Timing | None = None
    """Of a miss."""


class TileReader(Protocol):
    """A store, as the look-up sees it."""

    def open_now(self, tile: Tile) -> OpenTile | None:
        """Return the tile, or None; raise BlockingIOError when the disk has to be read to know."""

    async def read(self, tile: Tile) -> StoredTile | None:
        """Return the tile, or None."""

    def note_use(self, tile: Tile) -> None:
        """Note that the tile is used now."""

    async def discard(self, tiles: Iterable[Tile]) -> None:
        """Remove the files of tiles; their rows follow."""


class TileLookup:
    """The tiles that are in memory or on disk.

    :param memory: bytes of tiles kept in memory.
    """

    def __init__(self, store: TileReader, memory: int) -> None:
        self._store = store
        self._memory: S3FifoMemory[Tile, EncodedTile] = S3FifoMemory(memory)

    def find_now(self, tile: Tile, *, lend: bool = False) -> Found | None:
        """Return the tile, or None when it is not stored.

        :param lend: where no tiles are kept in memory, return the file open, so that it can be sent without copying it.
            Only the ends of its content are checked then.
        :raises BlockingIOError: when the disk has to be read to know; use `find`.
        """
        in_memory = self._memory.get(tile)
        if in_memory is not None:
            self._store.note_use(tile)
            return Found(in_memory, Result.HIT_MEMORY)
        file = self._store.open_now(tile)
        if file is None:
            return None
        if lend and not self._memory.size:
            self._store.note_use(tile)
            return Found(EncodedTile.of(tile, file.picture, file.modified, file=file), Result.HIT_DISK)
        with closing(file):
            content = bytes(file.picture)
            if is_chunk(tile) and not chunk_file.is_undamaged(content):
                raise BlockingIOError  # `find` removes it
            return self._from_disk(tile, content, file.modified, file.read_home())

    async def find(self, tile: Tile) -> Found | None:
        """Return the tile, or None when it is not stored."""
        try:
            return self.find_now(tile)
        except BlockingIOError:
            stored = await self._store.read(tile)
        if stored is None:
            return None
        return self._from_disk(tile, stored.picture, stored.modified, stored.provenance.home)

    def _from_disk(self, tile: Tile, picture: bytes, modified: float, home: str) -> Found:
        self._store.note_use(tile)
        encoded = EncodedTile.of(tile, picture, modified, home)
        self.remember(tile, encoded)
        return Found(encoded, Result.HIT_DISK)

    async def discard(self, tile: Tile) -> None:
        """Remove a tile that turned out to be damaged, from memory and disk."""
        self._memory.discard(tile)
        await self._store.discard([tile])

    def is_in_memory(self, tile: Tile) -> bool:
        """Return whether the tile is in memory, without counting a use."""
        return tile in self._memory

    def forget(self, flush: Flush) -> None:
        """Forget the tiles in memory that belong to a flush. Those that it does not cover are still on disk."""
        self._memory.forget(flush.part.has)

    def remember(self, tile: Tile, encoded: EncodedTile) -> None:
        """Keep the tile in memory."""
        self._memory.add(tile, encoded, len(encoded.picture) + _OVERHEAD)
