"""A tile that is made of coarser ones: for viewers, while its own voxels cannot be had."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

from PIL import Image

from ocpproxy.model.dataset import TILE
from ocpproxy.model.display import DrawMode
from ocpproxy.model.stack import Stack

Window = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of a level's plane."""


def upscaled(pictures: Mapping[tuple[int, int], bytes], window: Window, stack: Stack) -> bytes:
    """Return a PNG tile that shows a part of a coarser level; what lies beyond its tiles is blank.

    Grey pixels are interpolated; colours and ids stay what they are.

    :param pictures: tiles of the coarser level by (row, column), at least those that the window touches.
    :param window: the part, no larger than a tile.
    """
    smooth = stack.mode is DrawMode.GREY
    top, left = min(row for row, _ in pictures), min(col for _, col in pictures)
    rows, columns = max(row for row, _ in pictures) - top + 1, max(col for _, col in pictures) - left + 1
    canvas = Image.new("L" if smooth else "RGBA", (columns * TILE, rows * TILE))
    for (row, col), picture in pictures.items():
        part = Image.open(BytesIO(picture)).convert(canvas.mode)
        canvas.paste(part, ((col - left) * TILE, (row - top) * TILE))
    x0, y0, x1, y1 = window
    dx, dy = left * TILE, top * TILE
    place = [max(0.0, x0 - dx), max(0.0, y0 - dy), min(x1 - dx, canvas.width), min(y1 - dy, canvas.height)]
    size = (
        max(1, min(TILE, round(TILE * (place[2] - place[0]) / (x1 - x0)))),
        max(1, min(TILE, round(TILE * (place[3] - place[1]) / (y1 - y0)))),
    )
    resampling = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    small = canvas.resize(size, resampling, box=(place[0], place[1], place[2], place[3]))
    tile = Image.new(canvas.mode, (TILE, TILE))
    tile.paste(small, (round(TILE * (place[0] + dx - x0) / (x1 - x0)), round(TILE * (place[1] + dy - y0) / (y1 - y0))))
    out = BytesIO()
    tile.save(out, "PNG")
    return out.getvalue()
