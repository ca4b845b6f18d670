"""Rendering of every kind of pixels, one thread: milliseconds a tile, beside what an 8-bit grey tile takes.

    python benchmarks/rendering.py [EM.npz [ANNOTATIONS.npz [FLUORESCENCE.npz]]]

Each file is an ``.npz``: EM with a uint8 array (z, y, x), ANNOTATIONS with ids on the same grid, FLUORESCENCE with a
uint16 array. Without them the built-in tissue serves, and what can be made of it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from ocpproxy.imagery.drawing import draw
from ocpproxy.model.address import ChannelName, Colouring, ImageBase
from ocpproxy.model.dataset import Box, Channel, Dataset, Level, Plane
from ocpproxy.model.display import DisplaySettings
from ocpproxy.model.stack import Stack
from ocpproxy.upstream.demo import tissue

Array = np.ndarray[Any, Any]


def volumes(paths: list[str]) -> tuple[Array, Array, Array]:
    """Electrons, ids and fluorescence, each (16, 512, 512)."""

    def read(path: str, name: str | None, dtype: str) -> Array:
        with np.load(path, allow_pickle=False) as file:
            found: Array = file[name] if name in file.files else next(v for v in file.values() if v.dtype == dtype)
            return found

    z, y, x = np.ogrid[:16, :512, :512]
    em = read(paths[0], "em", "uint8") if paths else tissue(Box(0, 512, 0, 512, 0, 16), 0)
    if len(paths) > 1:
        ids = read(paths[1], "mitochondria", "uint8")
    else:
        ids = np.where(em[:16, :512, :512] < 110, 1 + y // 64 + x // 64 * 8, 0)
    if len(paths) > 2:
        wide = read(paths[2], "nuclei", "uint16")
    else:
        wide = ((np.sin(x / 19) * np.sin(y / 23) * np.cos(z / 9)).clip(0, 1) * 40000).astype(np.uint16)
    wide = np.tile(wide, (1, -(-512 // wide.shape[1]), -(-512 // wide.shape[2])))
    return em[:16, :512, :512], ids[:16, :512, :512], wide[:16, :512, :512]


def rendered(channels: list[tuple[str, str, Array]], plane: Plane = Plane.XY, **look: Any) -> Callable[[int], bytes]:
    """What makes the n-th tile of a stack of channels (kind, type, voxels); colours when there are several."""
    known = tuple(Channel(f"c{n}", kind, dtype) for n, (kind, dtype, _) in enumerate(channels))
    level = Level((512, 512, 16), (0, 0, 0), (512, 512, 16), (Fraction(1), Fraction(1), Fraction(32)))
    names = tuple(ChannelName(channel.name) for channel in known)
    base = ImageBase("t", plane, names, Colouring.NAMED if len(names) > 1 else Colouring.PLAIN)
    stack = Stack.build(Dataset("t", {0: level}, known), base, DisplaySettings(**look))
    first = stack.tile(None, 0, 0, 0, 0)
    assert first is not None
    cuboid = stack.cuboid(first)
    arrays = [np.ascontiguousarray(voxels, dtype) for _, dtype, voxels in channels]
    tiles = cuboid.tiles()[:16]
    return lambda n: draw(cuboid, arrays, tiles[n % len(tiles)])


def main() -> None:
    """Interleave all, and take medians."""
    em, ids, wide = volumes(sys.argv[1:])
    grey, colour = ("image", "uint8", em), ("image", "uint16", wide)
    float_ = ("probability", "float32", em / np.float32(255))
    cases = {
        "uint8 xy": (rendered([grey]), 0.7),
        "uint8 xz, 32 pixels a slice": (rendered([grey], Plane.XZ), None),
        "uint8 zy": (rendered([grey], Plane.ZY), None),
        "uint16, high byte": (rendered([colour]), None),
        "uint16, window": (rendered([colour], windows=((None, (300, 30000)),)), 2.0),
        "float32": (rendered([float_]), None),
        "annotation uint32": (rendered([("annotation", "uint32", ids)]), 5.0),
        "annotation uint64": (rendered([("annotation", "uint64", ids)]), 5.0),
        "RGBA in uint32": (rendered([("rgba", "uint32", em.astype(np.uint32) * 65793 + (255 << 24))]), None),
        "false colour, 3 channels": (rendered([grey, colour, float_]), 8.0),
        "false colour, 6 channels": (rendered([grey, colour, float_] * 2), None),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for name, (render, _) in cases.items():
        Image.open(BytesIO(render(0))).load()
        assert name in times
    for _ in range(12):
        for name, (render, _) in cases.items():
            began = time.perf_counter()
            for n in range(8):
                render(n)
            times[name].append((time.perf_counter() - began) / 8 * 1000)
    reference = median(times["uint8 xy"])
    for name, (render, bound) in cases.items():
        took = median(times[name])
        size = sum(len(render(n)) for n in range(8)) / 8000
        print(
            f"{name:28} {took:6.2f} ms  {took / reference:5.1f} x grey  {size:7.1f} kB"
            + (f"   bound {bound} ms" if bound else "")
        )


if __name__ == "__main__":
    main()
