"""One slice of a cuboid becomes the picture of one tile."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ocpproxy.imagery import palette, pixels, png
from ocpproxy.imagery.pixels import SliceVoxels
from ocpproxy.model.dataset import Z
from ocpproxy.model.display import DrawMode
from ocpproxy.model.stack import Cuboid, Tile
from ocpproxy.model.voxels import Voxels

_REDS = bytes(part for red in range(256) for part in (red, 0, 0))


def draw(cuboid: Cuboid, voxels: Sequence[Voxels | None], tile: Tile) -> bytes:
    """Return the picture of one tile of the cuboid, as PNG of 512 x 512 pixels.

    :param voxels: for each channel that the stack shows the voxels of the cuboid's box, an array of the shape
        `Box.shape`, axes (z, y, x); None for a channel that has no voxels at the tile's time.
    """
    stack = cuboid.stack
    slices = [None if each is None else _slice(cuboid, each, tile.slice) for each in voxels]
    if stack.mode is DrawMode.FALSE_COLOUR:
        return _draw_false_colour(cuboid, slices)
    (content,), (shown,) = slices, stack.shown
    assert content is not None  # noqa: S101 - a tile is within its only channel's times (Stack.tile)
    if stack.mode is DrawMode.LABELS:
        return png.indexed(palette.indices(content), palette.COLOURS, clear=True)
    if stack.mode is DrawMode.RGBA:
        return png.rgba(pixels.rgba(content))
    if stack.mode is DrawMode.RED:
        return png.indexed(pixels.grey(content, shown), _REDS, clear=False)
    return png.grey(pixels.grey(content, shown))


def _draw_false_colour(cuboid: Cuboid, slices: Sequence[SliceVoxels | None]) -> bytes:
    stack = cuboid.stack
    lights = [
        (pixels.grey(content, shown), shown.colour or "C")
        for content, shown in zip(slices, stack.shown, strict=True)
        if content is not None
    ]
    rows, columns = lights[0][0].shape
    coloured = pixels.false_colour(lights, (rows, columns), stack.display.gain, opaque=stack.display.opaque)
    return png.rgba(coloured)


def _slice(cuboid: Cuboid, voxels: Voxels, slice_: int) -> SliceVoxels:
    """Return a slice, laid out as the tile's pixels: axes (row, column), z steps repeated or left out."""
    columns, _, through = cuboid.stack.plane.axes
    # Axes (z, y, x) without the one that goes through the slices.
    content: SliceVoxels = voxels.take(slice_ - cuboid.box[2 * through], axis=2 - through)
    indices = _z_indices(cuboid)
    if indices is not None:
        content = content[indices]
    return content.T if columns == Z else content


@lru_cache(maxsize=64)
def _z_indices(cuboid: Cuboid) -> npt.NDArray[np.intp] | None:
    slices = cuboid.slices_by_pixel()
    return None if slices is None else np.array(slices, np.intp)
