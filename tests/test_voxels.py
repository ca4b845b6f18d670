"""Voxels as other readers read them: every level of real volumes, by the real readers, behind each kind of upstream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from twisted.internet.threads import deferToThread

from tests import bossserver, doubles, dvidserver, formats, ocpserver
from tests.channels import channels
from tests.daemons import Daemon, DaemonCase
from tests.dvidserver import DvidServer, Grayscale
from tests.ocpserver import Served
from tests.readers import READERS, Array
from tests.tileserver import TileServer
from tests.volumes import em, level, mitochondria, nuclei

Volumes = Mapping[str, Sequence[Array]]
"""By channel, the levels, axes ([t,] z, y, x)."""


def pyramid(volume: Array, levels: int = 3) -> list[Array]:
    """Return the levels of a volume, every 2**n-th voxel along x and y."""
    return [level(volume, n) for n in range(levels)]


class VoxelMixin:
    """Each channel of a volume, in each format, by each reader."""

    async def volumes(self) -> tuple[Daemon, Volumes]:
        """Start a daemon; return it and what it has under the token ``kat``."""
        raise NotImplementedError

    async def test_every_reader(self: Any) -> None:
        """Every level is voxel-exact, and what was read once is not fetched again."""
        daemon, volumes = await self.volumes()
        for channel, levels in volumes.items():
            for name, readers in READERS.items():
                for reader, read in readers.items():
                    found = await deferToThread(read, f"{daemon.url}/{name}/kat/{channel}")
                    self.assertEqual(len(found), len(levels), (channel, name, reader))
                    for number, (got, want) in enumerate(zip(found, levels, strict=True)):
                        if name == "precomputed" and want.ndim == 4:
                            want = want[0]
                        self.assertEqual(got.dtype.newbyteorder("="), want.dtype, (channel, name, reader))
                        np.testing.assert_array_equal(got, want, f"{channel} {name} {reader} level {number}")

    async def check_all_channels(self: Any, daemon: Daemon, volumes: Volumes) -> None:
        """Check that the channels are an axis of the array of a token."""
        for name in ("zarr", "zarr3", "n5"):
            for reader, read in READERS[name].items():
                found = await deferToThread(read, f"{daemon.url}/{name}/kat")
                for number, got in enumerate(found):
                    want = np.stack([volumes[channel][number] for channel in sorted(volumes)], axis=-4)
                    np.testing.assert_array_equal(got, want, f"{name} {reader} level {number}")


class OcpVoxelTests(VoxelMixin, DaemonCase):
    """Behind a service of Open Connectome, with offsets."""

    async def volumes(self) -> tuple[Daemon, Volumes]:
        """An image, ids of 32 and 64 bits, 16 bits, floats, and a time series."""
        names = ("em", "wide", "ids", "ids64", "sure", "moving16")
        served = {name: channels()[name] for name in names}
        service = ocpserver.Service(em(), 3, (40, 24, 1), channels=served)
        daemon = await self.start(self.configure(self.serve(service)))
        return daemon, {name: pyramid(one.voxels) for name, one in served.items()}


class ThreeChannelTests(VoxelMixin, DaemonCase):
    """Three channels of one type, which are an axis too."""

    async def volumes(self) -> tuple[Daemon, Volumes]:
        """Three pictures."""
        served = {"red": Served(em()), "green": Served(255 - em()), "blue": Served(em()[::-1])}
        daemon = await self.start(self.configure(self.serve(ocpserver.Service(em(), 2, channels=served))))
        return daemon, {name: pyramid(one.voxels) for name, one in served.items()}

    async def test_axis(self) -> None:
        """The channels are an axis of one array."""
        await self.check_all_channels(*await self.volumes())


class BossVoxelTests(VoxelMixin, DaemonCase):
    """Behind a Boss."""

    async def volumes(self) -> tuple[Daemon, Volumes]:
        """An image and ids."""
        ids = mitochondria().astype(np.uint64) * np.uint64(3_000_000_000_019)
        boss = bossserver.BossServer({"em": bossserver.Served(em()), "ids": bossserver.Served(ids, "annotation")})
        url = self.serve(doubles.Speaking(speaker=boss.answer))
        path = self.configure(url)
        with path.open("a") as file:
            file.write(f"[dataset kat]\ntype = boss\nurl = {url}/vnc/stack1\n")
        return await self.start(path), {"em": pyramid(em()), "ids": pyramid(ids)}


class DvidVoxelTests(VoxelMixin, DaemonCase):
    """Behind a DVID."""

    async def volumes(self) -> tuple[Daemon, Volumes]:
        """An image that does not begin at 0."""
        dvid = DvidServer(dvidserver.pyramid("grayscale", Grayscale(em(), offset=(64, 32, 5)), 3, axes="xy"))
        node = self.serve(doubles.Speaking(speaker=dvid.answer)) + "/api/node/a89eb3af"
        path = self.configure(node)
        with path.open("a") as file:
            file.write(f"[dataset kat]\ntype = dvid\nurl = {node}/grayscale\n")
        return await self.start(path), {"image": pyramid(em())}


class TileServerVoxelTests(VoxelMixin, DaemonCase):
    """Behind a tile server, whose slices come one by one."""

    async def volumes(self) -> tuple[Daemon, Volumes]:
        """An image in tiles of 1024 x 1024."""
        there = self.serve(doubles.Speaking(speaker=TileServer(em(), 3, (1024, 1024), 5, "png").answer))
        path = self.configure(there)
        with path.open("a") as file:
            file.write(
                f"[dataset kat]\ntype = catmaid\nurl = {there}/x/\ntile_source_type = 5\ntile_size = 1024\n"
                "file_extension = png\ndimension = 640, 600, 20\nresolution = 4.6, 4.6, 45\nzoom_levels = 3\n"
            )
        return await self.start(path), {"image": pyramid(em())}


class WrittenMixin(VoxelMixin):
    """Behind a volume that is files below a web server."""

    options = ""
    kind = "precomputed"
    channel = "image"
    encoding = ""

    @staticmethod
    def voxels() -> Array:
        """Return what is written."""
        return em()

    def write(self) -> None:
        """Write it into `place`."""
        raise NotImplementedError

    async def volumes(self: Any) -> tuple[Daemon, Volumes]:
        """One channel."""
        self.directory = self.place / "bucket" / "kat"
        self.write()
        self.bucket = doubles.Bucket(directory=self.place / "bucket", encoding=self.encoding)
        url = self.serve(self.bucket)
        path = self.configure(url)
        with path.open("a") as file:
            file.write(f"[dataset kat]\ntype = {self.kind}\nurl = {url}/kat\n{self.options}")
        return await self.start(path), {self.channel: pyramid(self.voxels())}


class RawPrecomputedTests(WrittenMixin, DaemonCase):
    """Precomputed, whose chunks pass through."""

    encoding = "gzip"

    def write(self) -> None:
        """Chunks of 64 x 64 x 8, from an odd corner on, some of them missing."""
        formats.precomputed(self.directory, em(), chunk=(64, 64, 8), offset=(8, 4, 3), stored="gzip")


class SegmentationPrecomputedTests(WrittenMixin, DaemonCase):
    """Ids in compressed segmentation, which pass through."""

    channel = "annotation"

    @staticmethod
    def voxels() -> Array:
        """Return ids that need 64 bits."""
        return mitochondria().astype(np.uint64) * np.uint64(3_000_000_000_019)

    def write(self) -> None:
        """Chunks of 64 x 64 x 16."""
        how: Any = {"encoding": "compressed_segmentation", "kind": "segmentation", "chunk": (64, 64, 16)}
        formats.precomputed(self.directory, self.voxels(), **how)


class ShardedPrecomputedTests(WrittenMixin, DaemonCase):
    """Shards, which are opened."""

    @staticmethod
    def voxels() -> Array:
        """Return 16 bits."""
        return nuclei()

    def write(self) -> None:
        """16 bits."""
        formats.precomputed(self.directory, nuclei(), chunk=(64, 64, 8), offset=(100, 0, 5), sharded=True)


class N5VoxelTests(WrittenMixin, DaemonCase):
    """N5."""

    kind = "n5"

    def write(self) -> None:
        """Blocks of 64 x 64 x 8."""
        formats.n5(self.directory, em(), chunk=(64, 64, 8))


class RenumberedVoxelTests(WrittenMixin, DaemonCase):
    """Precomputed whose slices and levels have other numbers here: its chunks pass through all the same."""

    options = "z_shift = 7\nlevels = 1: 0, 2: 1, 3: 2\n"

    def write(self) -> None:
        """Chunks of 64 x 64 x 8."""
        formats.precomputed(self.directory, em(), chunk=(64, 64, 8), offset=(8, 4, 3))


class MirroredVoxelTests(WrittenMixin, DaemonCase):
    """Two homes of one volume, of which the first is gone for voxels."""

    def write(self) -> None:
        """Twice, in different chunks; the first home then loses its chunks to a server that fails."""
        formats.precomputed(self.directory, em(), chunk=(64, 64, 8))
        formats.precomputed(self.place / "bucket" / "other", em(), chunk=(128, 128, 16))

    async def volumes(self) -> tuple[Daemon, Volumes]:
        """One channel."""
        self.directory = self.place / "bucket" / "kat"
        self.write()
        first, second = (doubles.Bucket(directory=self.place / "bucket") for _ in range(2))
        urls = [self.serve(one) for one in (first, second)]
        path = self.configure(urls[0])
        with path.open("a") as file:
            file.write(f"[dataset kat]\ntype = precomputed\nurl = {urls[0]}/kat\n  {urls[1]}/other\n")
        daemon = await self.start(path)
        await daemon.get("kat/")
        first.mode = "error500"
        return daemon, {self.channel: pyramid(self.voxels())}
