"""What voxels are served as, without any server: grids, names, bodies, ranges."""

from __future__ import annotations

import gzip
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.formats import chunk_file
from ocpproxy.formats.chunk_file import BadChunk
from ocpproxy.formats.location import ChunkPlace, FormatDocument, ServedVolume
from ocpproxy.model.chunks import ChunkedVolume, NativeChunks
from ocpproxy.model.dataset import TILE, Channel, Dataset, Level
from ocpproxy.web.answers import accepts_gzip
from ocpproxy.web.voxels import byte_ranges
from ocpproxy.web.voxels.byte_ranges import NotSatisfiable
from ocpproxy.web.voxels.resource import FORMATS

SIZES = st.tuples(st.integers(1, 1500), st.integers(1, 1500), st.integers(1, 100))
OFFSETS = st.tuples(st.integers(-200, 200), st.integers(-200, 200), st.integers(-50, 50))
CUBES = st.tuples(st.just(128), st.just(128), st.sampled_from([1, 5, 16, 64, 100]))
TYPES = st.sampled_from([("uint8", "image"), ("uint16", "image"), ("uint64", "annotation"), ("float32", "probability")])
NATIVE = st.none() | st.builds(
    NativeChunks, st.tuples(*(st.integers(1, 200),) * 3), st.sampled_from(["raw", "jpeg", "png"])
)
WORDS = ["0", "s0", "c", "info", ".zarray", "1-2_3-4_5-6"]
VOXEL = (Fraction(4), Fraction(4), Fraction(35))


def make_volume(size: Any, offset: Any, cube: Any, kind: Any, native: Any = None, times: int = 1) -> ChunkedVolume:
    """Return a volume of one level, and a coarser one."""
    levels = {
        0: Level(size, offset, cube, VOXEL),
        1: Level(size, offset, cube, (Fraction(8), Fraction(8), Fraction(35))),
    }
    channel = Channel("image", kind[1], kind[0], time=(0, times - 1))
    return ChunkedVolume.build(Dataset("kat", levels, (channel,)), channel, native=lambda level: native)


class GridTests(SynchronousTestCase):
    """The chunks of a level."""

    @given(SIZES, OFFSETS, CUBES, TYPES, NATIVE)
    def test_partition(self, size: Any, offset: Any, cube: Any, kind: Any, native: Any) -> None:
        """Chunks cover a level without overlap, and each lies whole in the cuboid that is fetched for it."""
        volume = make_volume(size, offset, cube, kind, native)
        grid = volume.grids[0]
        for axis, count in enumerate(grid.counts):
            spans = []
            for n in range(count):
                x, y, z = (n if one == axis else 0 for one in range(3))
                box, slab = grid.box((x, y, z)), grid.slab_of((x, y, z))
                assert box is not None
                spans.append((box[2 * axis], box[2 * axis + 1]))
                for one in range(3):
                    self.assertTrue(slab[2 * one] <= box[2 * one] < box[2 * one + 1] <= slab[2 * one + 1])
                self.assertIn(n, grid.numbers_in(slab)[axis])
            self.assertEqual(spans[0][0], offset[axis])
            self.assertEqual(spans[-1][1], offset[axis] + size[axis])
            self.assertEqual([end for _, end in spans[:-1]], [first for first, _ in spans[1:]])
        self.assertIsNone(grid.box((-1, 0, 0)))
        self.assertIsNone(grid.box((0, grid.counts[1], 0)))

    @given(SIZES, OFFSETS, CUBES, TYPES)
    def test_cuboid(self, size: Any, offset: Any, cube: Any, kind: Any) -> None:
        """A cuboid has each of its chunks once, and they are its own; it is no wider than one of tiles."""
        volume = make_volume(size, offset, cube, kind)
        place = ChunkPlace(volume, 0, 0, (0, 0, 0))
        cuboid = volume.cuboid(place.tile)
        tiles = cuboid.tiles()
        self.assertEqual(len(set(tiles)), len(tiles))
        self.assertTrue(all(volume.cuboid(tile) == cuboid for tile in tiles))
        self.assertLessEqual(max(cuboid.box.shape[1:]), TILE)
        voxels = sum(int(np.prod(volume.box(tile).shape)) for tile in tiles)
        self.assertEqual(voxels, int(np.prod(cuboid.box.shape)))


