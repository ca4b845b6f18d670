"""Voxels to pixels: one function for each way to draw a channel.

====================  ==================================================================================
uint8                 unchanged, or through the operator's window
uint16, uint32,       its high byte, or through the window
uint64
int8 to int64         the high byte without the sign, 0 below 0; or through the window
float32 (0 to 1)      ``min(255, floor(256 p))``, or through the window; NaN is 0
bitmask               0 or 255
RGBA in uint32        its four bytes, red first
RGBA in uint64        the high byte of each of its four 16-bit parts
annotation            the colour of its id (`palette`)
====================  ==================================================================================

A window [lo, hi] makes ``floor((v - lo) * 255 / (hi - lo))`` of the clipped value v, exactly: it is computed in whole
numbers. For 8 and 16 bits a table of all values is computed once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ocpproxy.imagery.png import Pixels
from ocpproxy.model.dataset import TILE
from ocpproxy.model.display import ShownChannel, Window

SliceVoxels = npt.NDArray[Any]
"""The voxels of one slice, laid out as the tile's pixels: axes (row, column)."""

LIGHT = {"C": "GB", "M": "RB", "Y": "RG", "R": "R", "G": "G", "B": "B"}
"""The components that a colour adds to."""


def grey(voxels: SliceVoxels, shown: ShownChannel) -> Pixels:
    """Return the grey value of each voxel, 0 to 255. False colour uses it as the light of a channel.

    :param voxels: axes (row, column), of the channel's type.
    :returns: uint8, axes (row, column), of the same shape.
    """
    if shown.channel.kind == "bitmask":
        return np.where(voxels != 0, np.uint8(255), np.uint8(0))
    voxel_type = shown.channel.voxel_type
    if shown.window is not None:
        if voxel_type.itemsize > 2 or not voxel_type.is_integer:
            return _windowed(voxels, shown.window)
        looked_up: Pixels = _table(shown.window, voxel_type.name)[voxels]  # below 0 it is indexed from its end
        return looked_up
    if not voxel_type.is_integer:
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.nan_to_num(voxels * voxels.dtype.type(voxel_type.grey_factor), nan=0, posinf=255, neginf=0)
        limited: Pixels = scaled.clip(0, 255).astype(np.uint8)
        return limited
    if voxel_type.is_signed:
        voxels = voxels.clip(0)
        if voxel_type.grey_factor > 1:
            return voxels.astype(np.uint8) * np.uint8(voxel_type.grey_factor)
    shift = voxel_type.grey_factor.denominator.bit_length() - 1
    high: Pixels = (voxels >> np.array(shift, voxels.dtype) if shift else voxels).astype(np.uint8, copy=False)
    return high


@lru_cache(maxsize=64)
def _table(window: Window, dtype: str) -> Pixels:
    """Return the grey of every value of a type through a window: those from 0 on, then those below 0 in order."""
    low, high = window
    values = np.arange(256 ** np.dtype(dtype).itemsize).astype(dtype).astype(np.int64)
    return ((values.clip(low, high) - low) * 255 // (high - low)).astype(np.uint8)


def _windowed(voxels: SliceVoxels, window: Window) -> Pixels:
    """Return the grey of voxels through a window; of fractions, and of whole numbers too many for a table."""
    low, high = window
    if np.issubdtype(voxels.dtype, np.floating):
        wide = np.nan_to_num(voxels.astype(np.float64), nan=low, posinf=high, neginf=low)
        return np.floor((wide.clip(low, high) - low) * 255 / (high - low)).astype(np.uint8)
    if np.issubdtype(voxels.dtype, np.signedinteger):
        shifted = (voxels.astype(np.int64).clip(low, high) - low).astype(np.uint64)
    else:
        top = np.iinfo(voxels.dtype).max
        shifted = voxels.clip(min(max(low, 0), top), min(max(high, 0), top)).astype(np.uint64)
        shifted = shifted - np.uint64(min(low, top)) if low > 0 else shifted + np.uint64(-low)
    return (shifted * np.uint64(255) // np.uint64(high - low)).astype(np.uint8)


def rgba(voxels: SliceVoxels) -> Pixels:
    """Return the colours that the voxels hold: uint8, axes (row, column, 4).

    :param voxels: axes (row, column), uint32 or uint64.
    """
    parts = np.ascontiguousarray(voxels).view(f"<u{voxels.itemsize // 4}").reshape(*voxels.shape, 4)
    return (parts >> 8 if voxels.itemsize == 8 else parts).astype(np.uint8, copy=False)


def false_colour(lights: list[tuple[Pixels, str]], shape: tuple[int, int], gain: float, *, opaque: bool) -> Pixels:
    """Return the sum of channels in colours of their own, cut off at 255: uint8, axes (row, column, 4).

    :param lights: for each channel its grey pixels, axes (row, column), and its colour, a letter of `LIGHT`.
    :param shape: rows and columns of the pixels; the result has the same, or those of a whole tile if it is opaque.
    :param opaque: alpha is 255 everywhere, also outside the volume, not only where there is light.
    """
    if opaque:
        picture = np.zeros((TILE, TILE, 4), np.uint8)
        picture[: shape[0], : shape[1]] = false_colour(lights, shape, gain, opaque=False)
        picture[..., 3] = 255
        return picture
    picture = np.zeros((*shape, 4), np.uint8)
    for index, component in enumerate("RGB"):
        parts = [pixels for pixels, colour in lights if component in LIGHT[colour]]
        if not parts:
            continue
        if len(parts) == 1 and gain == 1:
            picture[..., index] = parts[0]
            continue
        total = np.zeros(shape, np.uint16)
        for part in parts:
            total += part
        if gain != 1:
            picture[..., index] = np.minimum(np.floor(total * gain), 255)
        else:
            picture[..., index] = np.minimum(total, 255)
    lit = picture.view("<u4")[..., 0] != 0
    picture[..., 3] = lit.view(np.uint8) * np.uint8(255)
    return picture
