"""When tiles were used last: noted in memory, written to the index in batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.task import LoopingCall

from ocpproxy.index.database import Database, DatabaseUnavailable
from ocpproxy.log import Logger
from ocpproxy.metrics import Metrics
from ocpproxy.model.stack import Tile
from ocpproxy.store import rows

_INTERVAL = 2.0
"""Seconds between writes."""
_BATCH = 2000
"""Uses in one transaction."""
_LIMIT = 500_000
"""Uses kept in memory while the index is unavailable."""


class LastUses:
    """The last uses of tiles that the index does not know yet."""

    _log = Logger()

    def __init__(
        self, database: Database, reactor: Any, metrics: Metrics, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._now = now
        self._metrics = metrics
        self._uses: dict[Tile, float] = {}
        self._loop = LoopingCall(self.write)
        self._loop.clock = reactor

    def start(self) -> None:
        """Write uses every two seconds from now on."""
        self._loop.start(_INTERVAL, now=False)

    async def stop(self) -> None:
        """Write what is only in memory, and stop."""
        if self._loop.running:
            self._loop.stop()
        await self.write()

    def note(self, tile: Tile) -> None:
        """Note that the tile is used now."""
        if len(self._uses) < _LIMIT or tile in self._uses:
            self._uses[tile] = self._now()

    async def write(self) -> None:
        """Write the uses to the index; while it is unavailable they stay in memory."""
        while self._uses and self._database.available:
            batch = {tile: self._uses[tile] for tile, _ in zip(self._uses, range(_BATCH), strict=False)}
            try:
                await self._database.run(rows.record_uses, batch)
            except DatabaseUnavailable:
                return
            except CancelledError:
                raise
            except Exception:
                self._metrics.failed_passes.labels("uses").inc()
                self._log.failure("the last uses of tiles could not be recorded")
            for tile, used in batch.items():
                if self._uses.get(tile) == used:
                    del self._uses[tile]
            if len(batch) < _BATCH:
                return
