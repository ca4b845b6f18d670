"""The pages by their addresses.

=========================  =================================================================
``/``                      the datasets
``/view/TOKEN/``           slices of one
``/view/TOKEN/catmaid``    what to enter into CATMAID
``/status``                the state of the gateway; as JSON at ``/status.json``, and as
                           server-sent events at ``/status.events``
``/static/DIGEST/NAME``    style sheet and scripts
=========================  =================================================================
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.template import Flattenable

from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.cache.entries import CatalogueEntry, Undescribed
from ocpproxy.cache.fetch_times import FetchReport
from ocpproxy.concurrency.pieces import in_pieces
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.model.dataset import NAME
from ocpproxy.upstream.base import UnknownToken
from ocpproxy.web import answers
from ocpproxy.web.access import Access
from ocpproxy.web.answers import NotAllowed, Reply
from ocpproxy.web.catmaid.projects import CatmaidProjects
from ocpproxy.web.catmaid.stacks import StackInfo, stack_infos
from ocpproxy.web.file_answers import FOR_EVER, FileAnswers
from ocpproxy.web.pages import layout, paste, state, viewer
from ocpproxy.web.pages.datasets import Condition
from ocpproxy.web.pages.home import DatasetCard, HomePage
from ocpproxy.web.pages.layout import PageFrame, tags
from ocpproxy.web.pages.live_state import HEADERS, LiveState
from ocpproxy.web.pages.page_files import PageFiles
from ocpproxy.web.request import GatewayRequest
from ocpproxy.web.resources import AsyncResource, FunctionResource, PageOverToken

_PATIENCE = 0.5
"""Seconds that the list of datasets waits for those that are not described yet."""
_MOST_ASKED = 24
"""Datasets that are described because somebody looks at the list; the others are when somebody looks at them."""
_TOKEN = re.compile(NAME, re.ASCII)
_MakePage = Callable[[GatewayRequest, PageFrame, CatalogueEntry], Awaitable[Reply]]


@dataclass(frozen=True)
class PageParts:
    """What the pages show."""

    catalogue: Catalogue
    catmaid: CatmaidProjects
    fetches: Callable[[], Awaitable[FetchReport]]
    """Returns how long fetches took."""
    live: LiveState
    access: Access
    clock: IReactorTime
    run_in_thread: RunInThread
    has_neuroglancer: bool


class SitePages:
    """The pages."""

    def __init__(self, parts: PageParts) -> None:
        self._parts = parts
        self._files = PageFiles()
        self._answers = FileAnswers(self._files.read, parts.run_in_thread)

    def put_into(self, root: Resource, tokens: Resource) -> None:
        """Put the pages into the tree.

        :param tokens: answers for the token "status", whose tiles are below the page.
        """
        root.putChild(b"", FunctionResource(self._home))
        root.putChild(b"view", FunctionResource(self._view))
        root.putChild(b"static", FunctionResource(self._file))
        root.putChild(b"status", PageOverToken(FunctionResource(self._status), tokens))
        root.putChild(b"status.json", FunctionResource(self._state))
        root.putChild(b"status.events", _EventsResource(self._parts.live))

    def _frame(self, up: str) -> PageFrame:
        return PageFrame(up, self._files.digest)

    async def _home(self, request: GatewayRequest) -> Reply:
        parts = self._parts
        catalogue = parts.catalogue
        tokens = parts.access.visible(catalogue.tokens(), request)
        missing = [token for token in tokens if catalogue.entry_now(token) is None]
        await catalogue.entries(missing[:_MOST_ASKED], _PATIENCE)
        condition = Condition(catalogue, await parts.fetches())
        cards = [DatasetCard(token, condition.of(token), catalogue.entry_now(token)) for token in tokens]
        frame = self._frame("")
        content = HomePage(frame, request.root_url, parts.has_neuroglancer).content(cards)
        return await layout.page(frame, "ocpproxy", content, scripts=("home.js", "page.js"), here="Datasets")

    async def _view(self, request: GatewayRequest) -> Reply:
        """Return the page of slices, or another page about the dataset."""
        match [segment.decode("latin-1") for segment in (request.postpath or [])]:
            case [token] if _TOKEN.fullmatch(token):
                query = request.uri.partition(b"?")[2]
                where = f"{token}/".encode() + (b"?" + query if query else b"")
                return Reply(302, b"", {b"location": where, b"cache-control": b"no-cache"})
            case [token, "" | "catmaid" as name] if _TOKEN.fullmatch(token):
                return await self._about(request, token, self._paste if name else self._slices)
        return answers.text(404, "expected the token of a dataset below /view/")

    async def _about(self, request: GatewayRequest, token: str, make: _MakePage) -> Reply:
        """Return a page about a dataset, or the one that says why it cannot be shown."""
        frame = self._frame("../../")
        try:
            self._parts.access.check(token, request)
            return await make(request, frame, await self._parts.catalogue.entry(token))
        except NotAllowed:
            sentence = "It is for some groups only, and you are in none of them, or have not logged in."
            return await self._refusal(frame, token, 403, sentence)
        except Undescribed as error:
            reply = answers.failure(error, token, as_text=True)
            is_unknown = isinstance(error.failure, UnknownToken) and not error.configured
            sentence = f"There is no dataset {token}." if is_unknown else f"{error.failure.explanation}."
            return await self._refusal(frame, token, 503 if reply is None else reply.code, sentence)

    async def _paste(self, request: GatewayRequest, frame: PageFrame, entry: CatalogueEntry) -> Reply:
        token = entry.dataset.token
        catmaid = self._parts.catmaid
        content = paste.content(frame, token, await catmaid.stacks(entry), catmaid.roots(request))
        return await layout.page(frame, f"{token} in CATMAID", content, scripts=("home.js", "page.js"))

    async def _slices(self, request: GatewayRequest, frame: PageFrame, entry: CatalogueEntry) -> Reply:
        token = entry.dataset.token
        document = viewer.volume(entry, await self._stacks(entry), neuroglancer=self._parts.has_neuroglancer)
        content = viewer.content(frame, document)
        scripts = viewer.SCRIPTS if document["channels"] else ()
        return await layout.page(frame, token, content, scripts=scripts, leaflet=bool(scripts))

    async def _refusal(self, frame: PageFrame, token: str, code: int, sentence: str) -> Reply:
        """Return the page that says why a dataset cannot be shown."""
        again: list[Flattenable] = [tags.a("Try again", href="", class_="button first"), " "] if code >= 500 else []
        content = [
            tags.main(
                tags.h1(token),
                tags.div(
                    tags.h2("It cannot be shown"),
                    tags.p(sentence[:1].upper() + sentence[1:]),
                    tags.p(*again, tags.a("All datasets", href=frame.to(""), class_="button")),
                    class_="empty",
                ),
            ),
            layout.footer(frame),
        ]
        return await layout.page(frame, token, content, code=code)

    async def _stacks(self, entry: CatalogueEntry) -> list[StackInfo]:
        return await in_pieces(stack_infos(entry), self._parts.clock)

    async def _status(self, request: GatewayRequest) -> Reply:
        frame = self._frame("")
        content = state.content(frame, await self._parts.live.read(request))
        return await layout.page(frame, "Status of ocpproxy", content, scripts=state.SCRIPTS, here="Status")

    async def _state(self, request: GatewayRequest) -> Reply:
        reply = answers.document(200, await self._parts.live.read(request))
        return Reply(reply.code, reply.body, {**reply.headers, b"cache-control": b"no-store"})

    async def _file(self, request: GatewayRequest) -> Reply:
        """Return a style sheet or script. An old page may ask for it by an old digest."""
        match [segment.decode("latin-1") for segment in (request.postpath or [])]:
            case [digest, name]:
                age = FOR_EVER if digest == self._files.digest else b"no-cache"
                found = await self._answers.answer(request, name, {b"cache-control": age})
                if found is not None:
                    return found
        return answers.text(404, "expected the address of a file as a page of this gateway has it")


class _EventsResource(AsyncResource):
    """The state as server-sent events."""

    def __init__(self, live: LiveState) -> None:
        super().__init__()
        self._live = live

    def render(self, request: GatewayRequest) -> Any:
        """Open a stream, or refuse it."""
        if request.method != b"GET":
            return super().render(request)
        refused = self._live.open(request)
        if refused is not None:
            refused.send(request)
        return NOT_DONE_YET

    async def answer(self, request: GatewayRequest) -> Reply:
        """Return the answer to a HEAD."""
        return Reply(200, b"", HEADERS, has_length=False)
