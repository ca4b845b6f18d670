"""Geometry against every worked number of the protocol's description, and against brute force."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.geometry import TILE, Box, Channel, Dataset, Level, NotShown, Plane, Stack
from tests.volumes import cuboids

IMAGE = Channel("image", "image", "uint8")


def kasthuri11() -> Dataset:
    """21504 x 26624, z 1 to 1850, zscale 10, eight levels."""
    levels = {}
    for n in range(8):
        size = ((21504 - 1) // 2**n + 1, (26624 - 1) // 2**n + 1, 1850)
        cube = (128, 128, 16) if n < 5 else (64, 64, 64)
        levels[n] = Level(size, (0, 0, 1), cube, (Fraction(1), Fraction(1), Fraction(10, 2**n)))
    return Dataset("kasthuri11", levels, (IMAGE,), "image")


class WorkedNumbers(SynchronousTestCase):
    """kasthuri11, section 3.1."""

    def setUp(self) -> None:
        """The xy stack."""
        self.dataset = kasthuri11()
        self.stack = self.dataset.stack(Plane.XY, None)

    def box(self, level: int, z: int, row: int, col: int) -> Box | None:
        """The box of the cuboid of a tile."""
        cuboid = self.stack.cuboid(None, level, z, row, col)
        return None if cuboid is None else cuboid.box

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
            self.assertEqual(level.tiles(Plane.XY), tiles)
            self.assertEqual(-(-level.size[2] // self.stack.depth(level)), slabs)
            for plane in (Plane.XZ, Plane.YZ):
                self.assertEqual(level.extent(plane)[1], height)
                self.assertEqual(level.tiles(plane)[1], z_tiles)
            self.assertEqual(len(list(cuboids(self.stack, n))), tiles[0] * tiles[1] * slabs)

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
        self.assertIsNone(self.stack.cuboid(1, 0, 5, 0, 0), "a time there is not")

    def test_last_slab_with_offsets(self) -> None:
        """The right end of the last slab for four offsets and sizes."""
        for oz, depth, last, end in ((0, 100, 99, 100), (1, 1850, 1850, 1851), (5, 100, 104, 105), (100, 50, 149, 150)):
            dataset = Dataset("t", {0: Level((600, 600, depth), (0, 0, oz), (128, 128, 16))}, (IMAGE,), "image")
            stack = dataset.stack(Plane.XY, "image")
            cuboid = stack.cuboid(None, 0, last, 0, 0)
            assert cuboid is not None
            self.assertEqual(cuboid.box.z1, end)
            self.assertEqual(len(cuboid.tiles()), (depth - 1) % 16 + 1)
            self.assertIsNone(stack.cuboid(None, 0, end, 0, 0))
            self.assertIsNone(stack.cuboid(None, 0, oz - 1, 0, 0))


class BruteForce(SynchronousTestCase):
    """Any volume: each voxel is in exactly one cuboid, and each tile in the cuboid that holds its voxels."""

    @given(
        st.tuples(*[st.integers(1, 1100)] * 2, st.integers(1, 90)),
        st.tuples(*[st.integers(0, 5000)] * 3),
        st.sampled_from([(128, 128, 16), (64, 64, 64), (512, 512, 10), (1, 1, 1), (64, 64, 4096)]),
        st.data(),
    )
    def test_cover(
        self, size: tuple[int, int, int], offset: tuple[int, int, int], cube: tuple[int, int, int], data: st.DataObject
    ) -> None:
        """The cuboids of a level tile it without gap or overlap, within the volume."""
        stack = Dataset("t", {0: Level(size, offset, cube)}, (IMAGE,), "image").stack(Plane.XY, None)
        found = list(cuboids(stack, 0))
        volume = sum(z * y * x for z, y, x in (cuboid.box.shape for cuboid in found))
        self.assertEqual(volume, size[0] * size[1] * size[2])
        self.assertEqual(
            len({tile for cuboid in found for tile in cuboid.tiles()}), sum(len(cuboid.tiles()) for cuboid in found)
        )
        x, y, z = (data.draw(st.integers(o, o + s - 1)) for o, s in zip(offset, size, strict=True))
        col, row = (x - offset[0]) // TILE, (y - offset[1]) // TILE
        cuboid = stack.cuboid(None, 0, z, row, col)
        assert cuboid is not None
        box = cuboid.box
        self.assertTrue(box.x0 <= x < box.x1 and box.y0 <= y < box.y1 and box.z0 <= z < box.z1)
        self.assertIn(cuboid.tile(z), cuboid.tiles())
        self.assertEqual(cuboid, next(one for one in found if one == cuboid))
        self.assertLessEqual(cuboid.cutout().nbytes, 16 * 2**20)
        self.assertLessEqual(len(cuboid.name), 255)


class NamesTests(SynchronousTestCase):
    """What a stack is called."""

    def test_version(self) -> None:
        """The name changes with the geometry and the pixels, and with nothing else."""
        one, same = kasthuri11(), kasthuri11()
        self.assertEqual(one.stack(Plane.XY, None), same.stack(Plane.XY, "image"))
        level = one.levels[0]
        others = [
            Dataset("kasthuri11", {**one.levels, 0: Level((1, 1, 1), level.offset, level.cube)}, (IMAGE,), "image"),
            Dataset("kasthuri11", one.levels, (Channel("image", "image", "uint8", (3, 9)),), "image"),
        ]
        names = {dataset.stack(Plane.XY, None).name for dataset in (one, *others)}
        self.assertEqual(len(names), 3)

    def test_not_shown(self) -> None:
        """Unknown channels, and planes and pixels that are not served, are refused with what there is."""
        dataset = Dataset("t", kasthuri11().levels, (IMAGE, Channel("ids", "annotation", "uint32", number=7)), None)
        for plane, channel, said in (
            (Plane.XY, None, "its channels are: image, ids"),
            (Plane.XY, "nope", "no channel nope"),
            (Plane.XZ, "image", "xz plane"),
            (Plane.XY, "ids", "annotation uint32"),
            (Plane.XY, "7", "annotation uint32"),
        ):
            self.assertIn(said, str(self.assertRaises(NotShown, dataset.stack, plane, channel)))
        self.assertIsInstance(dataset.stack(Plane.XY, "image"), Stack)
