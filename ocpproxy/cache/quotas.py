"""Quotas: a dataset that takes more than its own bound evicts its own tiles, those used least recently first.

The `accounts` say what each dataset takes. Which tiles go is read from the index many at a time and without a lock,
for the oldest tiles of one dataset may lie behind millions of others. They are evicted a few at a time. One process at
a time does this, by a lease.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater

from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.index.leases import LeaseHolder
from ocpproxy.log import Logger
from ocpproxy.metrics import Metrics
from ocpproxy.store.keys import Key
from ocpproxy.store.space import accounts, evicting
from ocpproxy.store.space.usage import Usage
from ocpproxy.store.tile_store import TileStore

LEASE = "quota"
_LOOK_EVERY = 2.0
_TO = 0.95
"""The share of its quota that a dataset keeps when it has taken more."""
_READ = 10_000
"""Tiles that are read from the index in one go."""
_SLICE = 100
"""Tiles that are evicted in one go."""
_PAUSE = 0.02


class Quotas(Service):
    """The quotas of one store.

    :param quotas: bytes by token; a reload changes them.
    """

    _log = Logger()

    def __init__(
        self, store: TileStore, leases: LeaseHolder, quotas: Mapping[str, int], clock: IReactorTime, metrics: Metrics
    ) -> None:
        self._store = store
        self._leases = leases
        self._quotas = quotas
        self._clock = clock
        self._metrics = metrics
        self._loop = LoopingCall(self._look_again)
        self._loop.clock = clock
        self._pinned: set[str] = set()
        """Tokens that have nothing that may be evicted, which was logged."""
        self._ended: Deferred[Any] = succeed(None)

    def startService(self) -> None:
        """Look at what the datasets take from now on."""
        super().startService()
        self._ended = self._loop.start(_LOOK_EVERY, now=False)

    def stopService(self) -> Deferred[Any]:
        """Stop, after what is being evicted."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        return self._ended

    async def _look_again(self) -> None:
        try:
            await self.look()
        except DatabaseUnavailable:
            pass
        except CancelledError:
            raise
        except Exception:
            self._metrics.failed_passes.labels("quota").inc()
            self._log.failure("looking at quotas")

    async def look(self) -> None:
        """Evict what datasets take beyond their quotas.

        :raises DatabaseUnavailable: the index does not answer.
        """
        if not self._quotas:
            return
        taken = dict.fromkeys(self._quotas, 0)
        for account in await self._store.database.read(accounts.read):
            if account.token in taken:
                taken[account.token] += account.usage.bytes
        over = [token for token, size in taken.items() if size > self._quotas.get(token, size)]
        if over and await self._leases.acquire(LEASE):
            try:
                for token in over:
                    await self._shrink(token, taken[token])
            finally:
                await self._leases.release(LEASE)

    async def _shrink(self, token: str, taken: int) -> None:
        """Evict the oldest tiles of a token."""
        quota = self._quotas.get(token)
        if quota is None:  # it has been reloaded meanwhile
            return
        excess, evicted = taken - int(_TO * quota), Usage()
        while evicted.bytes < excess and self.running:
            oldest = deque(await self._store.database.read(evicting.oldest_of, token, _READ))
            if not oldest:
                if token not in self._pinned:
                    self._log.warn("{token} takes more than its quota, and all of it is pinned", token=token)
                self._pinned.add(token)
                break
            self._pinned.discard(token)
            before = evicted
            while oldest and evicted.bytes < excess and self.running:
                evicted += await self._store.evict_keys(_take(oldest, excess - evicted.bytes))
                await deferLater(self._clock, _PAUSE)
            if evicted == before:
                break  # all were pinned, or another process has evicted them; they are not among the oldest any more
        if evicted.tiles:
            self._log.info("{count} tiles of {token} were evicted: its quota", count=evicted.tiles, token=token)


def _take(oldest: deque[tuple[Key, int]], size: int) -> list[Key]:
    """Take the first tiles that have so many bytes together, or a slice of them."""
    taken: list[Key] = []
    while oldest and size > 0 and len(taken) < _SLICE:
        key, nbytes = oldest.popleft()
        taken.append(key)
        size -= nbytes
    return taken
