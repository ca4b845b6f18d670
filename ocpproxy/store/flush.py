"""A flush: which tiles are forgotten.

A `Flush` names a part of one token, and a moment. A tile of that part that was made by then is not there any more,
whatever is on disk; one that is made later is. So tiles are gone from service as soon as every process knows the flush
(`flushes`), and their files can be removed at leisure. It is kept as a small file of JSON in the cache directory.

A tile is made at the moment when its voxels were asked for. Tiles of a single value share files, one a day: such a tile
counts as made when the first one of that day was.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocpproxy.model.dataset import NAME, Plane
from ocpproxy.model.stack import Tile
from ocpproxy.store import keys

FALSE_COLOUR = "~"
"""What the name of a stack has for a channel, and a digest, where several channels are shown in false colours."""
_VERSION = 1
_LONGEST = 2**20
"""Bytes of the file of a flush."""
_MOST_NUMBER = 2**40
Span = tuple[int, int]
"""The first number, and the one after the last."""


class NoFlush(ValueError):
    """A file is not that of a flush."""


@dataclass(frozen=True)
class Area:
    """Tiles of one level: ranges of rows, columns and slices."""

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
class Flush:
    """Tiles of one token that are forgotten."""

    at: float
    """Seconds since 1970: tiles that were made by then are forgotten."""
    token: str
    channels: tuple[str, ...] = ()
    """The channels; none for all. False colours of any channels belong to each of them."""
    planes: tuple[Plane, ...] = tuple(Plane)
    levels: tuple[int, int | None] = (0, None)
    """First and last; None for the coarsest."""
    times: tuple[int, int] | None = None
    """First and last; None for all."""
    areas: Mapping[tuple[Plane, int], Area] | None = None
    """By plane and level, where it is only a part of a level. A level without one has nothing to forget."""

    def covers(self, tile: Tile, made: float) -> bool:
        """Return whether a tile that was made at that time (seconds since 1970) is forgotten."""
        return made <= self.at and self.has(tile)

    def has(self, tile: Tile) -> bool:
        """Return whether a tile belongs to the part, whenever it was made."""
        token, plane, channel, _ = tile.stack.split("/")
        if not (token == self.token and self.has_channel(channel) and self.has_plane(plane)):
            return False
        if not (self.has_time(tile.time) and self.has_level(tile.level)):
            return False
        if self.areas is None:
            return True
        area = self.areas.get((Plane(plane), tile.level))
        return area is not None and area.has(tile)

    def has_channel(self, channel: str) -> bool:
        """Return whether the channel of a stack's name belongs to it."""
        return not self.channels or channel in self.channels or channel.startswith(FALSE_COLOUR)

    def has_plane(self, plane: str) -> bool:
        """Return whether the plane of a stack's name belongs to it."""
        return any(one.value == plane for one in self.planes)

    def has_time(self, time: int) -> bool:
        """Return whether a time point belongs to it."""
        return self.times is None or self.times[0] <= time <= self.times[1]

    def has_level(self, level: int) -> bool:
        """Return whether a level belongs to it."""
        first, last = self.levels
        return first <= level and (last is None or level <= last)

    # -- its file

    def to_text(self) -> str:
        """Return the text of its file."""
        areas = None
        if self.areas is not None:
            areas = [[p.value, n, *area.rows, *area.cols, *area.slices] for (p, n), area in self.areas.items()]
        document = {
            "version": _VERSION,
            "at": self.at,
            "token": self.token,
            "channels": self.channels,
            "planes": [plane.value for plane in self.planes],
            "levels": self.levels,
            "times": self.times,
            "areas": areas,
        }
        return json.dumps(document)

    @classmethod
    def of_text(cls, text: str) -> Flush:
        """Return the flush of a file's text.

        :raises NoFlush: it is none.
        """
        try:
            document = json.loads(text)
            if document["version"] != _VERSION:
                raise NoFlush(f"version {document['version']!r}, expected {_VERSION}")
            return cls(
                at=_number(document["at"], float),
                token=_name(document["token"]),
                channels=tuple(map(_name, document["channels"])),
                planes=tuple(map(Plane, document["planes"])),
                levels=_range(document["levels"]),
                times=None if document["times"] is None else _span(document["times"]),
                areas=None if document["areas"] is None else dict(map(_area, document["areas"])),
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise NoFlush(str(error)[:200] or type(error).__name__) from None


def _number(value: Any, kind: type[Any] = int) -> Any:
    is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
    if not is_number or not -_MOST_NUMBER <= value <= _MOST_NUMBER:
        raise NoFlush("expected a number")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(NAME, value, re.ASCII):
        raise NoFlush("expected a name")
    return value


def _span(value: Any) -> Span:
    first, last = value
    return (_number(first), _number(last))


def _range(value: Any) -> tuple[int, int | None]:
    first, last = value
    return (_number(first), None if last is None else _number(last))


def _area(value: Any) -> tuple[tuple[Plane, int], Area]:
    plane, level, *numbers = value
    row, end_row, col, end_col, slice_, end_slice = map(_number, numbers)
    return (Plane(plane), _number(level)), Area((row, end_row), (col, end_col), (slice_, end_slice))


def read(path: Path) -> Flush:
    """Return the flush of a file.

    :raises NoFlush: it is none.
    :raises OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        body = file.read(_LONGEST + 1)
    if len(body) > _LONGEST:
        raise NoFlush(f"expected at most {_LONGEST} bytes")
    return Flush.of_text(body.decode("utf-8", "replace"))


# -- the files of its tiles


def walk(directory: Path, flush: Flush) -> Iterator[tuple[Tile, os.stat_result]]:
    """Yield the tiles below a directory that a flush covers; links are not followed."""
    top = directory / flush.token
    for plane in () if os.path.islink(top) else _folders(top):
        if not flush.has_plane(plane.name):
            continue
        for channel in _folders(plane.path):
            for version in _folders(channel.path) if flush.has_channel(channel.name) else ():
                stack = f"{flush.token}/{plane.name}/{channel.name}/{version.name}"
                for time in _numbered(version.path, flush.has_time):
                    for level in _numbered(time.path, flush.has_level):
                        yield from _walk_level(flush, stack, int(time.name), level)


def _walk_level(flush: Flush, stack: str, time: int, level: os.DirEntry[str]) -> Iterator[tuple[Tile, os.stat_result]]:
    plane = Plane(stack.split("/")[1])
    area = None if flush.areas is None else flush.areas.get((plane, int(level.name)))
    if flush.areas is not None and area is None:
        return
    for place in _folders(level.path):
        found = re.fullmatch(r"(\d{1,7})_(\d{1,7})", place.name, re.ASCII)
        if found is None or (area is not None and not area.holds(int(found[1]), int(found[2]))):
            continue
        for file in _entries(place.path):
            tile = keys.tile_at(f"{stack}/{time}/{level.name}/{place.name}/{file.name}")
            if tile is None or (area is not None and not area.has(tile)):
                continue
            try:
                status = file.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if status.st_mtime <= flush.at:
                yield tile, status


def _entries(path: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _folders(path: str | Path) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(path) if entry.is_dir(follow_symlinks=False)]


def _numbered(path: str, wanted: Any) -> list[os.DirEntry[str]]:
    folders = [entry for entry in _folders(path) if re.fullmatch(r"\d{1,7}", entry.name, re.ASCII)]
    return [entry for entry in folders if wanted(int(entry.name))]
