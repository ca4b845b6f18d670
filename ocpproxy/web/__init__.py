"""The face: HTTP.

==========  =================================================================================
`answers`   what an answer is made of: headers, validators, and the one table of failures
`tiles`     tiles, and everything else that is behind a token
`catmaid`   what CATMAID and its clients are told of a dataset
`pages`     the pages of the gateway itself: ``/``, health, the export for CATMAID
==========  =================================================================================

Every answer, of whatever resource, carries the headers that viewers need (`GatewayRequest`): a page of another origin
must be able to read it, and its ``Cache-Status`` tells how it came.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web import resource, server

from ocpproxy.web import answers


class OpenAnswers(Service):
    """The requests that are being answered; stopping waits for them, for `patience` seconds at the most."""

    def __init__(self, clock: IReactorTime, patience: float) -> None:
        self._clock = clock
        self._patience = patience
        self._open = 0
        self._empty: Deferred[None] | None = None
        self.draining = False

    def begin(self) -> None:
        """A request has come."""
        self._open += 1

    def end(self) -> None:
        """It is answered, or its client has left."""
        self._open -= 1
        if not self._open and self._empty is not None:
            empty, self._empty = self._empty, None
            empty.callback(None)

    def stopService(self) -> Deferred[None] | None:
        """Wait until everyone has an answer."""
        super().stopService()
        self.draining = True
        if not self._open:
            return None
        self._empty = Deferred()
        return self._empty.addTimeout(self._patience, self._clock, lambda *_: None)


class GatewayRequest(server.Request):
    """A request whose answer carries the common headers, whatever resource gives it."""

    def gotLength(self, length: int | None) -> None:
        """A body may follow: nobody here reads one, so nothing of it is kept."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """A part of it."""

    def process(self) -> None:
        """Begin to answer."""
        for name, value in answers.COMMON.items():
            self.setHeader(name, value)
        site: GatewaySite = self.channel.site  # type: ignore[attr-defined]
        site.open_answers.begin()
        self.notifyFinish().addBoth(lambda _: site.open_answers.end())
        if site.open_answers.draining:
            self.channel.persistent = False
            self.setHeader(b"connection", b"close")
        super().process()


class GatewaySite(server.Site):
    """The HTTP server.

    :param access_log: whether each answer is logged.
    """

    _access = Logger()
    displayTracebacks = False

    def __init__(self, root: resource.Resource, open_answers: OpenAnswers, clock: Any, *, access_log: bool) -> None:
        super().__init__(root, requestFactory=GatewayRequest, reactor=clock, timeout=60)
        self.open_answers = open_answers
        self._access_log = access_log

    def log(self, request: Any) -> None:
        """Log one answer."""
        if self._access_log:
            sent = request.responseHeaders.getRawHeaders("cache-status", [""])
            self._access.info(
                "{client} {method} {uri} {status} {bytes} {cache}",
                client=str(request.getClientAddress().host) if hasattr(request.getClientAddress(), "host") else "-",
                method=request.method.decode("latin-1"),
                uri=request.uri.decode("latin-1"),
                status=request.code,
                bytes=request.sentLength,
                cache=sent[0],
            )
