"""Tiles, and what there is to know of a token."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from ocpproxy.cache.catalogue import Catalogue, CatalogueEntry
from ocpproxy.cache.derived import DerivedTiles
from ocpproxy.cache.lookup import TileAnswer
from ocpproxy.cache.tiles import TileCache
from ocpproxy.metrics import Metrics
from ocpproxy.model import address
from ocpproxy.model.address import ImageBase, OverviewAddress, TileAddress, write_base
from ocpproxy.model.dataset import Level, Triple
from ocpproxy.model.display import PLACEHOLDER
from ocpproxy.web import answers, catmaid
from ocpproxy.web.answers import Reply

_HOST = re.compile(rb"[\w.:\[\]-]{1,255}")


class AsyncResource(Resource):
    """A resource that answers GET and HEAD by a coroutine, OPTIONS by itself, and refuses what else there is."""

    isLeaf = True
    _log = Logger()

    async def answer(self, request: Request) -> Reply:
        """The answer to a GET; for a HEAD only its headers are sent."""
        raise NotImplementedError

    def failed(self, request: Request, error: Exception) -> Reply | None:
        """The answer when `answer` raises, or None when it should not have."""
        return None

    def broken(self) -> Reply:
        """The answer when something is wrong with the gateway itself."""
        return answers.text(500, "something is wrong with this gateway; its log tells what")

    def render(self, request: Request) -> Any:
        """Begin to answer; a client that leaves ends it."""
        if request.method == b"OPTIONS":
            answers.preflight().send(request)
        elif request.method not in (b"GET", b"HEAD"):
            answers.text(405, "expected GET, HEAD or OPTIONS", allow=answers.ALLOWED.decode()).send(request)
        else:
            gone = request.notifyFinish()
            work = Deferred.fromCoroutine(self._answer(request))
            gone.addErrback(lambda _: work.cancel())
            work.addErrback(lambda failure: failure.trap(CancelledError) and None)
            work.addErrback(lambda failure: self._log.failure("an answer could not be sent", failure))
        return NOT_DONE_YET

    async def _answer(self, request: Request) -> None:
        try:
            reply = await self.answer(request)
        except CancelledError:
            if request.channel is None:
                raise  # the client has left
            reply = answers.text(503, "the gateway is stopping", retry_after="5")
        except Exception as error:
            found = self.failed(request, error)
            if found is None:
                self._log.failure("while answering {uri}", uri=request.uri.decode("latin-1"))
                found = self.broken()
            reply = found
        reply.send(request)


class Page(AsyncResource):
    """A resource whose answer is made by one function."""

    def __init__(self, make: Callable[[Request], Awaitable[Reply]]) -> None:
        super().__init__()
        self._make = make

    async def answer(self, request: Request) -> Reply:
        """What the function makes."""
        return await self._make(request)


class TokenResource(AsyncResource):
    """Everything behind a token: its tiles in all their all_paths, and a document that tells what there is.

    :param max_age: seconds that a viewer may keep a tile.
    :param error_text: failures of upstreams in words.
    """

    def __init__(
        self,
        cache: TileCache,
        retouching: DerivedTiles,
        catalogue: Catalogue,
        metrics: Metrics,
        clock: IReactorTime,
        *,
        max_age: int,
        error_text: bool,
    ) -> None:
        super().__init__()
        self._cache = cache
        self._retouching = retouching
        self._catalogue = catalogue
        self._metrics = metrics
        self._clock = clock
        self._max_age = max_age
        self._error_text = error_text

    async def answer(self, request: Request) -> Reply:
        """A tile, an overview or a document."""
        query = request.uri.partition(b"?")[2].decode("latin-1")
        asked = address.parse(request.path.decode("latin-1").removeprefix("/"), query)
        if isinstance(asked, ImageBase):
            return await self._describe(request, asked)
        if request.method == b"HEAD":
            found = await self._at_hand(asked, query)
        else:
            found = await self._picture(asked, query, request.uri)
        if found is None:
            return answers.not_here()
        if request.method == b"GET":
            self._metrics.tiles.labels("miss" if found.result.value == "collapsed" else found.result.value).inc()
        return answers.tile(request, found, found.good_for(self._clock.seconds(), self._max_age))

    async def _picture(self, asked: TileAddress | OverviewAddress, query: str, target: bytes) -> TileAnswer:
        if isinstance(asked, OverviewAddress):
            return await self._retouching.overview(asked)
        tone = address.adjustment(query)
        if tone is None:
            return await self._cache.tile(asked, target)
        return await self._retouching.toned(asked, tone, await self._cache.tile(asked))

    async def _at_hand(self, asked: TileAddress | OverviewAddress, query: str) -> TileAnswer | None:
        if isinstance(asked, OverviewAddress):
            return None
        tone = address.adjustment(query)
        found = await self._cache.at_hand(asked)
        return found if tone is None or found is None else await self._retouching.toned(asked, tone, found)

    def failed(self, request: Request, error: Exception) -> Reply | None:
        """By the table of failures."""
        reply = answers.failed(error, _token(request), as_text=self._error_text)
        if reply is not None and request.method == b"GET":
            self._metrics.tiles.labels("error").inc()
        return reply

    def broken(self) -> Reply:
        """A picture, like all that a viewer gets."""
        self._metrics.tiles.labels("error").inc()
        return answers.picture_or_text(
            500, "something is wrong with this gateway; its log tells what", "fault", 5, as_text=self._error_text
        )

    async def _describe(self, request: Request, base: ImageBase) -> Reply:
        known = await self._catalogue.known(base.token)
        for channel in base.channels:
            if channel.name != PLACEHOLDER:
                known.dataset.channel(channel.name)
        return answers.document(200, told(known, root_url(request)))


def _token(request: Request) -> str:
    segments = address.strip_prefix(request.path.decode("latin-1").removeprefix("/").split("/"))
    while segments and segments[0] in ("mcfc", "viking") and len(segments) > 4:
        segments = segments[1:]
    return re.sub(r"[^\w-]", "?", segments[0])[:64] if segments else ""


def root_url(request: Request) -> str:
    """The address under which the client sees this gateway, without a slash at its end."""
    host = request.requestHeaders.getRawHeaders(b"host", [b""])[0]
    forwarded = request.requestHeaders.getRawHeaders(b"x-forwarded-proto", [b""])[0]
    scheme = forwarded if forwarded in (b"http", b"https") else b"https" if request.isSecure() else b"http"
    return f"{scheme.decode()}://{host.decode()}" if _HOST.fullmatch(host) else ""


def told(known: CatalogueEntry, root: str) -> dict[str, Any]:
    """What the gateway knows of a dataset, and the image bases to paste into a viewer."""
    dataset = known.dataset
    return {
        "token": dataset.token,
        "tile_size": 512,
        "file_extension": "png",
        "tile_source_type": 1,
        "levels": {str(n): _level(level) for n, level in dataset.levels.items()},
        "channels": [
            {
                "name": channel.name,
                "kind": channel.kind,
                "dtype": channel.dtype,
                "window": channel.window,
                "time": channel.time,
            }
            for channel in dataset.channels
        ],
        "default_channel": known.source.display.channel or dataset.default_channel,
        "image_bases": [f"{root}/ocpcatmaid/{write_base(base)}" for base in catmaid.bases(known)],
        "catmaid_project": catmaid.project_id(dataset.token),
    }


def _level(level: Level) -> dict[str, Triple]:
    return {"size": level.size, "offset": level.offset, "cube": level.cube}
