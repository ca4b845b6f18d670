"""How voxels are written, and what is said of volumes: genuine and hostile."""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import brotli
import compressed_segmentation
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.imagery import pictures, png
from ocpproxy.upstream.base import UpstreamBroken
from ocpproxy.upstream.chunks import Grid
from ocpproxy.upstream.codecs import blosc_container, content_encoding, images, segmentation
from ocpproxy.upstream.documents import checks, multiscale, precomputed_info, pyramids
from tests import formats
from tests.volumes import em

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


class StoredTests(SynchronousTestCase):
    """Content encodings."""

    @given(st.binary(max_size=2000), st.sampled_from(["gzip", "br", "deflate", "", "identity", "gzip, br"]))
    def test_round_trip(self, data: bytes, encoding: str) -> None:
        """What was stored comes back, just within the bound, and not one byte below it."""
        body = data
        for name in encoding.split(", "):
            body = {"gzip": gzip.compress, "br": brotli.compress, "deflate": zlib.compress}.get(name, bytes)(body)
        self.assertEqual(content_encoding.decode_content(body, encoding, len(data)), data)
        if data:
            self.assertRaises(UpstreamBroken, content_encoding.decode_content, body, encoding, len(data) - 1)

    def test_bombs(self) -> None:
        """A gigabyte in a few bytes costs no more than the bound."""
        for encoding, shrink in (("gzip", gzip.compress), ("br", brotli.compress)):
            bomb = shrink(bytes(64 * 2**20))
            self.assertLess(len(bomb), 100_000)
            self.assertRaises(UpstreamBroken, content_encoding.decode_content, bomb, encoding, 1000)

    def test_damaged(self) -> None:
        """What is cut short, has something behind it, or is something else, is broken."""
        data = em()[0].tobytes()
        for encoding, body in (("gzip", gzip.compress(data)), ("br", brotli.compress(data, quality=1))):
            for hostile in (b"", body[:-1], body[: len(body) // 2], b"<html>", body[:50] + b"\xff" * 50 + body[100:]):
                self.assertRaises(UpstreamBroken, content_encoding.decode_content, hostile, encoding, len(data))
        for encoding in ("zstd", "gzip, gzip, gzip", "x" * 1000, "gzip\x00"):
            self.assertRaises(UpstreamBroken, content_encoding.decode_content, b"", encoding, 100)

    @given(st.binary(max_size=300), st.sampled_from(["gzip", "br", "deflate"]))
    def test_noise(self, data: bytes, encoding: str) -> None:
        """Anything is bytes within the bound, or broken."""
        with contextlib.suppress(UpstreamBroken):
            self.assertLessEqual(len(content_encoding.decode_content(data, encoding, 50)), 50)


class SegmentedTests(SynchronousTestCase):
    """Compressed segmentation."""

    def volume(self, dtype: str) -> Any:
        """Ids in awkward sizes, axes (z, y, x)."""
        return (em()[:17, :70, :61].astype(dtype) >> np.array(3, dtype)) * np.array(1_000_003, dtype)

    def body(self, volume: Any, block: tuple[int, int, int]) -> bytes:
        """As the library writes it."""
        return bytes(compressed_segmentation.compress(np.asfortranarray(volume.T), block_size=block, order="F"))

    def test_round_trip(self) -> None:
        """What the library has written is read."""
        for dtype in ("uint32", "uint64"):
            for block in ((8, 8, 8), (4, 8, 2)):
                volume = self.volume(dtype)
                found = segmentation.decode(self.body(volume, block), dtype, volume.shape, block)
                np.testing.assert_array_equal(found, volume)
                self.assertEqual(found.dtype, np.dtype(dtype))

    def test_mutated(self) -> None:
        """Whatever is changed in a body, it is read within its bounds or refused: the library itself would crash."""
        random = Random(5)
        volume = self.volume("uint64")
        whole = self.body(volume, (8, 8, 8))
        refused = 0
        for _ in range(3000):
            body = bytearray(whole)
            for _ in range(random.randint(1, 8)):
                body[random.randrange(random.choice((len(body), 4000)))] = random.randrange(256)
            if random.random() < 0.3:
                body = body[: random.randrange(len(body)) // 4 * 4]
            try:
                found = segmentation.decode(bytes(body), "uint64", volume.shape, (8, 8, 8))
                self.assertEqual(found.shape, volume.shape)
            except UpstreamBroken:
                refused += 1
        self.assertGreater(refused, 1000)

    @given(st.binary(max_size=400))
    def test_noise(self, body: bytes) -> None:
        """Noise is refused, or read."""
        with contextlib.suppress(UpstreamBroken):
            segmentation.decode(body, "uint32", (8, 8, 8), (8, 8, 8))


class ImagesTests(SynchronousTestCase):
    """Voxels in pictures."""

    def picture(self, array: Any, form: str, **options: Any) -> bytes:
        """A file."""
        out = BytesIO()
        Image.fromarray(array).save(out, form, **options)
        return out.getvalue()

    def test_kinds(self) -> None:
        """Grey of 8 and 16 bits, and colours."""
        grey = em()[0, :60, :50]
        for array, bands in ((grey, 1), (grey.astype(np.uint16) * 257, 1), (np.stack([grey] * 3, -1), 3)):
            found = images.decode(self.picture(array, "PNG"), (50, 60), 3000, bands)
            np.testing.assert_array_equal(found, array.reshape(60, 50, bands))
        jpeg = self.picture(grey, "JPEG")
        np.testing.assert_array_equal(images.decode(jpeg, None, 3000, 1)[..., 0], np.asarray(Image.open(BytesIO(jpeg))))

    def test_hostile(self) -> None:
        """Other sizes, other kinds, other formats and damaged files are refused before they cost anything."""
        grey = em()[0, :60, :50]
        large = self.picture(np.zeros((30000, 30000), np.uint8), "PNG")
        fine = self.picture(grey, "JPEG")
        for body in (
            large,
            b"",
            b"<html>",
            self.picture(grey, "GIF"),
            self.picture(np.stack([grey] * 3, -1), "PNG"),
            self.picture(grey[:59], "PNG"),
            fine[: len(fine) // 2],
            fine[:20],
            b"\xff\xd8\xff" + bytes(1000),
        ):
            self.assertRaises(UpstreamBroken, images.decode, body, (50, 60), 3000, 1)

    def test_ready_made(self) -> None:
        """A file is kept as a tile only if it is whole, 512 x 512, and of a kind that can be told from others."""
        tile = em()[0, :512, :512]
        jpeg, foreign = self.picture(tile, "JPEG", quality=50), self.picture(tile, "PNG")
        for picture, type_ in ((jpeg, b"image/jpeg"), (foreign, b"image/png"), (png.grey(tile), b"image/png")):
            self.assertTrue(pictures.is_tile(picture))
            self.assertEqual(pictures.content_type(picture), type_)
            self.assertFalse(pictures.is_uniform(picture))
            for torn in (picture[:-1], picture[: len(picture) // 2], picture + b"x", b"<html>" + picture):
                self.assertFalse(pictures.is_tile(torn))
        self.assertEqual(len({pictures.fingerprint(picture) for picture in (jpeg, foreign, png.grey(tile))}), 3)
        other = self.picture(tile ^ np.uint8(128), "JPEG", quality=50)
        self.assertNotEqual(pictures.fingerprint(jpeg), pictures.fingerprint(other))
        wide = self.picture(tile.astype(np.uint16) * 257, "PNG")
        damaged = bytearray(foreign)
        damaged[len(foreign) // 2] ^= 255
        for other in (wide, bytes(damaged), self.picture(tile > 90, "PNG")):
            self.assertFalse(pictures.is_tile(other))
        behind = foreign[:-12] + b"\0\0\0\1tEXta" + zlib.crc32(b"tEXta").to_bytes(4, "big") + foreign[-12:]
        self.assertFalse(pictures.is_tile(behind))
        for form in ("PNG", "JPEG"):
            self.assertFalse(pictures.is_tile(self.picture(tile[:511], form)))
            one = self.picture(np.full((512, 512), 7, np.uint8), form)
            self.assertTrue(pictures.is_tile(one))
            pictures.is_uniform(one)
        for array in (np.zeros((512, 512, 3), np.uint8), np.zeros((512, 512), np.uint16), np.zeros((512, 512), bool)):
            pictures.is_uniform(self.picture(array, "PNG"))


class ContainersTests(SynchronousTestCase):
    """blosc containers without a pickle in them."""

    def test_exact(self) -> None:
        """The length is exact."""
        import blosc

        data = em()[0].tobytes()
        body = blosc.compress(data, typesize=8)
        self.assertEqual(blosc_container.decompress(body, len(data), len(data)), data)
        self.assertLessEqual(len(body), blosc_container.max_encoded_size(len(data)))
        for hostile in (b"", body[:-1], body + b"x", body[:16], b"<html>" * 10):
            self.assertRaises(UpstreamBroken, blosc_container.decompress, hostile, len(data), len(data))
        self.assertRaises(UpstreamBroken, blosc_container.decompress, body, len(data) + 1, len(data) + 1)


class PrecomputedInfoTests(SynchronousTestCase):
    """info documents of precomputed volumes."""

    def info(self, **changes: Any) -> Any:
        """An info, the first scale of which is changed."""
        scale = {
            "key": "4_4_40",
            "size": [1000, 900, 50],
            "resolution": [4, 4, 40],
            "chunk_sizes": [[64, 64, 16]],
            "encoding": "raw",
        }
        second = {**scale, "key": "8_8_40", "size": [500, 450, 50], "resolution": [8, 8, 40]}
        return {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": [scale | changes, second]}

    def read(self, info: Any) -> Any:
        """The dataset."""
        with checks.parsing("info"):
            return pyramids.build_dataset("t", {None: precomputed_info.parse_info(None, json.dumps(info), "here")})

    def test_scales(self) -> None:
        """Order, fractions, offsets, anisotropy; what is the same voxel for all is one level."""
        dataset = self.read(self.info())
        self.assertEqual([level.size for level in dataset.levels.values()], [(1000, 900, 50), (500, 450, 50)])
        swapped = self.info(resolution=[16.5, 16.5, 40], voxel_offset=[3, -5, 7])
        dataset = self.read(swapped)
        self.assertEqual(dataset.levels[1].offset, (3, -5, 7))
        self.assertEqual(float(dataset.levels[1].voxel[0]), 16.5)
        with checks.parsing("info"):
            one = precomputed_info.parse_info("a", json.dumps(self.info()), "here")
            coarse = precomputed_info.parse_info(
                "b", json.dumps(self.info() | {"scales": self.info()["scales"][1:]}), "here"
            )
            both = pyramids.build_dataset("t", {"a": one, "b": coarse})
        self.assertEqual([(c.name, c.base_level) for c in both.channels], [("a", 0), ("b", 1)])
        self.assertIsNone(both.upstream_data["b"][1][0])

    def test_versions(self) -> None:
        """What says where voxels are changes the version; what says something else does not."""
        same = self.info() | {"mesh": "mesh", "@type": "neuroglancer_multiscale_volume"}
        versions = [self.read(info).channels[0].version for info in (self.info(), same, self.info(key="elsewhere"))]
        self.assertEqual(versions[0], versions[1])
        self.assertNotEqual(versions[0], versions[2])

    def test_hostile(self) -> None:
        """Each field is checked."""
        hostile: tuple[dict[str, Any], ...] = (
            {"size": [0, 1, 1]},
            {"size": [1, 1]},
            {"size": [2**40, 1, 1]},
            {"size": "abc"},
            {"voxel_offset": [0.5, 0, 0]},
            {"chunk_sizes": []},
            {"chunk_sizes": [[0, 1, 1]]},
            {"chunk_sizes": [[2**20, 2**20, 2**20]], "size": [2**20, 2**20, 2**10]},
            {"resolution": [0, 1, 1]},
            {"resolution": [1, 1, -1]},
            {"resolution": [1e300, 1, 1]},
            {"encoding": 3},
            {"key": None},
            {"key": "x" * 5000},
            {"compressed_segmentation_block_size": [0, 0, 0]},
        )
        for changes in hostile:
            self.assertRaises(UpstreamBroken, self.read, self.info(**changes))
        for key, value in (("type", "video"), ("data_type", "object"), ("num_channels", 10**9), ("scales", [])):
            self.assertRaises(UpstreamBroken, self.read, self.info() | {key: value})
        self.assertRaises(UpstreamBroken, self.read, self.info() | {"data_type": "int16"})

    @given(JSON, st.sampled_from(["size", "voxel_offset", "chunk_sizes", "resolution", "key", "encoding", "sharding"]))
    def test_noise(self, value: Any, key: str) -> None:
        """Any value in any place gives a dataset or a broken upstream."""
        with contextlib.suppress(UpstreamBroken):
            self.assertTrue(self.read(self.info(**{key: value})).levels)


class MultiscaleTests(SynchronousTestCase):
    """N5 and Zarr documents."""

    async def gathered(self, directory: Path, kinds: tuple[str, ...]) -> Any:
        """What there is in a directory."""

        async def look(name: str) -> str | None:
            path = directory / name
            return path.read_text() if path.is_file() else None

        return await multiscale.fetch_documents(look, kinds)

    def volume(self, directory: Path, *kinds: str) -> Any:
        """What is read of it."""
        work = self.gathered(directory, kinds)
        try:
            work.send(None)
        except StopIteration as end:
            return multiscale.parse_volume(None, end.value, "here")
        raise AssertionError("it waits")

    def test_levels(self) -> None:
        """All ways to say how large a voxel is come to the same."""
        place, volume = Path(self.mktemp()), em()[:, :100, :120]
        formats.n5(place / "a", volume)
        formats.n5(place / "b", volume, factors="scales")
        formats.n5(place / "c", volume, factors="each")
        formats.ome_zarr(place / "d", volume, group=True)
        formats.ome_zarr(place / "e", volume, group=False, axes="czyx")
        formats.ome_zarr(place / "f", volume, version="0.5", axes="tczyx")
        for name in "abcdef":
            found = self.volume(place / name, "zarr", "n5")
            for n, (voxel, array) in enumerate(found.scales):
                self.assertEqual([round(float(v), 6) for v in voxel], [4.6 * 2**n, 4.6 * 2**n, 45], name)
                self.assertEqual(array.grid.end, (-(-120 // 2**n), -(-100 // 2**n), 20), name)
                self.assertEqual(array.grid.chunk[2], 16)

    def test_found_in_the_wild(self) -> None:
        """Other orders of axes, levels that tell nothing of their voxels, attributes that are nobody's business."""
        array = {"dimensions": [20, 100, 120], "blockSize": [16, 64, 64], "dataType": "uint8", "axes": ["z", "y", "x"]}
        one = multiscale.parse_volume(None, {"attributes.json": json.dumps(array | {"resolution": [40, 4, 5]})}, "here")
        self.assertEqual([float(v) for v in one.scales[0][0]], [5, 4, 40])
        self.assertEqual(one.scales[0][1].grid.end, (120, 100, 20))
        plain = {"dimensions": [128, 128, 20], "blockSize": [64, 64, 16], "dataType": "uint8"}
        half = plain | {"dimensions": [64, 64, 20]}
        for told, resolution in ((("a", "b"), None), ((4, 8), "pixelResolution")):
            more = [{resolution: {"unit": "nm", "dimensions": [v, v, 40]}} if resolution else {} for v in told]
            found = {"attributes.json": "{}"} | {
                f"s{n}/attributes.json": json.dumps(said | more[n]) for n, said in enumerate((plain, half))
            }
            voxels = [voxel for voxel, _ in multiscale.parse_volume(None, found, "here").scales]
            self.assertEqual([b / a for a, b in zip(*voxels, strict=True)], [2, 2, 1])
        place = Path(self.mktemp())
        formats.zarr2(place, em()[:, :100, :120])
        (place / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["z", "y", "x"]}')
        self.assertEqual(self.volume(place, "zarr").scales[0][1].grid.end, (120, 100, 20))

    def test_hostile(self) -> None:
        """Paths that climb, axes that are no axes, arrays that are not there."""
        array = json.dumps({"shape": [20, 100, 100], "chunks": [16, 64, 64], "dtype": "|u1", "zarr_format": 2})

        n5 = json.dumps({"dimensions": [100, 100, 20], "blockSize": [64, 64, 16], "dataType": "uint8"})

        def ome(**changes: Any) -> dict[str, str]:
            multi = {"axes": ["z", "y", "x"], "datasets": [{"path": "0"}]} | changes
            return {".zattrs": json.dumps({"multiscales": [multi]}), "0/.zarray": array}

        with checks.parsing("fine"):
            multiscale.parse_volume(None, ome(), "here")
        for found in (
            {},
            {"attributes.json": "{}"},
            {".zattrs": "{}"},
            {"zarr.json": "{}"},
            ome(axes=["x", "x", "y"]),
            ome(axes=["z", "y"]),
            ome(axes=[{"name": 3}, "y", "x"]),
            ome(datasets=[]),
            ome(datasets=[{"path": "1"}]),
            ome(datasets=[{"path": "../../etc"}]),
            ome(datasets=[{"path": "http://elsewhere/0"}]),
            ome(coordinateTransformations=[{"type": "scale", "scale": [1, 0, 1]}]),
            ome(datasets=[{"path": "0#x"}]),
            ome(datasets=[{"path": "%zz"}]),
            ome(datasets=[{"path": "\ud800"}]),
            ome(axes=["c", "y", "x"]) | {"0/.zarray": array.replace("20", "3000000")},
            {
                "attributes.json": json.dumps({"scales": [[1, 1], [2, 2]]}),
                "s0/attributes.json": n5,
                "s1/attributes.json": n5,
            },
            ome() | {"0/.zarray": array.replace("20", "0")},
            ome() | {"0/.zarray": array.replace("[16, 64, 64]", "[16]")},
        ):
            with self.assertRaises(UpstreamBroken), checks.parsing("hostile"):
                multiscale.parse_volume(None, found, "here")

    @given(JSON, st.sampled_from(["axes", "datasets", "coordinateTransformations"]), st.booleans())
    def test_noise(self, value: Any, key: str, third: bool) -> None:
        """Any value in any place gives a volume or a broken upstream."""
        array = {"shape": [20, 100, 100], "chunks": [16, 64, 64], "dtype": "|u1"}
        multi = {"axes": ["z", "y", "x"], "datasets": [{"path": "0"}], key: value}
        if third:
            found = {
                "attributes.json": json.dumps({"downsamplingFactors": value, key: value}),
                "s0/attributes.json": "{}",
            }
        else:
            found = {".zattrs": json.dumps({"multiscales": [multi]}), "0/.zarray": json.dumps(array | {key: value})}
        with contextlib.suppress(UpstreamBroken), checks.parsing("noise"):
            self.assertTrue(multiscale.parse_volume(None, found, "here").scales)


class GridTests(SynchronousTestCase):
    """Which chunks a box touches."""

    @given(st.data())
    def test_cover(self, data: st.DataObject) -> None:
        """The chunks of a box are disjoint, begin where the grid does, and cover what of the box is within it."""
        whole = st.integers(-20, 20)
        offset = tuple(data.draw(whole) for _ in range(3))
        end = tuple(o + data.draw(st.integers(1, 30)) for o in offset)
        chunk = tuple(data.draw(st.integers(1, 9)) for _ in range(3))
        grid = Grid(offset, end, chunk)
        from ocpproxy.model.dataset import Box

        spans = [sorted((data.draw(whole), data.draw(whole) + 21)) for _ in range(3)]
        box = Box(*spans[0], *spans[1], *spans[2])
        seen: set[tuple[int, int, int]] = set()
        for piece in grid.boxes(box):
            for axis in range(3):
                self.assertEqual((piece[2 * axis] - offset[axis]) % chunk[axis], 0)
                self.assertLessEqual(piece[2 * axis + 1], end[axis])
            cells = {
                (x, y, z)
                for x in range(piece.x0, piece.x1)
                for y in range(piece.y0, piece.y1)
                for z in range(piece.z0, piece.z1)
            }
            self.assertFalse(cells & seen)
            seen |= cells
        wanted = [range(max(spans[a][0], offset[a]), min(spans[a][1], end[a])) for a in range(3)]
        corners = {(x, y, z) for x in wanted[0] for y in wanted[1] for z in wanted[2]}
        self.assertLessEqual(corners, seen)
