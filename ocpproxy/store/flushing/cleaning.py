"""The removal of files that flushes cover: in the background, by one process at a time, with pauses for other work.

It begins when all living processes know the flush, so nothing that it covers is made afterwards. A process that dies
meanwhile leaves the rest to another.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.index.leases import LeaseHolder
from ocpproxy.log import Logger
from ocpproxy.model.stack import Tile
from ocpproxy.store.flushing import flush
from ocpproxy.store.flushing.flush import Walked
from ocpproxy.store.tile_store import TileStore

LEASE = "flush"
_BATCH = 200
"""Tiles that are removed in one go."""
_PAUSE = 0.02
"""Seconds between two batches, so that hits do not notice."""
_LOOK_EVERY = 0.5


class Cleaning:
    """The removal of files from one store.

    :param pause: seconds between two batches.
    """

    _log = Logger()

    def __init__(self, store: TileStore, leases: LeaseHolder, clock: IReactorTime, pause: float = _PAUSE) -> None:
        self._store = store
        self._leases = leases
        self._clock = clock
        self._pause = pause

    async def run(self) -> None:
        """Carry out flushes for as long as the daemon runs."""
        while True:
            await deferLater(self._clock, _LOOK_EVERY)
            try:
                if self._store.flushes.active and self._store.database.available:
                    await self.clean()
            except DatabaseUnavailable:
                pass
            except CancelledError:
                raise
            except Exception:
                self._store.metrics.failed_passes.labels("flush").inc()
                self._log.failure("a flush could not be carried out; it is tried again")

    async def clean(self) -> bool:
        """Remove the files of all flushes that all processes know; return whether none is left.

        :raises DatabaseUnavailable: the index does not answer.
        """
        if not await self._leases.acquire(LEASE):
            return False
        try:
            for name in list(self._store.flushes.active):
                try:
                    if not await self._store.flushes.silent(name):
                        await self._carry_out(name)
                except OSError as error:  # such as of one directory, which does not keep the others from being done
                    self._log.error("a flush cannot be carried out: {reason}", reason=str(error))
        finally:
            await self._leases.release(LEASE)
        return not self._store.flushes.active

    async def _carry_out(self, name: str) -> None:
        store, flushes = self._store, self._store.flushes
        rule = flushes.active.get(name)
        if rule is None:
            return
        run = store.run_in_thread
        removed = await run(flushes.files.load_progress, name)
        files = flush.walk(store.files.directory, rule, flushes.context.now())
        while (batch := await run(_next_tiles, files)) is not None:
            if batch:
                removed += await store.discard_flushed(batch)
                await store.pending.reconciled()
                await run(flushes.files.save_progress, name, removed)
            if self._pause:
                await deferLater(self._clock, self._pause)
        await run(flushes.files.end, name)
        await flushes.look()
        self._log.info("a flush of {part} is carried out: {count} tiles", part=str(rule.part), count=removed)


def _next_tiles(files: Iterator[Walked]) -> list[Tile] | None:
    """Return the next tiles of a walk; None at its end. (In a thread.)"""
    looked_at = list(islice(files, _BATCH))
    return [file[0] for file in looked_at if file is not None] if looked_at else None
