"""One slice of a cuboid becomes the picture of one tile."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ocpproxy.imagery import palette, pixels, png
from ocpproxy.model.dataset import Z
from ocpproxy.model.display import DrawMode
from ocpproxy.model.stack import Cuboid, Tile
from ocpproxy.model.voxels import Voxels

_REDS = bytes(part for red in range(256) for part in (red, 0, 0))


def draw(cuboid: Cuboid, voxels: Sequence[Voxels | None], tile: Tile) -> bytes:
    """The picture of one tile of the cuboid.

    :param voxels: the box of the cuboid for each channel that its stack shows, axes (z, y, x); None for a channel that
        has nothing at the tile's time.
    """
    stack = cuboid.stack
    faces = [None if each is None else _face(cuboid, each, tile.slice) for each in voxels]
    if stack.mode is DrawMode.FALSE_COLOUR:
        lights = [
            (pixels.grey(face, shown), shown.colour or "C")
            for face, shown in zip(faces, stack.shown, strict=True)
            if face is not None
        ]
        shape = lights[0][0].shape
        look = stack.display
        return png.rgba(pixels.false_colour(lights, (shape[0], shape[1]), look.gain, opaque=look.opaque))
    (face,), (shown,) = faces, stack.shown
    assert face is not None  # noqa: S101 - a tile is within its only channel's times (Stack.tile)
    if stack.mode is DrawMode.LABELS:
        return png.indexed(palette.indices(face), palette.COLOURS, clear=True)
    if stack.mode is DrawMode.RGBA:
        return png.rgba(pixels.rgba(face))
    if stack.mode is DrawMode.RED:
        return png.indexed(pixels.grey(face, shown), _REDS, clear=False)
    return png.grey(pixels.grey(face, shown))


def _face(cuboid: Cuboid, voxels: Voxels, slice_: int) -> pixels.Face:
    """The slice as its tile's pixels lie: axes (row, column), one z step stretched or shrunk to its pixels."""
    columns, _, through = cuboid.stack.plane.axes
    face: pixels.Face = voxels.take(
        slice_ - cuboid.box[2 * through], axis=2 - through
    )  # what is left: two of z, y, x in order
    lines = _lines(cuboid)
    if lines is not None:
        face = face[lines]
    return face.T if columns == Z else face


@lru_cache(maxsize=64)
def _lines(cuboid: Cuboid) -> npt.NDArray[np.intp] | None:
    lines = cuboid.slices_by_pixel()
    return None if lines is None else np.array(lines, np.intp)
