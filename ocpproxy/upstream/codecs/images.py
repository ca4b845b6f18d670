"""Voxels in JPEG and PNG files.

What a file says of its size is believed only when it is what was expected, before anything is decoded, so that no
picture is larger than what was asked for. Pillow is held to the two formats.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ocpproxy.upstream.base import UpstreamBroken

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_BANDS = {"L": 1, "I;16": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def size(body: bytes) -> tuple[int, int]:
    """Columns and rows of a picture.

    :raises UpstreamBroken: when it is neither JPEG nor PNG.
    """
    if not body.startswith((JPEG, PNG)):
        raise UpstreamBroken(f"no JPEG or PNG: it begins with {body[:12]!r}")
    try:
        with warnings.catch_warnings(), Image.open(BytesIO(body), formats=("JPEG", "PNG")) as picture:
            return picture.size
    except Exception as error:  # whatever a decoder makes of a damaged file
        raise UpstreamBroken(f"the picture is damaged: {error}") from None


def read(body: bytes, size: tuple[int, int] | None, pixels: int, bands: int) -> npt.NDArray[Any]:
    """The samples of a picture, axes (row, column, band), 8 or 16 bits each.

    :param size: columns and rows that it must have; None where only their product is known.
    :param pixels: that product.
    :param bands: samples of a pixel; 0 for any, as grey.
    :raises UpstreamBroken: when it is anything else.
    """
    if not body.startswith((JPEG, PNG)):
        raise UpstreamBroken(f"no JPEG or PNG: it begins with {body[:12]!r}")
    try:
        with warnings.catch_warnings(), Image.open(BytesIO(body), formats=("JPEG", "PNG")) as picture:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if (size is not None and picture.size != size) or picture.size[0] * picture.size[1] != pixels:
                wanted = f"{size[0]} x {size[1]}" if size else f"{pixels} pixels"
                raise UpstreamBroken(f"expected a picture of {wanted}, not {picture.size[0]} x {picture.size[1]}")
            mode = picture.mode
            if mode == "I":  # what Pillow before 11 makes of 16-bit grey
                mode = "I;16"
            if not bands:
                samples = np.asarray(picture if mode in ("L", "I;16") else picture.convert("L"))
                bands = 1
            elif _BANDS.get(mode) == bands:
                samples = np.asarray(picture)
            else:
                raise UpstreamBroken(f"expected {bands} samples for each pixel, and not the kind {mode}")
    except UpstreamBroken:
        raise
    except Exception as error:  # whatever a decoder makes of a damaged file
        raise UpstreamBroken(f"the picture is damaged: {error}") from None
    if samples.dtype not in (np.uint8, np.uint16):
        samples = samples.astype(np.uint16)
    return samples.reshape(*samples.shape[:2], bands)
