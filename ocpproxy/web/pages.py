"""The gateway's own pages: ``/``, health, metrics, and what CATMAID's clients ask of projects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from html import escape

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime

from ocpproxy import __version__
from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.concurrency.pieces import in_pieces
from ocpproxy.store.space.usage import Usage
from ocpproxy.web import answers, catmaid
from ocpproxy.web.answers import Reply
from ocpproxy.web.catmaid import StackInfo
from ocpproxy.web.open_requests import OpenRequests
from ocpproxy.web.request import GatewayRequest

_EXPORT_PATIENCE = 0.8
"""Seconds that a list of datasets waits for descriptions; CATMAID's importer waits for one second."""


@dataclass(frozen=True)
class GatewayState:
    """What the pages show of the gateway, looked up each time."""

    usage: Callable[[], Usage]
    size: int
    """Bytes that the cache may hold."""
    index_available: Callable[[], bool]
    check_writable: Callable[[], Awaitable[None]]
    """Writes to the cache directory; raises OSError when that fails."""
    metrics: Callable[[], Awaitable[bytes]]
    """Returns all metrics in the text format of Prometheus."""


class Pages:
    """The pages, a coroutine function each."""

    def __init__(
        self, catalogue: Catalogue, state: GatewayState, open_requests: OpenRequests, clock: IReactorTime
    ) -> None:
        self._catalogue = catalogue
        self._state = state
        self._open_requests = open_requests
        self._clock = clock

    async def index(self, request: GatewayRequest) -> Reply:
        """Return the page for people: datasets and counters."""
        used, size, root = self._state.usage(), self._state.size, request.root_url
        available = "available" if self._state.index_available() else "unavailable"
        rows = "".join(
            f'<tr><td><a href="/{escape(token)}/">{escape(token)}</a></td>'
            f"<td><code>{escape(root)}/ocpcatmaid/{escape(token)}/</code></td>"
            f"<td>{escape(self._state_of(token))}</td></tr>"
            for token in self._catalogue.tokens()
        )
        return answers.page(
            f"""<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>ocpproxy</title>
<style>body{{font:16px sans-serif;margin:2em auto;max-width:70em}}
td,th{{text-align:left;padding:.2em 1em .2em 0}}</style>
<h1>ocpproxy {escape(__version__)}</h1>
<p>{used.tiles:,} tiles on disk, {used.bytes / 2**20:,.0f} of {size / 2**20:,.0f} MiB; the index database is
{available}. <a href="/metrics">Metrics</a>, <a href="/projects/export">export for CATMAID</a>.</p>
<table><tr><th>Dataset</th><th>Image base for CATMAID (512 x 512, png, tile source type 1)</th>
<th>State</th></tr>{rows}</table>
"""
        )

    def _state_of(self, token: str) -> str:
        """Return the state of a token, for people."""
        trouble, entry = self._catalogue.trouble(token), self._catalogue.entry_now(token)
        if trouble is not None:
            shown = "cannot be shown" if entry is None else "shown by an earlier description"
            return f"{shown}: {trouble.failure.explanation}"
        if entry is None:
            return "not asked for yet"
        if not entry.source.is_asked:
            return "mode = cache-only: its upstream is not asked; what is cached is shown"
        if entry.source.is_resting(token):
            return "its upstream fails, and is left alone for a moment; what is cached is shown"
        return "; ".join(("well", *entry.dataset.notes))

    async def healthz(self, request: GatewayRequest) -> Reply:
        """Return 200: the process lives."""
        return answers.text(200, "alive")

    async def readyz(self, request: GatewayRequest) -> Reply:
        """Return whether tiles can be served."""
        if self._open_requests.draining:
            return answers.text(503, "not ready: stopping", retry_after="5")
        try:
            await self._state.check_writable()
        except OSError as error:
            sentence = f"not ready: the cache directory cannot be written: {error.strerror}"
            return answers.text(503, sentence, retry_after="30")
        if self._state.index_available():
            return answers.text(200, "ready")
        return answers.text(200, "ready; the index database is unavailable: the rows of new tiles follow later")

    async def metrics(self, request: GatewayRequest) -> Reply:
        """Return what Prometheus scrapes."""
        headers = {b"content-type": CONTENT_TYPE.encode(), b"cache-control": b"no-store"}
        return Reply(200, await self._state.metrics(), headers)

    async def export(self, request: GatewayRequest) -> Reply:
        """Return what CATMAID's importer reads: a list of projects, one for each dataset described in time."""
        root = request.root_url
        projects = [
            catmaid.exported_project(entry.dataset.token, await self._stacks(entry), root)
            for entry in await self._entries(self._catalogue.tokens())
        ]
        return await self._document(projects)

    async def projects(self, request: GatewayRequest) -> Reply:
        """Return the datasets, as CATMAID lists its projects."""
        projects = [
            catmaid.project(entry.dataset.token, await self._stacks(entry))
            for entry in await self._entries(self._catalogue.tokens())
        ]
        return await self._document(projects)

    async def project(self, request: GatewayRequest) -> Reply:
        """Return ``/{project}/stacks`` or ``/{project}/stack/{stack}/info``, as CATMAID does."""
        number, *rest = (segment.decode("ascii") for segment in (request.prepath or []) + (request.postpath or []))
        tokens = [token for token in self._catalogue.tokens() if catmaid.project_id(token) == int(number)]
        entries = await self._entries(tokens[:1])
        if tokens and not entries:
            trouble = self._catalogue.trouble(tokens[0])
            if trouble is not None and trouble.failure.lasting:
                return answers.text(502, f"{tokens[0]} cannot be shown: {trouble.failure.explanation}")
            sentence = f"the upstream of {tokens[0]} does not describe it now; try again"
            return answers.text(503, sentence, retry_after="1")
        for entry in entries:
            token, infos = entry.dataset.token, await self._stacks(entry)
            if rest == ["stacks"]:
                return await self._document(catmaid.stacks(token, infos))
            document = catmaid.stack_document(token, infos, int(rest[1]), request.root_url)
            if document is not None:
                return answers.document(200, document)
        return answers.text(404, "expected the ids of a project and a stack that /projects/ lists")

    async def _stacks(self, entry: CatalogueEntry) -> list[StackInfo]:
        """Return the stacks of a dataset, of which there may be thousands."""
        return await in_pieces(catmaid.stack_infos(entry), self._clock)

    async def _document(self, value: object) -> Reply:
        """Return a document that may be long."""
        return answers.json_reply(200, await in_pieces(answers.json_parts(value), self._clock))

    async def _entries(self, tokens: list[str]) -> list[CatalogueEntry]:
        """Return the entries of the datasets that are described in time."""
        asked = [Deferred.fromCoroutine(self._catalogue.entry(token)) for token in tokens]
        for deferred in asked:
            deferred.addTimeout(_EXPORT_PATIENCE, self._clock)
        results = await DeferredList(asked, consumeErrors=True)
        return [entry for success, entry in results if success and isinstance(entry, CatalogueEntry)]
