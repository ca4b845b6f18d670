"""Encoded pictures of tiles: PNG of ours, and ready-made PNG and JPEG of other tile servers.

The bytes alone show what a picture is, so nothing else has to be stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from io import BytesIO
from itertools import islice

from PIL import Image

from ocpproxy.imagery import png
from ocpproxy.model.dataset import TILE

JPEG_SIGNATURE = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_SMALLEST_JPEG = 100
_SCAN = b"\xff\xda"
_MOST_SCANS = 32
"""Scans of a JPEG. Encoders make at most a dozen, and each costs as much as decoding the whole picture."""
_MOST_CHUNKS = 10_000
"""Chunks of a PNG."""
_MODES = {"L", "LA", "P", "RGB", "RGBA"}
_LAST = 64
"""The least bytes of the last IDAT chunk of a PNG. Its last eight bytes are part of the fingerprint."""
_IEND = 12
"""Bytes of the chunk IEND."""


def content_type(picture: bytes | memoryview) -> bytes:
    """Return the value of ``Content-Type``."""
    return b"image/jpeg" if picture[:1] == JPEG_SIGNATURE[:1] else b"image/png"


def is_whole(picture: bytes | memoryview) -> bool:
    """Return whether the bytes begin and end as a tile's picture does. Those of a torn or foreign file do not."""
    if picture[:3] == JPEG_SIGNATURE:
        return len(picture) >= _SMALLEST_JPEG and picture[-2:] == _JPEG_END
    return png.is_whole(picture)


def is_uniform(picture: bytes) -> bool:
    """Return True if all pixels of a tile are known to be the same."""
    return picture[:3] != JPEG_SIGNATURE and png.is_uniform(picture)


def fingerprint(picture: bytes | memoryview) -> str:
    """Return a name for the content: from the checksums in a PNG, or the hash of a JPEG, which has no checksums."""
    if picture[:3] == JPEG_SIGNATURE:
        return blake2b(picture, digest_size=16).hexdigest()
    return png.fingerprint(picture)


def is_bounded(picture: bytes) -> bool:
    """Return whether it takes no longer to decode a JPEG or PNG than its pixels need: the scans and chunks are few."""
    if picture[:3] == JPEG_SIGNATURE:
        return picture.count(_SCAN) <= _MOST_SCANS  # within compressed data this pair of bytes does not occur
    return (
        picture.count(b"IDAT") <= _MOST_CHUNKS
        and sum(1 for _ in islice(_chunks(picture), _MOST_CHUNKS + 1)) <= _MOST_CHUNKS
    )


def is_tile(picture: bytes) -> bool:
    """Return whether a picture of another tile server can be stored and served unchanged.

    It must be an undamaged JPEG or PNG of 512 x 512 pixels and 8 bits. The pixels of a PNG must be its last chunk, for
    their checksum is its fingerprint.
    """
    if not is_whole(picture) or not is_bounded(picture):
        return False
    try:
        with Image.open(BytesIO(picture), formats=("JPEG", "PNG")) as image:
            if image.size != (TILE, TILE) or image.mode not in _MODES:
                return False
            image.load()
    except Exception:  # whatever a decoder makes of a damaged file
        return False
    return picture[:3] == JPEG_SIGNATURE or _pixels_are_last(picture)


def _pixels_are_last(picture: bytes) -> bool:
    last, held = b"", 0
    for name, at, length in _chunks(picture):
        if name == b"IEND":
            return last == b"IDAT" and held >= _LAST and at + _IEND == len(picture)
        last, held = name, length
    return False


def _chunks(picture: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, the place and the length of each chunk of a PNG."""
    at = 8
    while at + 12 <= len(picture):
        length = int.from_bytes(picture[at : at + 4])
        yield picture[at + 4 : at + 8], at, length
        at += 12 + length
