"""What the gateway does with a request, step by step: ``ocpproxy trace``.

A trace looks where a request would look, in the same order, and changes nothing: a tile that is looked at does not
count as used. A dataset that is not described yet is described, because nothing can be shown without that. With
`fetch` the request is carried out too, and the trace has what came of it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote

from twisted.web.http_headers import Headers

from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.cache.entries import CatalogueEntry, DatasetSource, Undescribed
from ocpproxy.cache.fetches import CuboidFetches
from ocpproxy.cache.lookup import TileLookup
from ocpproxy.cache.tiles import LocatedChunk, LocatedTile, TileCache
from ocpproxy.concurrency.work import working_for
from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.index.leases import Leases
from ocpproxy.model import address
from ocpproxy.model.address import BadAddress, ImageBase, OverviewAddress, TileAddress, write_base
from ocpproxy.model.chunks import AnyCuboid, is_chunk
from ocpproxy.model.dataset import CannotDisplay
from ocpproxy.model.stack import Cuboid, Tile
from ocpproxy.store import rows
from ocpproxy.store.files import TornTile
from ocpproxy.store.keys import NotIndexable
from ocpproxy.store.tile_store import TileStore
from ocpproxy.upstream import trail
from ocpproxy.upstream.base import UpstreamFailure
from ocpproxy.web import answers, target
from ocpproxy.web.signed_links import without_prefix
from ocpproxy.web.target import RefusedRequest
from ocpproxy.web.voxels import voxel_answers
from ocpproxy.web.voxels.resource import FORMATS
from ocpproxy.web.voxels.served_volumes import FoundChunk, ServedVolumes

_CLIENT = "ocpproxy trace"
_AS_VOXELS = tuple(f", as {one.name}" for one in FORMATS)
"""How the step of an address ends that is below a format of voxels."""


class Step(NamedTuple):
    """One step of a request."""

    step: str
    found: str
    """What was found there, for the administrator: it may hold addresses of upstreams."""


@dataclass(frozen=True)
class TraceParts:
    """What is looked at."""

    catalogue: Catalogue
    cache: TileCache
    lookup: TileLookup
    fetches: CuboidFetches
    store: TileStore
    leases: Leases
    now: Callable[[], float]
    """Returns the seconds since 1970."""


class Tracer:
    """The traces of one process."""

    def __init__(self, parts: TraceParts) -> None:
        self._parts = parts

    async def trace(self, asked: str, *, fetch: bool) -> list[Step]:
        """Return the steps of a request.

        :param asked: its target: a path with a query, or a whole address.
        :param fetch: carry the request out.
        """
        steps: list[Step] = []
        try:
            async for step in self._steps(asked, fetch=fetch):
                steps.append(step)
        except RefusedRequest as error:
            steps.append(Step("answer", f"400: {error}"))
        except (BadAddress, CannotDisplay, NotIndexable, Undescribed, UpstreamFailure) as error:
            of_voxels = any(step.step == "address" and step.found.endswith(_AS_VOXELS) for step in steps)
            reply = voxel_answers.failure(error) if of_voxels else answers.failure(error, "it", as_text=True)
            steps.append(Step("answer", f"{reply.code if reply else 500}: {error}"))
        return steps

    async def _steps(self, asked: str, *, fetch: bool) -> AsyncIterator[Step]:
        uri = without_prefix(target.read(asked.encode("utf-8"), b"HTTP/1.0", Headers()))
        yield Step("request", uri.decode("utf-8", "replace"))
        path, _, query = uri.decode("latin-1").partition("?")
        voxels = _read_voxels(path)
        parsed = voxels or address.parse(path.removeprefix("/"), query)
        if isinstance(parsed, ImageBase):
            yield Step("address", f"the description of {write_base(parsed)}")
            return
        if isinstance(parsed, OverviewAddress):
            yield Step("address", f"an overview of {write_base(parsed.base)}, made for each request")
            return
        yield Step("address", _address(parsed))
        token = parsed.token if isinstance(parsed, _VoxelAddress) else parsed.base.token
        was_known = self._parts.catalogue.entry_now(token) is not None
        failure: Exception | None = None
        with trail.recorded() as documents:
            try:
                located = await self._locate(parsed, current=fetch)
            except (Undescribed, UpstreamFailure) as error:
                failure = error
        for request in documents.requests:
            yield _request(request)
        if failure is not None:
            raise failure
        if isinstance(located, Step):
            yield located
            return
        yield Step("dataset", self._dataset(located.entry, was_known=was_known))
        if located.tile is None:
            yield Step("answer", "200: a blank tile: it is outside the volume, or the slice is broken")
            return
        async for step in self._tile(located, located.tile):
            yield step
        if fetch:
            async for step in self._fetched(located):
                yield step

    async def _locate(self, parsed: TileAddress | _VoxelAddress, *, current: bool) -> LocatedTile | LocatedChunk | Step:
        """Return what an address means, or the last step where that is neither a tile nor a chunk."""
        if isinstance(parsed, TileAddress):
            return await self._parts.cache.locate(parsed, current=current)
        entry = await self._parts.cache.entry(parsed.token, current=current)
        found = parsed.volumes.find(entry, parsed.path)
        if isinstance(found, FoundChunk):
            return LocatedChunk(entry, found.place.volume, found.place.tile)
        if found is None:
            raise BadAddress("the format has no such name here")
        return Step("answer", "200: a document or a folder, which the gateway makes")

    def _dataset(self, entry: CatalogueEntry, *, was_known: bool) -> str:
        trouble = self._parts.catalogue.trouble(entry.dataset.token)
        parts = [
            f"{entry.source.origin()}, described {_ago(self._parts.now() - entry.read_at)}",
            "" if was_known else "just read",
            "" if trouble is None else f"not described now: {trouble.failure}",
        ]
        return "; ".join(filter(None, parts))

    async def _tile(self, located: LocatedTile | LocatedChunk, tile: Tile) -> AsyncIterator[Step]:
        stack, parts = located.stack, self._parts
        until = "" if located.expires is None else f", fetched again in {located.expires - parts.now():.0f} s"
        numbers = f"time {tile.time}, level {tile.level}, slice {tile.slice}, row {tile.row}, column {tile.col}"
        yield Step("chunk" if is_chunk(tile) else "tile", f"{tile.stack}: {numbers}; version {stack.version}{until}")
        cuboid = stack.cuboid(tile)
        yield Step("cuboid", _cuboid(cuboid))
        in_memory = parts.lookup.is_in_memory(tile)
        yield Step("memory", "there, in this process" if in_memory else "not there, in this process")
        on_disk, found = await self._on_disk(located.entry.source, tile)
        yield Step("disk", found)
        yield Step("index", await self._in_index(tile, cuboid))
        if in_memory or on_disk:
            yield Step("answer", f"200: a hit, from {'memory' if in_memory else 'disk'}")
            return
        yield Step("flight", self._flight(cuboid))
        for step in self._upstream(located.entry.source, cuboid):
            yield step
        yield Step("answer", "a miss: the cuboid would be fetched, unless what is above forbids it")

    async def _on_disk(self, source: DatasetSource, tile: Tile) -> tuple[bool, str]:
        """Return whether the tile can be served from disk, and what is there."""
        store = self._parts.store
        try:
            stored = await store.run_in_thread(store.files.read, tile)
        except TornTile:
            return False, "a file that is no whole tile: it is removed when it is asked for"
        if stored is None:
            return False, "no file"
        made, home = stored.provenance
        known = dict(source.homes)
        homes = [f"{one} ({known.get(one, 'which is not configured any more')})" for one in home.split(",") if one]
        by = f" by {', '.join(homes)}" if homes else ""
        found = f"{len(stored.picture):,} bytes, fetched {_time(made)}{by}"
        if store.flushes.covers(tile, made):
            return False, f"{found}; a flush covers it, so it is not served"
        return True, found

    async def _in_index(self, tile: Tile, cuboid: AnyCuboid) -> str:
        store, leases = self._parts.store, self._parts.leases
        try:
            used = await store.database.read(rows.last_use, tile)
            lease = await leases.holder(cuboid.name)
        except DatabaseUnavailable as error:
            return f"unavailable: {error}"
        row = "no row" if used is None else "pinned" if used == rows.PINNED else f"a row, last use {used} UTC"
        return f"{row}; the cuboid's lease {lease}"

    def _flight(self, cuboid: AnyCuboid) -> str:
        flying = self._parts.fetches.is_flying(cuboid)
        taken, limit, waiting = self._parts.fetches.slots_of(cuboid.stack.dataset)
        slots = f"{taken} of {limit} slots of its upstream are taken, {waiting} cuboids wait for one"
        return f"{'is being fetched now' if flying else 'not being fetched'}; {slots}"

    def _upstream(self, source: DatasetSource, cuboid: AnyCuboid) -> Iterator[Step]:
        """Yield a step for each home, which says whether it would be asked."""
        if not source.is_asked:
            yield Step("upstream", "mode = cache-only: it is not asked")
        shown = [one for one in cuboid.cutouts() if one is not None]
        size = sum(one.nbytes for one in shown)
        for (name, origin), breakers in zip(source.homes, source.breakers, strict=True):
            state = max((breakers.of(one).state for one in shown), default=None)
            resting = "" if state is None or not state else f"; its breaker is {state.name.lower().replace('_', ' ')}"
            yield Step("upstream", f"{name} ({origin}): {size:,} bytes of voxels{resting}")

    async def _fetched(self, located: LocatedTile | LocatedChunk) -> AsyncIterator[Step]:
        failure: UpstreamFailure | None = None
        with trail.recorded() as asked, working_for(_CLIENT):
            try:
                answer = await self._parts.cache.tile(located)
            except UpstreamFailure as error:
                failure = error
        for request in asked.requests:
            yield _request(request)
        if failure is not None:
            raise failure
        if answer.timing is not None:
            queue, upstream, render = (f"{seconds * 1000:.1f} ms" for seconds in answer.timing)
            yield Step("times", f"queue {queue}, upstream {upstream}, render {render}")
        by = f", from {answer.tile.home}" if answer.tile.home else ""
        status = answers.cache_status(answer.result).decode()
        yield Step("carried out", f"200: {len(answer.tile.picture):,} bytes{by}; {status}")


@dataclass(frozen=True)
class _VoxelAddress:
    """A path below one of the formats of voxels."""

    volumes: ServedVolumes
    title: str
    token: str
    path: Sequence[str]


def _read_voxels(path: str) -> _VoxelAddress | None:
    """Return what a path asks of a format of voxels; None for any other path."""
    name, *rest = unquote(path).removeprefix("/").split("/")
    for voxel_format in FORMATS:
        if voxel_format.name == name and rest:
            return _VoxelAddress(ServedVolumes(voxel_format), name, rest[0], rest[1:])
    return None


def _address(parsed: TileAddress | _VoxelAddress) -> str:
    if isinstance(parsed, _VoxelAddress):
        path = "/".join(parsed.path).rstrip("/") or "the folder"
        return f"{path} of {parsed.token}, as {parsed.title}"
    base = parsed.base
    channels = ", ".join(one.name + (f":{one.colour}" if one.colour else "") for one in base.channels)
    when = "" if parsed.time is None else f"time {parsed.time}, "
    place = f"{when}slice {parsed.slice}, row {parsed.row}, column {parsed.col}, level {parsed.level}"
    return f"a tile of {base.token}, channel {channels or 'by default'}, plane {base.plane.value}: {place}"


def _cuboid(cuboid: AnyCuboid) -> str:
    x0, x1, y0, y1, z0, z1 = cuboid.box
    kind = "tiles" if isinstance(cuboid, Cuboid) else "chunks"
    return f"{cuboid.name}: x {x0} to {x1}, y {y0} to {y1}, z {z0} to {z1}; {len(cuboid.tiles())} {kind}"


def _request(made: trail.RequestMade) -> Step:
    return Step("upstream's answer", f"GET {made.address}: {made.outcome}, in {made.seconds * 1000:.1f} ms")


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def _ago(seconds: float) -> str:
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours} h {minutes} min ago" if hours else f"{minutes} min ago"
