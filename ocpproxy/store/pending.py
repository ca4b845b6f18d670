"""Tiles whose rows are pending: their files were changed, and the index does not know yet.

They are reconciled in the background, many in one transaction. While the index is unavailable they wait; the journal
names them should the process die.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.defer import CancelledError, Deferred

from ocpproxy.index.database import Database, DatabaseUnavailable
from ocpproxy.log import Logger
from ocpproxy.metrics import Metrics
from ocpproxy.model.stack import Tile
from ocpproxy.store import rows
from ocpproxy.store.rows import Stat
from ocpproxy.store.space.usage import Usage

_BATCH = 512
"""Tiles in one transaction."""
_LIMIT = 200_000
"""Tiles that may be pending in memory. Beyond that the journal names them, and a sweep finds them."""


class PendingRows:
    """The pending tiles of one process, and the totals of the index as they were last seen.

    :param stat: looks at a tile's file.
    :param on_reconciled: called after each run of reconciling.
    :param on_refused: called with tiles that have a file and can have no row.
    """

    _log = Logger()

    def __init__(
        self,
        database: Database,
        stat: Stat,
        metrics: Metrics,
        on_reconciled: Callable[[], None],
        on_refused: Callable[[list[Tile]], None],
    ) -> None:
        self._database = database
        self._stat = stat
        self._metrics = metrics
        self._on_reconciled = on_reconciled
        self._on_refused = on_refused
        self._sizes: dict[Tile, int] = {}
        self._usage = Usage()
        self._totals = Usage()
        self._totals_seen = 0
        self._running: Deferred[None] | None = None
        self.overflowed = False
        """True if more tiles were pending than are kept in memory: a sweep has to find the others."""
        database.when_available(self._database_available)
        database.when_emptied(self._database_emptied)

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, tile: Tile) -> bool:
        return tile in self._sizes

    def add(self, sizes: Mapping[Tile, int]) -> None:
        """Add tiles whose files were changed, with the bytes that they may have added; reconcile them soon."""
        for tile, size in sizes.items():
            if len(self._sizes) < _LIMIT or tile in self._sizes:
                self._remove(tile)
                self._sizes[tile] = size
                self._usage += Usage(int(size > 0), size)
            else:
                self.overflowed = True
        self._metrics.pending.set(len(self))
        self.reconcile_soon()

    def _remove(self, tile: Tile) -> None:
        size = self._sizes.pop(tile, 0)
        self._usage -= Usage(int(size > 0), size)

    # -- totals

    @property
    def usage(self) -> Usage:
        """What the cache holds: the totals as they were last seen, and what is pending."""
        return self._totals + self._usage

    async def refresh(self) -> Usage:
        """Read the totals, which other processes change too, and return the usage.

        :raises DatabaseUnavailable: the index does not answer.
        """
        seen = self._totals_seen
        totals = await self._database.read(rows.usage)
        if seen == self._totals_seen:  # else newer ones have been seen meanwhile
            self.see_totals(totals)
        return self.usage

    def see_totals(self, totals: Usage) -> None:
        """Note the totals that a transaction has just returned."""
        self._totals = totals
        self._totals_seen += 1
        self._metrics.cache_tiles.set(self.usage.tiles)
        self._metrics.cache_bytes.set(self.usage.bytes)
        self._metrics.pending.set(len(self))

    def _database_emptied(self) -> None:
        self.overflowed = True  # the rows of all tiles are missing

    def _database_available(self) -> None:
        self.reconcile_soon()
        self.refresh_soon()

    def refresh_soon(self) -> None:
        """Start to read the totals. What goes wrong is tried again when somebody needs them."""
        refreshing = Deferred.fromCoroutine(self.refresh())
        refreshing.addErrback(lambda failure: failure.trap(DatabaseUnavailable, CancelledError) and None)

    # -- reconciling

    def reconcile_soon(self) -> None:
        """Start to reconcile, if that is possible and not being done."""
        if self._running is None and self._sizes and self._database.available:
            self._running = Deferred.fromCoroutine(self._reconcile())
            self._running.addErrback(lambda failure: self._log.failure("reconciling rows with files", failure))
            self._running.addBoth(self._ended)

    def _ended(self, _: object) -> None:
        self._running = None
        self._on_reconciled()
        self.reconcile_soon()  # what came last, or was interrupted while the connections were replaced

    async def _reconcile(self) -> None:
        while self._sizes:
            batch = {tile: self._sizes[tile] for tile, _ in zip(self._sizes, range(_BATCH), strict=False)}
            totals = None
            try:
                done = await self._database.run(rows.reconcile, list(batch), self._stat)
                totals = done.usage
                if done.refused:
                    self._on_refused(done.refused)
            except DatabaseUnavailable:
                return
            except CancelledError:
                raise
            except Exception:
                self._metrics.failed_passes.labels("settle").inc()
                self._log.failure("{count} tiles could not be reconciled; a sweep will look again", count=len(batch))
                self.overflowed = True
            for tile, size in batch.items():
                if self._sizes.get(tile) == size:
                    self._remove(tile)
            self.see_totals(self._totals if totals is None else totals)

    async def reconciled(self) -> None:
        """Return when nothing is pending, or the index is unavailable."""
        while self._sizes and self._database.available:
            self.reconcile_soon()
            await self.pause()

    async def pause(self) -> None:
        """Return when the reconciling that is being done has ended."""
        if self._running is not None:
            ended: Deferred[None] = Deferred(lambda _: None)
            self._running.addBoth(lambda _: None if ended.called else ended.callback(None))
            await ended
