"""The gateway with a database that is there and wrong: read-only, without tables, damaged, with too few connections."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from ocpproxy.config import IndexUrl
from tests import ocpserver
from tests.daemons import Daemon, DaemonCase, pause
from tests.databases import PrivateServer, mysql_database
from tests.test_channel import certificate
from tests.volumes import em


class WrongIndexTests(DaemonCase):
    """Hits, misses and what is stored go on; the log says it once; all mends itself when the database does."""

    async def start_daemon(self, index: IndexUrl) -> Daemon:
        """Start a double and a daemon on this database, with 16 tiles in its cache."""
        self.service = ocpserver.Service(em(), 2)
        self.daemon = await self.start(self.configure(self.serve(self.service), index, cache_memory="0"))
        while not await self.daemon.metric("ocpproxy_index_up"):
            await pause(0.05)
        await self.daemon.get("kat/1/0_0_0.png")
        await self.daemon.rest()
        return self.daemon

    async def tile(self, path: str, *statuses: str) -> None:
        """Request a tile, and check how it was found."""
        code, _, headers = await self.daemon.get(path)
        self.assertEqual(code, 200)
        self.assertIn(headers["cache-status"].removeprefix("ocpproxy; "), statuses)

    async def survive(self, mend: Callable[[], None], *, goes_down: bool = True) -> None:
        """Use the daemon while its database is wrong, and after it is mended."""
        await self.tile("kat/1/0_0_0.png", "hit")
        for path in ("kat/1/0_1_0.png", "kat/1/1_0_0.png", "kat/17/0_0_0.png"):
            await self.tile(path, "fwd=miss; stored")
            while await self.daemon.metric("ocpproxy_flights"):
                await pause(0.02)
            await self.tile(path, "hit")
        if goes_down:
            while await self.daemon.metric("ocpproxy_index_up"):
                await pause(0.05)
        await self.tile("kat/17/1_1_0.png", "fwd=miss; stored")
        await pause(2)  # looks at the database, which must not go up and down
        lines = self.daemon.log.count("index database is unavailable")
        self.assertLessEqual(lines, 3, self.daemon.log)
        await deferToThread(mend)
        while not await self.daemon.metric("ocpproxy_index_up"):
            await pause(0.05)
        await self.daemon.rest()
        await self.tile("kat/17/0_1_0.png", "fwd=miss; stored")
        await self.daemon.rest()
        self.assertNotIn("Traceback", self.daemon.log)

    def execute(self, url: IndexUrl, *statements: str) -> None:
        """Execute statements on a connection of the test's own."""
        where: dict[str, Any] = (
            {"unix_socket": url.unix_socket} if url.unix_socket else {"host": url.host, "port": url.port}
        )
        connection = pymysql.connect(**where, user=url.user, password=url.password, autocommit=True)
        for statement in statements:
            connection.cursor().execute(statement)
        connection.close()

    async def test_dropped_database(self) -> None:
        """A database that is dropped and made again under a running daemon gets its tables again."""
        index = mysql_database(self)
        await self.start_daemon(index)
        self.execute(index, f"DROP DATABASE {index.database}", f"CREATE DATABASE {index.database}")
        await self.survive(lambda: None, goes_down=False)

    async def test_dropped_and_away(self) -> None:
        """A database that is dropped, and made again later."""
        index = mysql_database(self)
        await self.start_daemon(index)
        self.execute(index, f"DROP DATABASE {index.database}")
        await self.survive(lambda: self.execute(index, f"CREATE DATABASE {index.database}"))

    async def test_dropped_tables(self) -> None:
        """Each table that is dropped is made again."""
        index = mysql_database(self)
        await self.start_daemon(index)
        for n, table in enumerate(("contents", "fetching", "metadata", "datasets")):
            self.execute(index, f"DROP TABLE {index.database}.{table}")
            await self.tile(f"kat/{n + 1}/0_0_0.png", "hit")
            await self.tile(f"kat/xz/{128 * n}/0_0_0.png", "fwd=miss; stored")
            await self.daemon.rest()
        self.assertNotIn("Traceback", self.daemon.log)

    async def test_read_only(self) -> None:
        """A primary that has become read-only is unavailable until it can be written to again."""
        server: PrivateServer = await deferToThread(PrivateServer)
        self.addCleanup(deferToThread, server.end)
        index = mysql_database(self, server.options)
        self.execute(index, "CREATE USER tiles@localhost", f"GRANT ALL ON {index.database}.* TO tiles@localhost")
        await self.start_daemon(replace(index, user="tiles"))
        self.execute(index, "SET GLOBAL read_only = 1")
        await self.survive(lambda: self.execute(index, "SET GLOBAL read_only = 0"))

    async def test_few_connections(self) -> None:
        """A user with one connection, or two, is enough."""
        server: PrivateServer = await deferToThread(PrivateServer)
        self.addCleanup(deferToThread, server.end)
        for most in (1, 2):
            index = mysql_database(self, server.options)
            self.execute(
                index,
                f"CREATE USER few{most}@localhost WITH MAX_USER_CONNECTIONS {most}",
                f"GRANT ALL ON {index.database}.* TO few{most}@localhost",
            )
            await self.start_daemon(replace(index, user=f"few{most}"))
            paths = [f"kat/{plane}/{n}/0_0_0.png" for plane in ("xz", "yz") for n in (0, 130, 260, 390)]
            answers = await gatherResults([Deferred.fromCoroutine(self.daemon.get(path)) for path in paths])
            self.assertEqual({code for code, _, _ in answers}, {200})
            await self.daemon.rest()
            self.assertLessEqual(self.daemon.log.count("is unavailable"), 2, self.daemon.log)
            self.assertNotIn("Traceback", self.daemon.log)
            await self.daemon.stop()
            shutil.rmtree(self.place / "cache")

    async def test_strict_server(self) -> None:
        """A server that wants primary keys, short keys by default and strict values takes the schema."""
        strict = "STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO"
        server: PrivateServer = await deferToThread(
            PrivateServer, "--innodb-force-primary-key=1", "--innodb-default-row-format=compact", f"--sql-mode={strict}"
        )
        self.addCleanup(deferToThread, server.end)
        index = mysql_database(self, server.options)
        await self.start_daemon(index)
        self.assertNotIn("unavailable", self.daemon.log)

    async def test_tls(self) -> None:
        """A connection is encrypted for the authority that signed the server's certificate, and refused for another."""
        pem, other = self.place / "server.pem", self.place / "other.pem"
        pem.write_bytes(certificate())
        other.write_bytes(certificate())
        server: PrivateServer = await deferToThread(
            PrivateServer, f"--ssl-cert={pem}", f"--ssl-key={pem}", f"--ssl-ca={pem}"
        )
        self.addCleanup(deferToThread, server.end)
        index = mysql_database(self, server.options)
        self.execute(
            index,
            "CREATE USER tiles@localhost REQUIRE SSL",
            f"GRANT ALL ON {index.database}.* TO tiles@localhost",
        )
        config = self.configure("http://127.0.0.1:1", replace(index, user="tiles"))
        lines = config.read_text()
        for tls, up in ((f"&ssl_ca={other}", False), (f"&ssl_ca={pem}", True)):
            line = next(line for line in lines.splitlines() if line.startswith("url = mysql"))
            config.write_text(lines.replace(line, f"{line}{tls}&ssl_verify_identity=off"))
            daemon = await self.start(config)
            while "the index database is" not in daemon.log:
                await pause(0.05)
            self.assertEqual("the index database is available" in daemon.log, up, (tls, daemon.log))
            await daemon.stop()

    async def test_damaged_file(self) -> None:
        """An SQLite file with bad pages, and one that is none, are unavailable until they are replaced."""
        index = IndexUrl(mysql=False, path=str(self.place / "index.sqlite"))
        good = self.place / "good.sqlite"

        def mend() -> None:
            for ending in ("", "-wal", "-shm"):
                Path(index.path + ending).unlink(missing_ok=True)
            shutil.copyfile(good, index.path)

        for damage in (_spoil_pages, _spoil_all):
            await self.start_daemon(index)
            await self.daemon.stop()
            shutil.copyfile(index.path, good)
            await self.start_daemon(index)
            damage(Path(index.path))
            await self.survive(mend, goes_down=damage is _spoil_all)
            await self.daemon.stop()
            shutil.rmtree(self.place / "cache")
            Path(index.path).unlink()


def _spoil_pages(path: Path) -> None:
    """Overwrite all pages of a file but the first two."""
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(2 * 4096)
        file.write(b"\xaa" * (size - 2 * 4096))


def _spoil_all(path: Path) -> None:
    """Overwrite a whole file, and its log."""
    for name in (path, Path(f"{path}-wal")):
        if name.exists():
            with name.open("r+b") as file:
                size = file.seek(0, 2)
                file.seek(0)
                file.write(b"\xaa" * size)
