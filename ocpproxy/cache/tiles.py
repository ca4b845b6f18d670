"""The tile cache: a request for a tile is a hit, or a shared miss.

`TileCache.locate` finds out which tile an address means, and for how long it is good. `TileCache.tile` returns it: from
memory or disk (`lookup`), else by fetching its cuboid (`fetches`). While an upstream fails, the tile of an earlier
epoch is better than none, and a placeholder may be (`placeholders`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.cache.fetches import CuboidFetches
from ocpproxy.cache.lookup import EncodedTile, Found, Result, TileLookup, Timing
from ocpproxy.cache.placeholders import Placeholders
from ocpproxy.imagery import png
from ocpproxy.log import Logger
from ocpproxy.model.address import TileAddress
from ocpproxy.model.chunks import AnyCuboid, ChunkedVolume, View
from ocpproxy.model.dataset import CannotDisplay
from ocpproxy.model.stack import Stack, Tile
from ocpproxy.upstream.base import OutOfRange, UnknownToken, UpstreamFailure, UpstreamRefused

W = TypeVar("W", Stack, ChunkedVolume)


@dataclass(frozen=True, slots=True)
class TileAnswer:
    """A tile, how it was found, and for how long it is good."""

    tile: EncodedTile
    result: Result
    expires: float | None = None
    """When it is fetched again, None for never; seconds since 1970."""
    timing: Timing | None = None
    """What a miss has spent its time on."""
    cuboid: AnyCuboid | None = None
    """What the tile was cut from; None for what no upstream has given."""


@dataclass(frozen=True)
class Located(Generic[W]):
    """What an address means."""

    entry: CatalogueEntry
    stack: W
    tile: Tile | None
    """None outside the volume. For a volume it is a chunk."""

    @property
    def expires(self) -> float | None:
        """When the tile is fetched again, None for never; seconds since 1970."""
        return self.entry.expires(self.stack) if self.tile is not None else None

    @cached_property
    def cuboid(self) -> AnyCuboid | None:
        """What the tile is cut from; None outside the volume, and for a stored one that could not be fetched again."""
        with suppress(CannotDisplay):
            return None if self.tile is None else self.stack.cuboid(self.tile)
        return None

    def answer(self, found: Found) -> TileAnswer:
        """Return the answer with a tile that was found."""
        return TileAnswer(found.tile, found.result, self.expires, found.timing, self.cuboid)


LocatedTile = Located[Stack]
LocatedChunk = Located[ChunkedVolume]


def max_age(expires: float | None, now: float, most: int) -> int:
    """Return the seconds that somebody may keep a tile, at most `most`."""
    return most if expires is None else max(0, min(most, int(expires - now)))


class TileCache:
    """Tiles by address.

    :param now: returns the seconds since 1970.
    """

    _log = Logger()

    def __init__(
        self,
        catalogue: Catalogue,
        lookup: TileLookup,
        fetches: CuboidFetches,
        placeholders: Placeholders,
        now: Callable[[], float],
    ) -> None:
        self._catalogue = catalogue
        self._lookup = lookup
        self._fetches = fetches
        self._placeholders = placeholders
        self._now = now

    async def locate(self, address: TileAddress, *, current: bool = True) -> LocatedTile:
        """Return what the address means.

        :param current: where an epoch has ended, ask the upstream for the next one first.
        :raises CannotDisplay: there is no such channel or plane.
        :raises UpstreamFailure: nothing is known of the token.
        """
        token = address.base.token
        entry = self._catalogue.entry_now(token) or await self._catalogue.entry(token)
        located = _locate(entry, address)
        if current and located.stack.epoch:
            located = _locate(await self._catalogue.current_entry(token, entry), address)
        return located

    async def tile(self, located: LocatedTile | LocatedChunk) -> TileAnswer:
        """Return the tile.

        :raises NotIndexable: the address is beyond what the index can hold.
        :raises UpstreamFailure: it is not stored, and the upstream did not give its voxels.
        """
        tile = located.tile
        if tile is None:
            return _blank(located)
        try:
            found, certain = self._lookup.find_now(tile), True
        except BlockingIOError:
            found, certain = None, False
        if found is not None:
            return located.answer(found)
        try:
            found = await self._miss(located.stack, tile, certain=certain)
        except (UnknownToken, UpstreamRefused, OutOfRange):
            raise
        except UpstreamFailure as failure:
            old = await self._from_earlier_epoch(located.stack, tile)
            if old is not None:
                self._log.warn("{tile} is served from an earlier epoch: {reason}", tile=tile, reason=str(failure))
                return old
            # Readers of voxels take them for true, so nothing stands for a chunk but that of an earlier epoch.
            stack = located.stack
            placeholder = await self._placeholders.find(stack, tile) if isinstance(stack, Stack) else None
            if placeholder is None:
                raise
            return TileAnswer(placeholder, Result.PLACEHOLDER)
        return located.answer(found)

    async def stored_tile(self, located: LocatedTile | LocatedChunk) -> TileAnswer | None:
        """Return the tile if it is stored, None if it would have to be fetched.

        :raises NotIndexable: the address is beyond what the index can hold.
        """
        if located.tile is None:
            return _blank(located)
        found = await self._lookup.find(located.tile)
        return None if found is None else located.answer(found)

    async def _miss(self, stack: View, tile: Tile, *, certain: bool) -> Found:
        """Return a tile that is not stored; `certain` is False where only the disk can tell."""
        cuboid = stack.cuboid(tile)
        if not certain and not self._fetches.is_flying(cuboid):  # a flight brings it anyway
            found = await self._lookup.find(tile)
            if found is not None:
                return found
        return await self._fetches.fetch(cuboid, tile)

    async def _from_earlier_epoch(self, stack: View, tile: Tile) -> TileAnswer | None:
        """Return the latest tile of the epochs before, which is better than none."""
        for earlier in stack.earlier_epochs():
            old = tile._replace(stack=earlier.name)
            found = await self._lookup.find(old)
            if found is not None:
                return TileAnswer(found.tile, Result.STALE, cuboid=earlier.cuboid(old))
        return None

    async def tile_again(self, located: LocatedChunk, damaged: EncodedTile) -> TileAnswer:
        """Return a chunk whose stored content turned out to be damaged: that is removed, and fetched again.

        :param damaged: what was found. If something else is stored by now, that stays.
        :raises UpstreamFailure: the upstream did not give its voxels.
        """
        for stack in (located.stack, *located.stack.earlier_epochs()):
            tile = located.tile and located.tile._replace(stack=stack.name)
            found = None if tile is None else await self._lookup.find(tile)
            if tile is not None and found is not None and found.tile.etag == damaged.etag:
                await self._lookup.discard(tile)
        return await self.tile(located)

    async def entry(self, token: str, *, current: bool = True) -> CatalogueEntry:
        """Return what is known of a token.

        :param current: where an epoch has ended, ask the upstream for the next one first.
        :raises UpstreamFailure: nothing is known of it.
        """
        entry = self._catalogue.entry_now(token) or await self._catalogue.entry(token)
        return await self._catalogue.current_entry(token, entry) if current and entry.epoch else entry


def _locate(entry: CatalogueEntry, address: TileAddress) -> LocatedTile:
    if not entry.source.display.as_tiles:
        raise CannotDisplay(f"{address.base.token} is served as chunks of voxels only")
    stack = entry.stack(address.base)
    return LocatedTile(entry, stack, stack.tile(address.time, address.level, address.slice, address.row, address.col))


def _blank(located: LocatedTile | LocatedChunk) -> TileAnswer:
    stack = located.stack
    picture = png.blank(clear=isinstance(stack, Stack) and stack.is_overlay)
    encoded = EncodedTile(picture, f'"{png.fingerprint(picture)}"', located.entry.read_at)
    return TileAnswer(encoded, Result.BLANK)
