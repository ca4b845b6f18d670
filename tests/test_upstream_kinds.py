"""Tests of single kinds of upstream: agreement with other readers, refusals, unusual volumes."""

from __future__ import annotations

import os
import signal
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from PIL import Image
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from ocpproxy.model.dataset import Box, Cutout
from ocpproxy.upstream.base import UpstreamBroken, UpstreamRefused
from tests import doubles, formats
from tests.conformance import UpstreamCase
from tests.dvidserver import DvidServer, Grayscale, Labels
from tests.volumes import em


class AgreementTests(UpstreamCase):
    """Independent software reads the same voxels from our doubles."""

    async def test_tensorstore(self) -> None:
        """TensorStore over HTTP, at every level of precomputed in all encodings."""
        files = self.place()
        stored = {"raw": "", "jpeg": "", "png": "", "gzip": "gzip", "br": "br"}
        for name, encoding in stored.items():
            how = {"stored": encoding} if encoding else {"encoding": name}
            formats.precomputed(files / name, em(), offset=(64, 32, 5), **how)  # type: ignore[arg-type]
            url = self.serve(doubles.Bucket(directory=files, encoding=encoding)) + f"/{name}"
            upstream = self.configured(f"type = precomputed\nurl = {url}\n")
            dataset = await self.described(upstream, "kat")
            for number, shape in dataset.levels.items():
                (ox, oy, oz), (ex, ey, ez) = shape.offset, shape.end
                box = Box(ox, ex, oy, ey, oz, ez)
                ours = await upstream.cutout(Cutout(dataset, dataset.channels[0], 0, number, box))

                def read(url: str = url, number: int = number) -> Any:
                    kvstore = {"driver": "http", "base_url": url + "/"}
                    spec = {"driver": "neuroglancer_precomputed", "kvstore": kvstore, "scale_index": number}
                    return ts.open(spec, read=True).result()[..., 0].T.read(order="C").result()

                np.testing.assert_array_equal(ours, await deferToThread(read))


class DvidTests(UpstreamCase):
    """DVID."""

    async def test_raw_refused(self) -> None:
        """A grayscale that refuses raw, although its info does not say so, is read by blocks from then on."""

        class Silent(Grayscale):
            def extended(self) -> dict[str, Any]:
                return super().extended() | {"GridStore": ""}

        absent = frozenset({(0, 0, 0)})
        volume = Silent(em(), offset=(10, 20, 3), gridstore=True, absent=absent)
        dvid = doubles.Speaking(speaker=DvidServer({"grayscale": volume}).answer)
        upstream = self.configured(f"type = dvid\nurl = {self.serve(dvid)}/api/node/a89eb3af/grayscale\n")
        dataset = await self.described(upstream, "kat")
        for _ in range(2):
            box = Box(10, 300, 20, 101, 3, 23)
            voxels = await upstream.cutout(Cutout(dataset, dataset.channels[0], 0, 0, box))
            np.testing.assert_array_equal(voxels, volume.voxels[:, :81, :290])
        self.assertEqual(sum("/raw/" in path for path in dvid.cutouts), 1)

    async def test_labels_refused(self) -> None:
        """Labels are never read by blocks, which are of 8 bits."""
        dvid = doubles.Speaking(speaker=DvidServer({"labels": Labels(em().astype(np.uint64))}).answer)
        upstream = self.configured(f"type = dvid\nurl = {self.serve(dvid)}/api/node/a89eb3af/labels\n")
        dataset = await self.described(upstream, "kat")
        speaker = dvid.speaker
        dvid.speaker = lambda *_: ("cutout", 400, {}, b"does not support /raw endpoint")
        cutout = Cutout(dataset, dataset.channels[0], 0, 0, Box(0, 8, 0, 8, 0, 8))
        with self.assertRaises(UpstreamBroken):
            await upstream.cutout(cutout)
        dvid.speaker = speaker
        self.assertEqual((await upstream.cutout(cutout)).dtype, np.uint64)


