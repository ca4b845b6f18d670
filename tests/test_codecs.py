"""Encodings of voxels: genuine and hostile."""

from __future__ import annotations

import contextlib
import gzip
import time
import tracemalloc
import zlib
from io import BytesIO
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
from ocpproxy.upstream.codecs import blosc_container, content_encoding, images, segmentation
from ocpproxy.upstream.grid import Grid
from tests.volumes import em


class ContentEncodingTests(SynchronousTestCase):
    """Content encodings."""

    @given(st.binary(max_size=2000), st.sampled_from(["gzip", "br", "deflate", "", "identity", "gzip, br"]))
    def test_round_trip(self, data: bytes, encoding: str) -> None:
        """A body is decoded within exactly its size, and refused with a limit one byte lower."""
        body = data
        for name in encoding.split(", "):
            body = {"gzip": gzip.compress, "br": brotli.compress, "deflate": zlib.compress}.get(name, bytes)(body)
        self.assertEqual(content_encoding.decode_content(body, encoding, len(data)), data)
        if data:
            self.assertRaises(UpstreamBroken, content_encoding.decode_content, body, encoding, len(data) - 1)

    def test_bombs(self) -> None:
        """A decompression bomb is refused at the limit."""
        for encoding, shrink in (("gzip", gzip.compress), ("br", brotli.compress)):
            bomb = shrink(bytes(64 * 2**20))
            self.assertLess(len(bomb), 100_000)
            self.assertRaises(UpstreamBroken, content_encoding.decode_content, bomb, encoding, 1000)

    def test_damaged(self) -> None:
        """Bodies that are cut short, damaged, or something else raise `UpstreamBroken`."""
        data = em()[0].tobytes()
        for encoding, body in (("gzip", gzip.compress(data)), ("br", brotli.compress(data, quality=1))):
            for hostile in (b"", body[:-1], body[: len(body) // 2], b"<html>", body[:50] + b"\xff" * 50 + body[100:]):
                self.assertRaises(UpstreamBroken, content_encoding.decode_content, hostile, encoding, len(data))
        for encoding in ("zstd", "gzip, gzip, gzip", "x" * 1000, "gzip\x00"):
            self.assertRaises(UpstreamBroken, content_encoding.decode_content, b"", encoding, 100)

    @given(st.binary(max_size=300), st.sampled_from(["gzip", "br", "deflate"]))
    def test_noise(self, data: bytes, encoding: str) -> None:
        """Any body is decoded within the limit, or refused."""
        with contextlib.suppress(UpstreamBroken):
            self.assertLessEqual(len(content_encoding.decode_content(data, encoding, 50)), 50)


class SegmentationTests(SynchronousTestCase):
    """Compressed segmentation."""

    def volume(self, dtype: str) -> Any:
        """Return ids, axes (z, y, x), whose sizes are no multiples of blocks."""
        return (em()[:17, :70, :61].astype(dtype) >> np.array(3, dtype)) * np.array(1_000_003, dtype)

    def body(self, volume: Any, block: tuple[int, int, int]) -> bytes:
        """Return a volume as the library encodes it."""
        return bytes(compressed_segmentation.compress(np.asfortranarray(volume.T), block_size=block, order="F"))

    def test_round_trip(self) -> None:
        """Volumes that the library encoded are decoded."""
        for dtype in ("uint32", "uint64"):
            for block in ((8, 8, 8), (4, 8, 2)):
                volume = self.volume(dtype)
                found = segmentation.decode(self.body(volume, block), dtype, volume.shape, block)
                np.testing.assert_array_equal(found, volume)
                self.assertEqual(found.dtype, np.dtype(dtype))

    def test_small_blocks(self) -> None:
        """A volume with as many blocks as voxels takes little more memory than its body and its voxels."""
        volume = np.zeros((64, 128, 128), np.uint32)
        body = (
            (1).to_bytes(4, "little") + np.tile(np.array([2 * volume.size, 0], "<u4"), volume.size).tobytes() + bytes(4)
        )
        tracemalloc.start()
        found = segmentation.decode(body, "uint32", volume.shape, (1, 1, 1))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        np.testing.assert_array_equal(found, volume)
        self.assertLess(peak, 3 * len(body) + volume.nbytes)

    def test_mutated(self) -> None:
        """Damaged bodies are decoded within their bounds, or refused; the library alone would crash."""
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
        """Random bytes are refused, or decoded."""
        with contextlib.suppress(UpstreamBroken):
            segmentation.decode(body, "uint32", (8, 8, 8), (8, 8, 8))


class ImagesTests(SynchronousTestCase):
    """Voxels in images."""

    def picture(self, array: Any, form: str, **options: Any) -> bytes:
        """Return an image file."""
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

    def test_long_decoding(self) -> None:
        """A JPEG of many scans and a PNG of many chunks are refused before anything is decoded; a dozen are fine."""
        tile = np.random.default_rng(1).integers(0, 256, (512, 512), np.uint8)
        progressive = self.picture(tile, "JPEG", progressive=True)
        self.assertTrue(pictures.is_tile(progressive))
        start, end = progressive.index(b"\xff\xda"), progressive.rindex(b"\xff\xda")
        scans = progressive[:start] + progressive[start:end] * 20 + progressive[end:]
        plain = self.picture(tile, "PNG")
        first = plain.index(b"IDAT") - 4
        empty = b"\0\0\0\0IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")
        chunks = plain[:first] + empty * 20_000 + plain[first:]
        text = b"\0\0\0\0tEXt" + zlib.crc32(b"tEXt").to_bytes(4, "big")
        for body in (scans, chunks, plain[:first] + text * 20_000 + plain[first:]):
            began = time.process_time()
            self.assertFalse(pictures.is_tile(body))
            self.assertRaises(UpstreamBroken, images.decode, body, (512, 512), 512 * 512, 1)
            self.assertLess(time.process_time() - began, 1)
        np.testing.assert_array_equal(images.decode(plain, None, 512 * 512, 1)[..., 0], tile)

    def test_ready_made(self) -> None:
        """A file is kept as a tile only if it is whole, 512 x 512, and of a kind that is known."""
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


class BloscContainerTests(SynchronousTestCase):
    """blosc containers."""

    def test_exact(self) -> None:
        """Only a container of exactly the requested size is decompressed."""
        import blosc

        data = em()[0].tobytes()
        body = blosc.compress(data, typesize=8)
        self.assertEqual(blosc_container.decompress(body, len(data), len(data)), data)
        self.assertLessEqual(len(body), blosc_container.max_encoded_size(len(data)))
        for hostile in (b"", body[:-1], body + b"x", body[:16], b"<html>" * 10):
            self.assertRaises(UpstreamBroken, blosc_container.decompress, hostile, len(data), len(data))
        self.assertRaises(UpstreamBroken, blosc_container.decompress, body, len(data) + 1, len(data) + 1)


class GridTests(SynchronousTestCase):
    """The chunks of a grid that a box intersects."""

    @given(st.data())
    def test_cover(self, data: st.DataObject) -> None:
        """The chunks of a box are disjoint, aligned to the grid, and cover the part of the box that is within it."""
        whole = st.integers(-20, 20)
        side, length = st.integers(1, 30), st.integers(1, 9)
        offset, size = data.draw(st.tuples(whole, whole, whole)), data.draw(st.tuples(side, side, side))
        end = (offset[0] + size[0], offset[1] + size[1], offset[2] + size[2])
        chunk = data.draw(st.tuples(length, length, length))
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
