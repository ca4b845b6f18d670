"""Tiles on disk and their rows in the index, as one promise.

A tile is stored if and only if its file exists and no flush covers it (`flushes`); its row in the index records the
file for eviction. `TileStore.read` opens one file and needs no database. `TileStore.store` creates files and returns as
soon as they exist; their rows are inserted in the background (`pending`). The journal names the tiles whose files are
being changed or whose rows are pending, so that another process can reconcile them should this one die. A use is noted
in memory (`uses`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cachetools import LRUCache
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred

from ocpproxy.concurrency.shield import shield
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.index.database import PATIENCE, Database, DatabaseUnavailable, OutcomeUnknown
from ocpproxy.log import Logger
from ocpproxy.metrics import Metrics
from ocpproxy.model.stack import Tile
from ocpproxy.store import rows
from ocpproxy.store.changes import FileChanges
from ocpproxy.store.files import OpenTile, StoredTile, TileFiles, TornTile
from ocpproxy.store.flushing.flushes import FlushContext, Flushes
from ocpproxy.store.journal import Journal
from ocpproxy.store.keys import Key
from ocpproxy.store.part import TilePart
from ocpproxy.store.pending import PendingRows
from ocpproxy.store.provenance import Provenance
from ocpproxy.store.space.capacity import CacheLimits, Capacity
from ocpproxy.store.space.evicting import Evicted, delete_keys, delete_least_recent, release_unpinned
from ocpproxy.store.space.free_space import NOTHING, KeepFree
from ocpproxy.store.space.full_disk import FullDisk, is_full
from ocpproxy.store.space.usage import Usage
from ocpproxy.store.uses import LastUses

_WAIT_FOR_ID = 2.0
"""Seconds that tiles wait for the id of their stack before they are stored."""
_MOST_STACKS = 10_000
_LOOK_AT = 2000
"""Rows that are looked at in one transaction where many are pinned."""
Pictures = list[tuple[Tile, bytes]]
"""Tiles and their encoded pictures."""


@dataclass(frozen=True, slots=True)
class CacheDirectory:
    """The directory of a cache, as one process uses it."""

    path: Path
    """Tiles are in ``tiles/``, the journals of the processes in ``journal/``, flushes in ``flushes/``."""
    owner: str
    """A name of the process that no other has."""
    limits: CacheLimits
    keep_free: KeepFree = NOTHING
    """What stays free on its file system."""
    pinned: tuple[TilePart, ...] = ()
    """What is never evicted, beside what the index says."""


class TileStore(Service):
    """The store of one cache directory.

    :param run_in_thread: runs blocking work on files.
    """

    _log = Logger()

    def __init__(
        self,
        directory: CacheDirectory,
        database: Database,
        reactor: Any,
        run_in_thread: RunInThread,
        metrics: Metrics,
    ) -> None:
        self.files = TileFiles(directory.path / "tiles", directory.owner)
        self.journal = Journal(directory.path / "journal", directory.owner)
        self.database = database
        self.run_in_thread = run_in_thread
        self.metrics = metrics
        self.changes = FileChanges(self.journal, lambda: self.pending, run_in_thread)
        self.pending = PendingRows(database, self.files.stat, metrics, self.changes.clear_journal, self._refused)
        self.capacity = Capacity(directory.limits, lambda: self.usage, reactor)
        context = FlushContext(
            directory.owner,
            self.journal.owners,
            self.changes.settled,
            self.pending.refresh_soon,
            run_in_thread,
            reactor,
        )
        self.flushes = Flushes(directory.path / "flushes", context)
        self.disk = FullDisk(self, reactor)
        self._keep_free = directory.keep_free
        self.pinned = directory.pinned
        self._uses = LastUses(database, reactor, metrics)
        self._with_id: LRUCache[str, None] = LRUCache(_MOST_STACKS)  # stacks that have an id in the index

    # -- life

    def startService(self) -> None:
        """Take the directory into use. A full disk is no reason not to serve what is on it.

        :raises OSError: when it cannot be written to for another reason.
        """
        super().startService()
        try:
            self.files.directory.mkdir(parents=True, exist_ok=True)
            self.journal.open()
            self.files.check_writable()
        except OSError as error:
            if not is_full(error):
                raise
            self.disk.refused(error)
        self.flushes.startService()
        self._uses.start()

    def stopService(self) -> Deferred[None]:
        """Write to the index what is only in memory. What it does not take stays in the journal."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.flushes.stopService()
        await self.disk.stop()
        await self._uses.stop()
        self.pending.reconcile_soon()
        await self.pending.pause()
        self.changes.clear_journal()
        self.journal.close()

    # -- reading

    def open_now(self, tile: Tile) -> OpenTile | None:
        """Return the tile's file, open, or None when there is none, without waiting for the disk.

        :raises BlockingIOError: when that is not possible; use `read`.
        :raises NotIndexable: when there can be no such tile.
        """
        file = self.files.open_now(tile)
        if file is not None and self.flushes.covers(tile, file.made):
            file.close()
            return None
        return file

    async def read(self, tile: Tile) -> StoredTile | None:
        """Return the tile from disk, or None. A torn file is removed, and is None.

        :raises NotIndexable: when there can be no such tile.
        """
        try:
            found: StoredTile | None = await self.run_in_thread(self.files.read, tile)
        except TornTile:
            self._log.warn("{tile} is torn: removed", tile=tile)
            self.metrics.mended.labels("torn tile").inc()
            await self.discard([tile])
            return None
        return None if found is None or self.flushes.covers(tile, found.provenance.made) else found

    async def sizes(self, tiles: Sequence[Tile]) -> dict[Tile, int]:
        """Return the bytes of those tiles that are stored."""
        found = await self.run_in_thread(lambda: {tile: self.files.stat(tile) for tile in tiles})
        covers = self.flushes.covers
        return {tile: file.size for tile, file in found.items() if file is not None and not covers(tile, file.made)}

    def note_use(self, tile: Tile) -> None:
        """Note that the tile is used now."""
        self._uses.note(tile)

    async def read_with_validators(self, tile: Tile) -> tuple[bytes, Mapping[str, str]] | None:
        """Return the tile and the validators that are kept with it; None when either is missing."""
        stored = await self.read(tile)
        kept = None if stored is None else await self.run_in_thread(self.files.read_validators, tile)
        if stored is None or kept is None:
            return None
        try:
            validators = json.loads(kept)
        except ValueError:
            return None
        fine = isinstance(validators, dict) and all(isinstance(v, str) for pair in validators.items() for v in pair)
        return (stored.picture, validators) if fine else None

    # -- storing

    async def store(self, pictures: Pictures, origin: Provenance | None = None) -> int:
        """Store the tiles that there is space for, and return how many are new.

        Tiles that exist stay as they are. What was flushed meanwhile is not stored.

        :param origin: where they come from; by default they are made now.
        """
        if not await self._have_ids({tile.stack for tile, _ in pictures}):
            self.metrics.unstored.inc(len(pictures))
            return 0
        wanted = Usage(len(pictures), sum(len(picture) for _, picture in pictures))
        async with self.capacity.reserve(wanted) as granted:
            fitting = []
            for tile, picture in pictures:
                granted -= len(picture)
                if granted >= 0:
                    fitting.append((tile, picture))
            if len(fitting) < len(pictures):
                self.metrics.unstored.inc(len(pictures) - len(fitting))
                self._log.warn(
                    "no space in the cache: {count} of {all} tiles are not stored",
                    count=len(pictures) - len(fitting),
                    all=len(pictures),
                )
            return await self.write(fitting, origin) if fitting else 0

    async def _have_ids(self, stacks: set[str]) -> bool:
        """Return whether these stacks have ids in the index, or nobody can tell now.

        Without an id a tile has no row, and would never be evicted.
        """
        new = stacks - self._with_id.keys()
        if not new:
            return True
        try:
            refused = await self.database.run_within(_WAIT_FOR_ID, None, rows.without_id, new)
        except DatabaseUnavailable:
            return True
        if refused:
            self._log.error("no dataset id is left for {stacks}: nothing of them is stored", stacks=refused)
            return False
        self._with_id.update(dict.fromkeys(new))
        return True

    def _refused(self, tiles: list[Tile]) -> None:
        """Remove tiles that were stored while the index was unavailable, and can have no row."""
        self._log.error("{count} tiles are removed: no dataset id is left for them", count=len(tiles))
        Deferred.fromCoroutine(self.discard(tiles)).addErrback(
            lambda failure: self._log.failure("removing tiles without a row", failure)
        )

    async def write(self, pictures: Pictures, origin: Provenance | None = None) -> int:
        """Write the tiles to disk, and return how many are new; those that exist stay as they are.

        When the disk refuses, that is logged, and the other tiles are not written.

        :param origin: as for `store`.
        """
        origin = Provenance(self.flushes.looked) if origin is None else origin
        changed: dict[Tile, int] = {}
        error = await self.changes.run(changed, self._create, pictures, origin, changed)
        created = sum(size > 0 for size in changed.values())
        if error is not None:
            self.metrics.unstored.inc(len(pictures) - created)
            self.disk.refused(error)
        elif created:
            self.disk.accepted()
        return created

    def _create(self, pictures: Pictures, origin: Provenance, changed: dict[Tile, int]) -> OSError | None:
        """Create files, and note in `changed` what was changed; return what the disk refused. (In a thread.)"""
        try:
            self.journal.note(tile for tile, _ in pictures)
            since = self.flushes.shared_since(origin.made)
            for tile, picture in pictures:
                if self.flushes.forgets(tile, origin.made):
                    continue
                if self.remove_flushed(tile):
                    changed[tile] = 0
                if self.files.create(tile, picture, origin, since):
                    changed[tile] = len(picture)
        except OSError as error:
            return error
        return None

    async def keep_validators(self, tile: Tile, validators: Mapping[str, str]) -> None:
        """Keep an upstream's validators with a tile's file, where the file system can."""
        await self.run_in_thread(self.files.keep_validators, tile, json.dumps(dict(validators)).encode())

    async def discard(self, tiles: Iterable[Tile]) -> None:
        """Remove the tiles' files, whatever the index says; the rows follow."""
        tiles = list(tiles)
        await self.changes.run(dict.fromkeys(tiles, 0), self._remove, tiles)

    def remove_flushed(self, tile: Tile) -> bool:
        """Remove the tile's file if a flush covers it; return whether one did. (In a thread.)"""
        covers = self.flushes.covers
        return bool(self.flushes.active) and self.files.remove_if(tile, lambda made: covers(tile, made))

    async def discard_flushed(self, tiles: Iterable[Tile]) -> int:
        """Remove the files of those tiles that a flush covers, and return how many; the rows follow."""
        tiles = list(tiles)

        def remove() -> int:
            self.changes.note(tiles)
            return sum(map(self.remove_flushed, tiles))

        removed: int = await self.changes.run(dict.fromkeys(tiles, 0), remove)
        return removed

    def note_removed(self, tiles: list[Tile]) -> None:
        """Note that the files of these tiles were removed: their rows follow."""
        self.pending.add(dict.fromkeys(tiles, 0))

    def _remove(self, tiles: Sequence[Tile]) -> None:
        """Remove files. (In a thread.)"""
        self.changes.note(tiles)
        for tile in tiles:
            self.files.remove(tile)

    # -- evicting

    @property
    def usage(self) -> Usage:
        """What the cache holds, as far as this process knows."""
        return self.pending.usage

    async def refresh(self) -> Usage:
        """Read what the cache holds from the index, which other processes change too, and how much space there is.

        :raises DatabaseUnavailable: the index does not answer.
        """
        spare = await self.run_in_thread(self._keep_free.spare, self.files.directory)
        usage = await self.pending.refresh()
        self.capacity.adapt(usage, spare)
        return usage

    async def evict(self, keep: Usage, at_most: int, unused_since: float | None = None) -> Usage:
        """Evict the least recently used tiles, `at_most` of them, until no more than `keep` is left.

        Return what was evicted. What is pinned stays.

        :param unused_since: spare those that were used since then (seconds since 1970).
        :raises DatabaseUnavailable: the index does not answer.
        """
        await self.pending.reconciled()  # the rows choose, so all that is on disk must have one
        await self._uses.write()
        look_at = at_most
        while True:
            evicted = await self._evict(
                partial(delete_least_recent, at_most=at_most, keep=keep, unused_since=unused_since, look_at=look_at)
            )
            if evicted.removed.tiles or not evicted.pinned or not self.running:
                return evicted.removed
            look_at = _LOOK_AT  # there may be many more pinned ones, each of which is looked at once

    async def release_unpinned(self) -> None:
        """Let tiles that no pin has any more be evicted.

        :raises DatabaseUnavailable: the index does not answer; nothing is lost.
        """
        after: Key | None = (-(2**63), -(2**63))
        while after is not None:
            now = self.flushes.context.now()
            after = await self.database.run(release_unpinned, after, _LOOK_AT, now, self.pinned)

    async def evict_keys(self, wanted: Sequence[Key]) -> Usage:
        """Evict tiles by the keys of their rows; return what was evicted. What is pinned stays.

        :raises DatabaseUnavailable: the index does not answer.
        """
        return (await self._evict(partial(delete_keys, wanted=wanted))).removed

    async def _evict(self, delete: Callable[..., Evicted]) -> Evicted:
        """Evict what an interaction deletes. The rows go first; the journal names the files that a crash leaves."""
        intended: dict[Tile, int] = {}

        def intend(tiles: list[Tile]) -> None:
            self.changes.note(tiles)
            intended.update(dict.fromkeys(tiles, 0))

        ended: Deferred[Evicted | None] = Deferred()
        removed = shield(self._remove_evicted(ended, intended))
        work = partial(delete, intend=intend, pinned=self.pinned)
        try:
            evicted: Evicted = await self.database.run_within(PATIENCE, ended.callback, work)
        except (OutcomeUnknown, CancelledError):
            removed.addErrback(lambda failure: self._log.failure("removing the files of evicted tiles", failure))
            raise  # the transaction ends later, and then calls `ended.callback`
        except BaseException:
            ended.callback(None)
            raise
        self.pending.see_totals(evicted.usage)
        ended.callback(evicted)
        await removed
        self.metrics.evicted.inc(evicted.removed.tiles)
        return evicted

    async def _remove_evicted(self, ended: Deferred[Evicted | None], intended: Mapping[Tile, int]) -> None:
        """Remove the files of evicted rows when the transaction has ended, perhaps long after anybody waits for it.

        Whatever has become of it, the intended tiles are reconciled.
        """
        with self.changes.changing(intended):
            evicted = await ended
            if evicted is not None:
                await self.run_in_thread(self._remove, evicted.tiles)
