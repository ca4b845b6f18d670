"""What the daemon keeps: nothing that a kill -9 spoils, no more than it may, and everything with its row."""

from __future__ import annotations

import os
import signal

import numpy as np
from twisted.internet.defer import Deferred, gatherResults

from tests import ocpserver
from tests.daemons import Daemon, DaemonCase, Stopwatch, pause
from tests.databases import OnMariaDB, OnSQLite
from tests.gateways import GatewayMixin
from tests.pictures import pixels
from tests.volumes import em, expected_tile


class StorageTests(GatewayMixin):
    """The cache and its index after the work of a daemon, on either database."""

    async def test_dead_owner(self) -> None:
        """A daemon that is killed in the middle of a fetch locks its cuboid no longer than the lease."""
        service = ocpserver.Service(em(), 2, delay=1.0)
        first = await self.gateway(service)
        second = await self.start(self.config)
        for daemon in (first, second):
            await daemon.get("kat/")
        lost = Deferred.fromCoroutine(first.get("kat/1/0_0_0.png"))
        lost.addErrback(lambda _: None)
        while not service.asked["cutout"]:
            await pause(0.01)
        await first.stop(signal.SIGKILL)
        watch = Stopwatch(second.pid)
        code, body, _ = await second.get("kat/1/0_0_0.png")
        self.assertEqual(code, 200)
        self.assertTrue((pixels(body) == expected_tile(em(), 0, 0, 0, 0)).all())
        self.assertLess(watch.elapsed, 2 + 1 + 1.5)

    async def test_killed_while_filling(self) -> None:
        """Eight kill -9 while filling: never a wrong tile, nothing stays locked, and nothing is left for fsck."""
        service = ocpserver.Service(em(), 2, delay=0.05)
        asked = [(z, row, col) for z in range(20) for row in range(2) for col in range(2)]
        daemon = await self.gateway(service, index_lease="1")

        async def one(daemon: Daemon, z: int, row: int, col: int) -> None:
            code, body, _ = await daemon.get(f"kat/{z + 1}/{row}_{col}_0.png")
            self.assertEqual(code, 200)
            self.assertTrue((pixels(body) == expected_tile(em(), 0, z, row, col)).all())

        for attempt in range(8):
            work = [Deferred.fromCoroutine(one(daemon, *tile)) for tile in asked]
            done = gatherResults([d.addErrback(self.died) for d in work])
            await pause(0.03 + 0.04 * attempt)
            await daemon.stop(signal.SIGKILL)
            await done
            daemon = await self.start(self.config)
        watch = Stopwatch(daemon.pid)
        await gatherResults([Deferred.fromCoroutine(one(daemon, *tile)) for tile in asked])
        self.assertLess(watch.elapsed, 10)
        await daemon.rest()
        watch = Stopwatch(daemon.pid)
        while left := list((self.place / "cache" / "journal").rglob("tiles")):
            await pause(0.05)  # until what the killed ones have left is reconciled
            self.assertLess(watch.elapsed, 60, f"{left}\n{daemon.log}")
        code, out = await self.fsck()
        self.assertEqual((code, "nothing mended" in out), (0, True), out)
        self.assertEqual(await daemon.stop(), 0)
        code, out = await self.fsck()
        self.assertEqual(code, 0, out)
        await self.assert_consistent()

    async def test_fsck(self) -> None:
        """fsck reports what it mends and exits with 1; then there is nothing left, and it exits with 0."""
        daemon = await self.gateway(ocpserver.Service(em(), 2))
        for z in (1, 17):
            await daemon.get(f"kat/{z}/0_0_0.png")
        await daemon.rest()
        await daemon.stop()
        files = sorted((self.place / "cache" / "tiles").rglob("*.png"))
        files[0].unlink()
        files[1].write_bytes(files[1].read_bytes()[:5000])
        files[2].with_name("99.png").write_bytes(files[2].read_bytes())
        code, out = await self.fsck()
        self.assertEqual(code, 1, out)
        for message in ("row without a file", "torn tile", "file without a row"):
            self.assertIn(message, out)
        code, out = await self.fsck()
        self.assertEqual(code, 0, out)
        await self.assert_consistent()

    async def test_bounded(self) -> None:
        """20 MiB of cache, 60 MiB of tiles: bounded in the burst and at rest, and what is in use is not refetched."""
        part = em()[:, :512, :512]
        turned = [np.rot90(one, n, (1, 2)) for one in (part, part[:, ::-1], 255 - part) for n in range(4)]
        volume = np.concatenate(turned[:9])  # 180 slices
        volume = np.concatenate([volume, volume[::-1]], axis=2)  # two columns of tiles
        service = ocpserver.Service(np.ascontiguousarray(volume), 2, (0, 0, 0), levels=1)
        size = 20 * 2**20
        options = {"cache_size": "20", "cache_memory": "0", "cache_reclaim_interval": "3600"}
        daemon = await self.gateway(service, **options, cache_lookahead="off")  # its cutouts may be given up
        tiles = self.place / "cache" / "tiles"
        most = 0

        def on_disk() -> int:
            total = 0
            for place, _, names in os.walk(tiles):
                for name in names:
                    try:
                        total += os.stat(os.path.join(place, name)).st_size
                    except FileNotFoundError:
                        continue
            return total

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, on_disk())
                await pause(0.02)

        watching = Deferred.fromCoroutine(watch())
        watching.addErrback(lambda _: None)
        self.addCleanup(watching.cancel)
        steady = [f"kat/{z}/0_0_0.png" for z in (0, 5, 15)]
        for path in steady:
            await daemon.get(path)
        stored = 0
        for z in range(16, 176, 8):
            work = [daemon.get(f"kat/{z + n}/0_{col}_0.png") for n in range(8) for col in range(2)]
            for _, body, _ in await gatherResults([Deferred.fromCoroutine(one) for one in work]):
                stored += len(body)
            for path in steady:
                _, _, headers = await daemon.get(path)
                self.assertEqual(headers["cache-status"], "ocpproxy; hit", f"{path} at {z}: {daemon.log}")
        self.assertGreater(stored, 3 * size)
        self.assertEqual(len(service.cutouts), len(set(service.cutouts)), "nothing was fetched twice")
        await daemon.rest()
        while on_disk() > 0.96 * size:
            await pause(0.05)
        self.assertLess(most, 1.9 * size)
        await daemon.stop()
        _, used = await self.assert_consistent()
        self.assertLess(used, 0.96 * size)

    async def test_one_value(self) -> None:
        """Tiles of a volume where nothing is cost rows and links, not files; they are hits like all others."""
        volume = np.zeros((20, 600, 640), np.uint8)
        volume[18] = em()[18]
        service = ocpserver.Service(volume, 2)
        daemon = await self.gateway(service, cache_memory="0")
        for z in (1, 17):
            await daemon.get(f"kat/{z}/0_0_0.png")
        await daemon.rest()
        for z in range(1, 21):
            code, body, headers = await daemon.get(f"kat/{z}/0_0_0.png")
            self.assertEqual((code, headers["cache-status"]), (200, "ocpproxy; hit"))
            self.assertTrue((pixels(body) == volume[z - 1, :512, :512]).all())
        files = list((self.place / "cache" / "tiles").rglob("*.png"))
        self.assertEqual((len(files), len({path.stat().st_ino for path in files})), (20, 2))
        await daemon.stop()
        self.assertEqual((await self.assert_consistent())[0], 20)
        code, out = await self.fsck()
        self.assertEqual((code, "nothing mended" in out), (0, True), out)


class SQLiteStorageTests(OnSQLite, StorageTests, DaemonCase):
    """The same with SQLite."""


class MariaDBStorageTests(OnMariaDB, StorageTests, DaemonCase):
    """The same with MariaDB."""
