"""What queries say: the tiles of CATMAID's type 2, and the contrast and colour of its type 9. All else is ignored."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from ocpproxy.model.address.parts import BadAddress, ImageBase, TileAddress
from ocpproxy.model.dataset import TILE

MAX_QUERY = 1024
"""Characters of a query that are looked at; a longer one is ignored."""
_NUMBER = r"-?\d{1,9}"


def _words(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, errors="replace")) if query and len(query) <= MAX_QUERY else {}


def tile_of(base: ImageBase, query: str) -> TileAddress | None:
    """The tile that a query of CATMAID's type 2 means, or None when it is no such query.

    The front end says the corner in pixels of the level, the scale as a power of 1/2, and literally ``row=y&col=x``;
    pymaid says row and column in numbers, and the level where the front end says the scale.

    :raises BadAddress:
    """
    said = _words(query)
    if not {"z", "scale"} <= said.keys() or not ({"x", "y"} <= said.keys() or {"row", "col"} <= said.keys()):
        return None
    for side in ("width", "height"):
        if said.get(side, str(TILE)) != str(TILE):
            raise BadAddress(f"expected {side}={TILE}")
    if re.fullmatch(_NUMBER, said.get("row", ""), re.ASCII):
        row, col, level = (_number(said, name) for name in ("row", "col", "scale"))
    else:
        row, col = tiles(str(_number(said, "y", 12))), tiles(str(_number(said, "x", 12)))
        level = _level_of_scale(said["scale"])
    return TileAddress(base, _number(said, "z"), row, col, level)


def tiles(pixels: str) -> int:
    """The number of the tile that begins at a pixel.

    :raises BadAddress: when none does.
    """
    number, rest = divmod(int(pixels), TILE)
    if rest:
        raise BadAddress(f"expected the corner of a tile, a multiple of {TILE}, not {pixels}")
    return number


def _number(said: Mapping[str, str], name: str, digits: int = 9) -> int:
    text = said.get(name, "")
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
    """What is shown black."""
    high: float | None = None
    """What is shown in full colour."""
    gamma: float = 1.0
    """The exponent between the two."""
    colour: tuple[int, int, int] = (255, 255, 255)
    """Red, green, blue."""


_TINTS = {
    name: (255 * (n >> 2 & 1), 255 * (n >> 1 & 1), 255 * (n & 1))
    for n, name in enumerate(("", "blue", "green", "cyan", "red", "magenta", "yellow", "white"))
    if name
}


def tone(query: str) -> Adjustment | None:
    """What the query says of ``min``, ``max``, ``gamma`` and ``color``; None when it says nothing of them.

    Several values with commas are for several channels: the first counts. ``quality`` is of no use to PNG.

    :raises BadAddress:
    """
    said = {name: value.partition(",")[0] for name, value in _words(query).items()}
    if not said.keys() & {"min", "max", "gamma", "color"}:
        return None
    low, high = (_real(name, said[name]) if name in said else None for name in ("min", "max"))
    gamma = _real("gamma", said.get("gamma", "1"))
    if not 0 < gamma <= 100:
        raise BadAddress("expected a gamma above 0, at most 100")
    word = said.get("color", "white").lower().removeprefix("#")
    if re.fullmatch("[0-9a-f]{6}", word):
        red, green, blue = bytes.fromhex(word)
    elif word in _TINTS:
        red, green, blue = _TINTS[word]
    else:
        raise BadAddress(f"expected a color of {', '.join(_TINTS)} or six hex digits")
    return Adjustment(low, high, gamma, (red, green, blue))
