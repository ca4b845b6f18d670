"""Voxels in the formats of other readers: documents, chunks and folders, read only.

What readers make of a status decides the answers. A 404 or a 403 becomes black for most of them, without a word. So a
chunk that is missing at the upstream is a chunk of zeros with 200, 404 is only for what is no name of the format or off
its grid, and every failure is 503 or 504, also where the upstream refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from cachetools import LRUCache

from ocpproxy.cache import chunks
from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.cache.lookup import EncodedTile
from ocpproxy.cache.tiles import LocatedChunk, TileCache, max_age
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.formats import chunk_file
from ocpproxy.formats.chunk_file import BadChunk
from ocpproxy.formats.location import ChunkPlace, Encode, Folder, FormatDocument, ServedVolume, VoxelFormat
from ocpproxy.formats.n5 import N5Format
from ocpproxy.formats.precomputed import PrecomputedFormat
from ocpproxy.formats.zarr import Zarr2Format, Zarr3Format
from ocpproxy.model.address import BadAddress
from ocpproxy.model.dataset import NAME, Channel
from ocpproxy.web import answers
from ocpproxy.web.access import Access
from ocpproxy.web.answers import Reply
from ocpproxy.web.request import GatewayRequest
from ocpproxy.web.resources import AsyncResource
from ocpproxy.web.route_cache import RouteCache
from ocpproxy.web.voxels import voxel_answers
from ocpproxy.web.voxels.served_volumes import FoundChunk, ServedVolumes

_MEMORY = 8 * 2**20
"""Bytes of chunks that were made of kept ones, of each format."""
_TOKEN = re.compile(NAME, re.ASCII)


PRECOMPUTED = PrecomputedFormat()
FORMATS: tuple[VoxelFormat, ...] = (PRECOMPUTED, Zarr3Format(), Zarr2Format(), N5Format())
"""The formats in which voxels are served."""


def addresses(token: str, channel: Channel, root: str) -> dict[str, str]:
    """Return the address of a channel in each format that has its type, by the name of the format."""
    return {one.name: f"{root}/{one.name}/{token}/{channel.name}" for one in FORMATS if one.has_type(channel.dtype)}


class NoSuchName(BadAddress):
    """A path is no name of the format, or off the grid."""


@dataclass(frozen=True)
class VoxelSources:
    """Where chunks come from, and how they are answered."""

    cache: TileCache
    run_in_thread: RunInThread
    routes: RouteCache
    access: Access
    now: Callable[[], float]
    """Returns the seconds since 1970."""
    longest_age: int
    """Seconds that a reader may keep a chunk."""


class _FormattedChunk(NamedTuple):
    """A chunk in one format."""

    served: ServedVolume
    place: ChunkPlace
    encode: Encode | None
    """`VoxelFormat.encoder`."""


class VoxelResource(AsyncResource):
    """All datasets in one format."""

    def __init__(self, voxel_format: VoxelFormat, sources: VoxelSources) -> None:
        super().__init__()
        self._format = voxel_format
        self._sources = sources
        self._volumes = ServedVolumes(voxel_format)
        self._made: LRUCache[tuple[str, str], EncodedTile] = LRUCache(_MEMORY, getsizeof=lambda one: len(one.picture))

    async def answer(self, request: GatewayRequest) -> Reply:
        """Return a document, a folder or a chunk."""
        segments = [segment.decode("latin-1") for segment in (request.postpath or [])]
        if not segments or not _TOKEN.fullmatch(segments[0]):
            raise NoSuchName(f"expected a token, and one of its channels, below /{self._format.name}/")
        self._sources.access.check(segments[0], request)
        entry = await self._sources.cache.entry(segments[0])
        found = self._volumes.find(entry, segments[1:])
        match found:
            case Folder():
                name = segments[-1]
                return voxel_answers.folder_elsewhere(name) if name else voxel_answers.folder(found.names)
            case FormatDocument():
                return voxel_answers.document(request, found, entry.read_at)
            case FoundChunk():
                return await self._chunk(request, entry, found.served, found.place)
        raise NoSuchName(f"{self._format.name} has no such name here")

    async def _chunk(
        self, request: GatewayRequest, entry: CatalogueEntry, served: ServedVolume, place: ChunkPlace
    ) -> Reply:
        sources = self._sources
        located = LocatedChunk(entry, place.volume, place.tile)
        if request.method == b"HEAD":
            stored = await sources.cache.stored_tile(located)
            if stored is None:
                return voxel_answers.head_of_unfetched(self._format.plain_length(served, place))
            answer = stored
        else:
            answer = await sources.cache.tile(located)
        encode = self._format.encoder(served, place)
        form = _FormattedChunk(served, place, encode)
        try:
            tile = await self._form_of(request, form, answer.tile)
        except BadChunk:  # the file is damaged: it is made again, once
            answer = await sources.cache.tile_again(located, answer.tile)
            tile = await self._form_of(request, form, answer.tile)
        if encode is None:
            sources.routes.remember(request.uri, located)
        request.count(answer.result)
        age = max_age(answer.expires, sources.now(), sources.longest_age)
        return voxel_answers.chunk(request, replace(answer, tile=tile), age)

    async def _form_of(self, request: GatewayRequest, form: _FormattedChunk, kept: EncodedTile) -> EncodedTile:
        """Return a chunk as the format has it and the client takes it.

        :raises BadChunk: the one that is kept is damaged.
        """
        encoded = kept if form.encode is None else await self._other_form(form, form.encode, kept)
        headers = request.requestHeaders
        takes_gzip = answers.accepts_gzip(headers.getRawHeaders(b"accept-encoding", []))
        wants_part = request.method == b"GET" and headers.hasHeader(b"range")
        return await self._plain(form.place, encoded) if encoded.gzipped and (wants_part or not takes_gzip) else encoded

    async def _other_form(self, form: _FormattedChunk, encode: Encode, kept: EncodedTile) -> EncodedTile:
        """Return a chunk as the format has it, made of the one that is kept."""
        served, place, _ = form
        key = (kept.etag, served.axes)
        found = self._made.get(key)
        if found is not None:
            return replace(found, modified=kept.modified, home=kept.read_home())
        volume, body, gzipped = place.volume, bytes(kept.picture), kept.gzipped
        tile = place.tile

        def make() -> bytes:
            voxels = chunks.decode(volume, tile, body, gzipped=gzipped)
            return chunk_file.pack(encode(voxels), compress=not served.is_compressed(place.level))

        made = EncodedTile.of(tile, await self._sources.run_in_thread(make), kept.modified, kept.read_home())
        if len(made.picture) <= _MEMORY // 4:
            self._made[key] = made
        return made

    async def _plain(self, place: ChunkPlace, encoded: EncodedTile) -> EncodedTile:
        """Return a chunk without compression, with an ETag of its own."""
        body = bytes(encoded.picture)
        plain = await self._sources.run_in_thread(chunks.plain_body, place.volume, place.tile, body)
        return replace(encoded, picture=plain, gzipped=False, etag=f'{encoded.etag[:-1]}-plain"')

    def failure(self, request: GatewayRequest, error: Exception) -> Reply | None:
        """Return 404 for what is not there, and 503 or 504 for what fails."""
        reply = voxel_answers.failure(error)
        if reply is not None and reply.code >= 500:
            request.count_error()
        return reply

    def fault(self, request: GatewayRequest) -> Reply:
        """Return what readers try again."""
        request.count_error()
        return answers.text(503, "something is wrong with this gateway; its log has the details", retry_after="30")
