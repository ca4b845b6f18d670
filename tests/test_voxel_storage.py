"""Chunks on disk and in the index: kept like tiles, and nothing of them is lost or wrong after a kill -9."""

from __future__ import annotations

import signal

from twisted.internet.defer import Deferred, gatherResults

from ocpproxy.index.dialect import Transaction
from tests import ocpserver
from tests.daemons import Daemon, DaemonCase, pause
from tests.databases import OnMariaDB, OnSQLite, started
from tests.gateways import GatewayMixin
from tests.volumes import em


class ChunkStorageTests(GatewayMixin):
    """Chunks on disk and in the index."""

    async def test_kept_like_tiles(self) -> None:
        """They have rows, an account and a place in `usage`; fsck removes a damaged one; a flush forgets them alone."""
        daemon = await self.gateway(ocpserver.Service(em(), 2))
        path = "precomputed/kat/image/0/0-128_0-128_1-17"
        _, whole, _ = await daemon.get(path)
        await daemon.get("kat/1/0_0_0.png")
        await daemon.rest()
        self.assertEqual((await self.assert_consistent())[0], 16 + 16)
        await daemon.stop()
        files = sorted((self.place / "cache" / "tiles").rglob("*.chunk"))
        self.assertEqual(len(files), 16)
        body = bytearray(files[0].read_bytes())
        body[1000] ^= 1
        files[0].write_bytes(body)
        files[1].write_bytes(files[1].read_bytes()[:-1])
        code, out = await self.fsck()
        self.assertEqual((code, out.count("torn tile")), (1, 2), out)
        await self.assert_consistent()
        daemon = await self.start(self.config)
        _, again, _ = await daemon.get(path)
        self.assertEqual(again, whole)
        await daemon.rest()
        await self.assert_consistent()

    async def test_odd_rows(self) -> None:
        """Rows of stacks that nobody knows, and of the historical cache, disturb neither fsck nor eviction."""
        daemon = await self.gateway(ocpserver.Service(em(), 2))
        await daemon.get("precomputed/kat/image/0/0-128_0-128_1-17")
        await daemon.rest()
        await daemon.stop()
        database = await started(self, self.index)

        def insert(tx: Transaction) -> None:
            columns = "dataset, ximagesz, yimagesz, zoffset, zmaxslice, zscale"
            tx.run(f"INSERT INTO datasets ({columns}) VALUES ('kasthuri11', 0, 0, 0, 0, 1)")
            (own,) = tx.one("SELECT datasetid FROM datasets WHERE dataset = 'kasthuri11'")
            for high in (999 << 16, int(own) << 16):
                columns = "highkey, lowkey, filename, reftime, bytes"
                tx.run(f"INSERT INTO contents ({columns}) VALUES ({high}, 5, 'x', '1999-01-01', 1)")

        await database.run(insert)
        code, out = await self.fsck()
        self.assertEqual((code, out.count("row that names no tile")), (1, 2), out)
        await self.assert_consistent()

    async def test_killed(self) -> None:
        """Four kill -9 while chunks and tiles are stored: never a wrong byte, and nothing is left for fsck."""
        service = ocpserver.Service(em(), 2, delay=0.05)
        daemon = await self.gateway(service, index_lease="1")
        want: dict[str, bytes] = {}
        for z in (0, 16):
            for y in range(0, 600, 128):
                for x in range(0, 640, 128):
                    part = em()[z : z + 16, y : y + 128, x : x + 128]
                    depth, height, width = part.shape
                    name = f"{x}-{x + width}_{y}-{y + height}_{z + 1}-{z + 1 + depth}"
                    want[f"precomputed/kat/image/0/{name}"] = part.tobytes()

        async def one(daemon: Daemon, path: str) -> None:
            code, body, _ = await daemon.get(path)
            self.assertEqual((code, body == want[path]), (200, True), path)

        for attempt in range(4):
            work = [Deferred.fromCoroutine(one(daemon, path)) for path in want]
            done = gatherResults([d.addErrback(self.died) for d in work])
            await pause(0.05 + 0.08 * attempt)
            await daemon.stop(signal.SIGKILL)
            await done
            daemon = await self.start(self.config)
        await gatherResults([Deferred.fromCoroutine(one(daemon, path)) for path in want])
        await daemon.rest()
        while list((self.place / "cache" / "journal").rglob("tiles")):
            await pause(0.05)
        self.assertEqual(await daemon.stop(), 0)
        code, out = await self.fsck()
        self.assertEqual(code, 0, out)
        await self.assert_consistent()


class SQLiteChunkStorageTests(OnSQLite, ChunkStorageTests, DaemonCase):
    """The same with SQLite."""


class MariaDBChunkStorageTests(OnMariaDB, ChunkStorageTests, DaemonCase):
    """The same with MariaDB."""
