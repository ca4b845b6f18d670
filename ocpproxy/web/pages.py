"""The gateway's own pages, and the tree of resources."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import Request

from ocpproxy import __version__
from ocpproxy.cache.catalogue import Catalogue, CatalogueEntry
from ocpproxy.web import answers, catmaid
from ocpproxy.web.answers import Reply
from ocpproxy.web.site import OpenRequests
from ocpproxy.web.tiles import Page, TokenResource, root_url

_EXPORT_PATIENCE = 0.8
"""Seconds; CATMAID's importer waits for one."""
_PROJECT = re.compile(rb"\d{1,10}/(stacks|stack/\d{1,10}/info)")


@dataclass(frozen=True)
class GatewayState:
    """What the pages tell of the gateway, each looked up when it is asked for."""

    usage: Callable[[], tuple[int, int]]
    """(tiles, bytes) on disk."""
    size: int
    index_up: Callable[[], bool]
    writable: Callable[[], Awaitable[None]]
    """Proves that tiles can be stored; raises OSError."""
    metrics: Callable[[], Awaitable[bytes]]
    """In the text form of Prometheus."""


class Pages:
    """``/``, ``/healthz``, ``/readyz``, ``/projects/`` and what CATMAID's clients ask of a project."""

    def __init__(
        self, catalogue: Catalogue, state: GatewayState, open_requests: OpenRequests, clock: IReactorTime
    ) -> None:
        self._catalogue = catalogue
        self._state = state
        self._open = open_requests
        self._clock = clock

    async def index(self, request: Request) -> Reply:
        """The page for people: datasets and counters."""
        tiles, used = self._state.usage()
        rows = "".join(
            f'<tr><td><a href="/{escape(token)}/">{escape(token)}</a></td>'
            f"<td><code>{escape(root_url(request))}/ocpcatmaid/{escape(token)}/</code></td></tr>"
            for token in self._catalogue.tokens()
        )
        return answers.page(
            f"""<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>ocpproxy</title>
<style>body{{font:16px sans-serif;margin:2em auto;max-width:50em}}
td,th{{text-align:left;padding:.2em 1em .2em 0}}</style>
<h1>ocpproxy {escape(__version__)}</h1>
<p>{tiles:,} tiles on disk, {used / 2**20:,.0f} of {self._state.size / 2**20:,.0f} MiB; the index database is
{"up" if self._state.index_up() else "away"}. <a href="/metrics">Metrics</a>,
<a href="/projects/export">export for CATMAID</a>.</p>
<table><tr><th>Dataset</th><th>Image base for CATMAID (512 x 512, png, tile source type 1)</th></tr>{rows}</table>
"""
        )

    async def healthz(self, request: Request) -> Reply:
        """The process lives."""
        return answers.text(200, "alive")

    async def readyz(self, request: Request) -> Reply:
        """Whether tiles can be served; what is amiss beside that is told."""
        if self._open.draining:
            return answers.text(503, "not ready: stopping", retry_after="5")
        try:
            await self._state.writable()
        except OSError as error:
            return answers.text(503, f"not ready: the cache directory cannot be written: {error.strerror}")
        index = "" if self._state.index_up() else "; the index database is away: its account catches up later"
        return answers.text(200, "ready" + index)

    async def metrics(self, request: Request) -> Reply:
        """What Prometheus scrapes."""
        headers = {b"content-type": CONTENT_TYPE.encode(), b"cache-control": b"no-store"}
        return Reply(200, await self._state.metrics(), headers)

    async def export(self, request: Request) -> Reply:
        """What CATMAID's importer reads: a list of projects, one a dataset that can be described in time."""
        known = await self._known(self._catalogue.tokens())
        return answers.document(200, [catmaid.exported(one, root_url(request)) for one in known])

    async def projects(self, request: Request) -> Reply:
        """The datasets, as CATMAID lists its projects."""
        known = await self._known(self._catalogue.tokens())
        return answers.document(200, [catmaid.project(one) for one in known])

    async def project(self, request: Request) -> Reply:
        """``/{project}/stacks`` and ``/{project}/stack/{stack}/info``, as CATMAID answers them."""
        number, *rest = (segment.decode("ascii") for segment in (request.prepath or []) + (request.postpath or []))
        tokens = [token for token in self._catalogue.tokens() if catmaid.project_id(token) == int(number)]
        described = await self._known(tokens[:1])
        if tokens and not described:
            return answers.text(503, f"the upstream of {tokens[0]} does not tell of it; try again", retry_after="1")
        for known in described:
            told = catmaid.stacks(known) if rest == ["stacks"] else catmaid.info(known, int(rest[1]), root_url(request))
            if told is not None:
                return answers.document(200, told)
        return answers.text(404, "expected the number of a project and a stack that /projects/ tells of")

    async def _known(self, tokens: list[str]) -> list[CatalogueEntry]:
        """Those that can be described in time."""
        asked = [Deferred.fromCoroutine(self._catalogue.known(token)) for token in tokens]
        for one in asked:
            one.addTimeout(_EXPORT_PATIENCE, self._clock)
        found = await DeferredList(asked, consumeErrors=True)
        return [one for fine, one in found if fine and isinstance(one, CatalogueEntry)]


class Root(Resource):
    """The tree: a few names of its own, everything else is behind a token."""

    def __init__(self, pages: Pages, tokens: TokenResource) -> None:
        super().__init__()
        self._tokens = tokens
        self.putChild(b"", Page(pages.index))
        self.putChild(b"healthz", Page(pages.healthz))
        self.putChild(b"readyz", Page(pages.readyz))
        self.putChild(b"metrics", Page(pages.metrics))
        projects = _Projects(tokens)
        projects.putChild(b"", Page(pages.projects))
        projects.putChild(b"export", Page(pages.export))
        self.putChild(b"projects", projects)
        self._project = Page(pages.project)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """All that is not the gateway's own: CATMAID's projects by their numbers, and tokens."""
        asked = b"/".join([path, *(request.postpath or [])])
        return self._project if _PROJECT.fullmatch(asked) else self._tokens


class _Projects(Resource):
    """``/projects/`` and ``/projects/export``; any other path below is that of a token called "projects"."""

    def __init__(self, tokens: TokenResource) -> None:
        super().__init__()
        self._tokens = tokens

    def getChild(self, path: bytes, request: Request) -> Resource:
        """A token's."""
        return self._tokens

    def render(self, request: Request) -> Any:
        """``/projects``: a token's."""
        return self._tokens.render(request)
