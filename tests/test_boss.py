"""BossDB: its buckets, quota, frames and credentials, and its own client."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from ocpproxy import config
from ocpproxy.model.dataset import Box, Cutout
from ocpproxy.upstream.base import Upstream, UpstreamBusy, UpstreamRefused
from ocpproxy.upstream.boss import Boss
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

    async def test_bucket(self) -> None:
        """A channel whose storage is cloudvol is read from its bucket, without the token; the others are asked for."""
        files = self.place()
        formats.precomputed(files / "em" / "v1", em(), resolution=(4, 4, 35))
        bucket = doubles.Bucket(directory=files)
        where = self.serve(bucket)
        server = BossServer(
            {
                "em": Served(em(), storage_type="cloudvol", bucket="open-data", cv_path="/em/v1"),
                "ids": Served(mitochondria().astype(np.uint64), "annotation"),
            },
            private="secret",
        )
        boss = doubles.Speaking(speaker=server.answer)
        url = self.serve(boss)
        headers: list[dict[str, str]] = []
        told = bucket.answer

        def overheard(path: str, query: dict[str, list[str]], said: dict[str, str]) -> doubles.Answer:
            headers.append(said)
            return told(path, query, said)

        bucket.answer = overheard  # type: ignore[method-assign, assignment]
        said = self.settings(f"type = boss\nurl = {url}/vnc/stack1\n")

        def at(address: str) -> Precomputed:
            self.assertEqual(address, "s3://open-data/em/v1")
            site = Location(address.replace("s3://open-data", where), lambda url: self.doors.host_client(said, url))
            sites: dict[str | None, Location] = {address: site}
            shards = ShardedScales(self.doors.tensorstore(said), sites)
            return Precomputed(sites, self.pool.run, reactor, (404,), shards)

        secret = config.parse(
            f"[dataset kat]\ntype = boss\nurl = {url}/vnc/stack1\nauthorization = Token ${{T}}\n",
            Path(),
            {"T": "secret"},
            KINDS,
        ).datasets["kat"]
        self.assertNotIn("secret", repr(secret))
        site = Location(f"{url}/vnc/stack1", lambda url: self.doors.host_client(secret.upstream, url))
        upstream: Upstream = Boss(site, (), at, self.pool.run, reactor)
        dataset = await self.described(upstream, "kat")
        channels = [(c.name, c.kind, c.writable) for c in dataset.channels]
        self.assertEqual(channels, [("em", "image", False), ("ids", "annotation", True)])
        for number in range(3):
            box = Box(5, 150, 7, 140, 2, 19)
            for channel, volume in zip(dataset.channels, (em(), mitochondria()), strict=True):
                voxels = await upstream.cutout(Cutout(dataset, channel, 0, number, box))
                np.testing.assert_array_equal(voxels, level(volume, number)[2:19, 7:140, 5:150])
        self.assertEqual(sum("authorization" in one for one in headers), 0)
        self.assertTrue(headers)
        self.assertTrue(all("ids" in path for path in boss.cutouts))
        with self.assertRaises(UpstreamRefused):
            await self.described(self.configured(f"type = boss\nurl = {url}/vnc/stack1\n"), "kat")

    async def test_quota(self) -> None:
        """Once the quota is spent nothing is asked any more, for a long time."""
        server = BossServer({"em": Served(em())})
        boss = doubles.Speaking(speaker=server.answer)
        upstream = self.configured(f"type = boss\nurl = {self.serve(boss)}/vnc/stack1\n", retries=3)
        dataset = await self.described(upstream, "kat")
        cutout = Cutout(dataset, dataset.channels[0], 0, 0, Box(0, 8, 0, 8, 0, 8))
        said = {"status": 429, "message": "User is throttled. Expected available tomorrow.", "code": 3004}
        boss.speaker = lambda *_: ("cutout", 429, {}, json.dumps(said).encode())
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
                box = Box(300, 400, 200, 260, 9, 12)  # what lies behind the start of level 0: the server gives that
                voxels = await upstream.cutout(Cutout(dataset, dataset.channel("image"), 0, 1, box))
                np.testing.assert_array_equal(voxels, em()[::2, ::2, ::2][5:8, 136:196, 172:272])

    async def test_intern(self) -> None:
        """BossDB's own client reads the same voxels from our double: so that it is true to the protocol."""
        from intern.convenience.array import _BossDBVolumeProvider, array
        from intern.remote.boss import BossRemote

        ids = mitochondria().astype(np.uint64) << np.uint64(33)
        server = BossServer({"em": Served(em()), "ids": Served(ids, "annotation")})
        url = self.serve(doubles.Speaking(speaker=server.answer))

        def read() -> None:
            host = url.removeprefix("http://")
            remote = BossRemote({"protocol": "http", "host": host, "token": "public"})
            for name, volume in (("em", em()), ("ids", ids)):
                for number in range(3):
                    there = array(
                        f"bossdb://vnc/stack1/{name}", resolution=number, volume_provider=_BossDBVolumeProvider(remote)
                    )
                    np.testing.assert_array_equal(there[3:9, 2:133, 1:150], level(volume, number)[3:9, 2:133, 1:150])

        await deferToThread(read)
