"""Query strings: the tiles of CATMAID's type 2, and the contrast and colour of its type 9. All else is ignored."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from ocpproxy.model.address.parts import BadAddress, ImageBase, TileAddress
from ocpproxy.model.dataset import TILE

MAX_QUERY = 1024
"""Characters; a longer query is ignored."""
_NUMBER = r"-?\d{1,9}"


def _parameters(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, errors="replace")) if query and len(query) <= MAX_QUERY else {}


def tile_of(base: ImageBase, query: str) -> TileAddress | None:
    """Return the tile that a query of CATMAID's type 2 asks for, or None when it is no such query.

    The front end gives the corner in pixels of the level, the scale as a power of 1/2, and literally ``row=y&col=x``;
    pymaid gives row and column as numbers, and the level where the front end gives the scale.

    :raises BadAddress: a value is missing or malformed.
    """
    values = _parameters(query)
    if not {"z", "scale"} <= values.keys() or not ({"x", "y"} <= values.keys() or {"row", "col"} <= values.keys()):
        return None
    for side in ("width", "height"):
        if values.get(side, str(TILE)) != str(TILE):
            raise BadAddress(f"expected {side}={TILE}")
    if re.fullmatch(_NUMBER, values.get("row", ""), re.ASCII):
        row, col, level = (_number(values, name) for name in ("row", "col", "scale"))
    else:
        row, col = tile_number(str(_number(values, "y", 12))), tile_number(str(_number(values, "x", 12)))
        level = _level_of_scale(values["scale"])
    return TileAddress(base, _number(values, "z"), row, col, level)


def tile_number(pixels: str) -> int:
    """Return the number of the tile that begins at a pixel.

    :raises BadAddress: when no tile begins there.
    """
    number, rest = divmod(int(pixels), TILE)
    if rest:
        raise BadAddress(f"expected the corner of a tile, a multiple of {TILE}, not {pixels}")
    return number


def _number(values: Mapping[str, str], name: str, digits: int = 9) -> int:
    text = values.get(name, "")
    if not re.fullmatch(rf"-?\d{{1,{digits}}}", text, re.ASCII):
        raise BadAddress(f"expected a whole number for {name}")
    return int(text)


def _level_of_scale(text: str) -> int:
    share, exponent = math.frexp(_real("scale", text))
    if share != 0.5:
        raise BadAddress("expected a power of two for scale: 1, 0.5, 0.25 and so on")
    return 1 - exponent


def _real(name: str, text: str) -> float:
    if not re.fullmatch(r"-?\d{1,20}(\.\d{0,20})?([eE][+-]?\d{1,2})?", text, re.ASCII):
        raise BadAddress(f"expected a number for {name}")
    return float(text)


@dataclass(frozen=True, slots=True)
class Adjustment:
    """Contrast and colour that a viewer asks for (CATMAID's type 9, FlixServer), in the channel's own values."""

    low: float | None = None
    """The value that is shown black."""
    high: float | None = None
    """The value that is shown in full colour."""
    gamma: float = 1.0
    """The exponent of the curve between the two."""
    colour: tuple[int, int, int] = (255, 255, 255)
    """Red, green, blue."""


_COLOUR_NAMES = {
    name: (255 * (n >> 2 & 1), 255 * (n >> 1 & 1), 255 * (n & 1))
    for n, name in enumerate(("", "blue", "green", "cyan", "red", "magenta", "yellow", "white"))
    if name
}


def adjustment(query: str) -> Adjustment | None:
    """Return the contrast and colour in ``min``, ``max``, ``gamma`` and ``color``; None when there are none of them.

    Several values with commas are for several channels; the first one counts. ``quality`` is ignored: a PNG has none.

    :raises BadAddress: a value is malformed.
    """
    values = {name: value.partition(",")[0] for name, value in _parameters(query).items()}
    if not values.keys() & {"min", "max", "gamma", "color"}:
        return None
    low, high = (_real(name, values[name]) if name in values else None for name in ("min", "max"))
    gamma = _real("gamma", values.get("gamma", "1"))
    if not 0 < gamma <= 100:
        raise BadAddress("expected a gamma above 0, at most 100")
    word = values.get("color", "white").lower().removeprefix("#")
    if re.fullmatch("[0-9a-f]{6}", word):
        red, green, blue = bytes.fromhex(word)
    elif word in _COLOUR_NAMES:
        red, green, blue = _COLOUR_NAMES[word]
    else:
        raise BadAddress(f"expected a color of {', '.join(_COLOUR_NAMES)} or six hex digits")
    return Adjustment(low, high, gamma, (red, green, blue))
