"""The HTTP of one connection: answers go out at once, and no more of them than the client reads.

**At once.** Twisted's transport takes what is written into a buffer, joins it, and sends it when the event loop comes
round again: for a tile that copies 200 kB and takes longer than all of the sending. An answer is complete when it is
written, and the socket nearly always takes all of it, so head and body are sent here, by one ``sendmsg``; only what the
socket does not take is left to the transport. On TLS everything is.

**No more.** Twisted answers all that a client has pipelined, one request after the other, however little of it the
client reads: 64 KiB of requests may become 200 MB of tiles in the transport's buffer. Here no request is begun while
the transport holds more than it wants to; nothing more is read of the connection meanwhile, and its time-out goes on
running. So a connection holds two answers at the most.
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


def lines(headers: Headers) -> bytes:
    """Header lines as they are sent."""
    return b"".join(b"%b: %b\r\n" % (name, value) for name, values in headers.getAllRawHeaders() for value in values)


class PromptChannel(HTTPChannel):
    """The HTTP of one connection. `GatewayRequest.process` asks it whether to begin."""

    transport: Any
    factory: Any
    socket: Any = None
    """The plain socket of the connection, if it has one."""
    behind = False
    """The transport has more to send than it wants to have."""
    _head = b""
    _held: Callable[[], None] | None = None

    def connectionMade(self) -> None:
        """A client has come."""
        super().connectionMade()
        if type(self.transport) in (tcp.Server, unix.Server) and not self.transport.TLS:
            self.socket = self.transport.getHandle()

    # -- at once

    def unsent(self) -> bool:
        """Whether the transport has bytes to send, which ours must not overtake. (It has no public word for that.)"""
        return bool(self.transport.dataBuffer or self.transport._tempDataBuffer)

    def send(self, parts: Sequence[bytes]) -> None:
        """Send these bytes, behind all that has been written before."""
        sent = 0
        if self.socket is not None and not self.unsent():
            with suppress(OSError):  # full, or gone: the transport will find out which
                sent = self.socket.sendmsg(parts)
        self.leave(parts, sent)

    def leave(self, parts: Iterable[bytes | memoryview], sent: int) -> None:
        """Leave to the transport what was not sent of these bytes."""
        for part in parts:
            if sent < len(part):
                self.transport.write(bytes(part[sent:]))
            sent = max(0, sent - len(part))

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """The head of an answer: it is sent with its body."""
        self._head = b"%b %b %b\r\n%b\r\n" % (version, code, reason, lines(headers))

    def write(self, data: bytes) -> None:
        """The body of an answer, or a part of it."""
        head, self._head = self._head, b""
        self.send((head, data))

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """The same in pieces."""
        self.write(b"".join(iovec))

    def requestDone(self, request: Request) -> None:
        """The answer is complete."""
        if self._head:
            self.write(b"")
        super().requestDone(request)

    # -- no more

    def pauseProducing(self) -> None:
        """The transport has enough."""
        self.behind = True
        super().pauseProducing()

    def hold(self, begin: Callable[[], None]) -> None:
        """Begin with a request when the client has read what there is."""
        self._held = begin
        self.transport.pauseProducing()
        self.setTimeout(self.factory.timeOut)  # it is off while a request is being answered

    def resumeProducing(self) -> None:
        """The transport has sent all."""
        self.behind = False
        super().resumeProducing()
        if self._held is not None:
            begin, self._held = self._held, None
            self.transport.resumeProducing()
            self.setTimeout(None)
            begin()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client has left."""
        self._held = None
        super().connectionLost(reason)
