"""Encoded pictures of tiles: PNG of ours, and ready-made PNG and JPEG of other tile servers.

The bytes alone show what a picture is, so nothing else has to be stored.
"""

from __future__ import annotations

from hashlib import blake2b
from io import BytesIO

from PIL import Image

from ocpproxy.imagery import png
from ocpproxy.model.dataset import TILE

JPEG_SIGNATURE = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_SMALLEST_JPEG = 100
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


def is_tile(picture: bytes) -> bool:
    """Return whether a picture of another tile server can be stored and served unchanged.

    It must be an undamaged JPEG or PNG of 512 x 512 pixels and 8 bits. The pixels of a PNG must be its last chunk, for
    their checksum is its fingerprint.
    """
    if not is_whole(picture):
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
    at, last, held = 8, b"", 0
    while at + 12 <= len(picture):
        length, name = int.from_bytes(picture[at : at + 4]), picture[at + 4 : at + 8]
        if name == b"IEND":
            return last == b"IDAT" and held >= _LAST and at + _IEND == len(picture)
        last, held, at = name, length, at + 12 + length
    return False
