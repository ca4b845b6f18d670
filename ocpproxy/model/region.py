"""Regions: which cuboids of a stack a box, a path or a set of points needs, as pure arithmetic.

A `Region` is given in the units of people: a `Box` in voxels of the finest level, or points with a radius in
nanometres. `Block` and `Scattered` are what it means at one level of one stack: the cuboids that show at least one of
its voxels, each once. A block is counted by arithmetic, so a volume of 10^9 tiles takes no longer than a small one.

Along an axis that is ``f`` times coarser than at the finest level, the voxels ``a <= v < b`` become
``floor(a / f) <= v < ceil(b / f)``, in exact fractions, as levels are not always halved, and often not along z.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from math import ceil, dist, floor
from typing import NamedTuple

from ocpproxy.model.dataset import TILE, Box, Dataset, Level, Z
from ocpproxy.model.stack import Cuboid, Stack, Tile

Point = tuple[float, float, float]
"""(x, y, z)."""


_MOST_LOOKED_AT = 2_000_000
"""Cuboids that are looked at for the lines of a region."""
_MOST_PLACES = 500_000
"""Cuboids that lines may go through at one level."""


class RegionTooLarge(ValueError):
    """A region has too many cuboids to be looked at one by one. The message is one sentence for people."""


class Place(NamedTuple):
    """Where a cuboid is among those of its stack, time and level."""

    row: int
    col: int
    slice: int
    """Its first slice that counts."""


class Count(NamedTuple):
    """How much something is."""

    cuboids: int
    tiles: int

    def __add__(self, other: object) -> Count:
        """Return the sum."""
        return Count(*map(sum, zip(self, other, strict=True))) if isinstance(other, Count) else NotImplemented


@dataclass(frozen=True)
class Segment:
    """The straight line between two points, in nanometres; both are the same for a single point."""

    begin: Point
    end: Point


@dataclass(frozen=True)
class Region:
    """A part of a volume."""

    box: Box | None = None
    """In voxels of the finest level."""
    segments: tuple[Segment, ...] = ()
    """Lines; where there are any, all within `radius` of one belongs to the region."""
    radius: float = 0.0
    """Nanometres."""
    voxel: Point | None = None
    """The edges of a voxel of the finest level, in nanometres; None for those that the dataset reports."""


class Part:
    """The cuboids of one level of a stack at one time.

    Cuboids at the end of a plane that shows z may be thicker than others: they show fewer slices along a tile.
    """

    stack: Stack
    time: int
    level: int

    @property
    def shape(self) -> Level:
        """The level itself."""
        return self.stack.dataset.levels[self.level]

    @cached_property
    def count(self) -> Count:
        """How many cuboids there are, and how many tiles they have."""
        raise NotImplementedError

    def places(self, skip: int = 0) -> Iterator[Place]:
        """Yield the places, always in the same order, without the first ones."""
        raise NotImplementedError

    def cuboid(self, place: Place) -> Cuboid:
        """Return the cuboid at a place."""
        return self.stack.cuboid(Tile(self.stack.name, self.time, self.level, place.slice, place.row, place.col))


@dataclass(frozen=True)
class Block(Part):
    """The cuboids in ranges of rows, columns and slices."""

    stack: Stack
    time: int
    level: int
    rows: range
    cols: range
    slices: range

    @cached_property
    def _depths(self) -> list[tuple[range, range, int]]:
        """Return ranges of (rows, columns) in which slabs are equally thick, and how thick."""
        columns, rows, _ = self.stack.plane.axes
        parts: list[tuple[range, range, int]] = []
        for number in self.rows if rows == Z else self.cols if columns == Z else ():
            one = range(number, number + 1)
            row, col = (one, self.cols) if rows == Z else (self.rows, one)
            parts.append((row, col, self.stack.depth(self.shape, row[0], col[0])))
        return parts or [(self.rows, self.cols, self.stack.depth(self.shape, self.rows[0], self.cols[0]))]

    @cached_property
    def count(self) -> Count:
        """How many cuboids there are, and how many tiles they have."""
        total = Count(0, 0)
        for rows, cols, depth in self._depths:
            slabs, columns = self._slabs(depth), len(rows) * len(cols)
            slices = min(slabs[-1] + depth, self.shape.end[self.stack.plane.axes[2]]) - max(slabs[0], 0)
            total += Count(columns * len(slabs), columns * slices)
        return total

    def _slabs(self, depth: int) -> range:
        """Return the first slices of the slabs that have one of the slices."""
        offset, (first, end) = self.shape.offset[self.stack.plane.axes[2]], (self.slices[0], self.slices[-1] + 1)
        return range(offset + (first - offset) // depth * depth, end, depth)

    def places(self, skip: int = 0) -> Iterator[Place]:
        """Yield the places, slab by slab, without the first ones."""
        for rows, cols, depth in self._depths:
            for slab in self._slabs(depth):
                of_slab = len(rows) * len(cols)
                if skip >= of_slab:
                    skip -= of_slab
                    continue
                for row, col in islice(product(rows, cols), skip, None):
                    yield Place(row, col, max(slab, 0))
                skip = 0


@dataclass(frozen=True)
class Scattered(Part):
    """Cuboids anywhere."""

    stack: Stack
    time: int
    level: int
    found: tuple[Place, ...]

    @cached_property
    def count(self) -> Count:
        """How many cuboids there are, and how many tiles they have."""
        tiles = 0
        for place in self.found:
            first, end = self.cuboid(place).slices
            tiles += end - first
        return Count(len(self.found), tiles)

    def places(self, skip: int = 0) -> Iterator[Place]:
        """Yield the places, slab by slab, without the first ones."""
        return iter(self.found[skip:])


def part(stack: Stack, time: int, level: int, region: Region) -> Part | None:
    """Return the cuboids of a region at one level; None where nothing of the region is in the volume."""
    if region.segments:
        found = tuple(_near(stack, level, region))
        return Scattered(stack, time, level, found) if found else None
    return _block(stack, time, level, region.box)


def level_box(dataset: Dataset, level: int, box: Box | None) -> Box | None:
    """Return the voxels of a level that show a box of the finest level, by default all; None where there are none."""
    shape, finest = dataset.levels[level], dataset.finest
    spans: list[tuple[int, int]] = []
    for axis in range(3):
        first, end = shape.offset[axis], shape.end[axis]
        if box is not None:
            factor = shape.voxel[axis] / finest.voxel[axis]
            first = max(first, floor(box[2 * axis] / factor))
            end = min(end, ceil(box[2 * axis + 1] / factor))
        if first >= end:
            return None
        spans.append((first, end))
    return Box(*spans[0], *spans[1], *spans[2])


def _block(stack: Stack, time: int, level: int, box: Box | None) -> Block | None:
    shape, found = stack.dataset.levels[level], level_box(stack.dataset, level, box)
    if found is None:
        return None
    spans = [(found[2 * axis], found[2 * axis + 1]) for axis in range(3)]
    columns, rows, through = stack.plane.axes
    first, end = spans[through]
    if end <= 0:
        return None
    return Block(
        stack,
        time,
        level,
        stack.numbers(shape, rows, *spans[rows]),
        stack.numbers(shape, columns, *spans[columns]),
        range(max(first, 0), end),
    )


class _LevelInSpace:
    """The cuboids of a level as boxes in space, in nanometres."""

    def __init__(self, stack: Stack, level: int, voxel: Point | None) -> None:
        self._stack = stack
        self.shape = stack.dataset.levels[level]
        finest = stack.dataset.finest
        edges = voxel or [float(edge) for edge in finest.voxel]
        self.edges = [edges[axis] * float(self.shape.voxel[axis] / finest.voxel[axis]) for axis in range(3)]
        self.columns, self.rows, self.through = stack.plane.axes
        self.tiles = stack.tiles(self.shape)
        self._depths: dict[int, int] = {}

    def _pixels_of(self, axis: int) -> float:
        """Return how many pixels of a tile one voxel takes along an axis."""
        return float(self._stack.z_scale(self.shape)) if axis == Z else 1.0

    def numbers(self, axis: int, first: float, end: float) -> range:
        """Return the rows or columns of tiles that show something between two places along an axis."""
        size = TILE * self.edges[axis] / self._pixels_of(axis)
        begin = self.shape.offset[axis] * self.edges[axis]
        most = self.tiles[0 if axis == self.columns else 1]
        return range(max(0, floor((first - begin) / size)), min(most, floor((end - begin) / size) + 1))

    def depth(self, row: int, col: int) -> int:
        """Return the slices in a slab, which depend on the number along z only, where the plane shows it."""
        number = row if self.rows == Z else col if self.columns == Z else 0
        if number not in self._depths:
            self._depths[number] = self._stack.depth(self.shape, row, col)
        return self._depths[number]

    def slabs(self, row: int, col: int, first: float, end: float) -> range:
        """Return the first slices of the slabs that have something between two places."""
        edge, through = self.edges[self.through], self.through
        low = max(self.shape.offset[through], 0, floor(first / edge))
        high = min(self.shape.end[through], floor(end / edge) + 1)
        depth, offset = self.depth(row, col), self.shape.offset[through]
        return range(offset + (low - offset) // depth * depth, high, depth) if low < high else range(0)

    def distance(self, place: Place, point: Point) -> float:
        """Return how far a point is from a cuboid."""
        nearest = list(point)
        for axis, number in ((self.columns, place.col), (self.rows, place.row)):
            size = TILE * self.edges[axis] / self._pixels_of(axis)
            begin = self.shape.offset[axis] * self.edges[axis] + number * size
            nearest[axis] = min(max(point[axis], begin), begin + size)
        edge, depth = self.edges[self.through], self.depth(place.row, place.col)
        begin = place.slice * edge
        nearest[self.through] = min(max(point[self.through], begin), begin + depth * edge)
        return dist(nearest, point)

    def pieces(self, segments: Sequence[Segment], radius: float) -> Iterator[tuple[Point, float]]:
        """Cut segments into short pieces; yield the middle of each, and how far around it the region may reach."""
        longest = max(radius, TILE * min(self.edges[self.columns], self.edges[self.rows]) / 4)
        for segment in segments:
            length = dist(segment.begin, segment.end)
            count = ceil(length / longest) or 1
            for n in range(count):
                share = (n + 0.5) / count
                x, y, z = (a + (b - a) * share for a, b in zip(segment.begin, segment.end, strict=True))
                yield (x, y, z), radius + length / count / 2


def _near(stack: Stack, level: int, region: Region) -> list[Place]:
    """Return the places of cuboids that come within the radius of a segment, slab by slab."""
    grid = _LevelInSpace(stack, level, region.voxel)
    found: set[Place] = set()
    looked = 0
    for middle, reach in grid.pieces(region.segments, region.radius):
        low, high = [c - reach for c in middle], [c + reach for c in middle]
        ends = (low[grid.through], high[grid.through])
        rows = grid.numbers(grid.rows, low[grid.rows], high[grid.rows])
        cols = grid.numbers(grid.columns, low[grid.columns], high[grid.columns])
        columns = len(rows) * len(cols)
        looked += 1 + columns * (len(grid.slabs(rows[0], cols[0], *ends)) if columns else 0)
        if looked > _MOST_LOOKED_AT or len(found) > _MOST_PLACES:
            raise RegionTooLarge(f"the lines and their radius go through too much of level {level}: split the file")
        for row, col in product(rows, cols):
            for slab in grid.slabs(row, col, *ends):
                place = Place(row, col, max(slab, 0))
                if place not in found and grid.distance(place, middle) <= reach:
                    found.add(place)
    return sorted(found, key=lambda place: (place.slice, place.row, place.col))
