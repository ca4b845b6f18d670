"""A synthetic tissue: 16,384 x 16,384 x 1,024 voxels of cells, computed on request.

It needs no network and no disk, so that a fresh installation shows something. Each voxel is a function of its
coordinates alone, so cuboids meet without a seam, levels agree, and everybody sees the same volume.

Cells are the regions of a jittered lattice of points (Worley 1996, *A cellular texture basis function*): with F1 and F2
the distances to the nearest and second nearest point, F2 - F1 is small along a border, which is drawn as a dark
membrane. A second, finer lattice gives mitochondria and a third vesicles; hashed noise gives grain. Distances vary
slowly, so they are computed on every other voxel (every eighth slice) and interpolated.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.config import UpstreamSettings
from ocpproxy.model.dataset import Box, Channel, Cutout, Dataset, Level
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import VoxelsOnly
from ocpproxy.upstream.kind import Kind, UpstreamContext

TOKEN = "demo"  # noqa: S105 - the name of a volume
SIZE = (16384, 16384, 1024)
LEVELS = 6
_ANISOTROPY = 8
"""The thickness of a slice, in widths of a voxel of level 0."""
_STEP_XY, _STEP_Z = 2, 8
"""Voxels between those on which distances are computed."""

Field = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class DemoTissue(VoxelsOnly):
    """The built-in volume, under every token it is configured for."""

    origin = "demo 1"

    def __init__(self, run_in_thread: RunInThread) -> None:
        self._in_thread = run_in_thread

    async def describe(self, token: str) -> str:
        """Return a constant: the volume is described in this module."""
        return self.origin

    def dataset(self, token: str, description: str) -> Dataset:
        """Return a dataset; see `Upstream.dataset`."""
        x, y, z = SIZE
        levels = {
            n: Level(
                (x >> n, y >> n, z),
                (0, 0, 0),
                (64, 64, 16),
                (Fraction(1 << n), Fraction(1 << n), Fraction(_ANISOTROPY)),
            )
            for n in range(LEVELS)
        }
        return Dataset(token, levels, (Channel("image", "image", "uint8"),), "image")

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Return voxels; see `Upstream.cutout`."""
        voxels: Voxels = await self._in_thread(tissue, cutout.box, cutout.level)
        return voxels


def tissue(box: Box, level: int) -> npt.NDArray[np.uint8]:
    """Return the voxels of a box of a level, axes (z, y, x)."""
    picture = np.empty(box.shape, np.uint8)
    below = above = None
    for z in range(box.z0, box.z1):
        base = z // _STEP_Z * _STEP_Z
        if below is None or z == base:
            below = above if above is not None else _fields(box, level, base)
            above = _fields(box, level, base + _STEP_Z)
        assert above is not None  # noqa: S101 - for mypy
        share = np.float32((z - base) / _STEP_Z)
        border, organelle, vesicle = (low + (high - low) * share for low, high in zip(below, above, strict=True))
        picture[z - box.z0] = _paint(border, organelle, vesicle, _grain(box, level, z))
    return picture


