"""The flushes of a cache directory: all its processes know them, and none serves or stores what they cover.

A flush is a file in ``flushes/`` that lies there until the files of its tiles are removed. Each process looks into the
directory some times a second. When it sees a new flush it

1. does not serve the tiles that the flush covers from then on;
2. tells whoever keeps tiles or voxels in memory (`when_flushed`);
3. waits until the files that it is writing are written;
4. acknowledges the flush by another file. From then on it makes no file that the flush covers.

`Flushes.add` returns when all living processes have done so.

What was asked for before the flush must not count as made after it. So a tile counts as made when its process looked
last before it asked for the voxels (`Flushes.looked`), and a flush covers what is made until a moment that comes after
the flush can be seen. Who asked for voxels before the flush was seen, had looked before it was there.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall, deferLater

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.log import Logger
from ocpproxy.model.stack import Tile
from ocpproxy.store import flush
from ocpproxy.store.flush import Flush, NoFlush

_LOOK_EVERY = 0.2
_MARGIN = 0.4
"""Seconds in which a flush can be written."""
_ASK_EVERY = 0.05
_PATIENCE = 10.0
"""Seconds that processes have to acknowledge a flush before it is reported that they have not."""
_MOST = 1000
"""Flushes at a time."""
_RULE, _ACKNOWLEDGED, _PROGRESS = ".json", ".ack", ".progress"


class TooManyFlushes(Exception):
    """So many flushes are being carried out that no other one can be begun now."""


@dataclass(frozen=True)
class FlushContext:
    """Dependencies of `Flushes`."""

    owner: str
    """The name of this process."""
    living: Callable[[], Collection[str]]
    """Returns the names of all living processes, this one included. It blocks."""
    written: Callable[[], Awaitable[None]]
    """Returns when the files that are being written are written."""
    ended: Callable[[], None]
    """Is called when files of a flush were removed, perhaps by another process."""
    run_in_thread: RunInThread
    reactor: Any
    now: Callable[[], float] = time.time


class Flushes(Service):
    """The flushes of one cache directory, as one process knows them.

    :param directory: where they are kept.
    """

    _log = Logger()

    def __init__(self, directory: Path, context: FlushContext) -> None:
        self.directory = directory
        self.context = context
        self.active: Mapping[str, Flush] = {}
        """By name. Replaced as a whole, so that threads can read it."""
        self.looked = context.now()
        """When the directory was looked into last, in seconds since 1970."""
        self.generation = 0
        """The number of flushes that were seen."""
        self._listeners: list[Callable[[Flush], None]] = []
        self._unreadable: set[str] = set()
        self._acknowledging: set[Deferred[None]] = set()
        self._loop = LoopingCall(self._look_again)
        self._loop.clock = context.reactor

    def startService(self) -> None:
        """Look at once, before anything is served, and regularly from now on."""
        super().startService()
        with contextlib.suppress(OSError):  # a full disk, which is no reason not to serve
            self.directory.mkdir(parents=True, exist_ok=True)
        self.looked = self.context.now()
        self._see(self._read())
        self._loop.start(_LOOK_EVERY, now=False)

    def stopService(self) -> None:
        """Stop looking."""
        super().stopService()
        self._loop.stop()
        for acknowledging in list(self._acknowledging):
            acknowledging.cancel()

    def when_flushed(self, listener: Callable[[Flush], None]) -> None:
        """Call `listener` with each new flush."""
        self._listeners.append(listener)

    def covers(self, tile: Tile, made: float) -> bool:
        """Return whether a tile that was made at that time (seconds since 1970) is forgotten."""
        return bool(self.active) and any(one.covers(tile, made) for one in self.active.values())

    @property
    def shared_since(self) -> float:
        """The time (seconds since 1970) since which tiles may share a file: they are covered together."""
        return max((one.at for one in self.active.values()), default=0.0)

    # -- looking

    async def _look_again(self) -> None:
        try:
            await self.look()
        except OSError as error:
            self._log.error("the flushes of the cache cannot be read: {reason}", reason=str(error))
        except CancelledError:
            raise
        except Exception:
            self._log.failure("looking for flushes")

    async def look(self) -> None:
        """Look into the directory now.

        :raises OSError: it cannot be read.
        """
        began = self.context.now()
        self._see(await self.context.run_in_thread(self._read))
        self.looked = began

    def _read(self) -> dict[str, Flush]:
        """Return the flushes by name. (In a thread.)"""
        found: dict[str, Flush] = {}
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return found
        for name in sorted(names):
            if not name.endswith(_RULE) or name in self._unreadable:
                continue
            known = self.active.get(name.removesuffix(_RULE))
            try:
                found[name.removesuffix(_RULE)] = known or flush.read(self.directory / name)
            except FileNotFoundError:
                pass  # it was carried out in this moment
            except (NoFlush, OSError) as error:
                self._unreadable.add(name)
                self._log.error("{name} is not the file of a flush: {reason}", name=name, reason=str(error))
        return found

    def _see(self, found: Mapping[str, Flush]) -> None:
        new = found.keys() - self.active.keys()
        ended = self.active.keys() - found.keys()
        self.active = found
        self.generation += len(new)
        if ended:
            self.context.ended()
        for name in new:
            for listener in self._listeners:
                listener(found[name])
        if new:
            acknowledging = Deferred.fromCoroutine(self._acknowledge(new))
            self._acknowledging.add(acknowledging)
            acknowledging.addErrback(lambda failure: failure.trap(CancelledError) and None)
            acknowledging.addErrback(lambda failure: self._log.failure("acknowledging flushes", failure))
            acknowledging.addBoth(lambda _: self._acknowledging.discard(acknowledging))

    async def _acknowledge(self, names: Collection[str]) -> None:
        await self.context.written()
        await self.context.run_in_thread(self._write_acknowledgements, names)

    def _write_acknowledgements(self, names: Collection[str]) -> None:
        for name in names:
            with open(self.directory / f"{name}.{self.context.owner}{_ACKNOWLEDGED}", "wb"):
                pass

    # -- adding, and carrying out

    async def add(self, wanted: Flush) -> tuple[str, set[str]]:
        """Begin a flush. Return its name, and the processes that have not acknowledged it in time.

        When there are none, none of the tiles is served or stored any more. Those that are asked for from now on are
        stored again, by other processes as soon as they have looked once more.

        :param wanted: covers what was made until now or earlier.
        :raises OSError: it cannot be written.
        :raises TooManyFlushes: others have to be carried out first.
        """
        if len(self.active) >= _MOST:
            raise TooManyFlushes(f"{_MOST} flushes are being carried out: wait for one to end")
        name, begun = await self.context.run_in_thread(self._write, wanted)
        await self.look()
        deadline = self.context.reactor.seconds() + _PATIENCE
        while silent := await self.silent(name):
            if self.context.reactor.seconds() > deadline:
                break
            await deferLater(self.context.reactor, _ASK_EVERY)
        while self.looked <= begun.at:
            await deferLater(self.context.reactor, _ASK_EVERY)
        return name, silent

    def _write(self, wanted: Flush) -> tuple[str, Flush]:
        """Write the file of a flush; return its name. (In a thread.)"""
        self.directory.mkdir(parents=True, exist_ok=True)
        until_now = wanted.at >= self.context.now() - _MARGIN
        while True:
            at = self.context.now() + _MARGIN
            begun = replace(wanted, at=at) if until_now else wanted
            name = f"{int(at * 1e6)}-{uuid.uuid4().hex[:8]}"
            new = self.directory / f".{name}.new"
            with open(new, "x", encoding="ascii") as file:
                file.write(begun.to_text())
                file.flush()
                os.fsync(file.fileno())
            new.rename(self.directory / f"{name}{_RULE}")
            if self.context.now() < at:
                return name, begun
            (self.directory / f"{name}{_RULE}").unlink(missing_ok=True)  # the disk is slow: it was seen too late

    async def silent(self, name: str) -> set[str]:
        """Return the living processes that have not acknowledged a flush."""
        silent: set[str] = await self.context.run_in_thread(self._silent, name)
        return silent

    def _silent(self, name: str) -> set[str]:
        files = os.listdir(self.directory)
        if f"{name}{_RULE}" not in files:
            return set()  # it has been carried out
        return {owner for owner in self.context.living() if f"{name}.{owner}{_ACKNOWLEDGED}" not in files}

    def save_progress(self, name: str, tiles: int) -> None:
        """Write down how many tiles of a flush were removed. (In a thread.)"""
        new = self.directory / f".{name}{_PROGRESS}"
        new.write_text(str(tiles), encoding="ascii")
        new.rename(self.directory / f"{name}{_PROGRESS}")

    def load_progress(self, name: str) -> int:
        """Return how many tiles of a flush were removed. (In a thread.)"""
        try:
            with open(self.directory / f"{name}{_PROGRESS}", encoding="ascii") as file:
                return int(file.read(20))
        except (OSError, ValueError):
            return 0

    def end(self, name: str) -> None:
        """Remove all files of a flush that was carried out. (In a thread.)"""
        for file in os.listdir(self.directory):
            if file.lstrip(".").startswith(f"{name}."):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.directory / file)
