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
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from ocpproxy.model.stack import Tile
from ocpproxy.store import keys
from ocpproxy.store.part import TilePart, area_name_of

_VERSION = 1
_WRONG_CLOCK = 60.0
"""Seconds: what is from a later time than that was made when the clock was wrong."""
_LONGEST = 2**20
"""Bytes of the file of a flush."""


class NoFlush(ValueError):
    """A file is not that of a flush."""


@dataclass(frozen=True)
class Flush:
    """Tiles that are forgotten."""

    at: float
    """Seconds since 1970: tiles that were made by then are forgotten."""
    part: TilePart
    everything: bool = True
    """True if nothing that was there may stay: not even a file that is from the future, because a clock was wrong."""

    def covers(self, tile: Tile, made: float, now: float) -> bool:
        """Return whether a tile that was made at that time is forgotten; both times in seconds since 1970."""
        return self.covers_time(made, now) and self.part.has(tile)

    def covers_time(self, made: float, now: float) -> bool:
        """Return whether tiles of the part that were made at that time are forgotten."""
        return made <= self.at or (self.everything and made > now + _WRONG_CLOCK)

    def to_text(self) -> str:
        """Return the text of its file."""
        return json.dumps({"version": _VERSION, "at": self.at, "everything": self.everything, **self.part.to_json()})

    @classmethod
    def of_text(cls, text: str) -> Flush:
        """Return the flush of a file's text.

        :raises NoFlush: it is none.
        """
        try:
            document = json.loads(text)
            version, at = document["version"], document["at"]
            if version != _VERSION:
                raise NoFlush(f"version {version!r}, expected {_VERSION}")
            if not isinstance(at, (int, float)) or isinstance(at, bool) or not isfinite(at):
                raise NoFlush("at: expected a number")
            return cls(at, TilePart.of_json(document), document["everything"] is True)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise NoFlush(str(error)[:200] or type(error).__name__) from None


def read(path: Path) -> Flush:
    """Return the flush of a file.

    :raises NoFlush: it is none.
    :raises OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise NoFlush("expected a file")
        body = os.read(fd, _LONGEST + 1)
    finally:
        os.close(fd)
    if len(body) > _LONGEST:
        raise NoFlush(f"expected at most {_LONGEST} bytes")
    return Flush.of_text(body.decode("utf-8", "replace"))


# -- the files of its tiles


Walked = tuple[Tile, os.stat_result] | None
"""A tile that a flush covers, with the status of its file; None for a file that was looked at in vain."""


def walk(directory: Path, flush: Flush, now: float) -> Iterator[Walked]:
    """Look at the files below a directory that a flush may cover; links are not followed.

    :param now: seconds since 1970.
    """
    part = flush.part
    top = directory / part.token
    for plane in () if os.path.islink(top) else _folders(top):
        if not part.has_plane(plane.name):
            continue
        for channel in _folders(plane.path):
            for version in _folders(channel.path) if part.has_channel(channel.name) else ():
                stack = f"{part.token}/{plane.name}/{channel.name}/{version.name}"
                for time in _numbered(version.path, part.has_time):
                    for level in _numbered(time.path, part.has_level):
                        for file in _walk_level(flush, stack, int(time.name), level):
                            covered = file is not None and flush.covers_time(file[1].st_mtime, now)
                            yield file if covered else None


def _walk_level(flush: Flush, stack: str, time: int, level: os.DirEntry[str]) -> Iterator[Walked]:
    areas = flush.part.areas
    area = None if areas is None else areas.get((area_name_of(stack), int(level.name)))
    if areas is not None and area is None:
        return
    for place in _folders(level.path):
        found = re.fullmatch(r"(\d{1,7})_(\d{1,7})", place.name, re.ASCII)
        if found is None or (area is not None and not area.holds(int(found[1]), int(found[2]))):
            continue
        for file in _entries(place.path):
            tile = keys.tile_at(f"{stack}/{time}/{level.name}/{place.name}/{file.name}")
            if tile is None or (area is not None and not area.has(tile)):
                yield None
                continue
            try:
                yield tile, file.stat(follow_symlinks=False)
            except FileNotFoundError:
                yield None


def _entries(path: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _folders(path: str | Path) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(path) if entry.is_dir(follow_symlinks=False)]


def _numbered(path: str, wanted: Callable[[int], bool]) -> list[os.DirEntry[str]]:
    folders = [entry for entry in _folders(path) if re.fullmatch(r"\d{1,7}", entry.name, re.ASCII)]
    return [entry for entry in folders if wanted(int(entry.name))]
