"""Voxels to pixels: one function for each manner in which a channel can be shown.

====================  ==================================================================================
uint8                 as it is, or through the window that the operator has said
uint16, uint32,       its high byte, or through the window
uint64
float32 (0 to 1)      ``min(255, floor(256 p))``, or through the window; no number is 0
bitmask               0 or 255
RGBA in uint32        its four bytes, red first
RGBA in uint64        the high byte of each of its four 16-bit parts
annotation            the colour of its id (`palette`)
====================  ==================================================================================

A window [lo, hi] is ``floor((v - lo) * 255 / (hi - lo))`` of the clipped value, exactly: it is computed in whole
numbers; of 8 and 16 bits once for all values there are, and looked up.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ocpproxy.imagery.png import Pixels
from ocpproxy.model.dataset import TILE
from ocpproxy.model.display import ShownChannel, Window

Face = npt.NDArray[Any]
"""The voxels of one slice, laid out as the tile's pixels: axes (row, column)."""

LIGHT = {"C": "GB", "M": "RB", "Y": "RG", "R": "R", "G": "G", "B": "B"}
"""Which components a colour adds to."""


def grey(face: Face, shown: ShownChannel) -> Pixels:
    """0 to 255 for each voxel of a channel that is shown in grey, or in one colour among others."""
    if shown.channel.kind == "bitmask":
        return np.where(face != 0, np.uint8(255), np.uint8(0))
    if shown.window is not None:
        windowed: Pixels = (
            _lookup(shown.window, 256**face.itemsize)[face] if face.itemsize < 4 else _windowed(face, shown.window)
        )
        return windowed
    if face.dtype.kind == "u" and face.itemsize > 1:
        high: Pixels = (face >> np.array(8 * face.itemsize - 8, face.dtype)).astype(np.uint8)
        return high
    if face.dtype == np.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.nan_to_num(face * np.float32(256), nan=0, posinf=255, neginf=0)
        return scaled.clip(0, 255).astype(np.uint8)
    return face.astype(np.uint8, copy=False)


@lru_cache(maxsize=64)
def _lookup(window: Window, values: int) -> Pixels:
    low, high = window
    clipped = np.arange(values, dtype=np.int64).clip(low, high)
    return ((clipped - low) * 255 // (high - low)).astype(np.uint8)


def _windowed(face: Face, window: Window) -> Pixels:
    low, high = window
    if face.dtype == np.float32:
        wide = np.nan_to_num(face.astype(np.float64), nan=low, posinf=high, neginf=low)
        return np.floor((wide.clip(low, high) - low) * 255 / (high - low)).astype(np.uint8)
    top = np.iinfo(face.dtype).max
    clipped = face.clip(min(low, top), min(high, top)).astype(np.uint64) - np.uint64(min(low, top))
    return (clipped * np.uint64(255) // np.uint64(high - low)).astype(np.uint8)


def rgba(face: Face) -> Pixels:
    """The colours that the voxels are, axes (row, column, 4)."""
    parts = np.ascontiguousarray(face).view(f"<u{face.itemsize // 4}").reshape(*face.shape, 4)
    return (parts >> 8 if face.itemsize == 8 else parts).astype(np.uint8, copy=False)


def false_colour(lights: list[tuple[Pixels, str]], shape: tuple[int, int], gain: float, *, opaque: bool) -> Pixels:
    """Channels in colours of their own, added up; what exceeds 255 is 255. Axes (row, column, 4).

    :param lights: grey pixels of one channel, and its colour, a letter of `LIGHT`.
    :param opaque: alpha is 255 everywhere, beyond the volume too, not only where something is lit.
    """
    if opaque:
        picture = np.zeros((TILE, TILE, 4), np.uint8)
        picture[: shape[0], : shape[1]] = false_colour(lights, shape, gain, opaque=False)
        picture[..., 3] = 255
        return picture
    picture = np.zeros((*shape, 4), np.uint8)
    for place, component in enumerate("RGB"):
        parts = [pixels for pixels, colour in lights if component in LIGHT[colour]]
        if not parts:
            continue
        if len(parts) == 1 and gain == 1:
            picture[..., place] = parts[0]
            continue
        total = np.zeros(shape, np.uint16)
        for part in parts:
            total += part
        if gain != 1:
            picture[..., place] = np.minimum(np.floor(total * gain), 255)
        else:
            picture[..., place] = np.minimum(total, 255)
    lit = picture.view("<u4")[..., 0] != 0
    picture[..., 3] = lit.view(np.uint8) * np.uint8(255)
    return picture
