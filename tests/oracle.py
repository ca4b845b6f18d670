"""What tiles should be, computed plainly, without the gateway: whole planes, voxel by voxel rules, then a cut."""

from __future__ import annotations

import colorsys
from fractions import Fraction
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

ADDS = {"C": (0, 1, 1), "M": (1, 0, 1), "Y": (1, 1, 0), "R": (1, 0, 0), "G": (0, 1, 0), "B": (0, 0, 1)}


def plane(volume: Array, name: str, n: int, scale: Fraction = Fraction(1)) -> Array:
    """Return the whole picture, axes (row, column), of the n-th slice of a volume (z, y, x).

    :param scale: pixels of a z step.
    """
    picture: Array
    if name == "xy":
        picture = volume[n]
        return picture
    depth = volume.shape[0]
    rows = []
    for pixel in range(-(-depth * scale.numerator // scale.denominator)):
        rows.append(min(int((Fraction(pixel) + Fraction(1, 2)) / scale), depth - 1))
    picture = volume[:, n, :] if name == "xz" else volume[:, :, n]
    stretched = np.stack([picture[row] for row in rows])
    return stretched.transpose() if name == "zy" else stretched


def cut(picture: Array, row: int, col: int) -> Array:
    """Return one tile of a whole picture; 0 beyond the picture."""
    part = picture[row * 512 : row * 512 + 512, col * 512 : col * 512 + 512]
    tile = np.zeros((512, 512, *picture.shape[2:]), picture.dtype)
    tile[: part.shape[0], : part.shape[1]] = part
    return tile


def grey(voxels: Array, window: tuple[int, int] | None = None) -> Array:
    """Return the 8-bit grey of a whole array."""
    if window is not None:
        low, high = window
        clipped = np.minimum(np.maximum(voxels.astype(np.int64), low), high) - low
        return np.array(clipped * 255 // (high - low), np.uint8)
    if voxels.dtype == np.uint16:
        return (voxels // 256).astype(np.uint8)
    if voxels.dtype == np.float32:
        wide = np.where(np.isnan(voxels), 0, voxels).astype(np.float64)
        light: Array = np.minimum(255, np.floor(np.maximum(wide, 0) * 256)).astype(np.uint8)
        return light
    return voxels.astype(np.uint8)


def labels(ids: Array) -> Array:
    """Return red, green, blue, alpha of annotation ids."""
    table = np.zeros((218, 4), np.uint8)
    for n in range(217):
        hue = (0.32497 + n * 0.618033988749895) % 1.0
        p0, p1, p2 = (int(256 * part) for part in colorsys.hsv_to_rgb(hue, 0.5, 0.95))
        table[n + 1] = (p2, p1, p0, 255)
    return table[np.where(ids == 0, 0, ids % 217 + 1).astype(np.int64)]


def false_colour(parts: list[tuple[Array, str]], gain: float = 1, opaque: bool = False) -> Array:
    """Return red, green, blue, alpha of grey channels in colours."""
    total = sum(part.astype(np.float64)[..., None] * np.array(ADDS[colour]) for part, colour in parts)
    rgb = np.minimum(255, np.floor(total * gain)).astype(np.uint8)
    alpha = np.where(opaque | (rgb.max(axis=-1) > 0), 255, 0).astype(np.uint8)
    return np.concatenate([rgb, alpha[..., None]], axis=-1)


def rgba(voxels: Array) -> Array:
    """Return red, green, blue, alpha of voxels that are colours."""
    bits = 8 if voxels.dtype == np.uint32 else 16
    parts = [(voxels >> np.array(bits * n + bits - 8, voxels.dtype)) & np.array(255, voxels.dtype) for n in range(4)]
    return np.stack(parts, axis=-1).astype(np.uint8)
