"""Boxes of voxels read from chunks: an upstream that stores blocks of its own is read block by block.

The chunks of a box are fetched concurrently. Boxes that need a chunk at the same time share one request, which is
cancelled when the last of them is cancelled. The voxels of a chunk that reaches beyond the box are kept for a moment,
because the neighbouring boxes need it too. Those of other chunks are not: slabs of tiles begin where chunks begin
(`ocpproxy.model.stack`), and whole cutouts are shared by `ocpproxy.cache.shared_cutouts`. Where chunks are served as
they are, their objects are kept for a moment too (`SharedObjects`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from cachetools import LRUCache, TTLCache
from twisted.internet.interfaces import IReactorTime

from ocpproxy.concurrency import generation
from ocpproxy.concurrency.gather import gather
from ocpproxy.concurrency.single_flight import Flight, SingleFlight
from ocpproxy.log import Logger
from ocpproxy.model.dataset import Box
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamBroken, UpstreamFailure
from ocpproxy.upstream.grid import Grid, compose, intersection, paste
from ocpproxy.upstream.http import HttpResponse, status_failure
from ocpproxy.upstream.locations import Location

MEMORY = 32 * 2**20
"""Bytes of chunks that are kept for neighbouring boxes."""
_KEEP = 15.0
"""Seconds that such a chunk is kept."""
_VOLUMES = 1000
_OBJECTS = 8 * 2**20
"""Bytes of objects that are kept for who wants the same as voxels, or as it is."""
_OVERHEAD = 1000
"""Bytes that an object takes beside its body."""
V = TypeVar("V", bound=Hashable)
_Chunk = tuple[int, V, Box]
"""The generation in which a chunk is read, its volume, and its box."""
_log = Logger()


def log_all_missing(token: str, location: Location, path: str) -> None:
    """Log that there is no chunk of a cuboid that lies within the volume. Call it once for a volume.

    A sparse volume has such cuboids; but its chunks may also have other names than its format says.
    """
    _log.warn(
        "{token}: all chunks of a cuboid are missing at {address}/{path}: it is background. This is logged once",
        token=token,
        address=location.for_token(token),
        path=path,
    )


@dataclass(frozen=True, slots=True)
class MissingChunks:
    """What the operator has set for chunks (or tiles) that the upstream does not have."""

    statuses: frozenset[int]
    """HTTP statuses that mean that a chunk is missing."""
    black: bool = True
    """True if a missing chunk is background, False if it is a failure of the upstream."""

    def check(self, response: HttpResponse) -> UpstreamFailure | None:
        """Return what is wrong with the response to a request for a chunk.

        None stands for a chunk that is there (status 200), and for one that is missing and thus background.
        """
        if response.status in self.statuses:
            return None if self.black else UpstreamBroken(f"missing at the upstream: {response.summary}")
        return status_failure(response, UpstreamBroken)


class Chunks(Generic[V]):
    """The chunks of one upstream.

    :param fetch: returns one chunk of a volume as an array (z, y, x) or (z, y, x, component), or None for a chunk that
        is all background. A volume is any hashable value that identifies one level of one channel.
    :param on_all_missing: called once for a volume, when all chunks of a box are background.
    """

    def __init__(
        self,
        fetch: Callable[[V, Box], Awaitable[Voxels | None]],
        clock: IReactorTime,
        on_all_missing: Callable[[V], None] = lambda volume: None,
    ) -> None:
        self._fetch = fetch
        self._on_all_missing = on_all_missing
        self._reported: LRUCache[V, None] = LRUCache(_VOLUMES)
        self._flights: SingleFlight[_Chunk[V], None, Voxels | None] = SingleFlight(
            self._fly, clock, remember_failure=0, finish=False
        )
        self._kept: TTLCache[_Chunk[V], Voxels] = TTLCache(
            MEMORY, _KEEP, clock.seconds, getsizeof=lambda voxels: voxels.nbytes
        )

    async def box(self, volume: V, box: Box, grid: Grid, dtype: str) -> Voxels:
        """Return the voxels of a box, with the axes of its chunks and 0 where there is no chunk.

        :raises UpstreamFailure: the first failure of a chunk; the requests for the others are cancelled.
        """
        chunks = grid.boxes(box)
        if chunks == [box]:
            voxels = await self._chunk(volume, box, box)
            return self._background(volume, box, dtype) if voxels is None else voxels
        target: Voxels | None = None

        async def paste_chunk(chunk: Box) -> None:
            # Pasted as soon as it is there, so that only the chunks being fetched are held, not all chunks of the box.
            nonlocal target
            voxels = await self._chunk(volume, chunk, box)
            if voxels is not None:
                if target is None:
                    target = np.zeros((*box.shape, *voxels.shape[3:]), dtype)
                paste(target, box, voxels, chunk)

        await gather([paste_chunk(chunk) for chunk in chunks])
        if target is None:
            return self._background(volume, box, dtype) if chunks else np.zeros(box.shape, dtype)
        return target

    def _background(self, volume: V, box: Box, dtype: str) -> Voxels:
        """Return the voxels of a box all of whose chunks are missing; report that once for a volume."""
        if volume not in self._reported:
            self._reported[volume] = None
            self._on_all_missing(volume)
        return np.zeros(box.shape, dtype)

    async def _chunk(self, volume: V, chunk: Box, box: Box) -> Voxels | None:
        """Return a chunk that is needed for a box."""
        key = (generation.current(), volume, chunk)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        voxels = await self._flights.join(key, None)
        if voxels is not None and intersection(box, chunk) != chunk and voxels.nbytes <= MEMORY // 4:
            self._kept[key] = voxels
        return voxels

    async def _fly(self, flight: Flight[_Chunk[V], None, Voxels | None]) -> None:
        _, volume, chunk = flight.key
        voxels = await self._fetch(volume, chunk)
        flight.progress.report()
        flight.deliver(None, voxels)


class SharedObjects(Generic[V]):
    """The stored objects of chunks, each fetched once for all who want its voxels, or the object itself.

    :param fetch: returns the object of one chunk, or None for a chunk that is missing.
    """

    def __init__(self, fetch: Callable[[V, Box], Awaitable[HttpResponse | None]], clock: IReactorTime) -> None:
        self._fetch = fetch
        self._flights: SingleFlight[_Chunk[V], None, HttpResponse | None] = SingleFlight(
            self._fly, clock, remember_failure=0, finish=False
        )
        self._kept: TTLCache[_Chunk[V], HttpResponse] = TTLCache(
            _OBJECTS, _KEEP, clock.seconds, getsizeof=lambda response: len(response.body) + _OVERHEAD
        )

    async def get(self, volume: V, chunk: Box) -> HttpResponse | None:
        """Return the object of a chunk, or None for one that is missing.

        :raises UpstreamFailure: as `fetch`.
        """
        key = (generation.current(), volume, chunk)
        kept = self._kept.get(key)
        return kept if kept is not None else await self._flights.join(key, None)

    def refuse(self, volume: V, chunk: Box) -> None:
        """Let nobody else share an object that turned out to be damaged: who wants it from now on fetches it again."""
        key = (generation.current(), volume, chunk)
        self._flights.detach_key(key)
        self._kept.pop(key, None)

    def keep(self, volume: V, chunk: Box, response: HttpResponse) -> None:
        """Keep an object for a moment. Call it when the object is known to be undamaged."""
        if len(response.body) <= _OBJECTS // 4:
            self._kept[generation.current(), volume, chunk] = response

    async def _fly(self, flight: Flight[_Chunk[V], None, HttpResponse | None]) -> None:
        _, volume, chunk = flight.key
        response = await self._fetch(volume, chunk)
        flight.progress.report()
        flight.deliver(None, response)


async def read_clipped(box: Box, grid: Grid, dtype: str, read: Callable[[Box], Awaitable[Any]]) -> Voxels:
    """Return the voxels of a box of which only the part within the grid can be read; the rest is 0.

    :param read: returns the voxels of a box within the grid, an array (z, y, x) or (z, y, x, component).
    :raises UpstreamBroken: when they are of another type than `dtype`.
    """
    inner = grid.clip(box)
    if inner is None:
        return np.zeros(box.shape, dtype)
    voxels: Voxels = await read(inner)
    if voxels.dtype != np.dtype(dtype):
        raise UpstreamBroken(f"expected voxels of {dtype}, not {voxels.dtype}")
    return voxels if inner == box else compose(box, [(inner, voxels)], dtype)
