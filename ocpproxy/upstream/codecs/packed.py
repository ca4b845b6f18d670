"""The ``blosc`` of the Open Connectome services: ``blosc.pack_array``, a pickle of an array in a blosc container.

The container's header is checked before anything is allocated: 16 bytes, little endian (c-blosc, README_HEADER.rst)::

    0 version   1 version of the codec   2 flags   3 typesize   4-7 nbytes   8-11 blocksize   12-15 cbytes

blosc has no checksum, so these lengths, and the shape and type in the pickle, are all that tells a damaged body from
a sound one. The pickle is read by `ocpproxy.upstream.codecs.pickled`, which runs nothing.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import numpy as np

from ocpproxy.geometry import Triple
from ocpproxy.imagery import Voxels
from ocpproxy.upstream import UpstreamBroken
from ocpproxy.upstream.codecs import pickled

_HEADER = struct.Struct("<BBBBIII")
_VERSION = 2
_OVERHEAD = 4096
"""Bytes of a pickle beside its voxels, at most; 2015's writers took about 140."""


def longest(nbytes: int) -> int:
    """Bytes that a body with so many bytes of voxels can have at most: blosc stores what it cannot shrink."""
    return nbytes + _OVERHEAD + _HEADER.size


def decode(body: bytes, dtype: str, shape: tuple[int, ...]) -> Voxels:
    """The array of this type (a numpy name) and shape, whose last three axes are (z, y, x) and whose first are 1.

    The array is read-only, with axes (z, y, x).

    :raises UpstreamBroken: when it is anything else.
    """
    expected = np.dtype(dtype).newbyteorder("<")
    nbytes = expected.itemsize * int(np.prod(shape, dtype=np.int64))
    if len(body) < _HEADER.size:
        raise UpstreamBroken("no blosc container: it is shorter than the header of one")
    version, _, _, _, inflated, _, length = _HEADER.unpack_from(body)
    if version != _VERSION or length != len(body):
        raise UpstreamBroken(f"no blosc container of {len(body)} bytes: it says version {version}, {length} bytes")
    if not nbytes < inflated <= nbytes + _OVERHEAD:
        raise UpstreamBroken(f"expected little more than {nbytes} bytes in the container, not {inflated}")
    try:
        payload = _blosc().decompress(body)
    except Exception as error:  # the library's own error, whose class has moved between its versions
        raise UpstreamBroken(f"the blosc container is damaged: {error}") from None
    if len(payload) != inflated:
        raise UpstreamBroken("the blosc container is damaged")
    try:
        found = pickled.read(payload)
    except pickled.NoArray as error:
        raise UpstreamBroken(str(error)) from None
    if found.dtype[1:] != expected.str[1:] or found.shape != shape:
        raise UpstreamBroken(f"expected an array {expected.str} {shape}, not {found.dtype} {found.shape}")
    inner: Triple = (shape[-3], shape[-2], shape[-1])
    order: Any = "F" if found.fortran else "C"
    array = np.frombuffer(found.data, found.dtype).reshape(shape, order=order).reshape(inner)
    voxels: Voxels = np.ascontiguousarray(array, expected)
    voxels.flags.writeable = False
    return voxels


@cache
def _blosc() -> Any:
    """The library, which is looked for when it is first needed, and lets other threads run meanwhile."""
    import blosc

    blosc.set_releasegil(True)
    return blosc
