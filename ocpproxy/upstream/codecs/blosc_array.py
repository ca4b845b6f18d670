"""The ``blosc`` format of the Open Connectome services: ``blosc.pack_array``, a pickled array in a blosc container.

blosc has no checksum. A damaged body is recognised by the shape and the type in the pickle only. The pickle is not
loaded: `ocpproxy.upstream.codecs.pickled` reads the array out of it and executes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ocpproxy.model.dataset import Triple
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamBroken
from ocpproxy.upstream.codecs import blosc_container, pickled

_MAX_OVERHEAD = 4096
"""Bytes that a pickle may have beside its voxels; the writers of 2015 needed about 140."""


def max_encoded_size(nbytes: int) -> int:
    """Return the largest size in bytes of a body with `nbytes` of voxels."""
    return blosc_container.max_encoded_size(nbytes + _MAX_OVERHEAD)


def decode(body: bytes, dtype: str, shape: tuple[int, ...]) -> Voxels:
    """Return the array of the body: read-only, axes (z, y, x), little endian.

    :param dtype: the type that the array must have, a numpy name; either byte order is accepted.
    :param shape: the shape that it must have. The last three axes are (z, y, x), those before them have a length of 1.
    :raises UpstreamBroken: the body is damaged, or is not such an array.
    """
    expected = np.dtype(dtype).newbyteorder("<")
    nbytes = expected.itemsize * int(np.prod(shape, dtype=np.int64))
    payload = blosc_container.decompress(body, nbytes + 1, nbytes + _MAX_OVERHEAD)
    try:
        array = pickled.parse(payload)
    except pickled.NotAnArray as error:
        raise UpstreamBroken(str(error)) from None
    if array.dtype[1:] != expected.str[1:] or array.shape != shape:
        raise UpstreamBroken(f"expected an array {expected.str} {shape}, not {array.dtype} {array.shape}")
    zyx: Triple = (shape[-3], shape[-2], shape[-1])
    order: Any = "F" if array.fortran else "C"
    values = np.frombuffer(array.data, array.dtype).reshape(shape, order=order).reshape(zyx)
    voxels: Voxels = np.ascontiguousarray(values, expected)
    voxels.flags.writeable = False
    return voxels
