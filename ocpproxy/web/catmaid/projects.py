"""The answers to CATMAID's importer, and to clients that ask for projects and stacks."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.interfaces import IReactorTime

from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.concurrency.gather import gather
from ocpproxy.concurrency.pieces import in_pieces
from ocpproxy.web import answers
from ocpproxy.web.access import Access
from ocpproxy.web.answers import Reply
from ocpproxy.web.catmaid import documents
from ocpproxy.web.catmaid.canaries import Canaries
from ocpproxy.web.catmaid.stacks import StackInfo, project_id, stack_infos
from ocpproxy.web.request import GatewayRequest

_PATIENCE, _CANARY_PATIENCE = 0.5, 0.3
"""Seconds that a list of datasets waits for descriptions, and then for canaries; CATMAID's importer waits for one."""


class CatmaidProjects:
    """The documents, a coroutine function each."""

    def __init__(
        self,
        catalogue: Catalogue,
        access: Access,
        canaries: Canaries,
        mirrors: Sequence[str],
        clock: IReactorTime,
    ) -> None:
        self._catalogue = catalogue
        self._access = access
        self._canaries = canaries
        self._mirrors = mirrors
        self._clock = clock

    async def export(self, request: GatewayRequest) -> Reply:
        """Return what CATMAID's importer reads: a list of projects, one for each dataset described in time."""
        entries = await self._catalogue.entries(self._visible(request), _PATIENCE)
        # All at once: CATMAID waits for one second.
        stacks = await gather([self.stacks(entry) for entry in entries])
        projects = [
            documents.exported_project(entry.dataset.token, infos, self.roots(request))
            for entry, infos in zip(entries, stacks, strict=True)
        ]
        return await self._document(projects)

    async def projects(self, request: GatewayRequest) -> Reply:
        """Return the datasets, as CATMAID lists its projects."""
        projects = [
            documents.project(entry.dataset.token, await self._stacks(entry))
            for entry in await self._catalogue.entries(self._visible(request), _PATIENCE)
        ]
        return await self._document(projects)

    async def project(self, request: GatewayRequest) -> Reply:
        """Return ``/{project}/stacks`` or ``/{project}/stack/{stack}/info``, as CATMAID does."""
        number, *rest = (segment.decode("ascii") for segment in (request.prepath or []) + (request.postpath or []))
        tokens = [token for token in self._visible(request) if project_id(token) == int(number)]
        entries = await self._catalogue.entries(tokens[:1], _PATIENCE)
        if tokens and not entries:
            trouble = self._catalogue.trouble(tokens[0])
            if trouble is not None and trouble.failure.lasting:
                return answers.text(502, f"{tokens[0]} cannot be shown: {trouble.failure.explanation}")
            sentence = f"the upstream of {tokens[0]} does not describe it now; try again"
            return answers.text(503, sentence, retry_after="1")
        for entry in entries:
            token = entry.dataset.token
            if rest == ["stacks"]:
                return await self._document(documents.stacks(token, await self._stacks(entry)))
            infos = self._canaries.known(entry, await self._stacks(entry))  # nobody imports it by this
            document = documents.stack_document(token, infos, int(rest[1]), request.root_url)
            if document is not None:
                return answers.document(200, document)
        return answers.text(404, "expected the ids of a project and a stack that /projects/ lists")

    def _visible(self, request: GatewayRequest) -> list[str]:
        return self._access.visible(self._catalogue.tokens(), request)

    def roots(self, request: GatewayRequest) -> list[str]:
        """Return the address of this gateway, as its client sees it, and those of its mirrors."""
        mirrors = [mirror for mirror in self._mirrors if mirror != request.own_url]
        return [request.root_url, *(mirror + request.link_prefix for mirror in mirrors)]

    async def stacks(self, entry: CatalogueEntry) -> list[StackInfo]:
        """Return the stacks of a dataset, of which there may be thousands, with canaries inside the data."""
        return await self._canaries.find(entry, await self._stacks(entry), _CANARY_PATIENCE)

    async def _stacks(self, entry: CatalogueEntry) -> list[StackInfo]:
        return await in_pieces(stack_infos(entry), self._clock)

    async def _document(self, value: object) -> Reply:
        """Return a document that may be long."""
        return answers.json_reply(200, await in_pieces(answers.json_parts(value), self._clock))
