"""PNG of electron micrographs: ours beside Pillow's default, in one run. Prints the ratio of their speeds and sizes.

    python benchmarks/png_writer.py [volume.npz]

The volume is an ``.npz`` with a uint8 array (z, y, x); without one the built-in tissue is used.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from io import BytesIO
from statistics import median

import numpy as np
from PIL import Image

from ocpproxy.imagery import png
from ocpproxy.imagery.png import Pixels
from ocpproxy.model.dataset import Box
from ocpproxy.upstream.demo import tissue


def pillow(pixels: Pixels) -> bytes:
    """Pillow, default level."""
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def timed(write: Callable[[Pixels], bytes], tiles: list[Pixels]) -> float:
    """Milliseconds a tile."""
    began = time.perf_counter()
    for tile in tiles:
        write(tile)
    return (time.perf_counter() - began) / len(tiles) * 1000


def main() -> None:
    """Interleave the two, and take medians."""
    if len(sys.argv) > 1:
        with np.load(sys.argv[1], allow_pickle=False) as file:
            volume = next(file[name] for name in file.files if file[name].dtype == np.uint8)
    else:
        volume = tissue(Box(0, 512, 0, 512, 0, 16), 0)
    tiles = [np.ascontiguousarray(part[:512, :512]) for part in volume]
    for tile in tiles:
        for write in (png.grey, pillow):
            np.testing.assert_array_equal(np.array(Image.open(BytesIO(write(tile))))[:512, :512], tile)
    ours, theirs = [], []
    for _ in range(9):
        ours.append(timed(png.grey, tiles))
        theirs.append(timed(pillow, tiles[:4]))
    size = [sum(len(write(tile)) for tile in tiles) / len(tiles) / 1000 for write in (png.grey, pillow)]
    print(f"ours    {median(ours):6.2f} ms a tile  {size[0]:6.1f} kB")
    print(f"Pillow  {median(theirs):6.2f} ms a tile  {size[1]:6.1f} kB")
    print(f"speed ratio {median(theirs) / median(ours):.1f}, size ratio {size[0] / size[1]:.3f}, pixels exact")


if __name__ == "__main__":
    main()
