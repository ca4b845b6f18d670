"""The HTTP server: its connections, its requests, and the factory of both.

Every answer, of whatever resource, carries the headers that viewers need (`GatewayRequest`): a page of another origin
must be able to read it, and its ``Cache-Status`` shows how it was found.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

from twisted.web import resource, server

from ocpproxy.web import answers
from ocpproxy.web.answer_record import AnswerRecord
from ocpproxy.web.channel import PromptChannel
from ocpproxy.web.hot_path import LONGEST_REQUEST, HotPath
from ocpproxy.web.open_requests import OpenRequests

_ENDED = re.compile(rb"[^\r\n]\r\n\r\n\Z")
"""The end of a request without a body. Twisted counts empty lines that follow one request to the next."""
_IDLE = 60
"""Seconds after which an idle connection is closed."""


class HotChannel(PromptChannel):
    """The HTTP of one connection, with the hot path."""

    site: GatewaySite
    _at_boundary = True
    """True if the data given to Twisted ended on a request boundary."""

    def connectionMade(self) -> None:
        """Start to serve a client."""
        super().connectionMade()
        self._record = self.site.answer_record.for_client(self.transport.getPeer())

    def dataReceived(self, data: bytes) -> None:
        """Answer the requests that the hot path can answer, and give the rest to Twisted."""
        done = 0
        if self.socket is not None:
            while self._at_boundary and not self.requests and self._answer(data, done):
                done = data.index(b"\r\n\r\n", done) + 4
                if done == len(data):
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
        answer = self.site.hot_path.answer(request, self._record)
        if answer is None:
            return False
        try:
            self.leave((*answer.head, answer.body), answer.send(self.socket))
        finally:
            if answer.file is not None:
                answer.file.close()
        return True


class GatewayRequest(server.Request):
    """A request whose answer carries the common headers, whatever resource gives it."""

    tile_result: str | None = None
    """The result under which the answer is counted, where the request is for a tile."""

    def gotLength(self, length: int | None) -> None:
        """Keep nothing of a body that may follow: nobody here reads one."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Drop a part of the body."""

    def process(self) -> None:
        """Answer, once the client has read the answers before."""
        channel: HotChannel = self.channel  # type: ignore[assignment]
        if channel.behind:
            channel.hold(self.process)
            return
        for name, value in answers.COMMON.items():
            self.setHeader(name, value)
        site = channel.site
        site.open_requests.begin()
        self.notifyFinish().addBoth(lambda _: site.open_requests.end())
        if site.open_requests.draining:
            channel.persistent = False
            self.setHeader(b"connection", b"close")
        super().process()


class GatewaySite(server.Site):
    """The HTTP server: HTTP/1.1 on whatever socket it is given."""

    displayTracebacks = False
    protocol = HotChannel  # type: ignore[assignment]

    def __init__(
        self,
        root: resource.Resource,
        hot_path: HotPath,
        open_requests: OpenRequests,
        answer_record: AnswerRecord,
        clock: Any,
    ) -> None:
        super().__init__(root, requestFactory=GatewayRequest, reactor=clock, timeout=_IDLE)
        self.hot_path = hot_path
        self.open_requests = open_requests
        self.answer_record = answer_record

    def acceptableProtocols(self) -> list[bytes]:
        """Offer HTTP/1.1 to TLS clients, and not HTTP/2, whose channel is not ours."""
        return [b"http/1.1"]

    def log(self, request: Any) -> None:
        """Record the answer to a request that went the ordinary way."""
        record = self.answer_record.for_client(request.getClientAddress())
        cache_status = request.responseHeaders.getRawHeaders(b"cache-status", [b""])[0]
        record(request.method, request.uri, request.code, request.sentLength, cache_status, request.tile_result)
