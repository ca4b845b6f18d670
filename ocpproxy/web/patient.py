"""An HTTP channel with bounds for clients that ask and do not read.

Twisted answers all that a client has pipelined, one request after the other, however little of it the client reads:
64 KiB of requests may become 200 MB of tiles in the transport's buffer. Here no request is begun while the transport
holds more than it wants to; nothing more is read of the connection meanwhile, and its time-out goes on running. So a
connection holds two answers at the most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel


class PatientChannel(HTTPChannel):
    """The HTTP of one connection. `GatewayRequest.process` asks it whether to begin."""

    transport: Any
    factory: Any
    behind = False
    """The transport has more to send than it wants to have."""
    _held: Callable[[], None] | None = None

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
