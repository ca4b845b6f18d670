"""Pictures that are made from tiles for one request: other contrast and colour, and overviews. None is stored on disk.

An overview shows a whole slice, 192 pixels along its longer side. It is made from the tiles of the coarsest level that
has as many pixels, which are few. Where a dataset has no such level it is refused, for it would take the whole slice.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

from cachetools import LRUCache

from ocpproxy.cache.lookup import EncodedTile, Result
from ocpproxy.cache.tiles import LocatedTile, TileAnswer, TileCache
from ocpproxy.concurrency.gather import gather
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.imagery import contrast, overview
from ocpproxy.model.address import Adjustment, ImageBase, OverviewAddress, TileAddress
from ocpproxy.model.dataset import CannotDisplay
from ocpproxy.model.stack import Stack

MOST_TILES = 16
"""Tiles that an overview may be made from."""
_KEPT = 256
"""Pictures kept in memory; each is a few dozen kB."""
_WORST_LAST = list(Result)
"""A picture made from several tiles has the result of the one that took longest to get."""


class DerivedTiles:
    """Pictures made from tiles.

    :param run_in_thread: runs the work on pixels.
    """

    def __init__(self, cache: TileCache, run_in_thread: RunInThread) -> None:
        self._cache = cache
        self._run_in_thread = run_in_thread
        self._kept: LRUCache[str, bytes] = LRUCache(_KEPT)

    async def adjusted(self, located: LocatedTile, adjustment: Adjustment, answer: TileAnswer) -> TileAnswer:
        """Return a tile with other contrast and colour.

        :raises CannotDisplay: its stack has no contrast.
        """
        stack = located.stack
        recipe = f"{adjustment} of {stack.name}"
        return await self._make([answer], recipe, contrast.adjusted, answer.tile.picture, stack, adjustment)

    async def overview(self, address: OverviewAddress) -> TileAnswer:
        """Return the overview of a slice, which is numbered as at the finest level.

        :raises CannotDisplay: there is no such channel or plane, or no level that is small enough.
        :raises UpstreamFailure: as `TileCache.tile`.
        """
        stack = (await self._cache.locate(TileAddress(address.base, address.slice, 0, 0, 0))).stack
        number = _level(stack)
        level = stack.dataset.levels[number]
        columns, rows = stack.tiles(level)
        slice_ = stack.slice_at(level, address.slice)
        positions = [(row, col) for row in range(rows) for col in range(columns)]
        answers = await gather([self._tile(address.base, slice_, row, col, number) for row, col in positions])
        pictures = {
            position: answer.tile.picture
            for position, answer in zip(positions, answers, strict=True)
            if answer.result is not Result.BLANK
        }
        width, height, _ = stack.extent(level)
        return await self._make(
            answers, f"overview of {stack.name}", overview.overview, pictures, (width, height), stack
        )

    async def _tile(self, base: ImageBase, slice_: int, row: int, col: int, level: int) -> TileAnswer:
        return await self._cache.tile(await self._cache.locate(TileAddress(base, slice_, row, col, level)))

    async def _make(
        self, tiles: list[TileAnswer], recipe: str, work: Callable[..., bytes], *arguments: object
    ) -> TileAnswer:
        # Blank tiles have one ETag for all stacks, so the recipe names the stack too.
        content = "\n".join((recipe, *(answer.tile.etag for answer in tiles)))
        etag = f'"{blake2b(content.encode(), digest_size=16).hexdigest()}"'
        picture = self._kept.get(etag)
        if picture is None:
            made: bytes = await self._run_in_thread(work, *arguments)
            picture = self._kept[etag] = made
        encoded = EncodedTile(picture, etag, max(answer.tile.modified for answer in tiles))
        expires = min((answer.expires for answer in tiles if answer.expires is not None), default=None)
        result = max((answer.result for answer in tiles), key=_WORST_LAST.index)
        return TileAnswer(encoded, result, expires)


def _level(stack: Stack) -> int:
    """Return the coarsest level that is large enough for an overview, or the finest if none is."""
    levels = stack.dataset.levels
    number = max((n for n in levels if max(stack.extent(levels[n])[:2]) >= overview.SIZE), default=min(levels))
    columns, rows = stack.tiles(levels[number])
    if columns * rows > MOST_TILES:
        raise CannotDisplay(f"{stack.dataset.token} has no level that is small enough for an overview")
    return number
