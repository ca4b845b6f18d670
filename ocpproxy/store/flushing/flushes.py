"""The flushes of a cache directory: all its processes know them, and none serves or stores what they cover.

A flush is a file that lies there until the files of its tiles are removed (`files`). Each process looks into the
directory some times a second. When it sees a new flush it

1. does not serve the tiles that the flush covers from then on;
2. tells whoever keeps tiles or voxels in memory (`when_flushed`);
3. waits until the files that it is writing are written;
4. acknowledges the flush by another file. From then on it makes no file that the flush covers.

`Flushes.add` returns when all living processes have done so.

What was asked for before the flush must not count as made after it. So a tile counts as made when its process looked
last before it asked for the voxels (`Flushes.looked`), and a flush covers what is made until a moment that comes after
the flush can be seen. Who asked for voxels before the flush was seen, had looked before it was there. Such voxels may
arrive long after the flush was carried out, so a process remembers for hours what it is not to store.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachetools import TTLCache
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.task import LoopingCall, deferLater

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.log import Logger
from ocpproxy.model.stack import Tile
from ocpproxy.store.flushing.files import FlushFiles
from ocpproxy.store.flushing.flush import Flush
from ocpproxy.store.part import TilePart

_LOOK_EVERY = 0.2
_ASK_EVERY = 0.05
_PATIENCE = 10.0
"""Seconds that processes have to acknowledge a flush before it is reported that they have not."""
_MOST = 1000
"""Flushes at a time."""
_REMEMBERED = 4 * 3600.0
"""Seconds that a flush is remembered: longer than voxels may be under way."""


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
        self.files = FlushFiles(directory, context.owner, context.now)
        self.context = context
        self.active: Mapping[str, Flush] = {}
        """By name. Replaced as a whole, so that threads can read it."""
        self.looked = context.now()
        """When the directory was looked into last, in seconds since 1970."""
        self.generation = 0
        """The number of flushes that were seen."""
        self._remembered: TTLCache[str, Flush] = TTLCache(_MOST, _REMEMBERED, context.reactor.seconds)
        self._forgotten: tuple[Flush, ...] = ()
        """What is not to be stored: the flushes that are active, and those that were."""
        self._listeners: list[Callable[[Flush], None]] = []
        self._looking = DeferredLock()
        self._acknowledging: Deferred[None] | None = None
        self._loop = LoopingCall(self._look_again)
        self._loop.clock = context.reactor

    def startService(self) -> None:
        """Look at once, before anything is served, and regularly from now on.

        :raises OSError: the directory cannot be read.
        """
        super().startService()
        self.looked = self.context.now()
        self._see(*self.files.read({}))
        self._loop.start(_LOOK_EVERY, now=False)

    def stopService(self) -> None:
        """Stop looking."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        if self._acknowledging is not None:
            self._acknowledging.cancel()

    def when_flushed(self, listener: Callable[[Flush], None]) -> None:
        """Call `listener` with each new flush."""
        self._listeners.append(listener)

    def covers(self, tile: Tile, made: float) -> bool:
        """Return whether a file with a tile that was made at that time (seconds since 1970) is not there any more."""
        if not self.active:
            return False
        now = self.context.now()
        return any(one.covers(tile, made, now) for one in self.active.values())

    def forgets(self, tile: Tile, made: float) -> bool:
        """Return whether a tile that was made at that time must not be kept: a flush covers it, or did."""
        if not self._forgotten:
            return False
        now = self.context.now()
        return any(one.covers(tile, made, now) for one in self._forgotten)

    def shared_since(self, made: float) -> float:
        """Return since when tiles may share a file with one that was made at that time: they are covered together."""
        return max((one.at for one in self._forgotten if one.at < made), default=0.0)

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
        await self._looking.acquire()  # what was seen earlier must not replace what was seen later
        try:
            began = self.context.now()
            self._see(*await self.context.run_in_thread(self.files.read, self.active))
            self.looked = began
        finally:
            self._looking.release()

    def _see(self, found: Mapping[str, Flush], acknowledged: Collection[str]) -> None:
        new, ended = found.keys() - self.active.keys(), self.active.keys() - found.keys()
        self.active = found
        self.generation += len(new)
        for name in new:
            self._remembered[name] = found[name]
        self._remembered.expire()
        self._forgotten = tuple({**self._remembered, **found}.values())
        for name in new:
            for listener in self._listeners:
                try:
                    listener(found[name])
                except Exception:
                    self._log.failure("forgetting what was flushed")
        if ended:
            self.context.ended()
        unacknowledged = found.keys() - acknowledged
        if unacknowledged and self._acknowledging is None:
            self._acknowledging = Deferred.fromCoroutine(self._acknowledge(unacknowledged))
            self._acknowledging.addErrback(self._not_acknowledged)
            self._acknowledging.addBoth(self._acknowledgement_ended)

    async def _acknowledge(self, names: Collection[str]) -> None:
        await self.context.written()
        await self.context.run_in_thread(self.files.acknowledge, names)

    def _not_acknowledged(self, failure: Any) -> None:
        if not failure.check(CancelledError, OSError):  # the disk may take it in a moment
            self._log.failure("acknowledging flushes", failure)

    def _acknowledgement_ended(self, _: object) -> None:
        self._acknowledging = None

    # -- adding

    async def add(self, part: TilePart, age: float | None = None) -> tuple[str, set[str]]:
        """Begin a flush. Return its name, and the processes that have not acknowledged it in time.

        When there are none, none of the tiles is served or stored any more. Those that are asked for from now on are
        stored again, by other processes as soon as they have looked once more.

        :param age: seconds: only what was made so long ago is forgotten; None for all that was made until now.
        :raises OSError: it cannot be written.
        :raises TooManyFlushes: others have to be carried out first.
        """
        if len(self.active) >= _MOST:
            raise TooManyFlushes(f"{_MOST} flushes are being carried out: wait for one to end")
        name, begun = await self.context.run_in_thread(self.files.write, part, age)
        await self.look()
        deadline = self.context.reactor.seconds() + _PATIENCE
        while (silent := await self.silent(name)) or self.looked <= begun.at:
            if self.context.reactor.seconds() > deadline:
                break
            await deferLater(self.context.reactor, _ASK_EVERY)
        return name, silent

    async def silent(self, name: str) -> set[str]:
        """Return the living processes that have not acknowledged a flush."""

        def look() -> set[str]:
            return self.files.silent(name, self.context.living())

        silent: set[str] = await self.context.run_in_thread(look)
        return silent
