"""A grey tile with other contrast, gamma or colour, as CATMAID's tile source type 9 asks for it."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO

import numpy as np
from PIL import Image

from ocpproxy.imagery import png
from ocpproxy.imagery.png import Pixels
from ocpproxy.model.address import Adjustment
from ocpproxy.model.dataset import CannotDisplay
from ocpproxy.model.display import DrawMode, ShownChannel
from ocpproxy.model.stack import Stack

_WHITE = (255, 255, 255)


def adjusted(picture: bytes, stack: Stack, adjustment: Adjustment) -> bytes:
    """Return the picture of a tile with other contrast and colour, as PNG.

    `Adjustment.low` and `Adjustment.high` are in the channel's own values, whatever its window. A grey pixel v becomes
    ``floor(255 * ((v - low) / (high - low)) ** gamma)``, clipped, and a colour takes its share of that.

    :raises CannotDisplay: when the stack is not grey.
    """
    if stack.mode is not DrawMode.GREY:
        token, mode = stack.dataset.token, stack.mode.value
        raise CannotDisplay(f"{token} in {mode} has no contrast to be changed, only grey has")
    (shown,) = stack.shown
    low, high = _to_grey(adjustment.low, 0, shown), _to_grey(adjustment.high, 255, shown)
    curve = _curve(low, high, adjustment.gamma)
    image = Image.open(BytesIO(picture))
    pixels = np.asarray(image if image.mode == "L" else image.convert("L"))  # ready-made tiles may be in colour
    if adjustment.colour == _WHITE:
        return png.grey(curve[pixels])
    colours = np.floor_divide(curve[:, None].astype(np.uint16) * np.array(adjustment.colour, np.uint16), 255)
    return png.indexed(pixels, colours.astype(np.uint8).tobytes(), clear=False)


def _to_grey(value: float | None, default: int, shown: ShownChannel) -> Fraction:
    """Return the grey pixel, not rounded, that shows a value of the channel."""
    if value is None:
        return Fraction(default)
    exact = Fraction(value)
    if shown.window is not None:
        low, high = shown.window
        return (exact - low) * 255 / (high - low)
    return exact * shown.channel.voxel_type.grey_factor


def _curve(low: Fraction, high: Fraction, gamma: float) -> Pixels:
    """Return the new grey of each old one, an array of 256."""
    if high <= low:
        raise CannotDisplay("expected min below max")
    shares = [min(max((v - low) / (high - low), Fraction(0)), Fraction(1)) for v in range(256)]
    if gamma == 1:
        return np.array([int(255 * share) for share in shares], np.uint8)
    return np.array([int(255 * float(share) ** gamma) for share in shares], np.uint8)
