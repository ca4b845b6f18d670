"""What a store does when the disk is full, though the cache is not.

Somebody else may fill the disk, or `size` may be larger than it. Then tiles are answered and not stored, and room is
made: by the rows, least recent first; where the index cannot be written either, because it is on the same disk, by the
times of files. Journals cannot be written on a full disk. Should the process die meanwhile, the sweep of the next start
finds what it left.
"""

from __future__ import annotations

import errno
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.log import Logger
from ocpproxy.model.stack import Tile
from ocpproxy.store.files import TileFiles
from ocpproxy.store.space.usage import Usage

_FULL = {errno.ENOSPC, errno.EDQUOT}
_ROOM = 64 * 2**20
"""Bytes that are freed at a time, at most half of the cache."""
_MOST = 1000
"""Tiles that are removed at a time."""
_EVERY = 5.0
"""Seconds between two attempts."""


def is_full(error: OSError) -> bool:
    """Return whether the disk has no space, no inodes or no quota left."""
    return error.errno in _FULL


class FullStore(Protocol):
    """A store, as this module sees it."""

    files: TileFiles
    run_in_thread: RunInThread

    async def refresh(self) -> Usage:
        """Return what the store holds by the index."""

    async def evict(self, keep: Usage, at_most: int) -> Usage:
        """Evict the least recently used tiles, `at_most` of them, until `keep` is left; return what was evicted."""

    def note_removed(self, tiles: list[Tile]) -> None:
        """Note that the files of these tiles were removed."""


class FullDisk:
    """The state of the disk of one store, and the room that is made on it."""

    _log = Logger()

    def __init__(self, store: FullStore, reactor: Any) -> None:
        self._store = store
        self._reactor = reactor
        self._next = 0.0
        self._making: Deferred[None] | None = None
        self.full = False
        """Whether the disk refused the last tile for want of space."""

    def refused(self, error: OSError) -> None:
        """Note that the disk refused something, and make room if it is full."""
        if not is_full(error):
            self._log.error("a tile could not be stored: {reason}", reason=str(error))
            return
        if not self.full:
            self._log.error("the disk is full ({reason}): tiles are not stored until there is room", reason=str(error))
        self.full = True
        if self._making is None and self._reactor.seconds() >= self._next:
            self._making = Deferred.fromCoroutine(self.make_room())
            self._making.addErrback(lambda failure: failure.trap(CancelledError) and None)
            self._making.addErrback(lambda failure: self._log.failure("making room on a full disk", failure))
            self._making.addBoth(self._made)

    def _made(self, _: object) -> None:
        self._making = None
        self._next = self._reactor.seconds() + _EVERY

    def accepted(self) -> None:
        """Note that the disk took a tile."""
        if self.full:
            self.full = False
            self._log.info("the disk has room again: tiles are stored")

    async def make_room(self) -> None:
        """Remove tiles that were not used for long."""
        store = self._store
        try:
            usage = await store.refresh()
            room = min(_ROOM, usage.bytes // 2)
            evicted = await store.evict(Usage(2**62, usage.bytes - room), _MOST)
        except (DatabaseUnavailable, OSError):
            evicted = Usage()
        if evicted.tiles:
            self._log.info("{count} tiles were evicted to make room on the disk", count=evicted.tiles)
            return
        removed: list[Tile] = await store.run_in_thread(store.files.remove_oldest, _ROOM, _MOST)
        store.note_removed(removed)
        self._log.warn("{count} files were removed to make room on the disk", count=len(removed))

    async def stop(self) -> None:
        """Wait until no room is being made."""
        if self._making is not None:
            ended: Deferred[None] = Deferred()
            self._making.addBoth(lambda _: ended.callback(None))
            await ended
