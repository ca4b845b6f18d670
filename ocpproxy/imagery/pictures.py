"""Pictures of tiles as they are kept and served: PNG of ours, and PNG and JPEG that came ready-made.

What a picture is can be told from its bytes alone, so nothing beside them has to be kept.
"""

from __future__ import annotations

from hashlib import blake2b
from io import BytesIO

from PIL import Image

from ocpproxy.imagery import png
from ocpproxy.model.dataset import TILE

_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_SMALLEST_JPEG = 100
_MODES = {"L", "LA", "P", "RGB", "RGBA"}
_LAST = 64
"""Bytes of the last chunk of pixels, at least: its last eight are the picture's name."""
_IEND = 12
"""Bytes of PNG's last chunk."""


def content_type(picture: bytes | memoryview) -> bytes:
    """What it is to be called."""
    return b"image/jpeg" if picture[:1] == _JPEG[:1] else b"image/png"


def is_whole(picture: bytes | memoryview) -> bool:
    """Whether these bytes begin and end as a tile's picture does: what a torn or foreign file does not."""
    if picture[:3] == _JPEG:
        return len(picture) >= _SMALLEST_JPEG and picture[-2:] == _JPEG_END
    return png.is_whole(picture)


def is_uniform(picture: bytes) -> bool:
    """Whether it is certain that all pixels of a tile are the same."""
    return picture[:3] != _JPEG and png.is_uniform(picture)


def fingerprint(picture: bytes | memoryview) -> str:
    """A name for the picture's content. That of a PNG is read off it; a JPEG has no checksum, and is hashed."""
    if picture[:3] == _JPEG:
        return blake2b(picture, digest_size=16).hexdigest()
    return png.fingerprint(picture)


def is_tile(picture: bytes) -> bool:
    """Whether a file that came from elsewhere can be kept and served as a tile as it is.

    It must be a sound JPEG or PNG of 512 x 512 and 8 bits, and the PNG's pixels the last thing in it, for their
    checksum is its name.
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
    return picture[:3] == _JPEG or _pixels_are_last(picture)


def _pixels_are_last(picture: bytes) -> bool:
    at, last, held = 8, b"", 0
    while at + 12 <= len(picture):
        length, name = int.from_bytes(picture[at : at + 4]), picture[at + 4 : at + 8]
        if name == b"IEND":
            return last == b"IDAT" and held >= _LAST and at + _IEND == len(picture)
        last, held, at = name, length, at + 12 + length
    return False
