"""Databases for tests: an SQLite file, and a real MariaDB or MySQL with a database made for each test."""

from __future__ import annotations

import atexit
import os
import shutil
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
from ocpproxy.database import Database, open_database


@cache
def mysql_server() -> dict[str, Any] | None:
    """How to connect to a server that tests may use; one is started when none is there but the program is."""
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
    return _private_server()


def _answers(options: dict[str, Any]) -> bool:
    try:
        pymysql.connect(**options, connect_timeout=3).close()
    except pymysql.MySQLError:
        return False
    return True


def _private_server() -> dict[str, Any] | None:
    program = shutil.which("mariadbd", path=os.environ["PATH"] + ":/usr/sbin")
    install = shutil.which("mariadb-install-db")
    if program is None or install is None:
        return None
    home = Path(tempfile.mkdtemp(prefix="ocpproxy-mariadb-"))
    user = ["--user=root"] if os.geteuid() == 0 else []
    common = ["--no-defaults", f"--datadir={home}/data", *user]
    subprocess.run(
        [install, *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
        check=True,
        capture_output=True,
    )
    server = subprocess.Popen(
        [program, *common, f"--socket={home}/s", "--skip-networking", f"--pid-file={home}/pid"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def end() -> None:
        server.terminate()
        server.wait()
        shutil.rmtree(home, ignore_errors=True)

    atexit.register(end)
    options = {"unix_socket": f"{home}/s", "user": "root", "password": ""}
    deadline = time.monotonic() + 60
    while not _answers(options):
        if server.poll() is not None or time.monotonic() > deadline:
            return None
        os.sched_yield()
    return options


def mysql_database(case: TestCase) -> IndexUrl:
    """A new, empty database that goes with the test."""
    server = mysql_server()
    if server is None:
        raise SkipTest("no MariaDB server can be reached or started")
    name = f"ocpproxy_test_{uuid.uuid4().hex[:12]}"

    def execute(sql: str) -> None:
        connection = pymysql.connect(**server)
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
    """The address as it stands in an ini file."""
    if not url.mysql:
        return f"sqlite:///{url.path}"
    socket = f"?unix_socket={url.unix_socket}" if url.unix_socket else ""
    return f"mysql://{url.user}:{url.password}@{url.host}:{url.port}/{url.database}{socket}"


class OnSQLite:
    """The database of a test is an SQLite file."""

    def index_url(self) -> IndexUrl:
        """A new one."""
        assert isinstance(self, TestCase)
        return IndexUrl(mysql=False, path=str(Path(self.mktemp()).absolute()))


class OnMariaDB:
    """The database of a test is in a real server."""

    def index_url(self) -> IndexUrl:
        """A new one."""
        assert isinstance(self, TestCase)
        return mysql_database(self)


async def started(case: TestCase, url: IndexUrl, reactor_: Any = reactor) -> Database:
    """The database, up; it is stopped with the test."""
    database = open_database(url, reactor_)
    database.startService()
    case.addCleanup(database.close)
    case.addCleanup(database.stopService)
    waiting: Deferred[None] = database.wait_up()
    await waiting.addTimeout(30, reactor_)
    return database
