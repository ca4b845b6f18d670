"""Placeholders: what viewers get instead of a tile whose upstream fails, if the administrator wants that.

``upscaled`` makes it of the finest of the coarser levels whose tiles are cached; where there are none, there is no
placeholder. ``blank`` is a blank tile. Neither is stored, and nobody is to keep it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from math import ceil, floor

from ocpproxy.cache.lookup import EncodedTile, TileLookup
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.imagery import png
from ocpproxy.imagery.upscaled import Window, upscaled
from ocpproxy.model.dataset import TILE, Level, Z
from ocpproxy.model.stack import Stack, Tile


class Placeholders:
    """The placeholders of one gateway.

    :param policy: ``none``, ``upscaled`` or ``blank``.
    :param run_in_thread: runs the work on pixels.
    :param now: returns the seconds since 1970.
    """

    def __init__(self, policy: str, lookup: TileLookup, run_in_thread: RunInThread, now: Callable[[], float]) -> None:
        self._policy = policy
        self._lookup = lookup
        self._run_in_thread = run_in_thread
        self._now = now

    async def find(self, stack: Stack, tile: Tile) -> EncodedTile | None:
        """Return a placeholder for a tile, or None."""
        picture = None
        if self._policy == "blank":
            picture = png.blank(clear=stack.is_overlay)
        elif self._policy == "upscaled":
            picture = await self._upscaled(stack, tile)
        return None if picture is None else EncodedTile.of(tile, picture, self._now())

    async def _upscaled(self, stack: Stack, tile: Tile) -> bytes | None:
        for number, slice_, window in coarser(stack, tile):
            pictures: dict[tuple[int, int], bytes] = {}
            places = list(_tiles(stack, number, window))
            for row, col in places:
                found = await self._lookup.find(Tile(stack.name, tile.time, number, slice_, row, col))
                if found is not None:
                    pictures[row, col] = bytes(found.tile.picture)
            if places and len(pictures) == len(places):
                made: bytes = await self._run_in_thread(upscaled, pictures, window, stack)
                return made
        return None


def coarser(stack: Stack, tile: Tile) -> Iterator[tuple[int, int, Window]]:
    """Yield the coarser levels that show what a tile shows: the number, the slice, and the part of the plane."""
    levels, (columns, rows, through) = stack.dataset.levels, stack.plane.axes
    here = levels[tile.level]
    for number in sorted(n for n in levels if n > tile.level):
        there = levels[number]
        middle = (tile.slice + Fraction(1, 2)) * here.voxel[through] / there.voxel[through]
        slice_ = min(max(floor(middle), there.offset[through]), there.end[through] - 1)
        spans = [
            [_pixel(stack, here, there, axis, first * TILE), _pixel(stack, here, there, axis, (first + 1) * TILE)]
            for axis, first in ((columns, tile.col), (rows, tile.row))
        ]
        (left, right), (top, bottom) = spans
        yield number, slice_, (float(left), float(top), float(right), float(bottom))


def _pixel(stack: Stack, here: Level, there: Level, axis: int, pixel: int) -> Fraction:
    """Return the pixel of a coarser level's plane that is at the place of a pixel of a level's plane."""

    def edge(level: Level) -> Fraction:
        return level.voxel[axis] / (stack.z_scale(level) if axis == Z else 1)

    at = pixel * edge(here) + here.offset[axis] * here.voxel[axis]
    return (at - there.offset[axis] * there.voxel[axis]) / edge(there)


def _tiles(stack: Stack, number: int, window: Window) -> Iterator[tuple[int, int]]:
    """Yield (row, column) of the tiles of a level that a part of its plane touches."""
    columns, rows = stack.tiles(stack.dataset.levels[number])
    left, top, right, bottom = window
    for row in range(max(0, floor(top / TILE)), min(rows, ceil(bottom / TILE))):
        for col in range(max(0, floor(left / TILE)), min(columns, ceil(right / TILE))):
            yield row, col
