"""The half of a gateway that keeps tiles: what the daemon and the commands that work on the cache have in common."""

from __future__ import annotations

import re
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import TimeoutError as DeferredTimeout

from ocpproxy.concurrency.threads import LanedThreadPool
from ocpproxy.config import Settings
from ocpproxy.daemon.services import OrderedServices
from ocpproxy.index import leases
from ocpproxy.index.backends import backend
from ocpproxy.index.database import Database, DatabaseUnavailable
from ocpproxy.index.leases import Leases
from ocpproxy.metrics import Metrics
from ocpproxy.store.fsck import Fsck, Report
from ocpproxy.store.part import TilePart
from ocpproxy.store.space.capacity import CacheLimits
from ocpproxy.store.space.free_space import KeepFree
from ocpproxy.store.tile_store import CacheDirectory, TileStore

_FILE_THREADS = 4
_INDEX_WITHIN = 15.0
"""Seconds that the index database has to answer to a command."""


@dataclass(frozen=True)
class Storage:
    """A store, and what it needs."""

    files: LanedThreadPool
    """Threads for work on files."""
    database: Database
    leases: Leases
    store: TileStore
    fsck: Fsck

    def services(self) -> list[IService]:
        """Return the services in the order in which they start."""
        return [self.files, self.database, self.leases, self.store]


def open_storage(settings: Settings, reactor: Any, metrics: Metrics, report: Report | None = None) -> Storage:
    """Return the storage of these settings, not started.

    :param report: called with each thing that fsck mends.
    """
    # Its name is a part of files' names, between dots.
    owner = f"{re.sub(r'[^A-Za-z0-9_-]', '-', socket.gethostname())[:40]}-{uuid.uuid4().hex[:16]}"
    cache = settings.cache
    limits = CacheLimits(cache.size, cache.max_tiles, cache.reclaim_above, cache.reclaim_to)
    files = LanedThreadPool(reactor, _FILE_THREADS, "files")
    database = Database(reactor, backend(settings.index.url), lambda available: metrics.index_up.set(available))
    directory = CacheDirectory(cache.directory, owner, limits, KeepFree(*cache.keep_free), pinned_levels(settings))
    store = TileStore(directory, database, reactor, files.run, metrics)

    async def release_leases(dead: str) -> None:
        await database.run(leases.release_all, dead)

    return Storage(
        files,
        database,
        Leases(database, owner, settings.index.lease, reactor),
        store,
        Fsck(store, release_leases, report),
    )


def pinned_levels(settings: Settings) -> tuple[TilePart, ...]:
    """Return what datasets pin by their options."""
    return tuple(TilePart(token, levels=one.pin) for token, one in settings.datasets.items() if one.pin)


class CannotOpen(Exception):
    """The cache or its index cannot be used. The message is one sentence for people."""


@asynccontextmanager
async def opened(settings: Settings, reactor: Any, report: Report | None = None) -> AsyncIterator[Storage]:
    """Open the cache for a command; daemons may use it at the same time.

    :param report: called with each thing that fsck mends.
    :raises CannotOpen: also when the index becomes unavailable within the block.
    """
    storage = open_storage(settings, reactor, Metrics(), report)
    services = OrderedServices()
    for service in storage.services():
        service.setServiceParent(services)
    try:
        services.startService()
        if storage.store.disk.full:
            await storage.store.disk.make_room()
        await storage.database.wait_available().addTimeout(_INDEX_WITHIN, reactor)
        yield storage
    except OSError as error:
        raise CannotOpen(f"the cache directory cannot be used: {error}") from None
    except (DatabaseUnavailable, DeferredTimeout):
        raise CannotOpen(f"the index database is unavailable: {storage.database.reason}") from None
    finally:
        await services.stopService()