def _fields(box: Box, level: int, z: int) -> tuple[Field, Field, Field]:
    """Return the distances from each pixel of slice `z` of the box, axes (y, x), in voxels of level 0.

    They are F2 - F1 of the lattice of cells (distance to a border), and F1 of mitochondria and of vesicles.
    """
    step = _STEP_XY << level
    x0, y0 = box.x0 // _STEP_XY, box.y0 // _STEP_XY
    x = np.arange(x0, -(-box.x1 // _STEP_XY) + 1, dtype=np.float32) * step
    y = np.arange(y0, -(-box.y1 // _STEP_XY) + 1, dtype=np.float32) * step
    depth = np.float32(z * _ANISOTROPY)
    # A slow ripple bends the borders of the lattice's cells, which are straight.
    bent_x = x[None, :] + 22 * np.sin(y / 97 + depth / 211)[:, None]
    bent_y = y[:, None] + 22 * np.sin(x / 89 + depth / 173)[None, :]
    nearest, second = _worley(bent_x, bent_y, depth, 210, 1)
    inner, _ = _worley(bent_x, bent_y, depth, 130, 2)
    dots, _ = _worley(bent_x, bent_y, depth, 46, 3)
    coarse = (second - nearest, inner, dots)
    fine = (_widen(field, box.x0 - x0 * _STEP_XY, box.y0 - y0 * _STEP_XY, box) for field in coarse)
    border, organelle, vesicle = fine
    return border, organelle, vesicle


def _widen(coarse: Field, left: int, top: int, box: Box) -> Field:
    """Return a field of every other pixel interpolated to the pixels of the box.

    :param left: columns of the interpolated field that lie before the box.
    :param top: rows that do.
    """
    rows = np.empty((coarse.shape[0] * 2 - 1, coarse.shape[1]), np.float32)
    rows[::2] = coarse
    rows[1::2] = (coarse[:-1] + coarse[1:]) / 2
    fine = np.empty((rows.shape[0], rows.shape[1] * 2 - 1), np.float32)
    fine[:, ::2] = rows
    fine[:, 1::2] = (rows[:, :-1] + rows[:, 1:]) / 2
    _, height, width = box.shape
    return fine[top : top + height, left : left + width]


def _worley(x: Field, y: Field, z: np.float32, cell: int, seed: int) -> tuple[Field, Field]:
    """Return F1 and F2 at the points (x, y, z) for the lattice with cells of this width."""
    shape = np.broadcast_shapes(x.shape, y.shape)
    nearest = np.full(shape, np.float32(1e9))
    second = nearest.copy()
    column, row = np.floor(x / cell).astype(np.int64), np.floor(y / cell).astype(np.int64)
    layer = int(z // cell)
    # The points of all lattice cells near the box, computed once: a look-up for each pixel is cheaper than a hash.
    first_row, first_column = int(row.min()) - 1, int(column.min()) - 1
    rows, columns = int(row.max()) - first_row + 2, int(column.max()) - first_column + 2
    points = [_points(layer + dz, first_row, first_column, rows, columns, cell, seed) for dz in (-1, 0, 1)]
    for px, py, pz in points:
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                at = (row - first_row + dy, column - first_column + dx)
                squared = (px[at] - x) ** 2 + (py[at] - y) ** 2 + (pz[at] - z) ** 2
                np.minimum(second, np.maximum(nearest, squared), out=second)
                np.minimum(nearest, squared, out=nearest)
    return np.sqrt(nearest), np.sqrt(second)


def _points(
    layer: int, row: int, column: int, rows: int, columns: int, cell: int, seed: int
) -> tuple[Field, Field, Field]:
    """Return the coordinates x, y, z of the points of one layer of lattice cells, each an array (row, column)."""
    r, c = np.mgrid[row : row + rows, column : column + columns]
    jitter = [_hash(c, r, layer, seed * 8 + axis) for axis in range(3)]
    x, y, z = (
        ((index + part) * cell).astype(np.float32) for index, part in zip((c, r, np.int64(layer)), jitter, strict=True)
    )
    return x, y, z


def _hash(x: Integers, y: Integers, z: int, seed: int) -> npt.NDArray[np.float64]:
    """Return a number from 0 to 1 for each lattice cell: an avalanche of 32-bit products (after Wang and Jenkins)."""
    mixed = (
        x.astype(np.uint32) * np.uint32(0x9E3779B1)
        ^ y.astype(np.uint32) * np.uint32(0x85EBCA77)
        ^ np.uint32((z * 0xC2B2AE3D + seed * 0x27D4EB2F) & 0xFFFFFFFF)
    )
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
        mixed = (mixed ^ mixed >> np.uint32(shift)) * np.uint32(factor)
    mixed ^= mixed >> np.uint32(15)
    return mixed / np.float64(2**32)


def _grain(box: Box, level: int, z: int) -> Field:
    """Return the noise of film and detector on a slice, from -1 to 1, axes (y, x)."""
    x = np.arange(box.x0, box.x1, dtype=np.int64)[None, :] << level
    y = np.arange(box.y0, box.y1, dtype=np.int64)[:, None] << level
    return (_hash(x, y, z, 99) * 2 - 1).astype(np.float32)


def _paint(border: Field, organelle: Field, vesicle: Field, grain: Field) -> npt.NDArray[np.uint8]:
    """Return the pixels of a slice, axes (y, x)."""
    cytoplasm = np.float32(172)
    grey = cytoplasm + 16 * np.cos(organelle / 23)
    inside = border > 16
    # Mitochondria: dark, with a darker rim and cristae; a vesicle: a bright dot with a dark rim.
    grey = np.where(inside & (organelle < 34), 104 + 26 * np.sin(organelle * 0.9 + border / 5), grey)
    grey = np.where(inside & (np.abs(organelle - 34) < 3.5), 62, grey)
    grey = np.where(inside & (vesicle < 7), 196, grey)
    grey = np.where(inside & (np.abs(vesicle - 8.5) < 2), 96, grey)
    grey = grey - 130 * np.exp(-((border / 7) ** 2))
    pixels: npt.NDArray[np.uint8] = np.clip(grey + 20 * grain, 0, 255).astype(np.uint8)
    return pixels


def _build(settings: UpstreamSettings, context: UpstreamContext) -> DemoTissue:
    return DemoTissue(context.run_in_thread)


KIND = Kind(name="demo", schemes=(), has_address=False, fixed_tokens=(TOKEN,), build=_build)
