"""Pictures made of tiles: other contrast and colour, and overviews. None of them is stored."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from io import BytesIO

import numpy as np
from PIL import Image

from ocpproxy.imagery import png
from ocpproxy.imagery.png import Pixels
from ocpproxy.model.address import Adjustment
from ocpproxy.model.dataset import TILE, CannotDisplay
from ocpproxy.model.display import DrawMode, ShownChannel
from ocpproxy.model.stack import Stack

OVERVIEW = 192
"""Pixels along the longer side of an overview: CATMAID draws it unscaled on a canvas of that size."""


def toned(picture: bytes, stack: Stack, tone: Adjustment) -> bytes:
    """A grey tile with another contrast, gamma or colour.

    `Adjustment.low` and `Adjustment.high` are in the channel's own values, whatever its window. A grey pixel v becomes
    ``floor(255 * ((v - low) / (high - low)) ** gamma)``, clipped, and a colour takes its share of that.

    :raises CannotDisplay: when the stack is not grey.
    """
    if stack.mode is not DrawMode.GREY:
        raise CannotDisplay(f"{stack.dataset.token} in {stack.mode.value} has no contrast to be changed, only grey has")
    (shown,) = stack.shown
    curve = _curve(_in_grey(tone.low, 0, shown), _in_grey(tone.high, 255, shown), tone.gamma)
    image = Image.open(BytesIO(picture))
    pixels = np.asarray(image if image.mode == "L" else image.convert("L"))  # what came ready-made may be in colour
    if tone.colour == (255, 255, 255):
        return png.grey(curve[pixels])
    colours = np.floor_divide(curve[:, None].astype(np.uint16) * np.array(tone.colour, np.uint16), 255)
    return png.indexed(pixels, colours.astype(np.uint8).tobytes(), clear=False)


def _in_grey(value: float | None, otherwise: float, shown: ShownChannel) -> Fraction:
    """Where a value of the channel lies among its grey pixels."""
    if value is None:
        return Fraction(otherwise)
    exact = Fraction(value)
    if shown.window is not None:
        low, high = shown.window
        return (exact - low) * 255 / (high - low)
    if shown.channel.dtype == "float32":
        return exact * 256
    return exact / Fraction(256 ** (shown.channel.itemsize - 1))


def _curve(low: Fraction, high: Fraction, gamma: float) -> Pixels:
    """The new grey of each old one."""
    if high <= low:
        raise CannotDisplay("expected min below max")
    shares = [min(max((v - low) / (high - low), Fraction(0)), Fraction(1)) for v in range(256)]
    if gamma == 1:
        return np.array([int(255 * share) for share in shares], np.uint8)
    return np.array([int(255 * float(share) ** gamma) for share in shares], np.uint8)


def overview(pictures: Mapping[tuple[int, int], bytes], extent: tuple[int, int], stack: Stack) -> bytes:
    """A small PNG of a whole slice, its longer side `OVERVIEW` pixels.

    :param pictures: the tiles of one level by (row, column); what is not there is blank.
    :param extent: columns and rows of that level in pixels.
    """
    smooth = stack.mode is DrawMode.GREY
    size = _small(extent)
    whole = Image.new("L" if smooth else "RGBA", extent)
    for (row, col), picture in pictures.items():
        part = Image.open(BytesIO(picture)).convert(whole.mode)
        whole.paste(part, (col * TILE, row * TILE))
    small = whole.resize(size, Image.Resampling.BOX if smooth else Image.Resampling.NEAREST)
    out = BytesIO()
    small.save(out, "PNG")
    return out.getvalue()


def _small(extent: tuple[int, int]) -> tuple[int, int]:
    longest = max(extent)
    width, height = (max(1, round(side * OVERVIEW / longest)) for side in extent)
    return width, height
