"""Requests: which are refused, and what every answer has in common.

Every answer, of whatever resource, carries the headers that viewers need: a page of another origin must be able to read
it, and its ``Cache-Status`` shows how it was found.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.web import server

from ocpproxy.cache.lookup import Result
from ocpproxy.web import answers, request_ids, target
from ocpproxy.web.answers import Reply
from ocpproxy.web.signed_links import BadLink
from ocpproxy.web.target import RefusedRequest


class GatewayRequest(server.Request):
    """A request whose answer carries the common headers, whatever resource gives it."""

    tile_result: str | None = None
    """The result under which the answer is counted, where the request is for a tile."""
    request_id = b"-"
    granted: str | None = None
    """The dataset that a signed link lets its visitor see."""
    link_prefix = ""
    """The prefix of this link, without a slash at its end; empty for a visitor without one."""
    is_private = False
    """True if the answer is about a dataset that not everybody may see: no shared cache may keep it."""
    began = 0.0
    """When the request had arrived, by the clock that measures how long things take."""

    def count(self, result: Result) -> None:
        """Note that the answer is a tile or a chunk, found like this; answers to HEAD are not counted."""
        self._count((Result.MISS if result is Result.COLLAPSED else result).value)

    def count_error(self) -> None:
        """Note that the answer is an error in place of a tile or a chunk."""
        self._count("error")

    def _count(self, result: str) -> None:
        if self.method == b"GET":
            self.tile_result = result

    def gotLength(self, length: int | None) -> None:
        """Keep nothing of a body that may follow: nobody here reads one."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Drop a part of the body."""

    def process(self) -> None:
        """Answer, once the client has read the answers before."""
        channel: Any = self.channel
        if channel.behind:
            channel.hold(self.process)
            return
        for name, value in answers.COMMON.items():
            self.setHeader(name, value)
        site = channel.site
        self.began = site.reactor.seconds()
        (sent, *_) = self.requestHeaders.getRawHeaders(request_ids.HEADER, [None])
        self.request_id = request_ids.own_id(sent) or request_ids.new_id()
        self.setHeader(request_ids.HEADER, self.request_id)
        site.connections.answering(channel)
        site.open_requests.begin()
        self.notifyFinish().addBoth(lambda _: site.open_requests.end())
        if site.open_requests.draining or channel.has_body:
            channel.persistent = False
            self.setHeader(b"connection", b"close")
        if channel.has_body and self.method in (b"GET", b"HEAD", b"OPTIONS"):
            answers.text(413, "expected a request without a body").send(self)
            return
        try:
            self.uri = target.read(self.uri, self.clientproto, self.requestHeaders)
        except RefusedRequest as refused:
            channel.persistent = False
            answers.text(400, str(refused), connection="close").send(self)
            return
        try:
            signed = site.signed_links.read(self.uri)
        except BadLink as bad:
            answers.text(403, str(bad)).send(self)
            return
        if signed is not None:
            self.granted, self.link_prefix, rest = signed
            self.setHeader(b"referrer-policy", b"no-referrer")
            if not rest.startswith(b"/"):  # addresses in a page are relative to its own
                where = self.link_prefix.removeprefix("/").encode() + b"/" + rest
                Reply(302, b"", {b"location": where, b"cache-control": b"no-store"}).send(self)
                return
            self.uri = rest
        self.path = self.uri.partition(b"?")[0]
        super().process()

    @property
    def client_host(self) -> str:
        """The address of the client, behind a front or not."""
        channel: Any = self.channel
        return str(channel.site.front.client(channel.peer, self.requestHeaders))

    @property
    def groups(self) -> frozenset[str]:
        """The groups of whoever asks, as a trusted front names them."""
        channel: Any = self.channel
        found: frozenset[str] = channel.site.front.groups(channel.peer, self.requestHeaders)
        return found

    @property
    def root_url(self) -> str:
        """The address of this gateway as the client sees it, without a slash at its end; empty if unknown.

        That of somebody with a signed link goes on with it, so that all links lead to what they may see.
        """
        return self.own_url + self.link_prefix

    @property
    def own_url(self) -> str:
        """The address of this gateway as the client sees it, whoever that is; empty if unknown."""
        channel: Any = self.channel
        return str(channel.site.front.root_url(channel.peer, self.requestHeaders, secure=self.isSecure()))