class NameTests(SynchronousTestCase):
    """The names of each format."""

    @given(
        st.lists(st.text(max_size=12) | st.sampled_from(["0", "s0", "c", "info", ".zarray", "1-2_3-4_5-6"]), max_size=6)
    )
    def test_any_path(self, path: list[str]) -> None:
        """Whatever is asked for is something of the format, or nothing."""
        volume = make_volume((300, 200, 40), (-5, 3, 1), (128, 128, 16), ("uint8", "image"))
        for one in FORMATS:
            found = one.find(ServedVolume((volume,)), path)
            if isinstance(found, ChunkPlace):
                self.assertIsNotNone(found.grid.box(found.number))

    def test_all_chunks(self) -> None:
        """Each chunk has a name in each format, with time and channels, and no others have."""
        volume = make_volume((300, 200, 40), (-5, 3, 1), (128, 128, 16), ("uint8", "image"), times=3)
        other = make_volume((300, 200, 40), (-5, 3, 1), (128, 128, 16), ("uint8", "image"), times=3)
        served = ServedVolume((volume, other))
        self.assertEqual((served.axes, served.shape(0)), ("tczyx", [3, 2, 40, 200, 300]))
        for name, path in (
            ("zarr", lambda *n: ["0", *map(str, n)]),
            ("zarr3", lambda *n: ["0", "c", *map(str, n)]),
            ("n5", lambda *n: ["s0", *map(str, n[::-1])]),
        ):
            (one,) = (one for one in FORMATS if one.name == name)
            found = set()
            for numbers in product(range(4), range(3), range(4), range(3), range(4)):
                place = one.find(served, path(*numbers))
                if place is not None:
                    assert isinstance(place, ChunkPlace)
                    found.add(numbers)
                    self.assertEqual((place.time, *place.number[::-1]), (numbers[0], *numbers[2:]))
            self.assertEqual(found, set(product(range(3), range(2), range(3), range(2), range(3))))
        with_time = ServedVolume((volume,), time=2)
        (precomputed,) = (one for one in FORMATS if one.name == "precomputed")
        place = precomputed.find(with_time, ["0", "123-251_131-203_17-33"])
        assert isinstance(place, ChunkPlace)
        self.assertEqual((place.time, place.number), (2, (1, 1, 1)))
        self.assertIsInstance(precomputed.find(with_time, ["info"]), FormatDocument)


class ChunkFileTests(SynchronousTestCase):
    """Chunks as they are kept."""

    @given(st.binary(max_size=5000), st.booleans(), st.booleans())
    def test_round_trip(self, body: bytes, uniform: bool, compress: bool) -> None:
        """What is packed is unpacked, whole and undamaged, and gzip of ours is gzip."""
        content = chunk_file.pack(body, uniform=uniform, compress=compress)
        found = chunk_file.unpack(content)
        plain = gzip.decompress(found.body) if found.gzipped else bytes(found.body)
        self.assertEqual((plain, chunk_file.is_uniform(content)), (body, uniform))
        if found.gzipped:
            self.assertEqual(chunk_file.gunzip(found.body, len(body)), body)
            if body:
                self.assertRaises(BadChunk, chunk_file.gunzip, found.body, len(body) - 1)
        self.assertTrue(chunk_file.is_whole(content) and chunk_file.is_undamaged(content))

    @given(st.binary(min_size=1, max_size=300), st.data())
    def test_damaged(self, body: bytes, data: st.DataObject) -> None:
        """A changed byte is noticed, and so is a cut."""
        content = bytearray(chunk_file.pack(body, compress=False))
        at = data.draw(st.integers(0, len(body) - 1))
        content[at] ^= 1 + data.draw(st.integers(0, 254))
        self.assertFalse(chunk_file.is_undamaged(bytes(content)))
        self.assertFalse(chunk_file.is_whole(bytes(content[:-1])))
        self.assertRaises(BadChunk, chunk_file.unpack, bytes(content[1:]))

    @given(st.binary(max_size=200))
    def test_hostile(self, content: bytes) -> None:
        """Anything else is no chunk."""
        self.assertFalse(chunk_file.is_undamaged(content))
        self.assertRaises(BadChunk, chunk_file.unpack, content)
        self.assertRaises(BadChunk, chunk_file.gunzip, content, 100)


class RangeTests(SynchronousTestCase):
    """Ranges of bytes."""

    @given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
    def test_ranges(self, length: int, first: int, last: int) -> None:
        """They mean what slices of the same numbers mean."""
        body = bytes(range(length))

        def part(text: str) -> bytes | None:
            try:
                found = byte_ranges.read([text.encode()], length)
            except NotSatisfiable:
                return None
            return body if found is None else body[found[0] : found[1]]

        self.assertEqual(part(f"bytes={first}-"), body[first:] if first < length else None)
        if first <= last:
            self.assertEqual(part(f"bytes={first}-{last}"), body[first : last + 1] if first < length else None)
        else:
            self.assertEqual(part(f"bytes={first}-{last}"), body)
        self.assertEqual(part(f"bytes=-{last}"), body[-last:] if last and length else None)

    @given(st.lists(st.binary(max_size=30), max_size=3))
    def test_hostile(self, values: list[bytes]) -> None:
        """Anything else is the whole answer."""
        try:
            found = byte_ranges.read(values, 10)
        except NotSatisfiable:
            return
        self.assertTrue(found is None or 0 <= found[0] < found[1] <= 10)

    def test_accepts_gzip(self) -> None:
        """gzip is accepted where it is named and not refused."""
        for value, accepted in (
            (b"gzip", True),
            (b"deflate, GZIP;q=0.5", True),
            (b"*", True),
            (b"gzip;q=0", False),
            (b"gzip; q=0.000, br", False),
            (b"identity", False),
            (b"", False),
        ):
            self.assertEqual(accepts_gzip([value]), accepted, value)
        self.assertFalse(accepts_gzip([]))
