"""A daemon in front of a service, on either database."""

from __future__ import annotations

import os
import sys

from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure

from tests import ocpserver
from tests.daemons import ROOT, Daemon
from tests.databases import OnDatabase, started
from tests.mixins import DaemonMixin


class GatewayMixin(OnDatabase, DaemonMixin):
    """Starts a daemon, and compares what it has stored with its index."""

    async def gateway(self, service: ocpserver.Service, **options: str) -> Daemon:
        """Start a daemon in front of a service."""
        self.index = self.index_url()
        self.config = self.configure(self.serve(service), self.index, **options)
        daemon: Daemon = await self.start(self.config)
        return daemon

    async def assert_consistent(self) -> tuple[int, int]:
        """Check that rows, numtiles, bytes and files agree, and return tiles and bytes."""
        database = await started(self, self.index)
        rows = await database.read(lambda tx: tx.many("SELECT filename, bytes FROM contents"))
        totals = await database.read(lambda tx: tx.one("SELECT numtiles, bytes FROM metadata"))
        tiles = self.place / "cache" / "tiles"
        files = {str(path.relative_to(tiles)): path.stat().st_size for path in tiles.rglob("*") if path.is_file()}
        self.assertEqual({str(name): int(size) for name, size in rows}, files)
        self.assertEqual(tuple(map(int, totals)), (len(files), sum(files.values())))
        return len(files), sum(files.values())

    def died(self, failure: Failure) -> None:
        """Accept the failure of a request to a daemon that was killed, but not a wrong tile or chunk."""
        if failure.check(self.failureException):
            failure.raiseException()

    async def fsck(self) -> tuple[int, str]:
        """Return the exit code and the output of ``ocpproxy fsck``."""
        out, err, code = await getProcessOutputAndValue(
            sys.executable, ["-m", "ocpproxy.cli", "fsck", "--config", str(self.config)], {**os.environ}, str(ROOT)
        )
        return code, out.decode() + err.decode()
