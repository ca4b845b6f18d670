"""Boxes put together from chunks: what an upstream keeps in blocks of its own is fetched block by block.

The chunks of a box are fetched side by side, each once for all who want it at the same time; one that nobody waits for
any more is called off, for whoever wants a box sees to it that what has begun to arrive is finished. One that sticks
out of the box is kept for a moment, for the neighbours that share it; the others are of no use to anybody else, because
slabs of tiles begin where chunks do (`ocpproxy.model.stack`) and what was cut out whole is shared by
`ocpproxy.cache.shared_cutouts`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from cachetools import TTLCache
from twisted.internet.interfaces import IReactorTime

from ocpproxy.concurrency.gather import gather
from ocpproxy.concurrency.single_flight import Flight, SingleFlight
from ocpproxy.model.dataset import Box, Triple
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import OutOfRange

MEMORY = 32 * 2**20
"""Bytes of chunks that are kept for neighbours."""
_KEPT_FOR = 15.0
_MOST = 65536
"""Chunks that a box may have."""
P = TypeVar("P", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Grid:
    """Chunks of equal size from `offset` on; the last ones end where the volume does. Voxels of a level: x, y, z."""

    offset: Triple
    end: Triple
    chunk: Triple

    def boxes(self, box: Box) -> list[Box]:
        """The chunks that a box touches, each as far as the volume goes, in the order z, y, x.

        :raises OutOfRange: there are far too many.
        """
        spans = []
        many = 1
        for axis in range(3):
            start, stop, step = self.offset[axis], self.end[axis], self.chunk[axis]
            first, end = max(box[2 * axis], start), min(box[2 * axis + 1], stop)
            places = range((first - start) // step, (end - start - 1) // step + 1) if first < end else range(0)
            many *= len(places)
            spans.append([(start + n * step, min(start + (n + 1) * step, stop)) for n in places[:_MOST]])
        if many > _MOST:
            raise OutOfRange(f"a box of {many} chunks is too much for one request")
        xs, ys, zs = spans
        return [Box(*x, *y, *z) for z in zs for y in ys for x in xs]


class Chunks(Generic[P]):
    """The chunks of one upstream.

    :param fetch: gets one chunk of a place (a level of a channel, say): its voxels, axes (z, y, x), or None for one
        that is all background; calls its third argument when the answer begins to arrive.
    """

    def __init__(self, fetch: Callable[[P, Box], Awaitable[Voxels | None]], clock: IReactorTime) -> None:
        self._fetch = fetch
        self._flights: SingleFlight[tuple[P, Box], None, Voxels | None] = SingleFlight(
            self._fly, clock, remember_failure=0, finish=False
        )
        self._shared: TTLCache[tuple[P, Box], Voxels] = TTLCache(
            MEMORY, _KEPT_FOR, clock.seconds, getsizeof=lambda voxels: voxels.nbytes
        )

    async def box(self, place: P, box: Box, grid: Grid, dtype: str) -> Voxels:
        """The voxels of a box, axes (z, y, x), and a fourth where chunks have one; what has no chunk is 0.

        :raises UpstreamFailure: the first there is; the other chunks are given up.
        """
        pieces = grid.boxes(box)
        if pieces == [box]:
            found = await self._one(place, box, box)
            return np.zeros(box.shape, dtype) if found is None else found
        whole: list[Voxels] = []

        async def paste(piece: Box) -> None:
            # At once, so that as many are held as are being fetched, and not as many as there are.
            voxels = await self._one(place, piece, box)
            if voxels is not None:
                if not whole:
                    whole.append(np.zeros((*box.shape, *voxels.shape[3:]), dtype))
                _paste(whole[0], box, piece, voxels)

        await gather([paste(piece) for piece in pieces])
        return whole[0] if whole else np.zeros(box.shape, dtype)

    async def _one(self, place: P, piece: Box, box: Box) -> Voxels | None:
        kept = self._shared.get((place, piece))
        if kept is not None:
            return kept
        voxels = await self._flights.join((place, piece), None)
        if voxels is not None and _common(box, piece) != piece and voxels.nbytes <= MEMORY // 4:
            self._shared[place, piece] = voxels
        return voxels

    async def _fly(self, flight: Flight[tuple[P, Box], None, Voxels | None]) -> None:
        place, piece = flight.key
        voxels = await self._fetch(place, piece)
        flight.progress.report()
        flight.deliver(None, voxels)


def _common(a: Box, b: Box) -> Box:
    """What two boxes share."""
    return Box(max(a.x0, b.x0), min(a.x1, b.x1), max(a.y0, b.y0), min(a.y1, b.y1), max(a.z0, b.z0), min(a.z1, b.z1))


def clipped(box: Box, grid: Grid) -> Box | None:
    """The part of a box that is within a grid."""
    (ox, oy, oz), (x, y, z) = grid.offset, grid.end
    inner = _common(box, Box(ox, x, oy, y, oz, z))
    return inner if min(inner.shape) > 0 else None


def pasted(box: Box, pieces: Sequence[tuple[Box, Voxels]], dtype: str) -> Voxels:
    """A box put together from pieces that touch it, axes (z, y, x) and a fourth where they have one; the rest 0."""
    further = pieces[0][1].shape[3:] if pieces else ()
    whole = np.zeros((*box.shape, *further), dtype)
    for piece, voxels in pieces:
        _paste(whole, box, piece, voxels)
    return whole


def _paste(whole: Voxels, box: Box, piece: Box, voxels: Voxels) -> None:
    x0, x1, y0, y1, z0, z1 = _common(box, piece)
    whole[z0 - box.z0 : z1 - box.z0, y0 - box.y0 : y1 - box.y0, x0 - box.x0 : x1 - box.x0] = voxels[
        z0 - piece.z0 : z1 - piece.z0, y0 - piece.y0 : y1 - piece.y0, x0 - piece.x0 : x1 - piece.x0
    ]
