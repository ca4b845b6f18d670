"""Cutouts that are fetched once for all stacks that show the same voxels.

A cutout is one request to an upstream. Several stacks may want the same voxels: yz and its transpose zy; a channel by
itself and in false colours; the same colours with other letters; one dataset under two tokens with different displays.
So a cutout whose box lies *within* one that is being fetched, or was fetched a moment ago, is cut out of that one.

Partial overlaps are not shared. A box that only overlaps others (an xz slab crosses 32 and more xy slabs, and shares a
few rows with each) is fetched whole: putting it together would take a request for each missing piece, for voxels of
which the upstream reads whole blocks anyway. Nor are cutouts shared between processes. Those share tiles, on disk; a
lease belongs to a cuboid of one stack, so two processes may fetch the same voxels for two stacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cachetools import TTLCache
from twisted.internet.interfaces import IReactorTime

from ocpproxy.concurrency import generation
from ocpproxy.concurrency.gather import gather
from ocpproxy.concurrency.single_flight import Flight, SingleFlight
from ocpproxy.model.dataset import Box, Channel, Cutout, Level
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream import trail
from ocpproxy.upstream.base import Upstream, UpstreamFailure

_KEPT_FOR = 60.0
"""Seconds that voxels are kept for other stacks."""


class FetchedVoxels(NamedTuple):
    """Voxels, and where they come from."""

    voxels: Voxels
    """Axes (z, y, x)."""
    home: str
    """The home of the volume that has given them (`breaker.GuardedUpstream.home`)."""


class _Grid(NamedTuple):
    """A grid of voxels: equal grids have the same voxel at every coordinate."""

    origin: str
    token: str
    channel: Channel
    time: int
    number: int
    level: Level
    epoch: int
    generation: int


@dataclass(frozen=True, slots=True)
class _Request:
    """A cutout, compared by the voxels that it is for."""

    grid: _Grid
    box: Box
    upstream: Upstream = field(compare=False)
    cutout: Cutout = field(compare=False)

    @classmethod
    def of(cls, upstream: Upstream, cutout: Cutout) -> _Request:
        dataset, level = cutout.dataset, cutout.dataset.levels[cutout.level]
        grid = _Grid(
            upstream.origin,
            dataset.upstream_token,
            cutout.channel,
            cutout.time,
            cutout.level,
            level,
            cutout.epoch,
            generation.current(),
        )
        return cls(grid, cutout.box, upstream, cutout)

    def contains(self, other: _Request) -> bool:
        a, b = self.box, other.box
        return self.grid == other.grid and all(a[n] <= b[n] and b[n + 1] <= a[n + 1] for n in range(0, len(a), 2))

    def part(self, fetched: FetchedVoxels, box: Box) -> FetchedVoxels:
        """Return the voxels of a box within this one, whose own voxels are given."""
        (x, _, y, _, z, _), (x0, x1, y0, y1, z0, z1) = self.box, box
        voxels = fetched.voxels[z0 - z : z1 - z, y0 - y : y1 - y, x0 - x : x1 - x]
        return fetched._replace(voxels=voxels)


class SharedCutouts:
    """The cutouts that are being fetched, and those that were fetched a moment ago.

    :param memory: bytes of voxels kept for stacks that want the same.
    """

    def __init__(self, clock: IReactorTime, memory: int) -> None:
        self._recent: TTLCache[_Request, FetchedVoxels] = TTLCache(
            memory, _KEPT_FOR, clock.seconds, getsizeof=lambda fetched: fetched.voxels.nbytes
        )
        self._flights: SingleFlight[_Request, None, FetchedVoxels] = SingleFlight(
            self._fetch, clock, remember_failure=0
        )

    async def fetch(self, upstream: Upstream, cutouts: Sequence[Cutout | None]) -> list[FetchedVoxels | None]:
        """Return the voxels of each cutout, fetched side by side; None for None.

        :raises UpstreamFailure: of the first cutout that fails; the others are cancelled.
        """
        return await gather([self._fetch_one(upstream, cutout) for cutout in cutouts])

    async def _fetch_one(self, upstream: Upstream, cutout: Cutout | None) -> FetchedVoxels | None:
        if cutout is None:
            return None
        request = _Request.of(upstream, cutout)
        for recent in list(self._recent):
            found = self._recent.get(recent) if recent.contains(request) else None
            if found is not None:
                return recent.part(found, cutout.box)
        whole = next((flying for flying in self._flights.flying_keys() if flying.contains(request)), request)
        try:
            return whole.part(await self._flights.join(whole, None), cutout.box)
        except UpstreamFailure:
            if whole.upstream is upstream:
                raise
        # Another token's failure says nothing: that may have another home of the volume, or not be asked at all.
        return await self._flights.join(request, None)

    async def _fetch(self, flight: Flight[_Request, None, FetchedVoxels]) -> None:
        request = flight.key
        with trail.recorded() as asked:
            voxels = await request.upstream.cutout(request.cutout)
        fetched = FetchedVoxels(voxels, ",".join(dict.fromkeys(asked.homes)))
        flight.progress.report()
        if voxels.nbytes <= self._recent.maxsize:
            self._recent[request] = fetched
        flight.deliver(None, fetched)

    async def stop(self) -> None:
        """Cancel what is being fetched."""
        await self._flights.stop()