class TensorStoreTests(UpstreamCase):
    """TensorStore's process."""

    async def test_bombs_by_the_dozen(self) -> None:
        """Many chunks that inflate to gigabytes end the process only: the next request starts another one."""
        files = self.place()
        formats.n5(files / "v", em())
        bucket = doubles.Bucket(directory=files)
        upstream = self.configured(f"type = n5\nurl = {self.serve(bucket)}/v\n", timeout=60)
        dataset = await self.described(upstream, "kat")
        cutout = Cutout(dataset, dataset.channels[0], 0, 0, Box(0, 640, 0, 600, 0, 16))
        bucket.mode = "bomb"
        with self.assertRaises(UpstreamBroken):
            await upstream.cutout(cutout)
        bucket.mode = "well"
        np.testing.assert_array_equal(await upstream.cutout(cutout), em()[:16])

    async def test_killed(self) -> None:
        """A process that is killed is replaced, and its requests are sent to the new one."""
        files = self.place()
        formats.n5(files / "v", em())
        bucket = doubles.Bucket(directory=files)
        upstream = self.configured(f"type = n5\nurl = {self.serve(bucket)}/v\n")
        dataset = await self.described(upstream, "kat")
        cutout = Cutout(dataset, dataset.channels[0], 0, 0, Box(0, 64, 0, 64, 0, 8))
        await upstream.cutout(cutout)
        bucket.delay = 1.0
        work = Deferred.fromCoroutine(
            upstream.cutout(Cutout(dataset, dataset.channels[0], 0, 1, Box(0, 64, 0, 64, 0, 8)))
        )
        while not bucket.open_now:
            await deferLater(reactor, 0.01)
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        (child,) = (one for one in children if b"tensorstore.process" in Path(f"/proc/{one}/cmdline").read_bytes())
        os.kill(int(child), signal.SIGKILL)
        np.testing.assert_array_equal(await work, em()[:8, :128:2, :128:2])


class OddVolumeTests(UpstreamCase):
    """Volumes that deviate from the rules."""

    async def test_unlisted_bucket(self) -> None:
        """A bucket that responds with 403 to missing objects is read, as long as it has the required documents."""
        files = self.place()
        formats.ome_zarr(files / "o", em(), version="0.5")
        formats.n5(files / "n", em(), factors="each")
        url = self.serve(doubles.Bucket(directory=files, absent=403))
        for name in "on":
            dataset = await self.described(self.configured(f"type = volume\nurl = {url}/{name}\n"), "kat")
            self.assertEqual(len(dataset.levels), 3)
        with self.assertRaises(UpstreamRefused):
            await self.described(self.configured(f"type = volume\nurl = {url}/nothing\n"), "kat")

    async def test_other_names_of_chunks(self) -> None:
        """A chunk that is there as ``.gz`` and cannot be read is a failure, and not background."""

        class Broken(doubles.Bucket):
            def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> doubles.Answer:
                if path.endswith(".gz"):
                    return "cutout", 500, {}, b"disk"
                return super().answer(path, query, headers)

        files = self.place()
        formats.precomputed(files / "v", em())
        for path in (files / "v" / "4.6_4.6_45").iterdir():
            path.unlink()
        for served, fails in ((Broken, True), (doubles.Bucket, False)):
            upstream = self.configured(f"type = precomputed\nurl = {self.serve(served(directory=files))}/v\n")
            dataset = await self.described(upstream, "kat")
            cutout = Cutout(dataset, dataset.channels[0], 0, 0, Box(0, 64, 0, 64, 0, 8))
            if fails:
                with self.assertRaises(UpstreamBroken):
                    await upstream.cutout(cutout)
            else:
                self.assertFalse((await upstream.cutout(cutout)).any())

    async def test_edges_rounded_down(self) -> None:
        """A tile server that rounds the sizes of its edge tiles down: missing pixels are black."""
        tile = BytesIO()
        Image.fromarray(em()[0, :200, :127].copy()).save(tile, "PNG")
        served = doubles.Speaking(speaker=lambda *_: ("cutout", 200, {"content-type": "image/png"}, tile.getvalue()))
        lines = f"type = catmaid\nurl = {self.serve(served)}/\ndimension = 640, 713, 1\n"
        upstream = self.configured(lines)
        dataset = await self.described(upstream, "kat")
        cutout = Cutout(dataset, dataset.channels[0], 0, 0, Box(512, 640, 512, 713, 0, 1))
        voxels = await upstream.cutout(cutout)
        np.testing.assert_array_equal(voxels[0, :200, :127], em()[0, :200, :127])
        self.assertFalse(voxels[0, 200:].any() or voxels[0, :, 127:].any())
