"""Databases for tests: an SQLite file, and a real MariaDB or MySQL with a database made for each test."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pymysql
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SkipTest, TestCase

from ocpproxy.config import IndexUrl
from ocpproxy.index.backends import backend
from ocpproxy.index.database import Database
from tests.mixins import CaseMixin

NO_SERVER = (
    "no MariaDB server: apt-get install mariadb-server, "
    "or name one that may be used in OCPPROXY_TEST_MYSQL=mysql://user:password@host:port/name"
)
"""Why a test is skipped. `.ci/run` looks for the first words."""
START_WITHIN = 300.0
"""Seconds in which a server or a database has to be ready."""


@cache
def mysql_server() -> dict[str, Any] | None:
    """Return how to connect to a server that tests may use, started if only its programs are there, or None."""
    named = os.environ.get("OCPPROXY_TEST_MYSQL")
    url = urlsplit(named or "mysql://root@127.0.0.1:3306/test")
    options: dict[str, Any] = {
        "host": url.hostname,
        "port": url.port or 3306,
        "user": unquote(url.username or ""),
        "password": unquote(url.password or ""),
    }
    if named or _answers(options):
        return options
    try:
        server = PrivateServer()
    except SkipTest:
        return None
    atexit.register(server.end)
    return server.options


def _answers(options: dict[str, Any]) -> bool:
    try:
        pymysql.connect(**options, connect_timeout=30).close()
    except pymysql.MySQLError:
        return False
    return True


class PrivateServer:
    """A MariaDB server of one test, in a temporary directory, behind a socket: it may be frozen and killed.

    :param more: options of the server.
    """

    def __init__(self, *more: str) -> None:
        program = shutil.which("mariadbd", path=os.environ["PATH"] + ":/usr/sbin")
        install = shutil.which("mariadb-install-db")
        if program is None or install is None:
            raise SkipTest(NO_SERVER)
        self.home = Path(tempfile.mkdtemp(prefix="ocpproxy-mariadb-"))
        user = ["--user=root"] if os.geteuid() == 0 else []
        common = ["--no-defaults", f"--datadir={self.home}/data", *user]
        fresh = [install, *common, "--auth-root-authentication-method=normal", "--skip-test-db"]
        for attempts_left in (2, 1, 0):  # on a busy machine the script fails at its end now and then
            made = subprocess.run(fresh, check=False, capture_output=True)
            if not made.returncode:
                break
            if not attempts_left:
                raise RuntimeError(f"mariadb-install-db failed: {made.stdout!r} {made.stderr!r}")
            shutil.rmtree(self.home / "data")
        self._command = [
            *(program, *common, f"--socket={self.home}/s", "--skip-networking", f"--pid-file={self.home}/pid", *more)
        ]
        self.options: dict[str, Any] = {"unix_socket": f"{self.home}/s", "user": "root", "password": ""}
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_WITHIN
        while not _answers(self.options):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the private MariaDB server does not start")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=0.05)

    def stop(self) -> None:
        """Stop the server, as a restart does."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait()

    def end(self) -> None:
        """Stop the server and remove its directory."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)


def mysql_database(case: TestCase, server: dict[str, Any] | None = None) -> IndexUrl:
    """Make an empty database, and drop it with the test."""
    server = server or mysql_server()
    if server is None:
        raise SkipTest(NO_SERVER)
    name = f"ocpproxy_test_{uuid.uuid4().hex[:12]}"

    def execute(sql: str) -> None:
        connection = pymysql.connect(**server, read_timeout=60)  # a test that failed may have left it frozen
        connection.cursor().execute(sql)
        connection.close()

    execute(f"CREATE DATABASE {name}")
    case.addCleanup(execute, f"DROP DATABASE IF EXISTS {name}")
    return IndexUrl(
        mysql=True,
        host=server.get("host", "localhost"),
        port=server.get("port", 3306),
        user=server["user"],
        password=server["password"],
        database=name,
        unix_socket=server.get("unix_socket", ""),
    )


def as_option(url: IndexUrl) -> str:
    """Return the address as it is written in an ini file."""
    if not url.mysql:
        return f"sqlite:///{url.path}"
    socket = f"?unix_socket={url.unix_socket}" if url.unix_socket else ""
    return f"mysql://{url.user}:{url.password}@{url.host}:{url.port}/{url.database}{socket}"


class OnDatabase(CaseMixin):
    """Tests that are run on each kind of database; `OnSQLite` and `OnMariaDB` come before this in the bases."""

    def index_url(self) -> IndexUrl:
        """Return the address of a new, empty database."""
        raise NotImplementedError


class OnSQLite(OnDatabase):
    """The database of a test is an SQLite file."""

    def index_url(self) -> IndexUrl:
        """Return the address of a new file."""
        return IndexUrl(mysql=False, path=str(Path(self.mktemp()).absolute()))


class OnMariaDB(OnDatabase):
    """The database of a test is in a real server."""

    def index_url(self) -> IndexUrl:
        """Return the address of a new database."""
        return mysql_database(self)


async def started(case: TestCase, url: IndexUrl, reactor_: Any = reactor) -> Database:
    """Start a database, and return it when it is available. It is stopped with the test."""
    database = Database(reactor_, backend(url))
    database.startService()
    case.addCleanup(database.close)
    case.addCleanup(database.stopService)
    waiting: Deferred[None] = database.wait_available()
    await waiting.addTimeout(START_WITHIN, reactor_)
    return database
