"""Volumes for tests: the real ones when they are there, and one that is made up when they are not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ocpproxy.model.stack import Cuboid, Stack, Tile

V = TypeVar("V", bound=np.generic)
Volume = npt.NDArray[np.uint8]


def shared(*names: str) -> Path | None:
    """Return a file of the real data or fixtures that are kept beside a checkout, if it is there."""
    root = Path(os.environ.get("OCPPROXY_TEST_SHARED", Path(__file__).parents[2] / "shared"))
    path = root.joinpath(*names)
    return path if path.exists() else None


def _real(file: str, name: str) -> npt.NDArray[Any] | None:
    """Return an array of the real data, if it is there."""
    path = shared("data", file)
    if path is None:
        return None
    with np.load(path, allow_pickle=False) as arrays:
        found: npt.NDArray[Any] = arrays[name]
        return found


@cache
def em() -> Volume:
    """Return 20 x 600 x 640 voxels (z, y, x): a real electron micrograph, or smoothed noise of this shape."""
    real = _real("em_vnc_u8_zyx20x600x640.npz", "em")
    if real is not None:
        return real
    noise = np.random.default_rng(7).integers(0, 256, (20, 600, 640), np.uint8)
    smooth: Volume = ((noise.astype(np.uint16) + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)) // 3).astype(np.uint8)
    return smooth


@cache
def mitochondria() -> Volume:
    """Return ids on the same grid, 0 elsewhere: real ones, or boxes."""
    real = _real("em_vnc_annotations_zyx20x600x640.npz", "mitochondria")
    if real is not None:
        return real
    z, y, x = np.ogrid[:20, :600, :640]
    boxes: Volume = np.where((y % 90 < 40) & (x % 70 < 30) & (z % 9 < 6), 1 + y // 90 + x // 70, 0).astype(np.uint8)
    return boxes


@cache
def nuclei() -> npt.NDArray[np.uint16]:
    """Return 24 x 256 x 256 voxels of 16 bits: real fluorescence, or blobs."""
    real = _real("nuclei_u16_zyx24x256x256.npz", "nuclei")
    if real is not None:
        return real
    z, y, x = np.ogrid[:24, :256, :256]
    waves = np.sin(x / 17) * np.sin(y / 23) * np.cos(z / 5)
    blobs: npt.NDArray[np.uint16] = (waves.clip(0, 1) * 65000).astype(np.uint16)
    return blobs


def level(volume: npt.NDArray[V], n: int) -> npt.NDArray[V]:
    """Return level n of a pyramid that halves x and y: every 2**n-th voxel, sizes rounded up."""
    return volume[..., :: 2**n, :: 2**n]


def expected_tile(volume: Volume, n: int, z: int, row: int, col: int) -> Volume:
    """Return the 512 x 512 pixels of a tile by slicing and padding alone; `z` counts from the first slice."""
    part = level(volume, n)[z, row * 512 : row * 512 + 512, col * 512 : col * 512 + 512]
    tile = np.zeros((512, 512), np.uint8)
    tile[: part.shape[0], : part.shape[1]] = part
    return tile


def cuboids(stack: Stack, number: int) -> Iterator[Cuboid]:
    """Yield every cuboid of a level, slab by slab, row by row."""
    level = stack.dataset.levels[number]
    through = stack.plane.axes[2]
    cols, rows = stack.tiles(level)
    for row in range(rows):
        for col in range(cols):
            slice_ = level.offset[through]
            while slice_ < level.end[through]:
                cuboid = stack.cuboid(Tile(stack.name, 0, number, slice_, row, col))
                yield cuboid
                slice_ = cuboid.tiles()[-1].slice + 1
