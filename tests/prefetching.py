"""A daemon with an admin endpoint, and the commands that speak to it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.web.client import Agent
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from tests import ocpserver
from tests.daemons import ROOT, Daemon, DaemonCase
from tests.doubles import Answer
from tests.volumes import em

SLABS = 4


class PickyService(ocpserver.Service):
    """A service that fails for some cutouts."""

    bad: frozenset[str] = frozenset()
    """Parts of the paths of cutouts that fail."""

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Answer:
        """Fail, or not."""
        if any(part in path for part in self.bad):
            return "cutout", 500, {}, b"for the test"
        return super().answer(path, query, headers)


def admin_client(path: Path) -> HTTPClient:
    """Return an HTTP client of a unix socket."""

    @implementer(IAgentEndpointFactory)
    class Endpoints:
        def endpointForURI(self, uri: object) -> UNIXClientEndpoint:
            return UNIXClientEndpoint(reactor, str(path))

    return HTTPClient(Agent.usingEndpointFactory(reactor, Endpoints()))


class Command(ProcessProtocol):
    """A command in a process of its own."""

    def __init__(self, config: Path, *words: str) -> None:
        self.output = ""
        self.ended: Deferred[int] = Deferred()
        command = [sys.executable, "-m", "ocpproxy.cli", *words, "--config", str(config)]
        self.process = reactor.spawnProcess(self, command[0], command, {**os.environ}, str(ROOT))

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Keep the output."""
        self.output += data.decode()

    def processEnded(self, reason: Failure) -> None:
        """Note the exit code."""
        value: Any = reason.value
        self.ended.callback(-1 if value.exitCode is None else value.exitCode)


class PrefetchCase(DaemonCase):
    """A daemon with an admin endpoint."""

    def setUp(self) -> None:
        """Make a short directory: the path of a unix socket has at most 107 bytes."""
        super().setUp()
        self.short = Path(tempfile.mkdtemp(prefix="ocp-"))
        self.addCleanup(shutil.rmtree, self.short)

    async def begin(self, **options: str) -> Daemon:
        """Start a daemon in front of a volume of `SLABS` slabs of 2 x 2 tiles."""
        volume = np.tile(em(), (16 * SLABS // 20 + 1, 1, 1))[: 16 * SLABS]
        self.service = PickyService(volume, 2, side=512, depth=16, offset=(0, 0, 0))
        self.upstream = self.serve(self.service)
        return await self.start_again(**options)

    async def start_again(self, **options: str) -> Daemon:
        """Start a daemon with the same cache."""
        defaults = {"admin_listen": f"unix:{self.short}/admin.sock"}
        self.config = self.configure(self.upstream, None, "ocp.ini", **{**defaults, **options})
        return await self.start(self.config)

    async def command(self, *words: str, **environ: str) -> tuple[int, str]:
        """Run a command to its end; return its exit code and its output."""
        out, err, code = await getProcessOutputAndValue(
            sys.executable,
            ["-m", "ocpproxy.cli", *words, "--config", str(self.config)],
            {**os.environ, **environ},
            str(ROOT),
        )
        return code, out.decode() + err.decode()

    async def job(self, number: int = 1) -> dict[str, Any]:
        """Return what ``jobs --json`` says of a job."""
        code, out = await self.command("jobs", str(number), "--json")
        self.assertEqual(code, 0, out)
        found: dict[str, Any] = json.loads(out)["job"]
        return found

    async def all_hits(self, daemon: Daemon, levels: tuple[int, ...] = (0,)) -> None:
        """Check that every tile of these levels is a hit."""
        asked = self.service.asked["cutout"]
        for level in levels:
            side = 2 if level == 0 else 1
            for slice_ in range(16 * SLABS):
                for row in range(side):
                    for col in range(side):
                        path = f"kat/{slice_}/{row}_{col}_{level}.png"
                        code, _, headers = await daemon.get(path)
                        self.assertEqual((code, headers["cache-status"][:13]), (200, "ocpproxy; hit"), path)
        self.assertEqual(self.service.asked["cutout"], asked)
