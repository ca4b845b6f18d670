"""The HTTP server: its connections and their factory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web import resource, server
from twisted.web.http import Request

from ocpproxy.web import answers
from ocpproxy.web.access_log import Answered, agent_fields, quote
from ocpproxy.web.answer_record import AnswerRecord
from ocpproxy.web.channel import PromptChannel
from ocpproxy.web.connections import Connections
from ocpproxy.web.front import Front
from ocpproxy.web.hot_path import LONGEST_REQUEST, HotPath
from ocpproxy.web.open_requests import OpenRequests
from ocpproxy.web.request import GatewayRequest
from ocpproxy.web.signed_links import SignedLinks, hidden

_ENDED = re.compile(rb"[^\r\n]\r\n\r\n\Z")
"""The end of a request without a body. Twisted counts empty lines that follow one request to the next."""
_IDLE = 60
"""Seconds after which an idle connection is closed."""


class HotChannel(PromptChannel):
    """The HTTP of one connection, with the hot path."""

    site: GatewaySite
    refusal_headers = answers.COMMON
    _at_boundary = True
    """True if the data given to Twisted ended on a request boundary."""

    def connectionMade(self) -> None:
        """Start to serve a client."""
        super().connectionMade()
        self.peer = self.site.front.peer(self.transport.getPeer())
        self._connections = self.site.connections
        self._connections.opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the connection."""
        self._connections.closed(self)
        super().connectionLost(reason)

    def requestDone(self, request: Request) -> None:
        """Note that a request has its answer, before the next one begins."""
        self._connections.answered(self)
        super().requestDone(request)

    def left_unsent(self, size: int) -> None:
        """Count what waits for a client who does not read."""
        self._connections.left_unsent(self, size)

    def dataReceived(self, data: bytes) -> None:
        """Answer the requests that the hot path can answer, and give the rest to Twisted."""
        done = 0
        if self.socket is not None:
            while self._at_boundary and not self.requests and self._answer(data, done):
                done = data.index(b"\r\n\r\n", done) + 4
                if done == len(data):
                    self.heard = True
                    self.resetTimeout()
                    return
        rest = data[done:] if done else data
        self._at_boundary = _ENDED.search(rest) is not None
        super().dataReceived(rest)

    def _answer(self, data: bytes, start: int) -> bool:
        """Answer the request that begins at `start`; return False when it goes the ordinary way."""
        end = data.find(b"\r\n\r\n", start, start + LONGEST_REQUEST) + 4
        if end < 4 or self.unsent() or not self.persistent or self.site.open_requests.draining:
            return False
        request = data if end - start == len(data) else data[start:end]
        answer = self.site.hot_path.answer(request, self.peer)
        if answer is None:
            return False
        self._connections.used(self)
        try:
            self.leave((*answer.head, answer.body), answer.send(self.socket))
        finally:
            if answer.file is not None:
                answer.file.close()
        return True


@dataclass(frozen=True)
class SiteParts:
    """What connections and requests use."""

    hot_path: HotPath
    open_requests: OpenRequests
    answer_record: AnswerRecord
    front: Front
    connections: Connections
    signed_links: SignedLinks


class GatewaySite(server.Site):
    """The HTTP server: HTTP/1.1 on whatever socket it is given."""

    displayTracebacks = False
    protocol = HotChannel  # type: ignore[assignment]

    def __init__(self, root: resource.Resource, parts: SiteParts, clock: Any) -> None:
        super().__init__(root, requestFactory=GatewayRequest, reactor=clock, timeout=_IDLE)
        self.hot_path = parts.hot_path
        self.open_requests = parts.open_requests
        self.answer_record = parts.answer_record
        self.front = parts.front
        self.connections = parts.connections
        self.signed_links = parts.signed_links

    def acceptableProtocols(self) -> list[bytes]:
        """Offer HTTP/1.1 to TLS clients, and not HTTP/2, whose channel is not ours."""
        return [b"http/1.1"]

    def log(self, request: Any) -> None:
        """Record the answer to a request that went the ordinary way."""
        values, answer = request.requestHeaders.getRawHeaders, request.responseHeaders.getRawHeaders
        (referer, *_), (agent, *_) = values(b"referer", [None]), values(b"user-agent", [None])
        self.answer_record.record(
            Answered(
                request.client_host,
                quote(hidden(b"%b %b %b" % (request.method, request.uri, request.clientproto))),
                request.code,
                request.sentLength,
                answer(b"cache-status", [b""])[0],
                request.tile_result,
                agent_fields(referer, agent),
                request.request_id,
                self.reactor.seconds() - request.began if request.began else 0.0,
                answer(b"server-timing", [b"-"])[0].replace(b", ", b","),
            )
        )
