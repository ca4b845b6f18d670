"""The ``npz`` of the Open Connectome services: ``zlib.compress`` of a ``.npy``, which is no zip.

Written by ``np.save`` of any numpy since 2012 (format: numpy.lib.format, version 1.0). It is not read with ``np.load``,
which allocates whatever shape the header claims and knows pickles: the header is matched against the one shape and
type that were asked for, and inflating stops at their size.
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
_LONGEST_HEADER = 1024
_HEADER = re.compile(
    rb"\{'descr': '([|<>=][a-z]\d{1,2})', 'fortran_order': (True|False), 'shape': \(([0-9L, ]*)\),? ?\}\s*"
)
"""Python 2 wrote ``2L``; the padding is spaces up to any multiple, then a line end."""


def longest(nbytes: int) -> int:
    """Bytes that the npz of so many bytes of voxels can have at most: deflate may add 5 for each stored block."""
    return nbytes + nbytes // 1000 + _LONGEST_HEADER + 4096


def decode(body: bytes, dtype: str, shape: tuple[int, ...]) -> Voxels:
    """The array of this type (a numpy name) and shape, whose last three axes are (z, y, x) and whose first are 1.

    The array is read-only, with axes (z, y, x).

    :raises UpstreamBroken: when it is anything else.
    """
    expected = np.dtype(dtype).newbyteorder("<")
    nbytes = expected.itemsize * int(np.prod(shape, dtype=np.int64))
    limit = nbytes + _LONGEST_HEADER
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(body, limit + 1)
    except (zlib.error, ValueError, EOFError) as error:
        raise UpstreamBroken(f"no zlib stream: {error}") from None
    if len(data) > limit:
        raise UpstreamBroken(f"it inflates to more than the {nbytes} bytes that were asked for")
    if not inflater.eof or inflater.unused_data:
        raise UpstreamBroken("the zlib stream is cut short or has something behind it")
    if not data.startswith(_MAGIC) or len(data) < 10:
        raise UpstreamBroken("no array in the format of numpy 1.0")
    (length,) = struct.unpack_from("<H", data, 8)
    header = _HEADER.fullmatch(data, 10, 10 + length) if length <= _LONGEST_HEADER - 10 else None
    if header is None:
        raise UpstreamBroken("the header of the array says something else than a type and a shape")
    descr, order, said = header[1].decode(), header[2], _numbers(header[3])
    if descr != expected.str or order != b"False" or said != shape:
        raise UpstreamBroken(f"expected an array {expected.str} {shape}, not {descr} {said}")
    if len(data) - 10 - length != nbytes:
        raise UpstreamBroken(f"expected {nbytes} bytes of voxels, not {len(data) - 10 - length}")
    inner: Triple = (shape[-3], shape[-2], shape[-1])
    return np.frombuffer(data, expected, offset=10 + length).reshape(inner)


def _numbers(text: bytes) -> tuple[int, ...] | None:
    items = [item.strip().removesuffix(b"L") for item in text.split(b",")]
    if items and not items[-1]:
        items.pop()
    if not all(item.isdigit() and len(item) < 12 for item in items):
        return None
    return tuple(int(item) for item in items)
