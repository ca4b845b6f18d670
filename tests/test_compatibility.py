"""A cache and an index of the release before are used as they are."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SkipTest

from ocpproxy.config import IndexUrl
from tests.daemons import ROOT, DaemonCase
from tests.databases import mysql_database

ARCHIVE = Path(__file__).parent / "data" / "cache-0.1.0.tar.xz"
"""A cache directory, its SQLite index, a dump of its MariaDB index, and what was answered; made by version 0.1.0."""
GONE = "http://127.0.0.1:9"
"""The address of the upstream then, where nobody is now: all that is served comes from the cache."""


class CompatibilityTests(DaemonCase):
    """What version 0.1.0 has left."""

    def unpack(self) -> None:
        """Put the cache where the configuration has it."""
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(self.place, filter="data")
        self.tiles = len(list((self.place / "cache" / "tiles").rglob("*.png")))
        self.assertEqual(self.tiles, 286)

    async def check(self, index: IndexUrl | None = None) -> None:
        """Every tile is a hit with the same bytes and the same ETag, and fsck finds nothing to mend."""
        config = self.configure(GONE, index)
        daemon = await self.start(config)
        for path, expected in json.loads((self.place / "answers.json").read_text()).items():
            code, body, headers = await daemon.get(path)
            self.assertEqual((code, headers["cache-status"].partition(";")[2][:5]), (200, " hit"), path)
            self.assertEqual((headers["etag"], hashlib.sha256(body).hexdigest()), tuple(expected.values()), path)
        while not await daemon.metric("ocpproxy_cache_tiles"):
            await deferLater(reactor, 0.02)
        self.assertEqual(await daemon.metric("ocpproxy_cache_tiles"), self.tiles)
        self.assertEqual((await daemon.get("kat/image/xy/900/0_0_0.png"))[0], 200, "outside of a volume that is known")
        self.assertEqual(await daemon.stop(), 0)
        command = ["-m", "ocpproxy.cli", "fsck", "--config", str(config)]
        out, err, code = await getProcessOutputAndValue(sys.executable, command, path=str(ROOT))
        self.assertEqual((code, "nothing mended" in out.decode()), (0, True), out + err)

    async def test_sqlite(self) -> None:
        """The index is in SQLite."""
        self.unpack()
        await self.check()

    async def test_mariadb(self) -> None:
        """The index is in MariaDB."""
        self.unpack()
        url = mysql_database(self)
        if shutil.which("mariadb") is None:
            raise SkipTest("no MariaDB client is installed: apt-get install mariadb-server")
        socket = [f"--socket={url.unix_socket}"] if url.unix_socket else [f"--host={url.host}", f"--port={url.port}"]
        login = [*socket, f"--user={url.user}", f"--password={url.password}"]
        with (self.place / "index.sql").open("rb") as dump:
            subprocess.run(["mariadb", *login, url.database], stdin=dump, check=True)
        await self.check(url)
