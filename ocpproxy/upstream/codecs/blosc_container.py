"""blosc containers.

The header is checked before anything is allocated. It has 16 bytes, little endian (c-blosc, README_HEADER.rst)::

    0 version   1 version of the codec   2 flags   3 typesize   4-7 nbytes   8-11 blocksize   12-15 cbytes

The library writes exactly `nbytes` bytes, or fails. blosc has no checksum: a damaged container is recognised by the
lengths in its header, and by what the caller finds in it.

Decompression is by ``blosc``. ``numcodecs`` has the same c-blosc in it, and gains nothing here: the same speed, GIL
released by both, 36 MB installed instead of 1.3 MB.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

from ocpproxy.upstream.base import UpstreamBroken

_HEADER = struct.Struct("<BBBBIII")
_VERSION = 2


def max_encoded_size(nbytes: int) -> int:
    """Return the largest size in bytes of a container with `nbytes` in it: blosc stores what it cannot compress."""
    return nbytes + _HEADER.size


def decompress(body: bytes, min_size: int, max_size: int) -> bytes:
    """Return the bytes in a container.

    :param min_size: the least number of bytes that must be in it.
    :param max_size: the largest number of bytes that may be in it.
    :raises UpstreamBroken: the body is damaged, or is not such a container.
    """
    if len(body) < _HEADER.size:
        raise UpstreamBroken(f"expected a blosc container, not {len(body)} bytes: its header alone has {_HEADER.size}")
    version, _, _, _, nbytes, _, cbytes = _HEADER.unpack_from(body)
    if version != _VERSION or cbytes != len(body):
        expected = f"a blosc container of version {_VERSION} and {len(body)} bytes"
        raise UpstreamBroken(f"expected {expected}, not version {version} and {cbytes} bytes")
    if not min_size <= nbytes <= max_size:
        raise UpstreamBroken(f"expected {min_size} to {max_size} bytes in the blosc container, not {nbytes}")
    try:
        payload: bytes = _blosc().decompress(body)
    except Exception as error:  # the library's own error: its class differs between versions
        raise UpstreamBroken(f"the blosc container is damaged: {error}") from None
    if len(payload) != nbytes:
        raise UpstreamBroken(f"the blosc container is damaged: {len(payload)} bytes in it, not {nbytes}")
    return payload


@cache
def _blosc() -> Any:
    """Import the library at first use, and have it release the GIL."""
    import blosc

    blosc.set_releasegil(True)
    return blosc
