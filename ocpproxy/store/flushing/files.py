"""The directory in which flushes are kept, with what processes say of them.

========================  =============================================================
``NAME.json``             the flush itself, until its tiles' files are removed
``NAME.OWNER.ack``        this process does not serve or store what it covers any more
``NAME.progress``         how many files were removed
``.NAME.…``               a file that is being written
========================  =============================================================

A name is the moment of the flush in microseconds, and some digits. Everything here blocks and is called in threads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from ocpproxy.log import Logger
from ocpproxy.store.flushing import flush
from ocpproxy.store.flushing.flush import Flush, NoFlush
from ocpproxy.store.part import TilePart

_NAME = r"\d{1,20}-[0-9a-f]{8}"
_RULE = re.compile(rf"({_NAME})\.json", re.ASCII)
_OTHER = re.compile(rf"\.?({_NAME})\..*", re.ASCII)
_MARGIN, _LONGEST_MARGIN = 0.4, 30.0
"""Seconds in which a flush can be written: at first, and on the slowest disk."""
_ABANDONED = 3600.0
"""Seconds after which a file of a flush that is not there (any more) is removed."""


class FlushFiles:
    """The files of the flushes of one cache directory.

    :param owner: the name of this process.
    :param now: returns the seconds since 1970.
    """

    _log = Logger()

    def __init__(self, directory: Path, owner: str, now: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._owner = owner
        self._now = now
        self._reported: set[str] = set()

    def make_directory(self) -> None:
        """Make the directory.

        :raises OSError: the disk refuses.
        """
        self._directory.mkdir(parents=True, exist_ok=True)

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._directory))
        except FileNotFoundError:
            return []

    def read(self, known: Mapping[str, Flush]) -> tuple[dict[str, Flush], set[str]]:
        """Return the flushes by name, and the names of those that this process has acknowledged.

        A file that is no flush is left alone; one that cannot be read now is tried again. Both are logged once.

        :param known: flushes that need not be read again.
        :raises OSError: the directory cannot be read.
        """
        found: dict[str, Flush] = {}
        names = self._names()
        for file in names:
            rule = _RULE.fullmatch(file)
            if rule is None:
                continue
            try:
                found[rule[1]] = known.get(rule[1]) or flush.read(self._directory / file)
            except FileNotFoundError:
                pass  # it was carried out in this moment
            except (NoFlush, OSError) as error:
                if rule[1] in known:
                    found[rule[1]] = known[rule[1]]
                if file not in self._reported:
                    self._reported.add(file)
                    self._log.error("the flush {name} cannot be read: {reason}", name=file, reason=str(error))
        present = set(names)
        return found, {name for name in found if f"{name}.{self._owner}.ack" in present}

    def write(self, part: TilePart, age: float | None) -> tuple[str, Flush]:
        """Write a flush; return its name and the flush.

        :param age: seconds; the flush covers what was made so long ago. None for all that was made until now: then it
            covers what is made until a moment that comes after it can be seen.
        :raises OSError: the disk refuses.
        """
        self.make_directory()
        margin = _MARGIN
        while True:
            at = self._now() + (margin if age is None else -age)
            name = f"{int(self._now() * 1e6)}-{uuid.uuid4().hex[:8]}"
            begun = Flush(at, part, age is None)
            new, file = self._directory / f".{name}.new", self._directory / f"{name}.json"
            try:
                with open(new, "x", encoding="ascii") as writing:
                    writing.write(begun.to_text())
                    writing.flush()
                    os.fsync(writing.fileno())
                new.rename(file)
            finally:
                new.unlink(missing_ok=True)
            if age is not None or self._now() < at:
                return name, begun
            file.unlink(missing_ok=True)  # the disk is slow: it was seen too late
            margin *= 2
            if margin > _LONGEST_MARGIN:
                raise OSError(errno.ETIMEDOUT, "the disk is too slow to write a flush", str(file))

    def acknowledge(self, names: Iterable[str]) -> None:
        """Write that this process knows these flushes.

        :raises OSError: the disk refuses.
        """
        for name in names:
            with open(self._directory / f"{name}.{self._owner}.ack", "wb"):
                pass

    def silent(self, name: str, living: Collection[str]) -> set[str]:
        """Return those of the living processes that have not acknowledged a flush; none when there is no such flush."""
        names = set(self._names())
        if f"{name}.json" not in names:
            return set()
        return {owner for owner in living if f"{name}.{owner}.ack" not in names}

    def save_progress(self, name: str, tiles: int) -> None:
        """Write how many files of a flush were removed, if the disk takes it."""
        new = self._directory / f".{name}.progress"
        with contextlib.suppress(OSError):
            new.write_text(str(tiles), encoding="ascii")
            new.rename(self._directory / f"{name}.progress")

    def load_progress(self, name: str) -> int:
        """Return how many files of a flush were removed."""
        try:
            with open(self._directory / f"{name}.progress", encoding="ascii") as file:
                return int(file.read(20))
        except (OSError, ValueError):
            return 0

    def end(self, name: str) -> None:
        """Remove a flush, and then what is left of it and of others that are gone."""
        (self._directory / f"{name}.json").unlink(missing_ok=True)
        names = self._names()
        rules = {rule[1] for file in names if (rule := _RULE.fullmatch(file))}
        for file in names:
            found = _OTHER.fullmatch(file)
            if found is None or found[1] in rules:
                continue
            path = self._directory / file
            with contextlib.suppress(OSError):
                if found[1] == name or self._now() - path.lstat().st_mtime > _ABANDONED:
                    path.unlink()
