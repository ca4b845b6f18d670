"""The colours of annotations, as in the Open Connectome services.

Their table (``pcolors``, `ocplib.rgbColor`) holds 256 colours, whose hues are golden-ratio steps apart. Only the first
217 are used: id ``i`` has entry ``i % 217``, and id 0 is transparent. The services stored the three bytes of an entry
in one little-endian word and read them in reverse order. So they have always shown red and blue swapped, and so does
this module. (Source: the services' own table, reproduced byte for byte.)
"""

from __future__ import annotations

import colorsys

import numpy as np

from ocpproxy.imagery.png import Pixels

USED = 217
"""Colours in use."""


def _entries() -> bytes:
    """Return the table, three bytes for each entry."""
    hues = ((0.32497 + n * 0.618033988749895) % 1 for n in range(USED))
    return bytes(int(256 * part) for hue in hues for part in colorsys.hsv_to_rgb(hue, 0.5, 0.95))


ENTRIES = _entries()
COLOURS = bytes(3) + bytes(part for n in range(0, len(ENTRIES), 3) for part in ENTRIES[n : n + 3][::-1])
"""Three bytes each, red, green, blue: index 0 is black, index 1 + n is entry n."""


def indices(ids: np.ndarray[tuple[int, ...], np.dtype[np.unsignedinteger]]) -> Pixels:
    """Return the index in `COLOURS` of each id's colour, an array of the same shape."""
    colours = (ids % ids.dtype.type(USED)).astype(np.uint8) + np.uint8(1)
    colours *= ids != 0
    return colours
