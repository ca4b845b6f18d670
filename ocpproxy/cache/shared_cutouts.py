"""Voxels, fetched once however many stacks show them.

A cutout is one request to an upstream. Several stacks may want the same voxels: yz and its transpose zy; a channel by
itself and in false colours; the same colours with other letters; one dataset under two tokens, with different looks.
So a cutout whose box lies *within* one that is being fetched, or was fetched a moment ago, is cut out of that.

There the line is drawn. A box that only overlaps others (an xz slab crosses 32 and more xy slabs, and shares a few
rows with each) is fetched whole: putting it together would take a request for each missing piece, for voxels of which
the upstream reads whole cubes anyway. And it is drawn at the process: what other processes share is tiles, on disk; a
lease belongs to a cuboid of one stack, so two processes may fetch the same voxels for two stacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cachetools import TTLCache
from twisted.internet.interfaces import IReactorTime

from ocpproxy.concurrency.gather import gather
from ocpproxy.concurrency.single_flight import Flight, SingleFlight
from ocpproxy.model.dataset import Box, Channel, Cutout, Level
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import Upstream

_KEPT_FOR = 60.0
"""Seconds that voxels are kept for other stacks."""


class _Volume(NamedTuple):
    """Where voxels come from: equal volumes have the same voxel at every coordinate."""

    origin: str
    token: str
    channel: Channel
    time: int
    number: int
    level: Level
    epoch: int


@dataclass(frozen=True, slots=True)
class _Wanted:
    volume: _Volume
    box: Box
    upstream: Upstream = field(compare=False)
    cutout: Cutout = field(compare=False)

    def holds(self, other: _Wanted) -> bool:
        a, b = self.box, other.box
        return self.volume == other.volume and all(a[n] <= b[n] and b[n + 1] <= a[n + 1] for n in range(0, len(a), 2))

    def part(self, voxels: Voxels, box: Box) -> Voxels:
        """The voxels of a box within this one."""
        (x, _, y, _, z, _), (x0, x1, y0, y1, z0, z1) = self.box, box
        return voxels[z0 - z : z1 - z, y0 - y : y1 - y, x0 - x : x1 - x]


class SharedCutouts:
    """Fetches voxels.

    :param memory: bytes of voxels kept for stacks that want the same.
    """

    def __init__(self, clock: IReactorTime, memory: int) -> None:
        self._recent: TTLCache[_Wanted, Voxels] = TTLCache(
            memory, _KEPT_FOR, clock.seconds, getsizeof=lambda voxels: voxels.nbytes
        )
        self._fetches: SingleFlight[_Wanted, None, Voxels] = SingleFlight(self._fly, clock)

    async def fetch(self, upstream: Upstream, cutouts: Sequence[Cutout | None]) -> list[Voxels | None]:
        """The voxels of each cutout, side by side, axes (z, y, x); None for None.

        :raises UpstreamFailure: the first there is; the other cutouts are given up.
        """
        return await gather([self._one(upstream, cutout) for cutout in cutouts])

    async def _one(self, upstream: Upstream, cutout: Cutout | None) -> Voxels | None:
        if cutout is None:
            return None
        level = cutout.dataset.levels[cutout.level]
        volume = _Volume(
            upstream.origin,
            cutout.dataset.upstream_token,
            cutout.channel,
            cutout.time,
            cutout.level,
            level,
            cutout.epoch,
        )
        wanted = _Wanted(volume, cutout.box, upstream, cutout)
        for recent in list(self._recent):
            voxels = self._recent.get(recent) if recent.holds(wanted) else None
            if voxels is not None:
                return recent.part(voxels, cutout.box)
        flying = next((flight for flight in self._fetches.flying_keys() if flight.holds(wanted)), wanted)
        return flying.part(await self._fetches.join(flying, None), cutout.box)

    async def _fly(self, flight: Flight[_Wanted, None, Voxels]) -> None:
        wanted = flight.key
        voxels = await wanted.upstream.cutout(wanted.cutout)
        flight.progress.report()
        if voxels.nbytes <= self._recent.maxsize:
            self._recent[wanted] = voxels
        flight.deliver(None, voxels)

    async def stop(self) -> None:
        """Fetch nothing any more."""
        await self._fetches.stop()
