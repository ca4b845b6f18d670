"""Regions: which cuboids a box or a path needs, beside what every tile shows."""

from __future__ import annotations

import time
from fractions import Fraction
from math import dist

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.model.address import ImageBase
from ocpproxy.model.dataset import TILE, Box, Channel, Dataset, Level, Plane
from ocpproxy.model.display import DisplaySettings
from ocpproxy.model.region import Block, Count, Place, Point, Region, RegionTooLarge, Segment, part
from ocpproxy.model.stack import Cuboid, Stack, Tile

VOXELS = (Fraction(1), Fraction(7, 3), Fraction(10), Fraction(1, 4))


@st.composite
def stacks(draw: st.DrawFn) -> Stack:
    """Return a stack of a small volume with two levels."""
    size = [draw(st.integers(1, 1600)), draw(st.integers(1, 1600)), draw(st.integers(1, 90))]
    offset = [draw(st.sampled_from((0, 0, 1, 700, -30))) for _ in range(3)]
    cube = (64, 64, draw(st.sampled_from((1, 16, 64))))
    voxel = (Fraction(1), Fraction(1), draw(st.sampled_from(VOXELS)))
    factors = draw(st.sampled_from(((2, 2, 1), (2, 2, 2), (3, 2, 1))))
    levels = {0: Level((size[0], size[1], size[2]), (offset[0], offset[1], offset[2]), cube, voxel)}
    a, b, c = (-(-n // f) for n, f in zip(size, factors, strict=True))
    x, y, z = (n // f for n, f in zip(offset, factors, strict=True))
    edges = tuple(v * f for v, f in zip(voxel, factors, strict=True))
    levels[1] = Level((a, b, c), (x, y, z), cube, (edges[0], edges[1], edges[2]))
    dataset = Dataset("t", levels, (Channel("c", "image", "uint8"),), "c")
    display = DisplaySettings(native=draw(st.booleans()))
    return Stack.build(dataset, ImageBase("t", draw(st.sampled_from(Plane))), display, 2**21)


def shown(stack: Stack, level: int, tile: Tile) -> Box:
    """Return the voxels that a tile shows."""
    cuboid, box = stack.cuboid(tile), [0] * 6
    box[:] = cuboid.box
    through = stack.plane.axes[2]
    box[2 * through : 2 * through + 2] = [tile.slice, tile.slice + 1]
    return Box(*box)


def all_cuboids(stack: Stack, level: int) -> dict[Cuboid, list[Tile]]:
    """Return all cuboids of a level with their tiles."""
    found: dict[Cuboid, list[Tile]] = {}
    columns, rows, slices = stack.extent(stack.dataset.levels[level])
    first = stack.dataset.levels[level].offset[stack.plane.axes[2]]
    for row in range(-(-rows // TILE)):
        for col in range(-(-columns // TILE)):
            for slice_ in range(max(first, 0), first + slices):
                tile = Tile(stack.name, 0, level, slice_, row, col)
                found.setdefault(stack.cuboid(tile), []).append(tile)
    return found


class BoxTests(SynchronousTestCase):
    """Boxes."""

    @settings(deadline=None, max_examples=60)
    @given(stacks(), st.sampled_from((0, 1)), st.data())
    def test_box(self, stack: Stack, level: int, data: st.DataObject) -> None:
        """Exactly the cuboids that show a voxel of the box, each once, and as many tiles as they have."""
        finest, shape = stack.dataset.finest, stack.dataset.levels[level]
        corners = []
        for axis in range(3):
            ends = st.integers(finest.offset[axis] - 5, finest.end[axis] + 5)
            first, end = sorted((data.draw(ends), data.draw(ends)))
            corners += [first, end + 1]
        box = Box(*corners)
        expected: dict[Cuboid, list[Tile]] = {}
        for cuboid, tiles in all_cuboids(stack, level).items():
            for tile in tiles:
                voxels = shown(stack, level, tile)
                overlap = True
                for axis in range(3):
                    factor = shape.voxel[axis] / finest.voxel[axis]
                    low, high = voxels[2 * axis] * factor, voxels[2 * axis + 1] * factor
                    overlap = overlap and low < box[2 * axis + 1] and box[2 * axis] < high
                if overlap:
                    expected[cuboid] = tiles
        found = part(stack, 0, level, Region(box))
        got = [] if found is None else [found.cuboid(place) for place in found.places()]
        self.assertEqual(len(got), len(set(got)))
        missing = expected.keys() - set(got)
        scale = stack.z_scale(shape)
        if scale >= 1 or not stack.plane.shows_z:
            self.assertEqual(set(got), expected.keys())
        else:  # a tile does not show all of its slices: a slice that no pixel shows needs its neighbour's tile
            self.assertEqual(missing, set())
        if found is not None:
            self.assertEqual(found.count, Count(len(got), sum(len(cuboid.tiles()) for cuboid in got)))

    @settings(deadline=None, max_examples=40)
    @given(stacks(), st.sampled_from((0, 1)))
    def test_all(self, stack: Stack, level: int) -> None:
        """No box is everything."""
        found = part(stack, 0, level, Region())
        everything = all_cuboids(stack, level)
        got = [] if found is None else [found.cuboid(place) for place in found.places()]
        self.assertEqual(sorted(c.name for c in got), sorted(c.name for c in everything))

    def test_large(self) -> None:
        """A volume of 10^9 tiles is counted at once, in every plane."""
        edges = (Fraction(4), Fraction(4), Fraction(40))
        shape = Level((200_000, 200_000, 7000), (0, 0, 0), (64, 64, 16), edges)
        dataset = Dataset("t", {0: shape}, (Channel("c", "image", "uint8"),), "c")
        for plane in Plane:
            began = time.process_time()
            stack = Stack.build(dataset, ImageBase("t", plane))
            found = part(stack, 0, 0, Region())
            assert isinstance(found, Block)
            columns, rows = stack.tiles(shape)
            self.assertEqual(found.count.tiles, columns * rows * shape.size[stack.plane.axes[2]])
            self.assertGreater(found.count.tiles, 10**9 // 2 if plane is Plane.XY else 10**9 // 50)
            next(found.places())
            self.assertLess(time.process_time() - began, 1)


class PathTests(SynchronousTestCase):
    """Segments with a radius."""

    @settings(deadline=None, max_examples=60)
    @given(stacks(), st.sampled_from((0, 1)), st.data())
    def test_path(self, stack: Stack, level: int, data: st.DataObject) -> None:
        """Every cuboid that shows something within the radius is there, and none that is far from it."""
        finest = stack.dataset.finest
        place = st.tuples(
            *(
                st.floats(float(finest.offset[a] * finest.voxel[a]) - 50, float(finest.end[a] * finest.voxel[a]) + 50)
                for a in range(3)
            )
        )
        begin, end = data.draw(place), data.draw(place)
        radius = data.draw(st.sampled_from((0.0, 10.0, 300.0)))
        found = part(stack, 0, level, Region(segments=(Segment(begin, end),), radius=radius))
        got = set() if found is None else {found.cuboid(one) for one in found.places()}
        if found is not None:
            self.assertEqual(len(list(found.places())), len(got))
            self.assertEqual(found.count, Count(len(got), sum(len(cuboid.tiles()) for cuboid in got)))
        for share in (0.0, 0.3, 0.77, 1.0):
            point: Point = tuple(a + (b - a) * share for a, b in zip(begin, end, strict=True))
            for cuboid in all_cuboids(stack, level):
                if distance(cuboid, point) < radius - 1e-6:
                    self.assertIn(cuboid, got)
        length = dist(begin, end)
        assume(length > 0)
        coarse = 1 + radius + 2 * TILE * float(max(stack.dataset.levels[1].voxel))
        for cuboid in got:
            nearest = min(
                distance(cuboid, tuple(a + (b - a) * n / 50 for a, b in zip(begin, end, strict=True)))
                for n in range(51)
            )
            self.assertLess(nearest, coarse + length / 50)

    def test_diagonal(self) -> None:
        """A diagonal through a volume needs few of its cuboids."""
        shape = Level((20_480, 20_480, 1024), (0, 0, 0), (64, 64, 16), (Fraction(4), Fraction(4), Fraction(40)))
        stack = Stack.build(Dataset("t", {0: shape}, (Channel("c", "image", "uint8"),), "c"), ImageBase("t"))
        ends = ((0.0, 0.0, 0.0), (81_920.0, 81_920.0, 40_960.0))
        found = part(stack, 0, 0, Region(segments=(Segment(*ends),), radius=100))
        everything = part(stack, 0, 0, Region())
        assert found is not None and everything is not None
        self.assertGreater(found.count.cuboids, 40)
        self.assertLess(found.count.cuboids, everything.count.cuboids / 100)

    def test_too_large(self) -> None:
        """Lines that go on for ever, or a radius that takes in everything, are refused before they take long."""
        edges = (Fraction(4), Fraction(4), Fraction(40))
        shape = Level((200_000, 200_000, 7000), (0, 0, 0), (64, 64, 16), edges)
        stack = Stack.build(Dataset("t", {0: shape}, (Channel("c", "image", "uint8"),), "c"), ImageBase("t"))
        far, here = (2.0**40, 0.0, 0.0), (1e5, 1e5, 1e5)
        for segment, radius in ((Segment((-(2.0**40), 0.0, 0.0), far), 1.0), (Segment(here, here), 1e9)):
            began = time.process_time()
            self.assertRaises(RegionTooLarge, part, stack, 0, 0, Region(segments=(segment,), radius=radius))
            self.assertLess(time.process_time() - began, 60)

    def test_voxel(self) -> None:
        """The edges of a voxel can be given, for datasets that report ratios only."""
        shape = Level((5120, 5120, 64), (0, 0, 0), (64, 64, 16), (Fraction(1), Fraction(1), Fraction(10)))
        stack = Stack.build(Dataset("t", {0: shape}, (Channel("c", "image", "uint8"),), "c"), ImageBase("t"))
        at = (4 * 1000.0, 4 * 2000.0, 40 * 20.0)
        found = part(stack, 0, 0, Region(segments=(Segment(at, at),), radius=1, voxel=(4, 4, 40)))
        assert found is not None
        self.assertEqual(list(found.places()), [Place(3, 1, 16)])


def distance(cuboid: Cuboid, point: Point) -> float:
    """Return how far a point is from the voxels of a cuboid, in units of the dataset."""
    level = cuboid.stack.dataset.levels[cuboid.level]
    nearest = []
    for axis in range(3):
        edge = float(level.voxel[axis])
        nearest.append(min(max(point[axis], cuboid.box[2 * axis] * edge), cuboid.box[2 * axis + 1] * edge))
    return dist(nearest, point)
