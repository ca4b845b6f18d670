"""Finds what disk and index do not agree on, and mends it.

Three looks, each in slices that leave room for everybody else:

* the journals of processes that died: a short list of tiles to look at again (`Fsck.recover`);
* every file: has it a row? (disk to index) and every row: has it a file? (index to disk);
* the totals: ``numtiles`` and ``bytes`` against the rows.

The daemon does all three at its start, in the background; ``ocpproxy fsck`` does them now, reads every file too, and
tells what it mended. Both may run while daemons serve: tiles that a living process is working on are in its journal
and are left to it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.index.database import Database, DatabaseUnavailable, OutcomeUnknown
from ocpproxy.metrics import Metrics
from ocpproxy.model.stack import Tile
from ocpproxy.store import keys, rows
from ocpproxy.store.files import TornTile
from ocpproxy.store.journal import DeadJournal
from ocpproxy.store.keys import Key
from ocpproxy.store.tile_store import TileStore

_AT_ONCE = 200
_REST = 0.02
"""Seconds between two pieces of a sweep that nobody waits for: with it, hits do not notice."""
_RECOVER_EVERY = 30.0
_AGAIN_AFTER = 5.0
"""Seconds after the index has gone away in the middle."""
_TEMPORARY = re.compile(r".*\.([\w.-]+)\.tmp")

Rest = Callable[[None], Deferred[None]]
Report = Callable[[str, str], None]
"""Told of each thing that was mended: what it was, and where."""


def _look_at(files: Iterator[tuple[str, int]]) -> tuple[dict[Tile, int], list[str]]:
    """The next files of a walk: tiles with their sizes, and what is no tile's. (In a thread.)"""
    sizes: dict[Tile, int] = {}
    strays = []
    for path, size in islice(files, _AT_ONCE):
        tile = keys.tile_at(path)
        if tile is None:
            strays.append(path)
        else:
            sizes[tile] = size
    return sizes, strays


