"""A store on a database, as the daemon has it, and tiles for it."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from ocpproxy.concurrency.threads import LanedThreadPool
from ocpproxy.config import IndexUrl
from ocpproxy.imagery import png
from ocpproxy.index import leases
from ocpproxy.index.database import Database
from ocpproxy.metrics import Metrics
from ocpproxy.model.stack import Tile
from ocpproxy.store import keys, rows
from ocpproxy.store.fsck import Fsck
from ocpproxy.store.journal import Journal
from ocpproxy.store.space.capacity import CacheLimits
from ocpproxy.store.space.usage import Usage
from ocpproxy.store.tile_store import CacheDirectory, TileStore
from tests.databases import OnDatabase, started
from tests.volumes import em

STACK = "kat/xy/image/0123abcd"
SPACIOUS = CacheLimits(10**9, 0, 0.95, 0.9)
"""More space than a test needs."""
PICTURES = [png.grey(em()[n % 20, :512, :512]) for n in range(4)]


def tile(slice_: int, row: int = 0, col: int = 0, level: int = 0, stack: str = STACK) -> Tile:
    """Return a tile."""
    return Tile(stack, 0, level, slice_, row, col)


def journalled(journal: Journal) -> set[Tile]:
    """Return the tiles that a journal names now."""
    place = journal._own / "tiles"
    return {one for line in place.read_text().split() if (one := keys.tile_at(line))} if place.exists() else set()


class OpenStore:
    """A store on a database, as the daemon has it."""

    def __init__(
        self, case: TestCase, database: Database, directory: Path, owner: str, limits: CacheLimits = SPACIOUS
    ) -> None:
        self.case = case
        self.metrics = Metrics()
        self.pool = LanedThreadPool(reactor, 2, "files")
        cache = CacheDirectory(directory, owner, limits)
        self.store = TileStore(cache, database, reactor, self.pool.run, self.metrics)
        self.database = database
        self.mended: list[tuple[str, str]] = []

        async def forget(dead: str) -> None:
            await database.run(leases.release_all, dead)

        self.fsck = Fsck(self.store, forget, lambda *what: self.mended.append(what))
        self.pool.startService()
        self.store.startService()
        case.addCleanup(self.pool.stopService)
        case.addCleanup(self.store.stopService)

    def die(self) -> None:
        """Leave the store as kill -9 would: the lock is free, the journal stays."""
        self.store.journal._fd, fd = None, self.store.journal._fd
        assert fd is not None
        os.close(fd)

    @property
    def unstored(self) -> float | None:
        """The number of tiles that were not stored, as the metrics give it."""
        return self.metrics.registry.get_sample_value("ocpproxy_unstored_tiles_total")

    async def assert_consistent(self) -> Usage:
        """Check that rows, totals and files are the same, and return the totals."""
        await self.store.pending.reconciled()
        found = await self.database.read(lambda tx: tx.many("SELECT filename, bytes FROM contents"))
        files = list(self.store.files.walk())
        self.case.assertEqual(sorted((str(name), int(size)) for name, size in found), sorted(files))
        usage = await self.database.read(rows.usage)
        self.case.assertEqual(usage, Usage(len(files), sum(size for _, size in files)))
        self.case.assertEqual(self.store.usage, usage)
        counted = await self.database.read(rows.count)
        self.case.assertTrue(counted.is_right, counted)
        return usage


class OpenStoreMixin(OnDatabase):
    """Makes stores on either database."""

    timeout = 600
    url: IndexUrl | None = None
    directory: Path

    async def open_store(self, owner: str = "one", limits: CacheLimits = SPACIOUS) -> OpenStore:
        """Return a new store. All stores of a test share a database and a directory."""
        if self.url is None:
            self.url, self.directory = self.index_url(), Path(self.mktemp()).absolute()
        return OpenStore(self, await started(self, self.url), self.directory, owner, limits)
