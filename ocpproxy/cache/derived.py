"""What is made of tiles on their way out: other contrast and colour, and overviews. None of it is stored.

An overview shows a whole slice, 192 pixels along its longer side, and is made of the tiles of the coarsest level that
has as many: of few tiles, then, and where a dataset has no such level it is refused, for it would take the whole slice.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

from cachetools import LRUCache

from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.cache.lookup import EncodedTile, Result, TileAnswer
from ocpproxy.cache.tiles import TileCache
from ocpproxy.concurrency.gather import gather
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.imagery import retouch
from ocpproxy.model.address import Adjustment, OverviewAddress, TileAddress
from ocpproxy.model.dataset import CannotDisplay
from ocpproxy.model.stack import Stack

MOST_TILES = 16
"""Tiles that an overview may be made of."""
_KEPT = 256
"""Pictures kept in memory; each is a few dozen kB."""


class DerivedTiles:
    """Pictures made of tiles.

    :param run_in_thread: runs the work on pixels.
    """

    def __init__(self, catalogue: Catalogue, cache: TileCache, run_in_thread: RunInThread) -> None:
        self._catalogue = catalogue
        self._cache = cache
        self._in_thread = run_in_thread
        self._made: LRUCache[str, bytes] = LRUCache(_KEPT)

    async def toned(self, address: TileAddress, tone: Adjustment, answer: TileAnswer) -> TileAnswer:
        """The tile with the contrast and colour of a tone.

        :raises CannotDisplay: it has none to be changed.
        """
        known = await self._catalogue.known(address.base.token)
        stack = known.stack(address.base)
        return await self._make([answer], f"{tone} of {stack.name}", retouch.toned, answer.ready.picture, stack, tone)

    async def overview(self, address: OverviewAddress) -> TileAnswer:
        """The overview of a slice, which is numbered as at the finest level.

        :raises CannotDisplay: there is no such channel or plane, or no level that is small enough.
        :raises UpstreamFailure: as `TileCache.tile`.
        """
        known = await self._catalogue.known(address.base.token)
        stack = known.stack(address.base)
        number = _level(stack)
        level = stack.dataset.levels[number]
        columns, rows = stack.tiles(level)
        slice_ = stack.slice_at(level, address.slice)
        places = [(row, col) for row in range(rows) for col in range(columns)]
        answers = await gather([self._tile(TileAddress(address.base, slice_, row, col, number)) for row, col in places])
        pictures = {
            place: answer.ready.picture
            for place, answer in zip(places, answers, strict=True)
            if answer.result is not Result.BLANK
        }
        width, height, _ = stack.extent(level)
        how = f"overview of {stack.name}"
        return await self._make(answers, how, retouch.overview, pictures, (width, height), stack)

    async def _tile(self, address: TileAddress) -> TileAnswer:
        return await self._cache.tile(address)

    async def _make(self, of: list[TileAnswer], how: str, work: Callable[..., bytes], *arguments: object) -> TileAnswer:
        # What is outside has one ETag for all stacks, so the stack must be said too.
        said = "\n".join((how, *(answer.ready.etag for answer in of)))
        etag = f'"{blake2b(said.encode(), digest_size=16).hexdigest()}"'
        picture = self._made.get(etag)
        if picture is None:
            made: bytes = await self._in_thread(work, *arguments)
            picture = self._made[etag] = made
        ready = EncodedTile(picture, etag, max(answer.ready.modified for answer in of))
        until = min((answer.until for answer in of if answer.until is not None), default=None)
        return TileAnswer(ready, max((answer.result for answer in of), key=list(Result).index), until)


def _level(stack: Stack) -> int:
    """The coarsest level that is large enough for an overview, or the finest if none is."""
    levels = stack.dataset.levels
    number = max((n for n in levels if max(stack.extent(levels[n])[:2]) >= retouch.OVERVIEW), default=min(levels))
    columns, rows = stack.tiles(levels[number])
    if columns * rows > MOST_TILES:
        raise CannotDisplay(f"{stack.dataset.token} has no level that is small enough for an overview")
    return number
