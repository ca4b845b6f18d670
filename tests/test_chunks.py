"""Boxes put together from chunks: each fetched once, few held; the places of a host."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.task import deferLater

from ocpproxy.model.dataset import Box, Cutout
from ocpproxy.upstream.base import UpstreamBroken, UpstreamRefused
from ocpproxy.upstream.chunks import Chunks, Grid
from tests import doubles, formats
from tests.conformance import UpstreamCase, a_turn
from tests.volumes import em


class ChunkTests(UpstreamCase):
    """Chunks of precomputed volumes."""

    async def test_once(self) -> None:
        """Chunks are fetched side by side; one on a border of two cuboids once, at the same time or a moment later."""
        files = self.place()
        formats.precomputed(files / "v", em(), chunk=(200, 200, 20))
        bucket = doubles.Bucket(directory=files, delay=0.1)
        upstream = self.configured(f"type = precomputed\nurl = {self.serve(bucket)}/v\n")
        dataset = await self.described(upstream, "kat")
        boxes = [Box(x, min(x + 512, 640), y, min(y + 512, 600), 0, 16) for x in (0, 512) for y in (0, 512)]
        work = [upstream.cutout(Cutout(dataset, dataset.channels[0], 0, 0, box)) for box in boxes]
        found = await gatherResults([Deferred.fromCoroutine(one) for one in work])
        for box, voxels in zip(boxes, found, strict=True):
            np.testing.assert_array_equal(voxels, em()[:16, box.y0 : box.y1, box.x0 : box.x1])
        self.assertEqual(bucket.asked["cutout"], 12)
        self.assertEqual(len(set(bucket.cutouts)), 12)
        self.assertEqual(bucket.most_open, 8)
        again = Box(390, 410, 390, 410, 0, 16)  # four chunks that stuck out of their cuboids, or did not
        before = bucket.asked["cutout"]
        await upstream.cutout(Cutout(dataset, dataset.channels[0], 0, 0, again))
        self.assertLessEqual(bucket.asked["cutout"] - before, 1)

    async def test_memory(self) -> None:
        """Only as many chunks are held as are being fetched, however many a box has."""
        alive: list[weakref.ref[Any]] = []
        most = 0
        places = DeferredSemaphore(3)

        async def fetch(place: str, box: Box) -> Any:
            nonlocal most
            await places.acquire()
            await deferLater(reactor, 0)
            voxels = np.full(box.shape, 7, np.uint8)
            alive.append(weakref.ref(voxels))
            most = max(most, sum(ref() is not None for ref in alive))
            reactor.callLater(0, places.release)
            return voxels

        chunks: Chunks[str] = Chunks(fetch, reactor)
        grid = Grid((0, 0, 0), (640, 640, 16), (64, 64, 16))
        voxels = await chunks.box("v", Box(0, 640, 0, 640, 0, 16), grid, "uint8")
        self.assertEqual((len(alive), voxels.min(), voxels.max()), (100, 7, 7))
        self.assertLessEqual(most, 8)

    async def test_missing(self) -> None:
        """A chunk that is not there is background; a 403 is not, unless it is said to be."""
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
        """The same for what TensorStore reads."""
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


class PlacesTests(UpstreamCase):
    """The places of a host."""

    async def test_lowered(self) -> None:
        """A number of places that is lowered while they are taken is reached as they come back."""
        http = self.doors.http
        places = http.cap("http://h", 5)
        for _ in range(4):
            await places.acquire()
        self.assertIs(http.cap("http://h/other", 2), places)
        late = places.acquire()
        for _ in range(2):
            places.release()
        self.assertFalse(late.called)
        places.release()
        self.assertTrue(late.called)
        places.release()
        places.release()
        self.assertEqual(places.tokens, 2)
