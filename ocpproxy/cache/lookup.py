"""TileLookup: tiles that are here, in memory or on disk.

**At once or later.** What is in memory, or in a file that lies in the page cache, is answered without waiting for
anything, so that the event loop is never held up by a disk (`ocpproxy.store.page_cache` says how it knows). What would
have to be waited for is read in a thread. Either way a hit is at most one ``open``: no lock, no
SQL, no render, and no database is needed. Its use is noted in memory.

**By the request's target.** The grammar of addresses has many all_paths of each tile, and reading one takes longer
than everything else that a hit needs. So the first request for a target, which goes the whole way, teaches which tile
it means (`TileLookup.teach`), and `TileLookup.by_target` then finds the tile by the bytes that the client sent. What a target means
may change only with what is known of its token: when that is replaced, or is due to be asked for again, everything that
was taught under it is forgotten, and requests go the whole way once more. Targets are anybody's to make up, so there is
room for a bounded number of them; the oldest go first.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import closing
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from ocpproxy.cache.catalogue import CatalogueEntry
from ocpproxy.cache.memory import Memory
from ocpproxy.imagery import pictures
from ocpproxy.model.stack import Tile
from ocpproxy.store.files import OpenTile, StoredTile

_OVERHEAD = 1000
"""Bytes that a tile in memory takes beside its picture."""
_TARGETS = 50_000
_LONGEST_TARGET = 512
"""Bytes; a longer one goes the whole way each time."""


class Result(Enum):
    """How a tile came."""

    HIT_MEMORY = "hit_memory"
    HIT_DISK = "hit_disk"
    MISS = "miss"
    """Fetched for this request."""
    COLLAPSED = "collapsed"
    """Fetched for another request at the same time."""
    BLANK = "blank"
    """Outside the volume."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedTile:
    """A tile that can be served."""

    picture: bytes | memoryview
    etag: str
    """A strong validator, quoted."""
    modified: float
    """Seconds since 1970."""
    file: OpenTile | None = None
    """Where the picture is a view of an open file, which is to be closed by whoever asked for it."""


@dataclass(frozen=True, slots=True)
class TileAnswer:
    """A tile, and how it came."""

    ready: EncodedTile
    result: Result
    until: float | None = None
    """When it is to be made anew, if ever; seconds since 1970."""

    def good_for(self, now: float, most: int) -> int:
        """Seconds that somebody may keep it, at most so many."""
        return most if self.until is None else max(0, min(most, int(self.until - now)))


class TileReader(Protocol):
    """Tiles on disk."""

    def open_now(self, tile: Tile) -> OpenTile | None:
        """The tile, or None; raises BlockingIOError when that cannot be told without waiting."""

    async def read(self, tile: Tile) -> StoredTile | None:
        """The tile, or None."""

    def used(self, tile: Tile) -> None:
        """The tile was served."""


def ready(tile: Tile, picture: bytes | memoryview, modified: float, file: OpenTile | None = None) -> EncodedTile:
    """The tile as it is served."""
    # The identity is in its tag too: equal pictures of different tiles are still different things to a shared cache.
    return EncodedTile(picture, f'"{pictures.fingerprint(picture)}-{_identity(tile)}"', modified, file)


@lru_cache(maxsize=10_000)
def _identity(tile: Tile) -> str:
    return blake2b("/".join(map(str, tile)).encode(), digest_size=8).hexdigest()


class TileLookup:
    """The tiles that are here.

    :param memory: bytes of tiles kept in memory.
    """

    def __init__(self, store: TileReader, clock: IReactorTime, memory: int) -> None:
        self._store = store
        self._clock = clock
        self._memory: Memory[Tile, EncodedTile] = Memory(memory)
        self._targets: OrderedDict[bytes, tuple[Tile, CatalogueEntry, float | None]] = OrderedDict()

    def at_once(self, tile: Tile, *, lend: bool = False) -> TileAnswer | None:
        """The tile, or None when it is not here.

        :param lend: give it as an open file, where nothing is kept in memory.
        :raises BlockingIOError: that cannot be told without waiting for the disk.
        """
        kept = self._memory.get(tile)
        if kept is not None:
            self._store.used(tile)
            return TileAnswer(kept, Result.HIT_MEMORY)
        file = self._store.open_now(tile)
        if file is None:
            return None
        if lend and not self._memory.size:
            self._store.used(tile)
            return TileAnswer(ready(tile, file.picture, file.modified, file), Result.HIT_DISK)
        with closing(file):
            return self._from_disk(tile, bytes(file.picture), file.modified)

    async def find(self, tile: Tile) -> TileAnswer | None:
        """The tile, or None when it is not here."""
        try:
            return self.at_once(tile)
        except BlockingIOError:
            stored = await self._store.read(tile)
        return None if stored is None else self._from_disk(tile, stored.picture, stored.modified)

    def _from_disk(self, tile: Tile, picture: bytes, modified: float) -> TileAnswer:
        self._store.used(tile)
        found = ready(tile, picture, modified)
        self.remember(tile, found)
        return TileAnswer(found, Result.HIT_DISK)

    def remember(self, tile: Tile, found: EncodedTile) -> None:
        """Keep the tile in memory, as far as there is room."""
        self._memory.add(tile, found, len(found.picture) + _OVERHEAD)

    # -- by the request's target

    def teach(self, target: bytes, tile: Tile, known: CatalogueEntry, until: float | None = None) -> None:
        """The target means this tile, as long as this is what is known of its token.

        :param until: when the tile is to be made anew.
        """
        if len(target) <= _LONGEST_TARGET:
            self._targets[target] = (tile, known, until)
            if len(self._targets) > _TARGETS:
                self._targets.popitem(last=False)

    def by_target(self, target: bytes) -> TileAnswer | None:
        """The tile of a target, or None when it goes the whole way: nothing has been taught, or nothing is here.

        Where nothing is kept in memory it is given as an open file.

        :raises BlockingIOError: that cannot be told without waiting for the disk.
        """
        taught = self._targets.get(target)
        if taught is None:
            return None
        tile, known, until = taught
        now = self._clock.seconds()
        if now > known.ask_again or (until is not None and now > until):
            del self._targets[target]
            return None
        found = self.at_once(tile, lend=True)
        return found if until is None or found is None else replace(found, until=until)
