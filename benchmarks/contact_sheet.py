"""One picture of every kind of pixels, as viewers get them, on a checkerboard that shows what is transparent.

    python -m benchmarks.contact_sheet OUT.jpg [EM.npz [ANNOTATIONS.npz [FLUORESCENCE.npz]]]

The volumes are those of ``benchmarks/rendering.py``. The sheet in ``docs/`` is made of the built-in tissue.
"""

from __future__ import annotations

import sys
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.rendering import rendered, volumes
from ocpproxy.imagery import contrast, png
from ocpproxy.model.address import Adjustment
from ocpproxy.model.dataset import Channel, Dataset, Level, Plane
from ocpproxy.model.display import DEFAULT_DISPLAY, DrawMode, ShownChannel
from ocpproxy.model.stack import Stack

SIDE, COLUMNS = 176, 5


def on_board(picture: bytes) -> Image.Image:
    """The middle of a tile on a checkerboard."""
    tile = Image.open(BytesIO(picture)).convert("RGBA").crop((0, 0, 2 * SIDE, 2 * SIDE)).resize((SIDE, SIDE))
    place = np.indices((SIDE, SIDE)) // 11
    board = np.where(place.sum(0) % 2, 255, 205).astype(np.uint8)
    under = Image.fromarray(board).convert("RGBA")
    under.alpha_composite(tile)
    return under.convert("RGB")


def toned(picture: bytes, tone: Adjustment) -> bytes:
    """A grey tile in another tone."""
    channel = Channel("c", "image", "uint8")
    dataset = Dataset("t", {0: Level((1, 1, 1), (0, 0, 0), (1, 1, 1))}, (channel,))
    stack = Stack(dataset, Plane.XY, (ShownChannel(channel, None),), DrawMode.GREY, DEFAULT_DISPLAY)
    return contrast.adjusted(picture, stack, tone)


def main() -> None:
    """Render, label, save."""
    em, ids, wide = volumes(sys.argv[2:])
    grey, colour = ("image", "uint8", em), ("image", "uint16", wide)
    sure = ("probability", "float32", em / np.float32(255))
    labels, mask = ("annotation", "uint32", ids.astype(np.uint32) * 7), ("bitmask", "uint8", ids)
    window = ((None, (300, 30000)),)
    rgb = (
        (em.astype(np.uint32) << 8) + wide.astype(np.uint32) // 256 + np.where(em > 90, 255 << 24, 0).astype(np.uint32)
    )
    wide_rgb = np.zeros(em.shape, np.uint64)
    for n, part in enumerate((em, wide >> 8, 255 - em, np.full_like(em, 255))):
        wide_rgb |= part.astype(np.uint64) << np.uint64(16 * n + 8)
    cells = {
        "uint8, xy": rendered([grey])(5),
        "uint8, xz": rendered([grey], Plane.XZ)(5),
        "uint8, zy": rendered([grey], Plane.ZY)(5),
        "uint16, high byte": rendered([colour])(5),
        "uint16, window": rendered([colour], windows=window)(5),
        "float32": rendered([sure])(5),
        "float32, red": rendered([sure], red=True)(5),
        "bitmask": rendered([mask])(5),
        "annotation": rendered([labels])(5),
        "annotation, zy": rendered([labels], Plane.ZY)(5),
        "RGBA, uint32": rendered([("rgba", "uint32", rgb)])(5),
        "RGBA, uint64": rendered([("rgba", "uint64", wide_rgb)])(5),
        "C + M": rendered([grey, colour], windows=(("c1", (300, 30000)),))(5),
        "C + M + Y": rendered([mask, colour, sure], windows=(("c1", (300, 30000)),))(5),
        "C + M, gain 4": rendered([mask, colour], windows=(("c1", (300, 30000)),), gain=4)(5),
        "C + M, opaque": rendered([mask, colour], windows=(("c1", (300, 30000)),), opaque=True)(5),
        "type 9: min, max": toned(rendered([grey])(5), Adjustment(90, 180)),
        "type 9: gamma 2": toned(rendered([grey])(5), Adjustment(gamma=2)),
        "type 9: cyan": toned(rendered([grey])(5), Adjustment(60, 200, 1, (0, 255, 255))),
        "outside an overlay": png.blank(clear=True),
    }
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + 6), rows * (SIDE + 20)), "white")
    pen = ImageDraw.Draw(sheet)
    for n, (label, picture) in enumerate(cells.items()):
        x, y = n % COLUMNS * (SIDE + 6), n // COLUMNS * (SIDE + 20)
        sheet.paste(on_board(picture), (x + 3, y + 16))
        pen.text((x + 4, y + 2), label, fill="black")
    sheet.save(sys.argv[1], quality=80, optimize=True)


if __name__ == "__main__":
    main()
