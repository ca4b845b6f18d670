"""The parts of addresses: image bases, tiles, overviews."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from ocpproxy.model.dataset import NAME, Plane

MAX_CHANNELS = 6
COLOURS = tuple("CMYRGB")
"""Cyan, magenta, yellow, red, green, blue: a channel without a colour of its own takes the one of its position."""

_NUMBER_LIMIT = 10**9
PLANES = {plane.value: plane for plane in Plane}
_NAME = re.compile(NAME, re.ASCII)


class BadAddress(ValueError):
    """The path is none of the known forms. The message is one sentence that is safe to show to clients."""


class Colouring(Enum):
    """How an address names its channels, which decides how they are shown."""

    PLAIN = "plain"
    """None or one, shown as it is (D1, D3 without a list, D6, viking)."""
    BY_POSITION = "by position"
    """A list (D2, D3): the position in the list is the colour; ``0`` skips a position."""
    NAMED = "named"
    """``mcfc``: each item may name its colour."""


@dataclass(frozen=True, slots=True)
class ChannelName:
    """One item of a channel list: a name (or generation-1 number) and the colour it asks for, if any."""

    name: str
    colour: str | None = None


@dataclass(frozen=True, slots=True)
class ImageBase:
    """The first part of an address: a dataset, its channels and colours.

    :raises BadAddress: when a name or the combination cannot be written in any form.
    """

    token: str
    plane: Plane = Plane.XY
    channels: tuple[ChannelName, ...] = ()
    colouring: Colouring = Colouring.PLAIN

    def __post_init__(self) -> None:
        for name in (self.token, *(channel.name for channel in self.channels)):
            if not _NAME.fullmatch(name):
                raise BadAddress(f"expected a name of 1 to 64 letters, digits, '_' and '-', not {name[:80]!r}")
        count = len(self.channels)
        if count > MAX_CHANNELS:
            raise BadAddress(f"expected at most {MAX_CHANNELS} channels, not {count}")
        plain = self.colouring is Colouring.PLAIN
        if plain and count > 1:
            raise BadAddress("several channels need a list or mcfc/")
        if not plain and not count:
            raise BadAddress("false colour needs at least one channel")
        if self.colouring is Colouring.BY_POSITION and count == 1 and self.channels[0].name in PLANES:
            raise BadAddress(f"{self.channels[0].name!r} as the only item of a channel list would be read as a plane")
        for channel in self.channels:
            if channel.colour is not None and (self.colouring is not Colouring.NAMED or channel.colour not in COLOURS):
                raise BadAddress(f"expected one of the colours {' '.join(COLOURS)}, in a path that begins with mcfc/")


def _within(*numbers: int) -> None:
    if any(abs(number) >= _NUMBER_LIMIT for number in numbers):
        raise BadAddress("expected numbers of at most 9 digits")


@dataclass(frozen=True, slots=True)
class TileAddress:
    """One tile as a URL names it.

    `slice`, `row`, `col` and `level` are signed, because viewers do ask for tiles before the volume's first
    (their answer is a blank tile). For ``xz`` and ``yz`` the rows run along z and `slice` is y or x.

    :raises BadAddress: when a number or the combination cannot be written in any form.
    """

    base: ImageBase
    slice: int
    row: int
    col: int
    level: int
    time: int | None = None

    def __post_init__(self) -> None:
        _within(self.slice, self.row, self.col, self.level, self.time or 0)
        if self.time is not None and (self.base.colouring is Colouring.BY_POSITION or not self.base.channels):
            raise BadAddress("a time point needs a channel before the plane")


@dataclass(frozen=True, slots=True)
class OverviewAddress:
    """A small picture of a whole slice.

    :raises BadAddress: as `TileAddress`.
    """

    base: ImageBase
    slice: int

    def __post_init__(self) -> None:
        _within(self.slice)
