"""BossDB: its buckets, quota, frames and credentials, and its own client."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from ocpproxy import config
from ocpproxy.model.dataset import Box, Cutout
from ocpproxy.upstream.base import Upstream, UpstreamBusy, UpstreamRefused
from ocpproxy.upstream.boss import Boss
from ocpproxy.upstream.chunks import MissingChunks
from ocpproxy.upstream.locations import Location
from ocpproxy.upstream.precomputed import Precomputed
from ocpproxy.upstream.registry import KINDS
from ocpproxy.upstream.tensorstore.sharded import ShardedScales
from tests import doubles, formats
from tests.bossserver import BossServer, Served
from tests.conformance import UpstreamCase
from tests.volumes import em, level, mitochondria


class BossTests(UpstreamCase):
    """BossDB."""

    def serve_bucket(self, headers: list[dict[str, str]]) -> str:
        """Serve a precomputed volume at ``em/v1``, record the headers of all requests, and return the address."""
        files = self.place()
        formats.precomputed(files / "em" / "v1", em(), resolution=(4, 4, 35))
        bucket = doubles.Bucket(directory=files)

        def speak(path: str, query: dict[str, list[str]], sent: dict[str, str]) -> doubles.Answer:
            headers.append(sent)
            return bucket.answer(path.removeprefix("/"), query, sent)

        return self.serve(doubles.Speaking(speaker=speak))

    def authorized(self, url: str, bucket_url: str) -> Upstream:
        """Return a client that has the token ``secret``, and finds the bucket open-data at another address."""
        lines = f"[dataset kat]\ntype = boss\nurl = {url}\nauthorization = Token ${{T}}\n"
        settings = config.parse(lines, Path(), {"T": "secret"}, KINDS).datasets["kat"].upstream
        self.assertNotIn("secret", repr(settings))
        anonymous = replace(settings, authorization=None)

        def read_bucket(address: str) -> Precomputed:
            self.assertEqual(address, "s3://open-data/em/v1")
            local = address.replace("s3://open-data", bucket_url)
            locations: dict[str | None, Location] = {
                address: Location(local, lambda url: self.context.host_client(anonymous, url))
            }
            sharded = ShardedScales(self.context.tensorstore(anonymous), locations)
            return Precomputed(locations, sharded, MissingChunks(frozenset({404})), self.pool.run, reactor)

        location = Location(url, lambda url: self.context.host_client(settings, url))
        return Boss(location, (), read_bucket, self.pool.run, reactor)

    async def test_bucket(self) -> None:
        """A channel whose storage is cloudvol is read from its bucket, without the token; others by cutouts."""
        ids = mitochondria().astype(np.uint64)
        stored = {
            "em": Served(em(), storage_type="cloudvol", bucket="open-data", cv_path="/em/v1"),
            "ids": Served(ids, "annotation"),
        }
        boss = doubles.Speaking(speaker=BossServer(stored, private="secret").answer)
        url = self.serve(boss) + "/vnc/stack1"
        headers: list[dict[str, str]] = []
        upstream = self.authorized(url, self.serve_bucket(headers))
        dataset = await self.described(upstream, "kat")
        channels = [(c.name, c.kind, c.writable) for c in dataset.channels]
        self.assertEqual(channels, [("em", "image", False), ("ids", "annotation", True)])
        for number in range(3):
            box = Box(5, 150, 7, 140, 2, 19)
            for channel, served in zip(dataset.channels, stored.values(), strict=True):
                voxels = await upstream.cutout(Cutout(dataset, channel, 0, number, box))
                np.testing.assert_array_equal(voxels, level(served.voxels, number)[2:19, 7:140, 5:150])
        self.assertTrue(headers)
        self.assertFalse([sent for sent in headers if "authorization" in sent])
        self.assertTrue(all("ids" in path for path in boss.cutouts))
        with self.assertRaises(UpstreamRefused):
            await self.described(self.configured(f"type = boss\nurl = {url}\n"), "kat")

    async def test_quota(self) -> None:
        """Once the quota is used up, no request is sent for a long time."""
        server = BossServer({"em": Served(em())})
        boss = doubles.Speaking(speaker=server.answer)
        upstream = self.configured(f"type = boss\nurl = {self.serve(boss)}/vnc/stack1\n", retries=3)
        dataset = await self.described(upstream, "kat")
        cutout = Cutout(dataset, dataset.channels[0], 0, 0, Box(0, 8, 0, 8, 0, 8))
        throttled = {"status": 429, "message": "User is throttled. Expected available tomorrow.", "code": 3004}
        boss.speaker = lambda *_: ("cutout", 429, {}, json.dumps(throttled).encode())
        for _ in range(3):
            with self.assertRaises(UpstreamBusy) as caught:
                await upstream.cutout(cutout)
            self.assertGreater(caught.exception.retry_after or 0, 3500)
        self.assertEqual(boss.asked["cutout"], 1)

    async def test_frame(self) -> None:
        """Coordinates are absolute; levels of an isotropic pyramid halve z; what is not downsampled has one level."""
        start = (256, 128, 8)
        for method, status, many in (("isotropic", "DOWNSAMPLED", 3), ("anisotropic", "QUEUED", 1)):
            server = BossServer(
                {"em": Served(em(), downsample_status=status)}, start=start, hierarchy_method=method, unit="micrometers"
            )
            boss = doubles.Speaking(speaker=server.answer)
            upstream = self.configured(f"type = boss\nurl = {self.serve(boss)}/vnc/stack1\nchannels = image: em\n")
            dataset = await self.described(upstream, "kat")
            self.assertEqual(len(dataset.levels), many)
            self.assertEqual(dataset.levels[0].offset, start)
            box = Box(300, 400, 200, 260, 9, 20)
            voxels = await upstream.cutout(Cutout(dataset, dataset.channel("image"), 0, 0, box))
            np.testing.assert_array_equal(voxels, em()[1:12, 72:132, 44:144])
            if many > 1:
                self.assertEqual(dataset.levels[1].offset, (128, 64, 4))
                box = Box(300, 400, 200, 260, 9, 12)  # beyond the start of level 0, so that the server accepts it
                voxels = await upstream.cutout(Cutout(dataset, dataset.channel("image"), 0, 1, box))
                np.testing.assert_array_equal(voxels, em()[::2, ::2, ::2][5:8, 136:196, 172:272])

    async def test_intern(self) -> None:
        """BossDB's own client reads the same voxels from our double, so the double keeps to the protocol."""
        from intern.convenience.array import _BossDBVolumeProvider, array
        from intern.remote.boss import BossRemote

        ids = mitochondria().astype(np.uint64) << np.uint64(33)
        server = BossServer({"em": Served(em()), "ids": Served(ids, "annotation")})
        url = self.serve(doubles.Speaking(speaker=server.answer))

        part = np.s_[3:9, 2:133, 1:150]

        def read() -> None:
            host = url.removeprefix("http://")
            remote = BossRemote({"protocol": "http", "host": host, "token": "public"})
            for name, volume in (("em", em()), ("ids", ids)):
                for number in range(3):
                    remote_array = array(
                        f"bossdb://vnc/stack1/{name}", resolution=number, volume_provider=_BossDBVolumeProvider(remote)
                    )
                    np.testing.assert_array_equal(remote_array[part], level(volume, number)[part])

        await deferToThread(read)
