"""The colours of annotations, after the Open Connectome services.

Their table (``pcolors``, `ocplib.rgbColor`) holds 256 colours made by walking round the hues by the golden ratio, and
only its first 217 are ever used: id ``i`` has entry ``i % 217``, and id 0 is nothing. The three parts of an entry were
stored in one little-endian word and read back in reverse, so red and blue are swapped in what was always shown, and is
here too. (Source: ocp-protocol 4.2, which reproduces the published table byte for byte.)
"""

from __future__ import annotations

import colorsys

import numpy as np

from ocpproxy.imagery.png import Pixels

USED = 217
"""Colours before they come again."""


def _entries() -> bytes:
    """The table, three bytes each."""
    hues = ((0.32497 + n * 0.618033988749895) % 1 for n in range(USED))
    return bytes(int(256 * part) for hue in hues for part in colorsys.hsv_to_rgb(hue, 0.5, 0.95))


ENTRIES = _entries()
COLOURS = bytes(3) + bytes(part for n in range(0, len(ENTRIES), 3) for part in ENTRIES[n : n + 3][::-1])
"""Index 0 is nothing, index 1 + n is entry n as it is shown: red, green, blue."""


def indices(ids: np.ndarray[tuple[int, ...], np.dtype[np.unsignedinteger]]) -> Pixels:
    """The index of each id's colour."""
    found = (ids % ids.dtype.type(USED)).astype(np.uint8) + np.uint8(1)
    found *= ids != 0
    return found