class Fsck:
    """Mends one store.

    :param forget_owner: gives back the leases of a process that died.
    """

    _log = Logger()

    def __init__(
        self,
        store: TileStore,
        database: Database,
        run_in_thread: RunInThread,
        forget_owner: Callable[[str], Awaitable[None]],
        metrics: Metrics,
        report: Report | None = None,
    ) -> None:
        self._store = store
        self._database = database
        self._in_thread = run_in_thread
        self._forget_owner = forget_owner
        self._metrics = metrics
        self._told = report

    def failed(self) -> None:
        """Put down that a turn failed; the next one tries again."""
        self._metrics.failed_turns.labels("mend").inc()
        self._log.failure("mending failed; it is tried again")

    def _report(self, what: str, where: str) -> None:
        self._metrics.mended.labels(what).inc()
        self._log.info("mended: {what}: {where}", what=what, where=where)
        if self._told is not None:
            self._told(what, where)

    async def recover(self) -> None:
        """Settle what dead processes left in doubt, and give back their leases.

        :raises DatabaseUnavailable: nothing is lost; call again.
        """
        dead: list[DeadJournal] = await self._in_thread(self._store.journal.dead)
        try:
            while dead:
                journal = dead[-1]
                await self._in_thread(self._store.files.remove_temporaries, journal.tiles, journal.owner)
                await self._settle(sorted(journal.tiles))
                await self._forget_owner(journal.owner)
                dead.pop().bury()
        finally:
            for journal in dead:
                journal.leave()

    async def _settle(self, tiles: list[Tile]) -> None:
        for start in range(0, len(tiles), _AT_ONCE):
            done = await self._database.run(rows.settle, tiles[start : start + _AT_ONCE], self._store.files.stat)
            for tile in done.inserted:
                self._report("file without a row", keys.path(tile))
            for tile in done.deleted:
                self._report("row without a file", keys.path(tile))
            for tile in done.resized:
                self._report("row with a wrong size", keys.path(tile))

    async def _settle_idle(self, tiles: list[Tile]) -> None:
        """Settle those that no living process is working on.

        The journals are read after the difference was seen: a process notes a tile before it touches row or file, so
        whatever made the difference either is noted or is over, and then `settle` finds nothing to do.
        """
        if tiles:
            _, busy = await self._in_thread(self._store.journal.living)
            await self._settle([tile for tile in tiles if tile not in busy and not self._store.is_in_hand(tile)])

    async def sweep(self, *, read_all: bool = False, rest: Rest = succeed) -> None:
        """Compare all files, all rows and the totals.

        :param read_all: open every file to see whether it is whole.
        :param rest: called between two pieces of work; the next one waits for it.
        :raises DatabaseUnavailable: what was found until then is mended.
        """
        overflowed, self._store.overflowed = self._store.overflowed, False
        try:
            await self._disk_to_index(read_all, rest)
            await self._index_to_disk(rest)
            owners, _ = await self._in_thread(self._store.journal.living)
            await self._in_thread(self._store.files.remove_unshared, owners)
        except BaseException:
            self._store.overflowed = overflowed
            raise
        try:
            await self._totals()
        except OutcomeUnknown:
            self._log.warn("the rows could not be counted in time; their totals are taken as they stand")
        await self._store.refresh()

    async def _totals(self) -> None:
        said, counted = await self._database.read(rows.miscounted)
        if said != counted:
            said, counted = await self._database.run(rows.correct)
        if said != counted:
            self._report("totals", f"numtiles {said.tiles} is {counted.tiles}, bytes {said.bytes} is {counted.bytes}")

    async def _disk_to_index(self, read_all: bool, rest: Rest) -> None:
        files = self._store.files.walk()
        while True:
            sizes, strays = await self._in_thread(_look_at, files)
            if not sizes and not strays:
                return
            owners, busy = await self._in_thread(self._store.journal.living)
            for path in strays:
                await self._stray(path, owners)
            if read_all:
                sizes = {tile: size for tile, size in sizes.items() if tile in busy or not await self._torn(tile)}
            unaccounted = await self._database.read(rows.unaccounted, sizes)
            await self._settle_idle([tile for tile in unaccounted if tile not in busy])
            await rest(None)

    async def _stray(self, path: str, owners: set[str]) -> None:
        found = _TEMPORARY.fullmatch(path)
        if found is None:
            self._log.warn("{path} in the cache directory is no tile; it is left alone", path=path)
        elif found[1] not in owners:
            await self._in_thread(self._store.files.remove_temporary, path)
            self._report("temporary file of a dead process", path)

    async def _torn(self, tile: Tile) -> bool:
        try:
            await self._in_thread(self._store.files.read, tile)
        except TornTile:
            await self._store.discard([tile])
            await self._store.settled()
            self._report("torn tile", keys.path(tile))
            return True
        return False

    async def _index_to_disk(self, rest: Rest) -> None:
        after: Key = (-(2**63), -(2**63))
        while True:
            found, named = await self._database.read(rows.page, after, _AT_ONCE)
            if not found:
                return
            after = found[-1]
            for key in [key for key in found if key not in named]:
                if await self._database.run(rows.drop, [key]):
                    self._report("row that names no tile", f"highkey {key[0]}, lowkey {key[1]}")
            missing = await self._in_thread(
                lambda tiles: [tile for tile in tiles if self._store.files.stat(tile) is None], list(named.values())
            )
            await self._settle_idle(missing)
            await rest(None)


async def keep_mended(mender: Fsck, store: TileStore, database: Database, clock: IReactorTime, *, sweeps: bool) -> None:
    """All of it once the index is there; then what other processes leave when they die, and what overflowed.

    :param sweeps: whether it is for this process to sweep at the start: among workers it is for one.
    """
    swept = not sweeps
    while True:
        await database.wait_up()
        try:
            await mender.recover()
            if not swept or store.overflowed:
                await mender.sweep(rest=lambda _: deferLater(clock, _REST))
                swept = True
        except DatabaseUnavailable:
            await deferLater(clock, _AGAIN_AFTER)
            continue
        except CancelledError:
            raise
        except Exception:
            mender.failed()
        await deferLater(clock, _RECOVER_EVERY)
