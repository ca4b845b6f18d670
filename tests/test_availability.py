"""The gateway while its index is frozen, refused or gone: the test stops or freezes a MariaDB server of its own."""

from __future__ import annotations

import signal

import pymysql
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from tests import ocpserver
from tests.daemons import SLACK, Daemon, DaemonCase, Stopwatch, now, pause
from tests.databases import PrivateServer, mysql_database
from tests.pictures import pixels
from tests.volumes import em, expected_tile


class UnavailableIndexTests(DaemonCase):
    """Hits go on; misses are fetched, answered and stored; the rows follow."""

    async def start_both(self) -> None:
        """Start a server, a double, and a daemon with 16 tiles in its cache."""
        self.server: PrivateServer = await deferToThread(PrivateServer)
        self.addCleanup(deferToThread, self.server.end)
        self.index = mysql_database(self, self.server.options)
        self.service = ocpserver.Service(em(), 2, delay=0.3)
        config = self.configure(self.serve(self.service), self.index, cache_memory="0")
        self.daemon: Daemon = await self.start(config)
        await self.daemon.get("kat/1/0_0_0.png")
        await self.daemon.rest()

    async def tile(self, z: int, row: int, col: int, result: str) -> float:
        """Request a tile, check its pixels, and return how long it took."""
        watch = Stopwatch(self.daemon.pid)
        code, body, headers = await self.daemon.get(f"kat/{z}/{row}_{col}_0.png")
        self.assertEqual((code, headers["cache-status"]), (200, f"ocpproxy; {result}"))
        took = watch.elapsed
        self.assertTrue((pixels(body) == expected_tile(em(), 0, z - 1, row, col)).all())
        return took

    async def assert_rows(self, tiles: int) -> None:
        """Wait until so many tiles have rows; then rows, numtiles, bytes and files are the same."""
        rows = (0, 0, 0, 0)
        deadline = now() + 30
        while rows[0] != tiles and now() < deadline:
            await pause(0.1)
            connection = pymysql.connect(**self.server.options, database=self.index.database)
            cursor = connection.cursor()
            cursor.execute(
                "SELECT COUNT(*), SUM(bytes), (SELECT numtiles FROM metadata), "
                "(SELECT bytes FROM metadata) FROM contents"
            )
            rows = tuple(map(int, cursor.fetchone() or ()))  # type: ignore[assignment]
            connection.close()
        # Only now: a tile is answered before the rest of its cuboid is stored.
        files = list((self.place / "cache" / "tiles").rglob("*.png"))
        self.assertEqual(len(files), tiles)
        size = sum(path.stat().st_size for path in files)
        self.assertEqual(rows, (tiles, size, tiles, size))

    async def test_frozen(self) -> None:
        """SIGSTOP: 20 hits in a row answer at once, misses in the upstream's time; thawed, the rows follow."""
        await self.start_both()
        self.server.process.send_signal(signal.SIGSTOP)
        for n in range(20):
            self.assertLess(await self.tile(1 + n % 16, 0, 0, "hit"), 0.1 * SLACK)
        # The first miss requests a lease and gives that up soon; later ones do not even try.
        self.assertLess(await self.tile(1, 0, 1, "fwd=miss; stored"), (0.3 + 0.6) * SLACK)
        self.assertLess(await self.tile(1, 1, 0, "fwd=miss; stored"), (0.3 + 0.6) * SLACK)
        for z in (5, 9):
            self.assertLess(await self.tile(z, 0, 1, "hit"), 0.1 * SLACK)
        while await self.daemon.metric("ocpproxy_index_up"):
            await pause(0.1)
        self.assertLess(await self.tile(17, 0, 0, "fwd=miss; stored"), (0.3 + 0.15) * SLACK)
        code, body, _ = await self.daemon.get("readyz")
        self.assertEqual((code, b"index database is unavailable" in body), (200, True))
        self.server.process.send_signal(signal.SIGCONT)
        await self.assert_rows(16 * 3 + 4)
        self.assertNotIn("Traceback", self.daemon.log)
        self.assertEqual(await self.daemon.stop(), 0)

    async def test_frozen_at_the_end(self) -> None:
        """TERM while the index is frozen: the daemon ends in bounded time, and the next one inserts its rows."""
        await self.start_both()
        self.server.process.send_signal(signal.SIGSTOP)
        await self.tile(1, 0, 1, "fwd=miss; stored")
        began = now()
        self.assertEqual(await self.daemon.stop(), 0)
        self.assertLess(now() - began, 30)
        self.server.process.send_signal(signal.SIGCONT)
        self.daemon = await self.start(self.place / "ocp.ini")
        await self.assert_rows(32)

    async def test_restarted(self) -> None:
        """A server that is restarted, or kills every connection: no request fails or is slow because of it."""
        await self.start_both()
        connection = pymysql.connect(**self.server.options)
        cursor = connection.cursor()
        cursor.execute("SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND user = 'root'")
        for (one,) in cursor.fetchall():
            cursor.execute(f"KILL {one}")
        connection.close()
        self.assertLess(await self.tile(1, 0, 1, "fwd=miss; stored"), (0.3 + 0.3) * SLACK)
        await self.daemon.rest()
        self.assertLess(await self.tile(2, 0, 1, "hit"), 0.1 * SLACK)
        await deferToThread(self.server.stop)
        for n in range(1, 17):
            self.assertLess(await self.tile(n, 0, 0, "hit"), 0.1 * SLACK)
        work = [self.tile(1, 1, 0, "fwd=miss; stored"), self.tile(17, 1, 0, "fwd=miss; stored")]
        for took in await gatherResults([Deferred.fromCoroutine(one) for one in work]):
            self.assertLess(took, (0.3 + 0.6) * SLACK)
        await deferToThread(self.server.start)
        await self.assert_rows(16 * 3 + 4)

    async def test_not_there_at_the_start(self) -> None:
        """A daemon that starts without its index serves all the same, and makes its schema when the server comes."""
        await self.start_both()
        await self.daemon.stop()
        await deferToThread(self.server.stop)
        self.daemon = await self.start(self.place / "ocp.ini")
        await self.tile(1, 0, 0, "hit")
        await self.tile(17, 0, 0, "fwd=miss; stored")
        await deferToThread(self.server.start)
        await self.assert_rows(20)
