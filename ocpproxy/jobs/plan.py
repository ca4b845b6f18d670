"""What a job comes to: its cuboids by arithmetic, and an estimate from what is known of the dataset.

Nothing is asked of an upstream, beside the description of a dataset that nobody has looked at yet. Tiles that are
stored already are counted in the index, for a moment at most; a tile is expected to take as many bytes as those of its
level that are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from itertools import islice
from math import ceil, floor
from typing import Any

from twisted.internet.interfaces import IReactorTime

from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.jobs.spec import BadJob, JobSpec
from ocpproxy.model.address import BadAddress, ChannelName, ImageBase
from ocpproxy.model.dataset import TILE, Box, CannotDisplay, Dataset
from ocpproxy.model.region import Block, Count, Part, Place, Region, RegionTooLarge, part
from ocpproxy.model.stack import Cuboid, Stack, Tile
from ocpproxy.store.space import counts
from ocpproxy.store.space.usage import Usage
from ocpproxy.store.tile_store import TileStore

_ASSUMED_BYTES = TILE * TILE * 6 // 10
"""Bytes of a tile of a dataset of which there is none yet: electron microscopy."""
_COUNT_WITHIN = 0.6
"""Seconds in which the tiles that are stored are counted."""
_SAMPLE_WITHIN = 0.3
"""Seconds more in which their sizes are looked at."""
_AT_A_TIME = 64
"""Cuboids whose tiles are looked for in one go."""


@dataclass(frozen=True)
class Plan:
    """The cuboids of a job, level by level, the coarsest first."""

    spec: JobSpec
    parts: tuple[Part, ...]

    @cached_property
    def count(self) -> Count:
        """How many cuboids there are, and how many tiles they have."""
        return sum((one.count for one in self.parts), Count(0, 0))

    @cached_property
    def fingerprint(self) -> str:
        """A text that differs when the job comes to other cuboids, for the dataset is described in another way."""
        names = [(one.stack.name, one.time, one.level, *one.count) for one in self.parts]
        return sha256(repr(names).encode()).hexdigest()[:16]

    def cuboids(self, after: int = 0) -> Iterator[tuple[int, Cuboid]]:
        """Yield the cuboids with their numbers, each once and always in the same order, from a number on."""
        number = 0
        for one in self.parts:
            end = number + one.count.cuboids
            skipped = min(end, max(number, after)) - number
            for n, place in enumerate(one.places(skipped), number + skipped):
                yield n, one.cuboid(place)
            number = end


@dataclass(frozen=True)
class Estimate:
    """What is known of a job before it begins."""

    cuboids: int
    tiles: int
    cached_tiles: int | None
    """Tiles that are stored; None when they could not be counted in time."""
    bytes: int
    """Bytes that all its tiles take."""
    new_bytes: int
    """Bytes that have to be stored."""
    measured_on: int
    """How many tiles the bytes are estimated from; 0 when they are assumed."""
    available: int
    """Bytes that the cache may hold before it evicts."""
    fits: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def make_plan(spec: JobSpec, entry: CatalogueEntry) -> Plan:
    """Return the cuboids of a job. (In a thread: a path through a volume takes a while.)

    :raises BadJob: the dataset has no such channel, level or time, or nothing of it is in the region.
    """
    dataset = entry.dataset
    levels = _levels(spec, dataset)
    region = _scaled(spec, dataset)
    parts: list[Part] = []
    for stack in _stacks(spec, entry):
        first, last = stack.shown[0].channel.time
        low, high = spec.times or (first, last)
        for time in range(max(first, low), min(last, high) + 1):
            found = (_part(stack, time, level, region) for level in levels)
            parts += [one for one in found if one is not None]
    if not parts:
        raise BadJob("nothing of the volume is in this region")
    plan = Plan(spec, tuple(sorted(parts, key=lambda one: -one.level)))
    plan.count  # noqa: B018 - it may take a while, and is kept
    return plan


def _part(stack: Stack, time: int, level: int, region: Region) -> Part | None:
    try:
        return part(stack, time, level, region)
    except (CannotDisplay, RegionTooLarge) as error:
        raise BadJob(str(error)) from None


def _levels(spec: JobSpec, dataset: Dataset) -> list[int]:
    if spec.levels is None:
        return sorted(dataset.levels, reverse=True)
    first, last = spec.levels
    last = max(dataset.levels) if last is None else last
    missing = [number for number in range(first, last + 1) if number not in dataset.levels]
    if missing:
        known = ", ".join(map(str, sorted(dataset.levels)))
        raise BadJob(f"{dataset.token} has no level {missing[0]}; it has {known}")
    return list(range(last, first - 1, -1))


def _stacks(spec: JobSpec, entry: CatalogueEntry) -> Iterator[Stack]:
    for plane in spec.planes:
        for name in spec.channels or (None,):
            channels = () if name is None else (ChannelName(name),)
            try:
                yield entry.stack(ImageBase(spec.token, plane, channels))
            except (CannotDisplay, BadAddress) as error:
                raise BadJob(str(error)) from None


def _scaled(spec: JobSpec, dataset: Dataset) -> Region:
    """Return the region with its box in voxels of the finest level."""
    region = spec.region
    if region.box is None or spec.base_level is None:
        return region
    base = dataset.levels.get(spec.base_level)
    if base is None:
        raise BadJob(f"{dataset.token} has no level {spec.base_level}")
    factors = [base.voxel[axis] / dataset.finest.voxel[axis] for axis in range(3)]
    x0, x1, y0, y1, z0, z1 = region.box
    fx, fy, fz = factors
    box = Box(floor(x0 * fx), ceil(x1 * fx), floor(y0 * fy), ceil(y1 * fy), floor(z0 * fz), ceil(z1 * fz))
    return Region(box)


class Estimator:
    """Estimates what jobs come to.

    :param threads: runs what takes a while.
    :param quotas: bytes that tokens may take.
    """

    def __init__(self, store: TileStore, threads: RunInThread, clock: IReactorTime, quotas: Mapping[str, int]) -> None:
        self._store = store
        self._quotas = quotas
        self._threads = threads
        self._clock = clock

    async def plan(self, spec: JobSpec, entry: CatalogueEntry) -> Plan:
        """Return the cuboids of a job.

        :raises BadJob: it comes to nothing.
        """
        plan: Plan = await self._threads(make_plan, spec, entry)
        return plan

    async def estimate(self, plan: Plan, seconds_each: float, side_by_side: int) -> Estimate:
        """Return what a job comes to.

        :param seconds_each: what a cuboid takes.
        """
        deadline = self._clock.seconds() + _COUNT_WITHIN
        stored = [await self._count(one, deadline) for one in plan.parts]
        samples = [await self._sample(one, deadline) for one in plan.parts]
        sampled, sampled_bytes = (sum(numbers) for numbers in zip(*samples, strict=True))
        usual = sampled_bytes / sampled if sampled else _ASSUMED_BYTES
        nbytes = int(
            sum(
                one.count.tiles * (size / tiles if tiles else usual)
                for one, (tiles, size) in zip(plan.parts, samples, strict=True)
            )
        )
        count = plan.count
        cached = None if None in stored else sum(number or 0 for number in stored)
        missing = 1 - (cached or 0) / count.tiles
        limits, quota = self._store.capacity.limits, self._quotas.get(plan.spec.token)
        available = int(limits.above * limits.size)
        seconds = count.cuboids * missing * seconds_each / side_by_side
        if plan.spec.rate:
            seconds = max(seconds, count.cuboids * missing / plan.spec.rate)
        return Estimate(
            cuboids=count.cuboids,
            tiles=count.tiles,
            cached_tiles=cached,
            bytes=nbytes,
            new_bytes=int(nbytes * missing),
            measured_on=sampled,
            available=available if quota is None else min(available, quota),
            fits=not limits.is_full(Usage(count.tiles, nbytes)) and (quota is None or nbytes <= quota),
            seconds=seconds,
        )

    async def _count(self, one: Part, deadline: float) -> int | None:
        """Return how many tiles of a part are stored; None when that takes too long."""
        left = deadline - self._clock.seconds()
        try:
            if left <= 0:
                return None
            if isinstance(one, Block):
                return await self._store.database.read_within(left, counts.count_block, *_corners(one))
            stored = 0
            places = one.places()
            while some := list(islice(places, _AT_A_TIME)):
                tiles = [tile for place in some for tile in one.cuboid(place).tiles()]
                stored += len(await self._store.sizes(tiles))
                if self._clock.seconds() > deadline:
                    return None
            return stored
        except DatabaseUnavailable:
            return None

    async def _sample(self, one: Part, deadline: float) -> tuple[int, int]:
        """Return the number and the bytes of some tiles of a part's level that are stored."""
        left = deadline + _SAMPLE_WITHIN - self._clock.seconds()
        if left <= 0:
            return (0, 0)
        tile = Tile(one.stack.name, one.time, one.level, 0, 0, 0)
        try:
            return await self._store.database.read_within(left, counts.mean_bytes, tile)
        except DatabaseUnavailable:
            return (0, 0)


def _corners(block: Block) -> tuple[str, Tile, Tile]:
    """Return the stack, and the first and the last tile of all cuboids of a block."""
    row, col, slice_ = next(block.places())
    last = block.cuboid(Place(block.rows[-1], block.cols[-1], block.slices[-1]))
    first = Tile(block.stack.name, block.time, block.level, slice_, row, col)
    end = last.slices[1] - 1
    return block.stack.name, first, first._replace(slice=end, row=block.rows[-1], col=block.cols[-1])
