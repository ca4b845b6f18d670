"""The ``npz`` format of the Open Connectome services: ``zlib.compress`` of a ``.npy``. It is not a zip file.

Any ``np.save`` since 2012 writes it (numpy.lib.format, version 1.0). ``np.load`` is not safe here: it allocates any
shape that the header claims, and loads pickles. So the header is compared with the one shape and type that were
requested, and decompression stops at their size.
"""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from ocpproxy.model.dataset import Triple
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamBroken

if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):  # no wheel for this processor
        from isal import isal_zlib as zlib

_MAGIC = b"\x93NUMPY\x01\x00"
_PREFIX = len(_MAGIC) + 2
"""Bytes before the header: the magic string and the length of the header."""
_MAX_HEADER = 1024
"""Bytes of the prefix and the header."""
_HEADER = re.compile(
    rb"\{'descr': '([|<>=][a-z]\d{1,2})', 'fortran_order': (True|False), 'shape': \(([0-9L, ]*)\),? ?\}\s*"
)
"""Python 2 wrote ``2L``. The padding is spaces up to any multiple, and the end of a line."""
_MAX_DIGITS = 11


def max_encoded_size(nbytes: int) -> int:
    """Return the largest size in bytes of a body with `nbytes` of voxels: deflate adds 5 for each stored block."""
    return nbytes + nbytes // 1000 + _MAX_HEADER + 4096


def decode(body: bytes, dtype: str, shape: tuple[int, ...]) -> Voxels:
    """Return the array of the body: read-only, axes (z, y, x), little endian.

    :param dtype: the type that the array must have, a numpy name.
    :param shape: the shape that it must have. The last three axes are (z, y, x), those before them have a length of 1.
    :raises UpstreamBroken: the body is damaged, or is not such an array.
    """
    expected = np.dtype(dtype).newbyteorder("<")
    nbytes = expected.itemsize * int(np.prod(shape, dtype=np.int64))
    data = _inflate(body, nbytes + _MAX_HEADER)
    if not data.startswith(_MAGIC) or len(data) < _PREFIX:
        raise UpstreamBroken("expected an array in version 1.0 of numpy's format")
    (length,) = struct.unpack_from("<H", data, len(_MAGIC))
    start = _PREFIX + length
    header = _HEADER.fullmatch(data, _PREFIX, start) if start <= _MAX_HEADER else None
    if header is None:
        raise UpstreamBroken("expected a header with the type and the shape of an array")
    descr, order, header_shape = header[1].decode(), header[2], _parse_shape(header[3])
    if descr != expected.str or order != b"False" or header_shape != shape:
        raise UpstreamBroken(f"expected an array {expected.str} {shape}, not {descr} {header_shape}")
    if len(data) - start != nbytes:
        raise UpstreamBroken(f"expected {nbytes} bytes of voxels, not {len(data) - start}")
    zyx: Triple = (shape[-3], shape[-2], shape[-1])
    return np.frombuffer(data, expected, offset=start).reshape(zyx)


def _inflate(body: bytes, limit: int) -> bytes:
    """Return the content of one zlib stream of at most `limit` bytes.

    This is not `content_encoding.inflate`, because ``isal`` is faster than `zlib`, and there is one stream only.
    """
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(body, limit + 1)
    except (zlib.error, ValueError, EOFError) as error:
        raise UpstreamBroken(f"the zlib stream is damaged: {error}") from None
    if len(data) > limit:
        raise UpstreamBroken(f"expected at most {limit} bytes in the zlib stream, and it has more")
    if not decompressor.eof or decompressor.unused_data:
        raise UpstreamBroken("the zlib stream is cut short, or has something after its end")
    return data


def _parse_shape(text: bytes) -> tuple[int, ...] | None:
    """Return the shape that a header has as text, or None if it has none."""
    sides = [side.strip().removesuffix(b"L") for side in text.split(b",")]
    if sides and not sides[-1]:
        sides.pop()
    if not all(side.isdigit() and len(side) <= _MAX_DIGITS for side in sides):
        return None
    return tuple(int(side) for side in sides)
