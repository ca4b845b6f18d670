"""Overviews: a whole slice as one small picture, made from tiles."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

from PIL import Image

from ocpproxy.model.dataset import TILE
from ocpproxy.model.display import DrawMode
from ocpproxy.model.stack import Stack

SIZE = 192
"""Pixels along the longer side: CATMAID draws an overview unscaled on a canvas of that size."""


def overview(pictures: Mapping[tuple[int, int], bytes], extent: tuple[int, int], stack: Stack) -> bytes:
    """Return a small PNG of a whole slice, its longer side `SIZE` pixels.

    :param pictures: the tiles of one level by (row, column); a missing one is blank.
    :param extent: columns and rows of that level in pixels.
    """
    smooth = stack.mode is DrawMode.GREY
    whole = Image.new("L" if smooth else "RGBA", extent)
    for (row, col), picture in pictures.items():
        part = Image.open(BytesIO(picture)).convert(whole.mode)
        whole.paste(part, (col * TILE, row * TILE))
    small = whole.resize(_small(extent), Image.Resampling.BOX if smooth else Image.Resampling.NEAREST)
    out = BytesIO()
    small.save(out, "PNG")
    return out.getvalue()


def _small(extent: tuple[int, int]) -> tuple[int, int]:
    longest = max(extent)
    width, height = (max(1, round(side * SIZE / longest)) for side in extent)
    return width, height
