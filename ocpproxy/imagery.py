"""Voxels to pixels to PNG.

A tile is always 512 x 512; where the volume ends before the tile does, the rest is 0 (clients of CATMAID's tile
sources fail on truncated tiles). Grey tiles are 8-bit PNG of colour type 0.

The writer is ours because it is 20 times faster than the general ones on electron micrographs and the render is what
a miss waits for: every row is filtered with PNG's filter 2, *up*, which is one numpy subtraction for the whole image
(rows that repeat become zeros), and ISA-L's level 1 deflates it. Both let go of the GIL. The result is a few percent
larger than Pillow's default. Format: W3C PNG, third edition, sections 5 (chunks), 9 (filters) and 11.2 (IHDR).
"""

from __future__ import annotations

import struct
import zlib
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ocpproxy.geometry import TILE

if TYPE_CHECKING:

    def _deflate(data: bytes, level: int, /) -> bytes: ...
    def _crc32(data: bytes, /) -> int: ...

else:
    try:
        from isal.isal_zlib import compress as _deflate
        from isal.isal_zlib import crc32 as _crc32
    except ImportError:  # no wheel for this processor
        from zlib import compress as _deflate
        from zlib import crc32 as _crc32

Voxels = npt.NDArray[np.generic]
"""An array of voxels in C order, axes (z, y, x)."""
Grey = npt.NDArray[np.uint8]
"""An array of grey pixels, axes (y, x)."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2
_GREY8 = struct.pack(">IIBBBBB", TILE, TILE, 8, 0, 0, 0, 0)
_HEAD = SIGNATURE + struct.pack(">I", 13) + b"IHDR" + _GREY8 + struct.pack(">I", zlib.crc32(b"IHDR" + _GREY8))
_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
_SMALLEST = len(_HEAD) + 12 + len(_END)


def grey_png(pixels: Grey) -> bytes:
    """A PNG tile of grey pixels, shape (rows, columns) with at most 512 of each; what is missing becomes 0.

    :raises ValueError: when there are more rows or columns than a tile has.
    """
    rows, columns = pixels.shape
    if rows > TILE or columns > TILE:
        raise ValueError(f"expected at most {TILE} x {TILE} pixels, not {columns} x {rows}")
    filtered = np.zeros((TILE, TILE + 1), np.uint8)
    filtered[:, 0] = _UP
    filtered[:rows, 1 : columns + 1] = pixels
    # Row r becomes row r - row (r-1) modulo 256. The rows above the padding are needed, so subtract from a copy.
    above = filtered[: min(rows, TILE - 1), 1:].copy()
    filtered[1 : len(above) + 1, 1:] -= above
    body = b"IDAT" + _deflate(filtered.tobytes(), 1)
    return b"".join(
        (_HEAD, struct.pack(">I", len(body) - 4), body, struct.pack(">I", _crc32(body)), _END),
    )


@cache
def blank_png() -> bytes:
    """The tile of everything outside a volume: black."""
    return grey_png(np.zeros((0, 0), np.uint8))


def is_whole(picture: bytes) -> bool:
    """Whether these bytes begin and end as a PNG tile of ours does: what a torn or foreign file does not."""
    return (
        len(picture) >= _SMALLEST
        and picture.startswith(_HEAD[:24])  # signature, IHDR, 512 x 512
        and picture.endswith(_END)
    )


def fingerprint(picture: bytes) -> str:
    """A name for the picture's content, read off it without hashing: its length, its pixels' Adler-32, its CRC-32.

    The last IDAT chunk ends with the zlib stream's Adler-32 of all filtered pixels and the chunk's own CRC-32, just
    before the 12 bytes of IEND.
    """
    return f"{len(picture):x}-{picture[-20:-12].hex()}"
