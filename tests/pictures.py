"""The pixels of pictures that a gateway sends."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]


def pixels(body: bytes) -> np.ndarray[Any, Any]:
    """Return the pixels of a grey tile."""
    image = Image.open(BytesIO(body))
    assert (image.mode, image.size) == ("L", (512, 512))
    return np.array(image)


def rgba(body: bytes) -> Array:
    """Return the colours that a viewer shows of a tile."""
    image = Image.open(BytesIO(body))
    assert (image.format, image.size) == ("PNG", (512, 512)), image
    return np.array(image.convert("RGBA"))


def opaque(grey: Array) -> Array:
    """Return grey pixels as opaque colours."""
    return np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=-1)
