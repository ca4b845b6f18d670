"""A gateway in the process of the test, and what is sent to it as bytes."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from ocpproxy import config
from ocpproxy.daemon import gateway
from ocpproxy.daemon.services import ListeningPorts
from ocpproxy.metrics import Metrics
from ocpproxy.upstream.registry import KINDS
from tests import doubles, ocpserver
from tests.daemons import pause
from tests.volumes import em

TILES = (b"/kat/3/0_0_0.png", b"/kat/4/0_1_0.png", b"/ocpcatmaid/kat/image/xy/5/1_0_0.png")
CHUNKS = (b"/precomputed/kat/image/0/0-128_0-128_1-17", b"/zarr/kat/image/0/0/1/1")
TARGETS = (
    *TILES,
    b"/ocpcatmaid/tilecache/kat/3/0_0_0.png",
    b"/k%61t/3/0_0_0.png",
    b"/kat/3/0_0_0.png?nocache=1&x=<script>",
    b"/kat/xy/?x=512&y=0&width=512&height=512&row=y&col=x&scale=1&z=4",
    b"/kat/3/0_0_0.png?min=10&max=200",
    b"/kat/0/0_0_0.png",
    b"/kat/9999/0_0_0.png",
    b"/kat/3/0_0_0.jpg",
    b"/nope/3/0_0_0.png",
    b"/healthz",
    b"//kat/3/0_0_0.png",
    b"kat/3/0_0_0.png",
    b"*",
    b"/kat/3/0_0_0.png#x",
    *CHUNKS,
    b"/zarr3/kat/image/0/c/0/1/1?x=1",
    b"/precomputed/kat/image/0/0-128_0-128_1-16",
)
DATE = re.compile(rb"\r\n(?:Date|Cache-Status|X-Request-Id|Server-Timing): [^\r]*")


def without_date(answer: bytes) -> bytes:
    """Return an answer without the headers that may differ."""
    return DATE.sub(b"", answer)


def read_all(client: socket.socket) -> bytes:
    """Return everything that comes until the end of the connection. (In a thread.)"""
    parts = []
    while part := client.recv(2**20):
        parts.append(part)
    return b"".join(parts)


class HotCase(TestCase):
    """A gateway in this process, and connections to it that are driven by hand."""

    timeout = 600
    memory = "64"

    async def setUp(self) -> None:  # type: ignore[override]
        """Start a gateway, and let it store the tiles."""
        self.place = Path(self.mktemp()).absolute()
        self.place.mkdir()
        url = doubles.serve(self, ocpserver.Service(em(), 2))
        text = (
            "[server]\nlisten = tcp:0:interface=127.0.0.1\naccess_log = off\n"
            f"[cache]\ndirectory = cache\nmemory = {self.memory}\n[index]\nurl = sqlite:///index.sqlite\n"
            f"[upstream]\nurl = {url}\n"
        )
        self.gateway = gateway.make_gateway(config.parse(text, self.place, os.environ, KINDS), reactor, Metrics())
        self.gateway.services.privilegedStartService()
        self.gateway.services.startService()
        self.addCleanup(self.stop)
        listening = next(part for part in self.gateway.services if isinstance(part, ListeningPorts))
        host = listening.ports[0].getHost()
        assert isinstance(host, IPv4Address)
        self.port = host.port
        self.site: Any = self.gateway.site
        self.store = self.gateway.storage.store
        for target in TARGETS:
            await deferToThread(self.exchange, b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
        tiles = self.place / "cache" / "tiles"
        while len(self.store.pending) or len(list(tiles.rglob("*.png"))) < 48 or len(list(tiles.rglob("*.chunk"))) < 16:
            await pause(0.02)
        for tile in (*tiles.rglob("*.png"), *tiles.rglob("*.chunk")):
            tile.read_bytes()  # into the page cache

    async def stop(self) -> None:
        """Stop the gateway."""
        await self.gateway.services.stopService()
        self.gateway.storage.database.close()

    def exchange(self, requests: bytes) -> bytes:
        """Return what the gateway answers to requests on one connection, until it closes it. (In a thread.)"""
        with socket.create_connection(("127.0.0.1", self.port), timeout=300) as client:
            client.sendall(requests)
            answer = b""
            while part := client.recv(2**18):
                answer += part
        return answer

    @contextmanager
    def ordinary(self) -> Iterator[None]:
        """Switch off the hot path for the time of a block."""
        answer, self.site.hot_path.answer = self.site.hot_path.answer, lambda *_: None
        try:
            yield
        finally:
            self.site.hot_path.answer = answer
