"""blosc containers.

The header is checked before anything is allocated: 16 bytes, little endian (c-blosc, README_HEADER.rst)::

    0 version   1 version of the codec   2 flags   3 typesize   4-7 nbytes   8-11 blocksize   12-15 cbytes

blosc has no checksum, so these lengths, and what is inside, are all that tells a damaged body from a sound one.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

from ocpproxy.upstream.base import UpstreamBroken

_HEADER = struct.Struct("<BBBBIII")
_VERSION = 2


def longest(nbytes: int) -> int:
    """Bytes that a container of so many can have at most: blosc stores what it cannot shrink."""
    return nbytes + _HEADER.size


def opened(body: bytes, least: int, most: int) -> bytes:
    """What is in a container, which must have so many bytes.

    :raises UpstreamBroken: when it is anything else.
    """
    if len(body) < _HEADER.size:
        raise UpstreamBroken("no blosc container: it is shorter than the header of one")
    version, _, _, _, inflated, _, length = _HEADER.unpack_from(body)
    if version != _VERSION or length != len(body):
        raise UpstreamBroken(f"no blosc container of {len(body)} bytes: it says version {version}, {length} bytes")
    if not least <= inflated <= most:
        raise UpstreamBroken(f"expected {least} to {most} bytes in the container, not {inflated}")
    try:
        payload: bytes = _blosc().decompress(body)
    except Exception as error:  # the library's own error, whose class has moved between its versions
        raise UpstreamBroken(f"the blosc container is damaged: {error}") from None
    if len(payload) != inflated:
        raise UpstreamBroken("the blosc container is damaged")
    return payload


@cache
def _blosc() -> Any:
    """The library, which is looked for when it is first needed, and lets other threads run meanwhile."""
    import blosc

    blosc.set_releasegil(True)
    return blosc
