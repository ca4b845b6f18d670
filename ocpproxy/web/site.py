"""The face: HTTP.

==========  =================================================================================
`answers`   what an answer is made of: headers, validators, and the one table of failures
`hot`       hits, answered within the HTTP channel
`channel`   the HTTP of one connection: answers at once, and bounds for clients that do not read
`tiles`     tiles, and everything else that is behind a token
`catmaid`   what CATMAID and its clients are told of a dataset
`pages`     the pages of the gateway itself: ``/``, health, the export for CATMAID
==========  =================================================================================

Every answer, of whatever resource, carries the headers that viewers need (`GatewayRequest`): a page of another origin
must be able to read it, and its ``Cache-Status`` tells how it came.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.web import resource, server

from ocpproxy.web import answers
from ocpproxy.web.hot_path import HotChannel, HotPath


class OpenRequests(Service):
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
        """Begin to answer, once the client has read what was answered before."""
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
    """The HTTP server: HTTP/1.1 on whatever socket it is given.

    :param access_log: whether each answer is logged.
    """

    _access = Logger()
    displayTracebacks = False
    protocol = HotChannel  # type: ignore[assignment]

    def __init__(
        self,
        root: resource.Resource,
        hot_path: HotPath,
        open_requests: OpenRequests,
        clock: Any,
        *,
        access_log: bool,
    ) -> None:
        super().__init__(root, requestFactory=GatewayRequest, reactor=clock, timeout=60)
        self.hot_path = hot_path
        self.open_requests = open_requests
        self._access_log = access_log

    def acceptableProtocols(self) -> list[bytes]:
        """What is offered to a TLS client: not HTTP/2, whose channel is not ours."""
        return [b"http/1.1"]

    def log_answer_to(self, client: IAddress) -> Callable[..., None] | None:
        """Logs an answer to this client: method, target, status, bytes of the body and ``Cache-Status``.

        None when answers are not logged.
        """
        if not self._access_log:
            return None
        return partial(self._log_answer, str(getattr(client, "host", "-")))

    def _log_answer(self, client: str, method: bytes, target: bytes, code: int, size: int, status: bytes) -> None:
        self._access.info(
            "{client} {method} {uri} {status} {bytes} {cache}",
            client=client,
            method=method.decode("latin-1"),
            uri=target.decode("latin-1"),
            status=code,
            bytes=size,
            cache=status.decode("latin-1"),
        )

    def log(self, request: Any) -> None:
        """Log the answer to a request."""
        note = self.log_answer_to(request.getClientAddress())
        if note is not None:
            status = request.responseHeaders.getRawHeaders(b"cache-status", [b""])[0]
            note(request.method, request.uri, request.code, request.sentLength, status)
