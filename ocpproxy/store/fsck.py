"""The consistency check of disk and index: differences are found and mended.

It has three parts, each in small pieces that leave time for other work:

* the journals of dead processes: a short list of tiles to reconcile (`Fsck.recover`);
* files without a row (disk to index), and rows without a file (index to disk);
* the totals, ``numtiles`` and ``bytes``, and the accounts against the rows.

The daemon does all three in the background when it starts. ``ocpproxy fsck`` does them at once, reads every file too,
and prints what it mends. Both may run while daemons serve: tiles that a living process is changing are in its journal,
and are left to it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from ocpproxy.index.database import DatabaseUnavailable, OutcomeUnknown
from ocpproxy.log import Logger
from ocpproxy.model.stack import Tile
from ocpproxy.store import keys, rows
from ocpproxy.store.files import TornTile
from ocpproxy.store.journal import DeadJournal
from ocpproxy.store.keys import Key
from ocpproxy.store.space.usage import Usage
from ocpproxy.store.tile_store import TileStore

_BATCH = 200
_PAUSE = 0.02
"""Seconds between two pieces of a sweep in the background, so that hits do not notice."""
_RECOVER_EVERY = 30.0
_RETRY_AFTER = 5.0
"""Seconds after the index has become unavailable in the middle."""
_TEMPORARY = re.compile(r".*\.([\w.-]+)\.tmp")

Pause = Callable[[None], Deferred[None]]
Report = Callable[[str, str], None]
"""Called with each thing that was mended: what it was, and where."""


def _next_files(files: Iterator[tuple[str, int]]) -> tuple[dict[Tile, int], list[str]]:
    """Return the next files of a walk: tiles with their sizes, and the paths of what is no tile. (In a thread.)"""
    sizes: dict[Tile, int] = {}
    strays = []
    for path, size in islice(files, _BATCH):
        tile = keys.tile_at(path)
        if tile is None:
            strays.append(path)
        else:
            sizes[tile] = size
    return sizes, strays


class Fsck:
    """The consistency check of one store.

    :param release_leases: releases the leases of a dead process.
    """

    _log = Logger()

    def __init__(
        self, store: TileStore, release_leases: Callable[[str], Awaitable[None]], report: Report | None = None
    ) -> None:
        self._store = store
        self._release_leases = release_leases
        self._on_mended = report

    def _report(self, what: str, where: str) -> None:
        self._store.metrics.mended.labels(what).inc()
        self._log.info("mended: {what}: {where}", what=what, where=where)
        if self._on_mended is not None:
            self._on_mended(what, where)

    async def recover(self) -> None:
        """Reconcile what dead processes left pending, and release their leases.

        :raises DatabaseUnavailable: nothing is lost; call again.
        """
        store = self._store
        dead: list[DeadJournal] = await store.run_in_thread(store.journal.dead)
        try:
            while dead:
                journal = dead[-1]
                await store.run_in_thread(store.files.remove_temporaries, journal.tiles, journal.owner)
                await self._reconcile(sorted(journal.tiles))
                await self._release_leases(journal.owner)
                dead.pop().remove()
        finally:
            for journal in dead:
                journal.release()

    async def _reconcile(self, tiles: list[Tile]) -> None:
        for start in range(0, len(tiles), _BATCH):
            batch = tiles[start : start + _BATCH]
            done = await self._store.database.run(rows.reconcile, batch, self._store.files.stat)
            for tile in done.inserted:
                self._report("file without a row", keys.path(tile))
            for tile in done.deleted:
                self._report("row without a file", keys.path(tile))
            for tile in done.resized:
                self._report("row with a wrong size", keys.path(tile))

    async def _reconcile_idle(self, tiles: list[Tile]) -> None:
        """Reconcile those tiles that no living process is changing.

        The journals are read after the difference was seen. A process notes a tile before it touches row or file, so
        whatever made the difference is either noted, or over; then `reconcile` finds nothing to do.
        """
        if tiles:
            _, changing = await self._store.run_in_thread(self._store.journal.living)
            idle = [tile for tile in tiles if tile not in changing and tile not in self._store.pending]
            await self._reconcile(idle)

    async def sweep(self, *, read_all: bool = False, pause: Pause = succeed) -> None:
        """Compare all files, all rows and the totals.

        :param read_all: open every file to see whether it is whole.
        :param pause: called between two pieces of work; the next one waits for it.
        :raises DatabaseUnavailable: what was found until then is mended.
        """
        store = self._store
        overflowed, store.pending.overflowed = store.pending.overflowed, False
        try:
            await self._disk_to_index(read_all, pause)
            await self._index_to_disk(pause)
            owners, _ = await store.run_in_thread(store.journal.living)
            await store.run_in_thread(store.files.remove_unshared, owners)
            await store.release_unpinned()
        except BaseException:
            store.pending.overflowed = overflowed
            raise
        try:
            await self._correct_totals()
        except OutcomeUnknown:
            self._log.warn("the rows could not be counted in time; their totals are not checked")
        await store.pending.refresh()
        store.changes.clear_journal()  # of the tiles that overflowed, which were kept nowhere else

    async def _correct_totals(self) -> None:
        found = await self._store.database.read(rows.count)
        if not found.is_right:
            found = await self._store.database.run(rows.correct_totals)
        totals, total = found.totals, found.total
        if totals != total:
            self._report("totals", f"numtiles {totals.tiles} is {total.tiles}, bytes {totals.bytes} is {total.bytes}")
        for high in sorted(found.accounts.keys() | found.counted.keys()):
            kept, counted = found.accounts.get(high, Usage()), found.counted.get(high, Usage())
            if kept != counted:
                changes = f"tiles {kept.tiles} is {counted.tiles}, bytes {kept.bytes} is {counted.bytes}"
                self._report("account", f"highkey {high}: {changes}")

    async def _disk_to_index(self, read_all: bool, pause: Pause) -> None:
        store = self._store
        files = store.files.walk()
        while True:
            sizes, strays = await store.run_in_thread(_next_files, files)
            if not sizes and not strays:
                return
            owners, changing = await store.run_in_thread(store.journal.living)
            for path in strays:
                await self._check_stray(path, owners)
            if read_all:
                whole = [tile for tile in sizes if tile in changing or not await self._is_torn(tile)]
                sizes = {tile: sizes[tile] for tile in whole}
            differing = await store.database.read(rows.without_row, sizes)
            await self._reconcile_idle([tile for tile in differing if tile not in changing])
            await pause(None)

    async def _check_stray(self, path: str, owners: set[str]) -> None:
        found = _TEMPORARY.fullmatch(path)
        if found is None:
            self._log.warn("{path} in the cache directory is no tile; it is left alone", path=path)
        elif found[1] not in owners:
            await self._store.run_in_thread(self._store.files.remove_temporary, path)
            self._report("temporary file of a dead process", path)

    async def _is_torn(self, tile: Tile) -> bool:
        """Return whether a tile's file is torn; then it is removed."""
        try:
            await self._store.run_in_thread(self._store.files.read, tile)
        except TornTile:
            await self._store.discard([tile])
            await self._store.pending.reconciled()
            self._report("torn tile", keys.path(tile))
            return True
        return False

    async def _index_to_disk(self, pause: Pause) -> None:
        store = self._store
        after: Key = (-(2**63), -(2**63))
        while True:
            found, named = await store.database.read(rows.next_rows, after, _BATCH)
            if not found:
                return
            after = found[-1]
            for key in [key for key in found if key not in named]:
                if await store.database.run(rows.drop_rows, [key]):
                    self._report("row that names no tile", f"highkey {key[0]}, lowkey {key[1]}")
            missing = await store.run_in_thread(
                lambda tiles: [tile for tile in tiles if store.files.stat(tile) is None], list(named.values())
            )
            await self._reconcile_idle(missing)
            await pause(None)

    async def run(self, clock: IReactorTime, *, sweep: bool) -> None:
        """Mend for as long as the daemon runs.

        Everything once, as soon as the index is available; then what other processes leave behind when they die, and
        what overflowed.

        :param sweep: sweep at the start. Among workers one does.
        """
        swept = not sweep
        while True:
            await self._store.database.wait_available()
            try:
                await self.recover()
                if not swept or self._store.pending.overflowed:
                    await self.sweep(pause=lambda _: deferLater(clock, _PAUSE))
                    swept = True
            except DatabaseUnavailable:
                await deferLater(clock, _RETRY_AFTER)
                continue
            except CancelledError:
                raise
            except Exception:
                self._store.metrics.failed_passes.labels("mend").inc()
                self._log.failure("mending failed; it is tried again")
            await deferLater(clock, _RECOVER_EVERY)
