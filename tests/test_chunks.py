"""Boxes of voxels read from chunks: each chunk is fetched once, few are held; the cap of a host."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.model.dataset import Box, Cutout
from ocpproxy.upstream.base import OutOfRange, UpstreamBroken, UpstreamRefused
from ocpproxy.upstream.chunks import Chunks, read_clipped
from ocpproxy.upstream.grid import Grid, compose, intersection
from tests import doubles, formats
from tests.conformance import UpstreamCase, a_turn
from tests.volumes import em


class ChunkTests(UpstreamCase):
    """Chunks of precomputed volumes."""

    async def test_once(self) -> None:
        """Chunks are fetched concurrently; a chunk that two cuboids share is fetched once, even a moment later."""
        files = self.place()
        formats.precomputed(files / "v", em(), chunk=(200, 200, 20))
        bucket = doubles.Bucket(directory=files, delay=0.1)
        upstream = self.configured(f"type = precomputed\nurl = {self.serve(bucket)}/v\n")
        dataset = await self.described(upstream, "kat")
        boxes = [Box(x, min(x + 512, 640), y, min(y + 512, 600), 0, 16) for x in (0, 512) for y in (0, 512)]
        work = [upstream.cutout(Cutout(dataset, dataset.channels[0], 0, 0, box)) for box in boxes]
        cutouts = await gatherResults([Deferred.fromCoroutine(cutout) for cutout in work])
        for box, voxels in zip(boxes, cutouts, strict=True):
            np.testing.assert_array_equal(voxels, em()[:16, box.y0 : box.y1, box.x0 : box.x1])
        self.assertEqual(bucket.asked["cutout"], 12)
        self.assertEqual(len(set(bucket.cutouts)), 12)
        self.assertEqual(bucket.most_open, 8)
        again = Box(390, 410, 390, 410, 0, 16)  # the corner of four chunks, of which those beyond their cuboid are kept
        before = bucket.asked["cutout"]
        await upstream.cutout(Cutout(dataset, dataset.channels[0], 0, 0, again))
        self.assertLessEqual(bucket.asked["cutout"] - before, 1)

    async def test_memory(self) -> None:
        """Only the chunks that are being fetched are held, however many a box has."""
        alive: list[weakref.ref[Any]] = []
        most = 0
        permits = DeferredSemaphore(3)

        async def fetch(volume: str, box: Box) -> Any:
            nonlocal most
            await permits.acquire()
            await deferLater(reactor, 0)
            voxels = np.full(box.shape, 7, np.uint8)
            alive.append(weakref.ref(voxels))
            most = max(most, sum(ref() is not None for ref in alive))
            reactor.callLater(0, permits.release)
            return voxels

        chunks: Chunks[str] = Chunks(fetch, reactor)
        grid = Grid((0, 0, 0), (640, 640, 16), (64, 64, 16))
        voxels = await chunks.box("v", Box(0, 640, 0, 640, 0, 16), grid, "uint8")
        self.assertEqual((len(alive), voxels.min(), voxels.max()), (100, 7, 7))
        self.assertLessEqual(most, 8)

    async def test_missing(self) -> None:
        """A missing chunk is background; a 403 means a missing chunk only where the operator has set that."""
        files = self.place()
        names = {"4.6_4.6_45/0-128_0-128_0-16", "4.6_4.6_45/128-256_0-128_0-16"}
        formats.precomputed(files / "v", em(), missing=names)
        expected = em()[:16, :200, :300].copy()
        expected[:, :128, :256] = 0
        for absent, options, failure in (
            (404, "", None),
            (403, "", UpstreamRefused),
            (403, "missing_status = 403, 404\n", None),
            (404, "missing = error\n", UpstreamBroken),
            (500, "", UpstreamBroken),
        ):
            url = self.serve(doubles.Bucket(directory=files, absent=absent))
            upstream = self.configured(f"type = precomputed\nurl = {url}/v\n{options}")
            dataset = await self.described(upstream, "kat")
            cutout = Cutout(dataset, dataset.channels[0], 0, 0, Box(0, 300, 0, 200, 0, 16))
            if failure is None:
                np.testing.assert_array_equal(await upstream.cutout(cutout), expected)
            else:
                with self.assertRaises(failure):
                    await upstream.cutout(cutout)
            await a_turn()

    async def test_missing_to_tensorstore(self) -> None:
        """Missing chunks of a volume that TensorStore reads."""
        files = self.place()
        formats.zarr2(files / "v", em())
        (files / "v" / "0.0.0").unlink()
        expected = em()[:16, :200, :300].copy()
        expected[:, :128, :128] = 0
        for options, fine in (("", True), ("missing = error\n", False)):
            url = self.serve(doubles.Bucket(directory=files))
            upstream = self.configured(f"type = zarr\nurl = {url}/v\n{options}")
            dataset = await self.described(upstream, "kat")
            cutout = Cutout(dataset, dataset.channels[0], 0, 0, Box(0, 300, 0, 200, 0, 16))
            if fine:
                np.testing.assert_array_equal(await upstream.cutout(cutout), expected)
            else:
                with self.assertRaises(UpstreamBroken) as caught:
                    await upstream.cutout(cutout)
                self.assertIn("missing", str(caught.exception))
            await a_turn()


class GridTests(SynchronousTestCase):
    """Boxes and grids."""

    grid = Grid((10, 20, 3), (110, 120, 13), (64, 64, 4))

    def test_boxes(self) -> None:
        """Chunks are counted from the offset, and end where the volume ends."""
        self.assertEqual(
            self.grid.boxes(Box(70, 200, 0, 50, 6, 8)),
            [Box(*x, 20, 84, *z) for z in ((3, 7), (7, 11)) for x in ((10, 74), (74, 110))],
        )
        self.assertEqual(self.grid.boxes(Box(0, 10, 20, 30, 3, 4)), [])

    def test_too_many(self) -> None:
        """A box of very many chunks is refused before they are listed."""
        grid = Grid((0, 0, 0), (2**28, 2**28, 2**28), (1, 1, 1))
        self.assertRaises(OutOfRange, grid.boxes, Box(0, 2**28, 0, 2**28, 0, 2**28))

    def test_intersection(self) -> None:
        """Boxes that only touch share nothing."""
        box = Box(0, 8, 0, 8, 0, 8)
        self.assertEqual(intersection(box, Box(4, 12, -4, 4, 7, 9)), Box(4, 8, 0, 4, 7, 8))
        self.assertIsNone(intersection(box, Box(8, 12, 0, 8, 0, 8)))
        self.assertEqual(self.grid.clip(Box(0, 500, 0, 500, 0, 500)), Box(10, 110, 20, 120, 3, 13))

    def test_compose(self) -> None:
        """Pieces are pasted where they overlap the box; the axis of components stays."""
        box = Box(0, 4, 0, 4, 0, 1)
        pieces = [
            (Box(2, 6, 2, 6, 0, 1), np.full((1, 4, 4, 2), 7, np.uint8)),
            (Box(4, 8, 0, 4, 0, 1), np.full((1, 4, 4, 2), 9, np.uint8)),
        ]
        voxels = compose(box, pieces, "uint8")
        self.assertEqual(voxels.shape, (1, 4, 4, 2))
        self.assertEqual((voxels[0, 2:, 2:].min(), int(voxels.sum())), (7, 2 * 2 * 2 * 7))
        self.assertEqual(compose(box, [], "uint16").shape, (1, 4, 4))

    def test_read_clipped(self) -> None:
        """Only the part within the grid is read; another type of voxel is a broken upstream."""
        requested: list[Box] = []

        async def read(box: Box) -> Any:
            requested.append(box)
            return np.full(box.shape, 5, np.uint8)

        def clipped(box: Box, dtype: str = "uint8") -> Deferred[Any]:
            return Deferred.fromCoroutine(read_clipped(box, self.grid, dtype, read))

        voxels = self.successResultOf(clipped(Box(0, 20, 10, 30, 0, 5)))
        self.assertEqual(requested, [Box(10, 20, 20, 30, 3, 5)])
        self.assertEqual((voxels[3:, 10:, 10:].min(), int(voxels.sum())), (5, 5 * 2 * 10 * 10))
        self.assertFalse(self.successResultOf(clipped(Box(0, 10, 0, 10, 0, 3))).any())
        self.assertEqual(len(requested), 1)
        self.failureResultOf(clipped(Box(10, 20, 20, 30, 3, 5), "uint16"), UpstreamBroken)


class CapTests(UpstreamCase):
    """The cap on the requests to one host."""

    async def test_lowered(self) -> None:
        """A cap that is lowered while permits are in use is reached as they are released."""
        http = self.context.http
        cap = http.cap("http://h", 5)
        for _ in range(4):
            claim = await cap.acquire()
        self.assertIs(http.cap("http://h/other", 2), cap)
        waiter = cap.acquire()
        for _ in range(2):
            cap.release(claim)
        self.assertFalse(waiter.called)
        cap.release(claim)
        self.assertTrue(waiter.called)
        cap.release(claim)
        cap.release(claim)
        self.assertEqual([cap.acquire().called for _ in range(3)], [True, True, False])
