"""A part of what is stored of one token: what is flushed, or pinned.

It is kept as JSON, in a file or in the index.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ocpproxy.model.dataset import CHUNKS, NAME, Plane
from ocpproxy.model.stack import Tile

FALSE_COLOUR = "~"
"""What the name of a stack has for a channel, and a digest, where several channels are shown in false colours."""
ALL_PLANES = (*(plane.value for plane in Plane), CHUNKS)
"""What the names of stacks have for a plane, those of volumes of chunks included."""
_MOST_NUMBER = 2**40
Span = tuple[int, int]
"""The first number, and the one after the last."""


class BadPart(ValueError):
    """A document is not that of a part."""


@dataclass(frozen=True)
class Area:
    """Tiles of one level: ranges of rows, columns and slices. Of chunks these are their numbers along y, x and z."""

    rows: Span
    cols: Span
    slices: Span

    def holds(self, row: int, col: int) -> bool:
        """Return whether tiles at this row and column may belong to it."""
        return self.rows[0] <= row < self.rows[1] and self.cols[0] <= col < self.cols[1]

    def has(self, tile: Tile) -> bool:
        """Return whether a tile of this level belongs to it."""
        return self.holds(tile.row, tile.col) and self.slices[0] <= tile.slice < self.slices[1]


@dataclass(frozen=True)
class TilePart:
    """Tiles of one token."""

    token: str
    channels: tuple[str, ...] = ()
    """The channels; none for all."""
    planes: tuple[str, ...] = ALL_PLANES
    """Some of `ALL_PLANES`."""
    levels: tuple[int, int | None] = (0, None)
    """First and last; None for the coarsest."""
    times: tuple[int, int] | None = None
    """First and last; None for all."""
    areas: Mapping[tuple[str, int], Area] | None = None
    """By `area_name` and level, where it is only a part of a level. Nothing of a level without one belongs to it."""
    false_colours: bool = True
    """Whether false colours, of whatever channels, belong to it."""

    def has(self, tile: Tile) -> bool:
        """Return whether a tile belongs to the part."""
        return self.has_level_of(tile.stack, tile.time, tile.level) and self._has_place(tile)

    def has_level_of(self, stack: str, time: int, level: int) -> bool:
        """Return whether tiles of a level of a stack may belong to the part. What is no stack's name does not."""
        token, plane, channel, *_ = [*stack.split("/"), "", ""]
        if not (token == self.token and self.has_channel(channel) and self.has_plane(plane)):
            return False
        if not (self.has_time(time) and self.has_level(level)):
            return False
        return self.areas is None or (area_name(plane, channel), level) in self.areas

    def _has_place(self, tile: Tile) -> bool:
        if self.areas is None:
            return True
        return self.areas[area_name_of(tile.stack), tile.level].has(tile)

    def has_channel(self, channel: str) -> bool:
        """Return whether the channel of a stack's name belongs to it."""
        if channel.startswith(FALSE_COLOUR):
            return self.false_colours
        return not self.channels or channel in self.channels

    def has_plane(self, plane: str) -> bool:
        """Return whether the plane of a stack's name belongs to it."""
        return plane in self.planes

    def has_time(self, time: int) -> bool:
        """Return whether a time point belongs to it."""
        return self.times is None or self.times[0] <= time <= self.times[1]

    def has_level(self, level: int) -> bool:
        """Return whether a level belongs to it."""
        first, last = self.levels
        return first <= level and (last is None or level <= last)

    # -- as JSON

    def to_json(self) -> dict[str, Any]:
        """Return the part as JSON."""
        areas = None
        if self.areas is not None:
            areas = [[where, n, *area.rows, *area.cols, *area.slices] for (where, n), area in self.areas.items()]
        return {
            "token": self.token,
            "channels": self.channels,
            "planes": self.planes,
            "levels": self.levels,
            "times": self.times,
            "areas": areas,
            "false_colours": self.false_colours,
        }

    @classmethod
    def of_json(cls, document: Any) -> TilePart:
        """Return the part of a JSON document.

        :raises BadPart: it is none.
        """
        try:
            return cls(
                token=_name(document["token"]),
                channels=tuple(map(_name, document["channels"])),
                planes=tuple(map(_plane, document["planes"])),
                levels=_range(document["levels"]),
                times=None if document["times"] is None else _span(document["times"]),
                areas=None if document["areas"] is None else dict(map(_area, document["areas"])),
                false_colours=document["false_colours"] is True,
            )
        except (ValueError, TypeError, KeyError) as error:
            raise BadPart(str(error)[:200] or type(error).__name__) from None

    def __str__(self) -> str:
        """Return it for people."""
        words = [self.token + ("/" + ",".join(self.channels) if self.channels else "")]
        first, last = self.levels
        if first == last:
            words.append(f"level {first}")
        elif (first, last) != (0, None):
            words.append(f"levels {first}-{'' if last is None else last}")
        if set(self.planes) != set(ALL_PLANES):
            words.append(",".join(self.planes))
        if self.times is not None:
            words.append("times {}-{}".format(*self.times))
        if self.areas is not None:
            words.append("a box")
        return " ".join(words)


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -_MOST_NUMBER <= value <= _MOST_NUMBER:
        raise BadPart("expected a whole number")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(NAME, value, re.ASCII):
        raise BadPart("expected a name")
    return value


def _span(value: Any) -> Span:
    first, last = value
    return (_number(first), _number(last))


def _range(value: Any) -> tuple[int, int | None]:
    first, last = value
    return (_number(first), None if last is None else _number(last))


def area_name(plane: str, channel: str) -> str:
    """Return what names an area beside its level: a plane, or a channel in chunks, which has a grid of its own."""
    return f"{plane}/{channel}" if plane == CHUNKS else plane


def area_name_of(stack: str) -> str:
    """Return the `area_name` of the tiles of a stack, or of the chunks of a volume."""
    _, plane, channel, _ = stack.split("/")
    return area_name(plane, channel)


def _plane(value: Any) -> str:
    if value not in ALL_PLANES:
        raise BadPart("expected one of " + ", ".join(ALL_PLANES))
    return str(value)


def _place(value: Any) -> str:
    plane, slash, channel = str(value).partition("/")
    return area_name(_plane(plane), _name(channel) if slash else "")


def _area(value: Any) -> tuple[tuple[str, int], Area]:
    where, level, *numbers = value
    row, end_row, col, end_col, slice_, end_slice = map(_number, numbers)
    return (_place(where), _number(level)), Area((row, end_row), (col, end_col), (slice_, end_slice))
