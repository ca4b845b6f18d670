"""Voxels in JPEG and PNG files.

The size of an image is checked against the expected one before anything is decoded, so no image is larger than what
was requested. Pillow may use the decoders of the two formats only.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ocpproxy.imagery import pictures, png
from ocpproxy.upstream.base import UpstreamBroken

_BANDS = {"L": 1, "I;16": 1, "LA": 2, "RGB": 3, "RGBA": 4}


@contextmanager
def _opened(body: bytes) -> Iterator[Image.Image]:
    """Open an image for the block.

    :raises UpstreamBroken: the body is neither JPEG nor PNG, or the block fails to decode it.
    """
    if not body.startswith((pictures.JPEG_SIGNATURE, png.SIGNATURE)):
        raise UpstreamBroken(f"expected a JPEG or a PNG, not what begins with {body[:12]!r}")
    if not pictures.is_bounded(body):
        raise UpstreamBroken("the image takes too long to decode: a JPEG of many scans, or a PNG of many chunks")
    try:
        with warnings.catch_warnings(), Image.open(BytesIO(body), formats=("JPEG", "PNG")) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield image
    except UpstreamBroken:
        raise
    except Exception as error:  # decoders raise all kinds of errors for a damaged file
        raise UpstreamBroken(f"the image is damaged: {error}") from None


def size(body: bytes) -> tuple[int, int]:
    """Return the size of an image as (columns, rows).

    :raises UpstreamBroken: the body is neither JPEG nor PNG, or damaged.
    """
    with _opened(body) as image:
        return image.size


def decode(body: bytes, size: tuple[int, int] | None, pixels: int, bands: int) -> npt.NDArray[Any]:
    """Return the samples of an image, axes (row, column, band), 8 or 16 bits each.

    :param size: (columns, rows) that it must have; None where only their product is known.
    :param pixels: that product.
    :param bands: samples of a pixel; 0 to accept any number and convert to grey.
    :raises UpstreamBroken: the body is damaged, or is not such an image.
    """
    with _opened(body) as image:
        if (size is not None and image.size != size) or image.size[0] * image.size[1] != pixels:
            expected = f"{size[0]} x {size[1]}" if size else f"{pixels} pixels"
            raise UpstreamBroken(f"expected an image of {expected}, not {image.size[0]} x {image.size[1]}")
        mode = "I;16" if image.mode == "I" else image.mode  # Pillow before 11 opens 16-bit grey as I
        if not bands:
            samples = np.asarray(image if mode in ("L", "I;16") else image.convert("L"))
        elif _BANDS.get(mode) == bands:
            samples = np.asarray(image)
        else:
            raise UpstreamBroken(f"expected an image of {bands} samples a pixel, not of the mode {mode}")
    if samples.dtype not in (np.uint8, np.uint16):
        samples = samples.astype(np.uint16)
    return samples.reshape(*samples.shape[:2], bands or 1)
