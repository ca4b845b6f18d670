"""The HTTP of one connection: answers are sent at once, and only as fast as the client reads them.

**At once.** Twisted's transport copies what is written into a buffer, joins it, and sends it in the next iteration of
the event loop. For a tile that copies 200 kB, which takes longer than to send them. An answer is complete when it is
written, and the socket nearly always takes all of it. So head and body are sent here, by one ``sendmsg``, and the
transport gets only the bytes that the socket does not take. On TLS it gets all of them.

**As the client reads.** Twisted answers all requests that a client has pipelined, one after the other, even if the
client reads no answer: 64 KiB of requests may become 200 MB of tiles in the transport's buffer. Here no request is
begun while the transport's buffer is full. Until it is empty, nothing more is read from the connection, and its
time-out goes on running. So a connection holds two answers at most.

**In time.** The head of a request has to arrive within `_HEAD_WITHIN` seconds of its first byte; Twisted's own time-out
begins again with each byte. Nobody here reads the body of a request: the answer is given at once, and the connection is
closed when the client has had time to read it.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES, HTTPChannel, Request
from twisted.web.http_headers import Headers

from ocpproxy.web import target

_HEAD_WITHIN = 20.0
"""Seconds from the first byte of a request to the end of its header."""
_LINGER = 2.0
"""Seconds in which a client who is sending something else can read the last answer."""
_MAX_DIGITS = 18
"""Digits of a Content-Length."""


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
    heard = False
    """True when the client has sent something."""
    has_body = False
    """True while a request is answered that is followed by a body."""
    refusal_headers: Mapping[bytes, bytes] = {}
    """Headers of the answers to what is no HTTP."""
    _head = b""
    _held: Callable[[], None] | None = None
    _deadline: IDelayedCall | None = None
    """When the head of the request that is arriving has to be complete."""
    _answering = False
    _lingering = False
    _lingering_ends: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Find out whether the connection has a plain socket."""
        super().connectionMade()
        if type(self.transport) in (tcp.Server, unix.Server) and not self.transport.TLS:
            self.socket = self.transport.getHandle()

    # -- in time

    def dataReceived(self, data: bytes) -> None:
        """Take what the client sends."""
        self.heard = True
        if self._lingering:
            return
        if self._deadline is None and not self._answering and data.strip(b"\r\n"):
            self._deadline = self.callLater(_HEAD_WITHIN, self._too_late)
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """Take a line of a head; after a refusal the rest of the data is dropped."""
        if not self._lingering:
            super().lineReceived(line)

    def headerReceived(self, line: bytes) -> bool:
        """Take a header line. A length of thousands of digits is refused before it is made a number."""
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and len(value.strip()) > _MAX_DIGITS:
            self.refuse(400)
            return False
        return bool(super().headerReceived(line))

    def allHeadersReceived(self) -> None:
        """Begin to answer. What is sent after the head is no part of the request, and never read."""
        self._cancel_deadline()
        self._answering = True
        self.requests[-1].requestHeaders.removeHeader(b"expect")  # nobody waits for a body
        super().allHeadersReceived()
        self.has_body = self.length != 0
        if self.has_body:
            self.persistent = False
            self.length = 0

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Return whether the connection stays open after the answer."""
        if target.wants_close(request.requestHeaders):
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
            return False
        return bool(super().checkPersistence(request, version))

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            deadline, self._deadline = self._deadline, None
            deadline.cancel()

    def _too_late(self) -> None:
        self._deadline = None
        self.refuse(408)

    def refuse(self, code: int) -> None:
        """Answer what is no complete request, and close the connection."""
        self.transport.write(
            b"HTTP/1.1 %d %b\r\n%bContent-Length: 0\r\nConnection: close\r\n\r\n"
            % (code, RESPONSES[code], header_lines(Headers({name: [v] for name, v in self.refusal_headers.items()})))
        )
        self.linger()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Answer what Twisted's parser refuses. Twisted has no public name for this, and sends no headers."""
        self.refuse(400)

    def linger(self) -> None:
        """Close the connection when the client has had time to read: to close with unread bytes resets it."""
        self._lingering = True
        self._cancel_deadline()
        self.setTimeout(None)
        half = getattr(self.transport, "loseWriteConnection", None) if self.socket is not None else None
        (half or self.transport.loseConnection)()  # TLS has no half that can be closed
        self._lingering_ends = self.callLater(_LINGER, self.abort)

    def loseConnection(self) -> None:
        """Close the connection after what was written."""
        if self.has_body and not self._lingering:
            self.linger()
        elif not self._lingering:
            super().loseConnection()

    def close(self) -> None:
        """Close the connection: at once when the client does not read, or would have to agree (TLS)."""
        if self._lingering or self.socket is None or self.unsent_bytes():
            self.abort()
        else:
            self.loseConnection()

    def abort(self) -> None:
        """Close the connection at once."""
        self.transport.abortConnection()

    def is_unheard(self) -> bool:
        """Return whether the client has sent something, and nothing has been read from the connection yet."""
        if self.heard:
            return False
        asked = select.poll()
        asked.register(self.transport.fileno(), select.POLLIN)
        return bool(asked.poll(0))

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

    def unsent_bytes(self) -> int:
        """Return the bytes of answers that the client has not taken."""
        transport = self.transport if hasattr(self.transport, "dataBuffer") else self.transport.transport  # below TLS
        return int(len(transport.dataBuffer) - transport.offset + sum(map(len, transport._tempDataBuffer)))

    def leave(self, parts: Iterable[bytes | memoryview], sent: int) -> None:
        """Leave to the transport what follows the first `sent` bytes."""
        left = 0
        for part in parts:
            if sent < len(part):
                left += len(part) - sent
                self.transport.write(bytes(part[sent:]))
            sent = max(0, sent - len(part))
        if left:
            self.left_unsent(left)

    def left_unsent(self, size: int) -> None:
        """Note that the transport has so many more bytes in its buffer."""

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
        self._answering = False
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
        self._cancel_deadline()
        if self._lingering_ends is not None and self._lingering_ends.active():
            self._lingering_ends.cancel()
        super().connectionLost(reason)
