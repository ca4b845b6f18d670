"""Heads of responses that are no heads: endless, malformed, with numbers that are none."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from ocpproxy.upstream.base import ResponseTooLarge, UpstreamBroken, UpstreamFailure
from ocpproxy.upstream.http import HostClient, HttpResponse, status_failure
from tests.conformance import UpstreamCase

FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"


class _Raw(Protocol):
    """A server that sends bytes, whatever it is asked, and then pieces for as long as somebody reads them."""

    transport: Any

    def __init__(self, begin: bytes, piece: bytes) -> None:
        self._begin = begin
        self._piece = piece
        self.sent = 0

    def dataReceived(self, data: bytes) -> None:
        """Answer."""
        self.transport.write(self._begin)
        if self._piece:
            self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Send more."""
        self.sent += len(self._piece)
        self.transport.write(self._piece)

    def stopProducing(self) -> None:
        """Stop: nobody reads any more."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Stop."""
        if self._piece:
            self.transport.unregisterProducer()


class HeadTests(UpstreamCase):
    """What the client makes of them."""

    async def get(self, begin: bytes, piece: bytes = b"") -> HttpResponse:
        """Return the response of a server that sends these bytes."""
        factory: Any = Factory.forProtocol(lambda: self.server)
        self.server: Any = _Raw(begin, piece)
        port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        url = f"http://127.0.0.1:{port.getHost().port}"
        return await HostClient(self.context.http, url, timeout=60, connections=2, retries=0).get(
            "x", 1000, status_failure
        )

    async def test_endless(self) -> None:
        """Headers, one header, interim responses and a status line without an end are given up after 64 KiB."""
        for begin, piece in (
            (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000),
            (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 10_000),
            (b"HTTP/1.1 200 ", b"O" * 10_000),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
            (b"HTTP/1.0 100 C\r\n\r\nHTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000),
            (b"HTTP/1.1 0100 C\r\n\r\nHTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000),
        ):
            with self.assertRaises(UpstreamFailure, msg=piece[:20]):
                await self.get(begin, piece)
            self.assertLess(self.server.sent, 20 * 2**20, piece[:20])

    async def test_reason(self) -> None:
        """The failure says what was wrong, and is not repeated."""
        with self.assertRaises(ResponseTooLarge) as caught:
            await self.get(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000)
        self.assertIn("65536 bytes", str(caught.exception))

    async def test_lengths(self) -> None:
        """A length of thousands of digits, or one that is no number, is a broken response."""
        for length in (b"9" * 5000, b"-1", b"abc", b"", b"1e3"):
            with self.assertRaises(UpstreamBroken, msg=length[:10]):
                await self.get(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\nfine")
        self.flushLoggedErrors()

    async def test_fine(self) -> None:
        """Large heads below the bound, and interim responses, are read."""
        large = FINE.replace(b"OK\r\n", b"OK\r\n" + b"X: yyyyyy\r\n" * 5000)
        for begin in (FINE, large, b"HTTP/1.1 100 Continue\r\n\r\n" + FINE):
            response = await self.get(begin)
            self.assertEqual(response.body, b"fine")
