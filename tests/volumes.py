"""Volumes for tests: the real ones when they are there, and one that is made up when they are not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ocpproxy.geometry import Cuboid, Stack

Volume = npt.NDArray[np.uint8]


def shared(*names: str) -> Path | None:
    """A file of the real data or fixtures that are kept beside a checkout, when it is there."""
    root = Path(os.environ.get("OCPPROXY_TEST_SHARED", Path(__file__).parents[2] / "shared"))
    path = root.joinpath(*names)
    return path if path.exists() else None


@cache
def em() -> Volume:
    """20 x 600 x 640 voxels (z, y, x): a real electron micrograph, or smoothed noise of the same awkward shape."""
    path = shared("data", "em_vnc_u8_zyx20x600x640.npz")
    if path is not None:
        with np.load(path, allow_pickle=False) as file:
            real: Volume = file["em"]
            return real
    noise = np.random.default_rng(7).integers(0, 256, (20, 600, 640), np.uint8)
    smooth: Volume = ((noise.astype(np.uint16) + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)) // 3).astype(np.uint8)
    return smooth


def level(volume: Volume, n: int) -> Volume:
    """Level n of a pyramid that halves x and y: every 2**n-th voxel, sizes rounded up."""
    return volume[:, :: 2**n, :: 2**n]


def expected_tile(volume: Volume, n: int, z: int, row: int, col: int) -> Volume:
    """The 512 x 512 pixels of a tile, by slicing and padding alone; `z` counts from the volume's first slice."""
    part = level(volume, n)[z, row * 512 : row * 512 + 512, col * 512 : col * 512 + 512]
    tile = np.zeros((512, 512), np.uint8)
    tile[: part.shape[0], : part.shape[1]] = part
    return tile


def cuboids(stack: Stack, level: int) -> Iterator[Cuboid]:
    """Every cuboid of a level, slab by slab, row by row."""
    shape = stack.dataset.levels[level]
    cols, rows = shape.tiles(stack.plane)
    for z in range(shape.offset[2], shape.end[2], stack.depth(shape)):
        for row in range(rows):
            for col in range(cols):
                cuboid = stack.cuboid(None, level, z, row, col)
                assert cuboid is not None
                yield cuboid
