"""Tiles, and everything else behind a token."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IReactorTime

from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.cache.derived import DerivedTiles
from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.cache.lookahead import LookAhead
from ocpproxy.cache.tiles import TileAnswer, TileCache, max_age
from ocpproxy.concurrency.pieces import in_pieces
from ocpproxy.model import address
from ocpproxy.model.address import BadAddress, ImageBase, OverviewAddress, TileAddress, write_base
from ocpproxy.model.dataset import Dataset, Level, Triple
from ocpproxy.model.display import PLACEHOLDER
from ocpproxy.web import answers
from ocpproxy.web.access import Access
from ocpproxy.web.answers import Reply
from ocpproxy.web.catmaid.stacks import image_bases, project_id
from ocpproxy.web.request import GatewayRequest
from ocpproxy.web.resources import AsyncResource
from ocpproxy.web.route_cache import RouteCache
from ocpproxy.web.voxels.resource import addresses


@dataclass(frozen=True, slots=True)
class TilePolicy:
    """How tiles are answered."""

    longest_age: int
    """Seconds that a viewer may keep a tile."""
    errors_as_text: bool
    """Answer an upstream's failure with a sentence instead of a picture."""


@dataclass(frozen=True, slots=True)
class TileSources:
    """Where tiles and descriptions come from."""

    catalogue: Catalogue
    cache: TileCache
    derived: DerivedTiles
    lookahead: LookAhead
    access: Access
    now: Callable[[], float]
    """Returns the seconds since 1970."""
    clock: IReactorTime


class TokenResource(AsyncResource):
    """Everything behind a token: its tiles in all their spellings, and a description of the dataset."""

    def __init__(self, sources: TileSources, routes: RouteCache, policy: TilePolicy) -> None:
        super().__init__()
        self._cache = sources.cache
        self._derived = sources.derived
        self._lookahead = sources.lookahead
        self._access = sources.access
        self._catalogue = sources.catalogue
        self._routes = routes
        self._now = sources.now
        self._clock = sources.clock
        self._policy = policy

    async def answer(self, request: GatewayRequest) -> Reply:
        """Return a tile, an overview or a description."""
        query, asked = _read_address(request)
        self._access.check(asked.token if isinstance(asked, ImageBase) else asked.base.token, request)
        if isinstance(asked, ImageBase):
            return await self._describe(request, asked)
        if request.method == b"HEAD":
            found = await self._stored(asked, query)
        else:
            found = await self._picture(asked, query, request)
        if found is None:
            return answers.head_of_unfetched()
        request.count(found.result)
        age = max_age(found.expires, self._now(), self._policy.longest_age)
        return answers.tile(request, found, age)

    async def _picture(self, asked: TileAddress | OverviewAddress, query: str, request: GatewayRequest) -> TileAnswer:
        if isinstance(asked, OverviewAddress):
            return await self._derived.overview(asked)
        adjustment = address.adjustment(query)
        located = await self._cache.locate(asked)
        if located.tile is not None:
            self._lookahead.note(request.client_host, located.stack, located.tile)
        answer = await self._cache.tile(located)
        if adjustment is not None:
            return await self._derived.adjusted(located, adjustment, answer)
        self._routes.remember(request.uri, located)
        return answer

    async def _stored(self, asked: TileAddress | OverviewAddress, query: str) -> TileAnswer | None:
        """Return the picture if its tile is stored."""
        if isinstance(asked, OverviewAddress):
            return None
        adjustment = address.adjustment(query)
        located = await self._cache.locate(asked, current=False)
        answer = await self._cache.stored_tile(located)
        if adjustment is None or answer is None:
            return answer
        return await self._derived.adjusted(located, adjustment, answer)

    def failure(self, request: GatewayRequest, error: Exception) -> Reply | None:
        """Answer by the table of failures."""
        as_text = self._policy.errors_as_text or _asks_for_description(request)
        reply = answers.failure(error, _token(request), as_text=as_text)
        if reply is not None:
            request.count_error()
        return reply

    def fault(self, request: GatewayRequest) -> Reply:
        """Answer with a picture, which is all that a viewer understands."""
        request.count_error()
        sentence = "something is wrong with this gateway; its log has the details"
        return answers.picture_or_text(500, sentence, "fault", 5, as_text=self._policy.errors_as_text)

    async def _describe(self, request: GatewayRequest, base: ImageBase) -> Reply:
        entry = await self._catalogue.entry(base.token)
        for channel in base.channels:
            if channel.name != PLACEHOLDER:
                entry.dataset.channel(channel.name)
        trouble = self._catalogue.trouble(base.token)
        reason = None if trouble is None else trouble.failure.explanation
        bases = await in_pieces(image_bases(entry), self._clock)
        document = description(entry, bases, request.root_url, reason)
        return answers.json_reply(200, await in_pieces(answers.json_parts(document), self._clock))


def _read_address(request: GatewayRequest) -> tuple[str, TileAddress | OverviewAddress | ImageBase]:
    """Return the query of a request, and what its path is the address of.

    :raises BadAddress: of nothing.
    """
    query = request.uri.partition(b"?")[2].decode("latin-1")
    return query, address.parse(request.path.decode("latin-1").removeprefix("/"), query)


def _asks_for_description(request: GatewayRequest) -> bool:
    try:
        return isinstance(_read_address(request)[1], ImageBase)
    except BadAddress:
        return False


def _token(request: GatewayRequest) -> str:
    """Return the token in the path of a request, for people."""
    path = request.path.decode("latin-1").removeprefix("/")
    segments: Sequence[str] = address.strip_prefix(path.split("/"))
    while segments and segments[0] in ("mcfc", "viking") and len(segments) > 4:
        segments = segments[1:]
    return re.sub(r"[^\w-]", "?", segments[0])[:64] if segments else ""


def description(
    entry: CatalogueEntry, bases: Iterable[ImageBase], root: str, trouble: str | None = None
) -> dict[str, Any]:
    """Return what the gateway knows of a dataset, with the image bases to paste into a viewer.

    :param bases: `image_bases`, which may be thousands.
    :param trouble: why its upstream does not describe it now.
    """
    dataset = entry.dataset
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
        "default_channel": entry.source.display.channel or dataset.default_channel,
        "image_bases": [f"{root}/ocpcatmaid/{write_base(base)}" for base in bases],
        **(_voxels(dataset, root) if entry.source.display.as_chunks else {}),
        "catmaid_project": project_id(dataset.token),
        "notes": [*dataset.notes, *([] if trouble is None else [f"shown by an earlier description: {trouble}"])],
    }


def _voxels(dataset: Dataset, root: str) -> dict[str, Any]:
    return {
        "voxels": {channel.name: addresses(dataset.token, channel, root) for channel in dataset.channels},
        "neuroglancer": f"{root}/neuroglancer/{dataset.token}",
    }


def _level(level: Level) -> dict[str, Triple]:
    return {"size": level.size, "offset": level.offset, "cube": level.cube}
