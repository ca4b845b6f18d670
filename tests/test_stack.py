"""Geometry against every worked number of the protocol's description, and against brute force."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.model.address import ChannelName, Colouring, ImageBase
from ocpproxy.model.dataset import TILE, Box, CannotDisplay, Channel, Dataset, Level, Plane, Z
from ocpproxy.model.display import DisplaySettings, DrawMode
from ocpproxy.model.stack import MAX_CUTOUT, Cuboid, Stack, Tile
from tests.volumes import cuboids

IMAGE = Channel("image", "image", "uint8")


def kasthuri11() -> Dataset:
    """Return the dataset kasthuri11: 21504 x 26624, z 1 to 1850, zscale 10, eight levels."""
    levels = {}
    for n in range(8):
        size = ((21504 - 1) // 2**n + 1, (26624 - 1) // 2**n + 1, 1850)
        cube = (128, 128, 16) if n < 5 else (64, 64, 64)
        levels[n] = Level(size, (0, 0, 1), cube, (Fraction(2**n), Fraction(2**n), Fraction(10)))
    return Dataset("kasthuri11", levels, (IMAGE,), "image")


class WorkedNumbers(SynchronousTestCase):
    """The numbers of kasthuri11 in section 3.1."""

    def setUp(self) -> None:
        """Make the xy stack."""
        self.dataset = kasthuri11()
        self.stack = Stack.build(self.dataset, ImageBase("kasthuri11"))

    def box(self, level: int, z: int, row: int, col: int, plane: Plane = Plane.XY) -> Box | None:
        """Return the box of the cuboid of a tile."""
        stack = Stack.build(self.dataset, ImageBase("kasthuri11", plane))
        tile = stack.tile(None, level, z, row, col)
        return None if tile is None else stack.cuboid(tile).box

    def test_table(self) -> None:
        """Size, tiles, slabs, scaled height and rows of xz and yz tiles of each level."""
        table = (
            (0, (21504, 26624), "10", (42, 52), 116, 18500, 37),
            (1, (10752, 13312), "5", (21, 26), 116, 9250, 19),
            (2, (5376, 6656), "2.5", (11, 13), 116, 4625, 10),
            (3, (2688, 3328), "1.25", (6, 7), 116, 2313, 5),
            (4, (1344, 1664), "0.625", (3, 4), 116, 1157, 3),
            (5, (672, 832), "0.3125", (2, 2), 29, 579, 2),
            (6, (336, 416), "0.15625", (1, 1), 29, 290, 1),
            (7, (168, 208), "0.078125", (1, 1), 29, 145, 1),
        )
        for n, size, scale, tiles, slabs, height, z_tiles in table:
            level = self.dataset.levels[n]
            self.assertEqual(level.size[:2], size)
            self.assertEqual(level.z_scale(Plane.XZ), Fraction(scale))
            self.assertEqual(self.stack.tiles(level), tiles)
            for plane in (Plane.XZ, Plane.YZ, Plane.ZY):
                stack = Stack.build(self.dataset, ImageBase("kasthuri11", plane))
                along = 0 if plane is Plane.ZY else 1
                self.assertEqual(stack.extent(level)[along], height)
                self.assertEqual(stack.tiles(level)[along], z_tiles)
            self.assertEqual(len(list(cuboids(self.stack, n))), tiles[0] * tiles[1] * slabs)

    def test_z_ranges(self) -> None:
        """Section 3.4: the slices of the first, second, third, fourth and last tile along z, and its pixels.

        One number of that table is not what its formula gives, and is put right here: the second tile of level 2
        begins at 1 + floor((512 + 1/2) / 2.5) = 206, not at 205.
        """
        table: tuple[tuple[int, list[tuple[int, int]], int, tuple[int, int], int, int], ...] = (
            (0, [(1, 53), (52, 104), (103, 155), (154, 206)], 36, (1844, 1851), 68, 52),
            (1, [(1, 104), (103, 206), (205, 309), (308, 411)], 18, (1844, 1851), 34, 104),
            (2, [(1, 206), (206, 411), (410, 616), (615, 821)], 9, (1844, 1851), 17, 206),
            (3, [(1, 411), (411, 820), (820, 1230), (1230, 1640)], 4, (1639, 1851), 265, 410),
            (4, [(1, 820), (821, 1639)], 2, (1640, 1851), 133, 819),
            (5, [(2, 1638)], 1, (1641, 1851), 67, 1636),
            (6, [], 0, (4, 1851), 290, 1847),
        )
        for n, ranges, last, last_range, pixels, most in table:
            level = self.dataset.levels[n]
            for plane in (Plane.XZ, Plane.YZ, Plane.ZY):
                stack = Stack.build(self.dataset, ImageBase("kasthuri11", plane))
                found, thickest = [], 0
                for number in range(last + 1):
                    row, col = (0, number) if plane is Plane.ZY else (number, 0)
                    tile = stack.tile(None, n, 5, row, col)
                    assert tile is not None
                    cuboid = stack.cuboid(tile)
                    found.append((cuboid.box.z0, cuboid.box.z1))
                    thickest = max(thickest, cuboid.box.z1 - cuboid.box.z0)
                    lines = cuboid.slices_by_pixel()
                    assert lines is not None
                    self.assertEqual(len(lines), pixels if number == last else 512)
                    (cutout,) = cuboid.cutouts()
                    assert cutout is not None
                    self.assertLessEqual(cutout.nbytes, MAX_CUTOUT)
                    thickness = len(cuboid.tiles())
                    self.assertEqual(level.cube[1] % thickness, 0)
                    if thickness < level.cube[1]:  # the next thicker one would be too much
                        wider = min(m for m in range(thickness + 1, level.cube[1] + 1) if level.cube[1] % m == 0)
                        self.assertGreater(512 * (cuboid.box.z1 - cuboid.box.z0) * wider, MAX_CUTOUT)
                self.assertEqual(found[: len(ranges)], ranges)
                self.assertEqual((found[-1], thickest), (last_range, most), (n, plane))
                self.assertIsNone(stack.tile(None, n, 5, *((0, last + 1) if plane is Plane.ZY else (last + 1, 0))))

    def test_xz_and_yz(self) -> None:
        """An xz slab is 512 columns by its slices by 128 rows of y; yz and zy share their voxels."""
        self.assertEqual(self.box(0, 300, 1, 2, Plane.XZ), (1024, 1536, 256, 384, 52, 104))
        self.assertEqual(self.box(0, 300, 1, 2, Plane.YZ), (256, 384, 1024, 1536, 52, 104))
        self.assertEqual(self.box(0, 300, 2, 1, Plane.ZY), (256, 384, 1024, 1536, 52, 104))
        self.assertEqual(self.box(4, 1343, 0, 0, Plane.YZ), (1312, 1344, 0, 512, 1, 820))

    def test_full_slices(self) -> None:
        """With full slices the number is that of level 0 at every level; z is the same at all of them."""
        for plane, slice_, expected in ((Plane.XZ, 345, 43), (Plane.ZY, 345, 43), (Plane.XY, 345, 345)):
            stack = Stack.build(self.dataset, ImageBase("kasthuri11", plane), DisplaySettings(full_slices=True))
            tile = stack.tile(None, 3, slice_, 0, 0)
            assert tile is not None
            self.assertEqual(tile.slice, expected)
            self.assertEqual(
                tile, Stack.build(self.dataset, ImageBase("kasthuri11", plane)).tile(None, 3, expected, 0, 0)
            )

    def test_native(self) -> None:
        """One pixel for each z step, at every level."""
        stack = Stack.build(self.dataset, ImageBase("kasthuri11", Plane.XZ), DisplaySettings(native=True))
        for level in self.dataset.levels.values():
            self.assertEqual(stack.extent(level)[1], 1850)
        tile = stack.tile(None, 2, 9, 3, 0)
        assert tile is not None
        self.assertEqual(stack.cuboid(tile).box[4:], (1537, 1851))
        self.assertEqual(stack.cuboid(tile).slices_by_pixel(), list(range(314)))

    def test_too_much(self) -> None:
        """Where a single slice would need more than a cutout may have, the error states that."""
        levels = {0: Level((900, 900, 2**24), (0, 0, 0), (64, 64, 64), (Fraction(1000), Fraction(1000), Fraction(1)))}
        stack = Stack.build(Dataset("t", levels, (IMAGE,), "image"), ImageBase("t", Plane.XZ))
        tile = stack.tile(None, 0, 0, 0, 0)
        assert tile is not None
        self.assertIn("a cutout may have 16", str(self.assertRaises(CannotDisplay, stack.cuboid, tile)))

    def test_cuboids(self) -> None:
        """The three worked tiles."""
        self.assertEqual(self.box(1, 1200, 7, 5), (2560, 3072, 3584, 4096, 1185, 1201))
        self.assertEqual(self.box(2, 1850, 12, 10), (5120, 5376, 6144, 6656, 1841, 1851))
        self.assertEqual(self.box(5, 1850, 1, 1), (512, 672, 512, 832, 1793, 1851))

    def test_outside(self) -> None:
        """Before the first slice, after the last, beside, and on levels there are none."""
        for level, z, row, col in (
            (0, 0, 0, 0),
            (0, 1851, 0, 0),
            (0, -5, 0, 0),
            (0, 5, -1, 0),
            (0, 5, 0, -1),
            (0, 5, 52, 0),
            (0, 5, 0, 42),
            (8, 5, 0, 0),
            (-1, 5, 0, 0),
        ):
            self.assertIsNone(self.box(level, z, row, col), (level, z, row, col))
        self.assertIsNone(self.stack.tile(1, 0, 5, 0, 0), "a time there is not")

    def test_last_slab_with_offsets(self) -> None:
        """The right end of the last slab for four offsets and sizes."""
        for oz, depth, last, end in ((0, 100, 99, 100), (1, 1850, 1850, 1851), (5, 100, 104, 105), (100, 50, 149, 150)):
            dataset = Dataset("t", {0: Level((600, 600, depth), (0, 0, oz), (128, 128, 16))}, (IMAGE,), "image")
            stack = Stack.build(dataset, ImageBase("t"))
            tile = stack.tile(None, 0, last, 0, 0)
            assert tile is not None
            cuboid = stack.cuboid(tile)
            self.assertEqual(cuboid.box.z1, end)
            self.assertEqual(len(cuboid.tiles()), (depth - 1) % 16 + 1)
            self.assertIsNone(stack.tile(None, 0, end, 0, 0))
            self.assertIsNone(stack.tile(None, 0, oz - 1, 0, 0))


@st.composite
def stacks(draw: st.DrawFn) -> Stack:
    """Return a strategy for any stack of one level."""
    size = draw(st.tuples(*[st.integers(1, 1100)] * 2, st.integers(1, 90)))
    offset = draw(st.tuples(*[st.integers(0, 5000)] * 3))
    cube = draw(st.sampled_from([(128, 128, 16), (64, 64, 64), (512, 512, 10), (1, 1, 1), (64, 64, 4096)]))
    x, y, z = (Fraction(draw(st.integers(1, 40)), draw(st.integers(1, 4))) for _ in range(3))
    level = Level(size, offset, cube, (x, y, z))
    plane = draw(st.sampled_from(Plane))
    look = DisplaySettings(native=draw(st.booleans()))
    return Stack.build(Dataset("t", {0: level}, (IMAGE,), "image"), ImageBase("t", plane), look)


class BruteForce(SynchronousTestCase):
    """Any volume and plane."""

    @settings(max_examples=60)
    @given(stacks(), st.data())
    def test_cover(self, stack: Stack, data: st.DataObject) -> None:
        """The tiles of the cuboids are all there are, once each, and each cuboid holds what its tiles show."""
        level = stack.dataset.levels[0]
        columns, rows, through = stack.plane.axes
        width, height, depth = stack.extent(level)
        slices: dict[Tile, Cuboid] = {}
        for cuboid in cuboids(stack, 0):
            box = cuboid.box
            for axis in range(3):
                self.assertTrue(level.offset[axis] <= box[2 * axis] < box[2 * axis + 1] <= level.end[axis])
            (cutout,) = cuboid.cutouts()
            assert cutout is not None
            self.assertLessEqual(cutout.nbytes, MAX_CUTOUT)
            self.assertLessEqual(len(cuboid.name), 255)
            for tile in cuboid.tiles():
                self.assertNotIn(tile, slices)
                slices[tile] = cuboid
                self.assertTrue(box[2 * through] <= tile.slice < box[2 * through + 1])
        self.assertEqual(len(slices), depth * -(-width // TILE) * -(-height // TILE))
        pixel = (data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1)))
        col, row = pixel[0] // TILE, pixel[1] // TILE
        slice_ = data.draw(st.integers(level.offset[through], level.end[through] - 1))
        found = stack.tile(None, 0, slice_, row, col)
        assert found is not None
        cuboid = slices[found]
        self.assertEqual(stack.cuboid(found), cuboid)
        for axis, at, number in ((columns, pixel[0], col), (rows, pixel[1], row)):
            if axis == Z:
                scale = Fraction(1) if stack.display.native else level.z_scale(stack.plane)
                expected = min(int((at + Fraction(1, 2)) / scale), level.size[Z] - 1) + level.offset[Z]
                lines = cuboid.slices_by_pixel()
                assert lines is not None
                self.assertEqual(cuboid.box.z0 + lines[at - number * TILE], expected)
                self.assertLess(expected, cuboid.box.z1)
            else:
                self.assertTrue(cuboid.box[2 * axis] <= level.offset[axis] + at < cuboid.box[2 * axis + 1])

    def test_flat_volume(self) -> None:
        """Of a flat volume in wide chunks a slab has hundreds of slices, not thousands, each of which is a file."""
        levels = {0: Level((8192, 8192, 4), (0, 0, 0), (4096, 4096, 1))}
        stack = Stack.build(Dataset("t", levels, (IMAGE,), "image"), ImageBase("t", Plane.XZ))
        self.assertEqual(len(next(cuboids(stack, 0)).tiles()), 512)

    def test_thin_slabs(self) -> None:
        """Wider voxels and more channels make thinner slabs, never larger cutouts."""
        levels = {0: Level((2000, 2000, 200), (0, 0, 0), (128, 128, 64))}
        wide = Channel("ids", "annotation", "uint64")
        channels = (*(Channel(f"c{n}", "image", "uint16") for n in range(6)), wide)
        dataset = Dataset("t", levels, channels)
        for names, most, depth in ((["ids"], 16, 8), (["c0"], 16, 32), (["c0", "c1", "c2"], 16, 8), (["c0"], 1, 2)):
            listed = tuple(map(ChannelName, names))
            colouring = Colouring.BY_POSITION if len(names) > 1 else Colouring.PLAIN
            stack = Stack.build(dataset, ImageBase("t", Plane.XY, listed, colouring), max_cutout=most * 2**20)
            cuboid = next(cuboids(stack, 0))
            self.assertEqual(len(cuboid.tiles()), depth)
            self.assertLessEqual(sum(c.nbytes for c in cuboid.cutouts() if c), most * 2**20)


class NamesTests(SynchronousTestCase):
    """What a stack is called."""

    def test_version(self) -> None:
        """The name changes with the geometry and the pixels, and with nothing else."""
        one, same = kasthuri11(), kasthuri11()
        base = ImageBase("kasthuri11")
        plain = Stack.build(one, base)
        self.assertEqual(plain, Stack.build(same, ImageBase("kasthuri11", channels=(ChannelName("image"),))))
        # What does not touch an xy image in grey.
        for look in (
            DisplaySettings(native=True),
            DisplaySettings(gain=3),
            DisplaySettings(opaque=True),
            DisplaySettings(full_slices=True),
            DisplaySettings(red=True),
        ):
            self.assertEqual(plain, Stack.build(one, base, look))
        level = one.levels[0]
        others = [
            Dataset("kasthuri11", {**one.levels, 0: Level((1, 1, 1), level.offset, level.cube)}, (IMAGE,), "image"),
            Dataset("kasthuri11", one.levels, (Channel("image", "image", "uint16"),), "image"),
            Dataset("kasthuri11", one.levels, (Channel("image", "image", "uint16", (3, 9)),), "image"),
        ]
        names = {Stack.build(dataset, base).name for dataset in (one, *others)}
        names |= {Stack.build(one, base, DisplaySettings(windows=((None, (5, 100)),))).name}
        names |= {Stack.build(one, ImageBase("kasthuri11", plane)).name for plane in (Plane.XZ, Plane.YZ, Plane.ZY)}
        names |= {Stack.build(one, ImageBase("kasthuri11", Plane.XZ), DisplaySettings(native=True)).name}
        self.assertEqual(len(names), 9)

    def test_colours_have_one_name(self) -> None:
        """The same colours of the same channels are one stack, however they are written; any other is another."""
        channels = tuple(Channel(name, "image", "uint8") for name in "abc")
        dataset = Dataset("t", kasthuri11().levels, channels)

        def name(*items: tuple[str, str | None], colouring: Colouring = Colouring.NAMED, **look: object) -> str:
            base = ImageBase("t", Plane.XY, tuple(ChannelName(*item) for item in items), colouring)
            return Stack.build(dataset, base, DisplaySettings(**look)).name  # type: ignore[arg-type]

        same = name(("a", "C"), ("b", "M"))
        self.assertEqual(same, name(("a", None), ("b", None)))
        self.assertEqual(same, name(("a", None), ("b", None), colouring=Colouring.BY_POSITION))
        self.assertEqual(name(("b", "M")), name(("0", None), ("b", None)))
        others = {
            same,
            name(("a", "M"), ("b", "C")),
            name(("a", "C")),
            name(("a", None), colouring=Colouring.PLAIN),
            name(("a", "C"), ("b", "M"), gain=2.0),
            name(("a", "C"), ("b", "M"), opaque=True),
            name(("a", "C"), ("b", "M"), windows=(("a", (1, 2)),)),
        }
        self.assertEqual(len(others), 7)

    def test_not_shown(self) -> None:
        """Unknown channels, and pixels that make no picture, are refused with what there is."""
        channels = (
            Channel("one", "channels", "uint16", number=7),
            Channel("ids", "annotation", "uint32"),
            Channel("p", "annotation", "float32"),
            Channel("odd", "mesh", "uint8"),
        )
        dataset = Dataset("t", kasthuri11().levels, channels, None)
        named, placed = Colouring.NAMED, Colouring.BY_POSITION
        for items, colouring, message in (
            ([], Colouring.PLAIN, "naming its channels; they are: one, ids"),
            (["nope"], Colouring.PLAIN, "no channel nope"),
            (["p"], Colouring.PLAIN, "annotation float32"),
            (["odd"], Colouring.PLAIN, "mesh uint8"),
            (["one", "ids"], named, "colours of its own"),
            (["one", "nope"], placed, "no channel nope"),
            (["0", "0"], placed, "kept free"),
        ):
            base = ImageBase("t", Plane.XY, tuple(map(ChannelName, items)), colouring)
            self.assertIn(message, str(self.assertRaises(CannotDisplay, Stack.build, dataset, base)))
        for items, colouring, manner in (
            (["7"], Colouring.PLAIN, DrawMode.GREY),
            (["7"], placed, DrawMode.FALSE_COLOUR),
            (["ids"], placed, DrawMode.LABELS),
            (["0", "7"], placed, DrawMode.FALSE_COLOUR),
        ):
            base = ImageBase("t", Plane.XY, tuple(map(ChannelName, items)), colouring)
            self.assertEqual(Stack.build(dataset, base).mode, manner)
        self.assertEqual(Stack.build(dataset, ImageBase("t"), DisplaySettings(channel="one")).mode, DrawMode.GREY)
