"""A fast writer of the PNG of a tile.

A tile is always 512 x 512. Where the volume ends before the tile does, the rest is 0: clients of CATMAID's tile
sources fail on truncated tiles. Grey tiles are 8-bit, colour type 0. Tiles of at most 256 colours are indexed (type 3),
which takes a quarter of the bytes, and of the time, of RGBA (type 6).

The writer is ours because a miss waits for it, and it is 20 times faster than the general ones on electron micrographs.
Every row is filtered with PNG's filter 2, *up*, which is one numpy subtraction for the whole image (repeated rows
become zeros), and ISA-L's level 1 deflates it. Both release the GIL. The result is a few percent larger than Pillow's
default.

Format: W3C PNG, third edition, sections 5 (chunks), 9 (filters), 11.2 (IHDR, PLTE) and 11.3.1 (tRNS).
"""

from __future__ import annotations

import struct
import zlib
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ocpproxy.model.dataset import TILE

if TYPE_CHECKING:

    def deflate(data: bytes, level: int, /) -> bytes:
        """Return bytes as a zlib stream (RFC 1950)."""

    def crc32(data: bytes | memoryview, /) -> int:
        """Return the CRC-32 of bytes."""


else:
    try:
        from isal.isal_zlib import compress as deflate
        from isal.isal_zlib import crc32
    except ImportError:  # no wheel for this processor
        from zlib import compress as deflate
        from zlib import crc32

Pixels = npt.NDArray[np.uint8]
"""Pixels, axes (row, column) for grey and indices, (row, column, 4) for red, green, blue and alpha."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2
_DEPTH = 8
_GREY, _INDEXED, _RGBA = 0, 3, 6
_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def _chunk(name: bytes, data: bytes) -> bytes:
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", crc32(body))


def _head(colour_type: int) -> bytes:
    return SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", TILE, TILE, _DEPTH, colour_type, 0, 0, 0))


_HEAD = _head(_GREY)
_LARGEST_UNIFORM = 6000
"""Bytes; ISA-L makes 1,646 of a grey tile of one value and 5,178 of an RGBA one."""
_SMALLEST = len(_HEAD) + 12 + len(_END)


def _body(pixels: Pixels) -> bytes:
    """Return the IDAT chunk of pixels, axes (row, column) or (row, column, sample), at most a whole tile."""
    rows, columns, samples = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    if rows > TILE or columns > TILE:
        raise ValueError(f"expected at most {TILE} x {TILE} pixels, not {columns} x {rows}")
    filtered = np.zeros((TILE, 1 + TILE * samples), np.uint8)
    filtered[:, 0] = _UP
    filtered[:rows, 1 : columns * samples + 1] = pixels.reshape(rows, columns * samples)
    # Row r becomes row r minus row r - 1, modulo 256. The original rows are needed, so subtract a copy.
    above = filtered[: min(rows, TILE - 1), 1:].copy()
    filtered[1 : len(above) + 1, 1:] -= above
    return _chunk(b"IDAT", deflate(filtered.tobytes(), 1))


def grey(pixels: Pixels) -> bytes:
    """Return a tile of grey pixels, axes (row, column). Rows and columns that are missing are 0.

    :raises ValueError: when there are more rows or columns than a tile has.
    """
    return _HEAD + _body(pixels) + _END


def indexed(pixels: Pixels, colours: bytes, *, clear: bool) -> bytes:
    """Return a tile of indices into colours, axes (row, column). Rows and columns that are missing are index 0.

    :param colours: red, green and blue of each index, three bytes.
    :param clear: index 0 is transparent.
    :raises ValueError: as `grey`.
    """
    transparency = _chunk(b"tRNS", b"\0") if clear else b""
    return _head(_INDEXED) + _chunk(b"PLTE", colours) + transparency + _body(pixels) + _END


def rgba(pixels: Pixels) -> bytes:
    """Return a tile of colours, axes (row, column, 4). Rows and columns that are missing are transparent black.

    :raises ValueError: as `grey`.
    """
    return _head(_RGBA) + _body(pixels) + _END


@cache
def blank(*, clear: bool) -> bytes:
    """Return the tile of what lies outside a volume, black or transparent: a grey PNG, which every client reads."""
    nothing = _body(np.zeros((0, 0), np.uint8))
    return _HEAD + (_chunk(b"tRNS", b"\0\0") if clear else b"") + nothing + _END


def is_whole(picture: bytes | memoryview) -> bool:
    """Return whether the bytes begin and end as a PNG tile of ours does. Those of a torn or foreign file do not."""
    return (
        len(picture) >= _SMALLEST
        and picture[:24] == _HEAD[:24]  # signature, IHDR, 512 x 512
        and picture[-len(_END) :] == _END
    )


def is_uniform(picture: bytes) -> bool:
    """Return True if all pixels of a tile are known to be the same. For a PNG of ours the answer is exact."""
    if len(picture) > _LARGEST_UNIFORM:
        return False
    samples = 4 if picture[25] == _RGBA else 1
    body, line = picture[picture.index(b"IDAT") + 4 :], 1 + TILE * samples
    inflater = zlib.decompressobj()
    try:
        first = inflater.decompress(body, line)
        if picture[24] != _DEPTH or first[1:] != first[1 : 1 + samples] * TILE:
            return False
        rest = inflater.decompress(inflater.unconsumed_tail, line * TILE)
    except zlib.error:  # not one of ours, whose pixels may be in several chunks
        return False
    return rest == (bytes((_UP,)) + bytes(line - 1)) * (TILE - 1)


def fingerprint(picture: bytes | memoryview) -> str:
    """Return a name for the content without hashing it: its length, the Adler-32 of its pixels, and its CRC-32.

    The last IDAT chunk ends with the zlib stream's Adler-32 of all filtered pixels and the chunk's own CRC-32, just
    before the 12 bytes of IEND.
    """
    return f"{len(picture):x}-{picture[-20:-12].hex()}"
