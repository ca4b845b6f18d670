"""The HTTP of one connection: answers are sent at once, and only as fast as the client reads them.

**At once.** Twisted's transport copies what is written into a buffer, joins it, and sends it in the next iteration of
the event loop. For a tile that copies 200 kB, which takes longer than to send them. An answer is complete when it is
written, and the socket nearly always takes all of it. So head and body are sent here, by one ``sendmsg``, and the
transport gets only the bytes that the socket does not take. On TLS it gets all of them.

**As the client reads.** Twisted answers all requests that a client has pipelined, one after the other, even if the
client reads no answer: 64 KiB of requests may become 200 MB of tiles in the transport's buffer. Here no request is
begun while the transport's buffer is full. Until it is empty, nothing more is read from the connection, and its
time-out goes on running. So a connection holds two answers at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from twisted.web.http_headers import Headers


def header_lines(headers: Headers) -> bytes:
    """Return header lines as they are sent."""
    return b"".join(b"%b: %b\r\n" % (name, value) for name, values in headers.getAllRawHeaders() for value in values)


class PromptChannel(HTTPChannel):
    """The HTTP of one connection. `GatewayRequest.process` holds a request while the client is `behind`."""

    transport: Any
    factory: Any
    socket: Any = None
    """The plain socket of the connection, if it has one."""
    behind = False
    """True while the transport's buffer is full, because the client reads slowly."""
    _head = b""
    _held: Callable[[], None] | None = None

    def connectionMade(self) -> None:
        """Find out whether the connection has a plain socket."""
        super().connectionMade()
        if type(self.transport) in (tcp.Server, unix.Server) and not self.transport.TLS:
            self.socket = self.transport.getHandle()

    # -- at once

    def unsent(self) -> bool:
        """Return whether the transport has bytes in its buffer, which have to be sent before any others.

        It has no public attribute for that.
        """
        return bool(self.transport.dataBuffer or self.transport._tempDataBuffer)

    def send(self, parts: Sequence[bytes]) -> None:
        """Send these bytes after all that were written before."""
        sent = 0
        if self.socket is not None and not self.unsent():
            with suppress(OSError):  # the socket is full, or closed: the transport will find out which
                sent = self.socket.sendmsg(parts)
        self.leave(parts, sent)

    def leave(self, parts: Iterable[bytes | memoryview], sent: int) -> None:
        """Leave to the transport what follows the first `sent` bytes."""
        for part in parts:
            if sent < len(part):
                self.transport.write(bytes(part[sent:]))
            sent = max(0, sent - len(part))

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Keep the head of an answer: it is sent with the body."""
        self._head = b"%b %b %b\r\n%b\r\n" % (version, code, reason, header_lines(headers))

    def write(self, data: bytes) -> None:
        """Send the body of an answer, or a part of it."""
        head, self._head = self._head, b""
        self.send((head, data))

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send a part of the body that comes in pieces."""
        self.write(b"".join(iovec))

    def requestDone(self, request: Request) -> None:
        """Send the head of an answer without a body, and go on to the next request."""
        if self._head:
            self.write(b"")
        super().requestDone(request)

    # -- as the client reads

    def pauseProducing(self) -> None:
        """Note that the transport's buffer is full."""
        self.behind = True
        super().pauseProducing()

    def hold(self, begin: Callable[[], None]) -> None:
        """Call `begin` when the transport's buffer is empty."""
        self._held = begin
        self.transport.pauseProducing()
        self.setTimeout(self.factory.timeOut)  # it is off while a request is being answered

    def resumeProducing(self) -> None:
        """Begin the held request: the transport's buffer is empty."""
        self.behind = False
        super().resumeProducing()
        if self._held is not None:
            begin, self._held = self._held, None
            self.transport.resumeProducing()
            self.setTimeout(None)
            begin()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Drop the held request: the client has left."""
        self._held = None
        super().connectionLost(reason)
