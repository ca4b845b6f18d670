"""The ``blosc`` of the Open Connectome services: ``blosc.pack_array``, a pickle of an array in a blosc container.

The shape and type in the pickle are all that tells a damaged body from a sound one. The pickle is read by
`ocpproxy.upstream.codecs.pickled`, which runs nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ocpproxy.model.dataset import Triple
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamBroken
from ocpproxy.upstream.codecs import blosc_container, pickled

_OVERHEAD = 4096
"""Bytes of a pickle beside its voxels, at most; 2015's writers took about 140."""


def longest(nbytes: int) -> int:
    """Bytes that a body with so many bytes of voxels can have at most."""
    return blosc_container.longest(nbytes + _OVERHEAD)


def decode(body: bytes, dtype: str, shape: tuple[int, ...]) -> Voxels:
    """The array of this type (a numpy name) and shape, whose last three axes are (z, y, x) and whose first are 1.

    The array is read-only, with axes (z, y, x).

    :raises UpstreamBroken: when it is anything else.
    """
    expected = np.dtype(dtype).newbyteorder("<")
    nbytes = expected.itemsize * int(np.prod(shape, dtype=np.int64))
    payload = blosc_container.opened(body, nbytes + 1, nbytes + _OVERHEAD)
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
