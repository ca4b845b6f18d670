"""How to connect to MySQL and to SQLite."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
from twisted.enterprise import adbapi

from ocpproxy.config import IndexUrl
from ocpproxy.index.dialect import MYSQL, SQLITE, Dialect

_STUCK = 10
"""Seconds after which a MySQL connection without an answer is given up; its thread is stuck until then."""
_SQLITE_LOCKED = 4
"""Seconds that a statement waits for another process's transaction."""
_COPIES_ON_WRITE = {"bcachefs", "btrfs", "zfs"}
"""File systems."""


@dataclass(frozen=True)
class Backend:
    """One database server or file. Nothing is opened before one of the functions is called."""

    dialect: Dialect
    make_pool: Callable[[Any, int], adbapi.ConnectionPool]
    """Returns a pool for a reactor, of at most so many connections."""
    most_connections: int
    connect: Callable[[int], Any]
    """Opens one connection outside of the pool, whose statements may take so many seconds."""
    lock_schema: Callable[[Any], bool]
    """Locks the schema for the connection of a cursor; returns whether it could."""


def backend(url: IndexUrl) -> Backend:
    """Return the backend that an address names."""
    return _mysql(url) if url.mysql else _sqlite(url.path)


def _mysql(url: IndexUrl) -> Backend:
    options: dict[str, Any] = {
        "user": url.user,
        "password": url.password,
        "database": url.database,
        "charset": "utf8mb4",
        "connect_timeout": 5,
        **({"unix_socket": url.unix_socket} if url.unix_socket else {"host": url.host, "port": url.port}),
        **({**dict(url.tls), "ssl_verify_cert": True, "ssl_verify_identity": url.tls_identity} if url.tls else {}),
    }

    def prepare(connection: Any) -> None:
        cursor = connection.cursor()
        # Times are UTC. Gap locks would only make deadlocks: every writer of rows locks `metadata` first.
        cursor.execute("SET SESSION time_zone = '+00:00'")
        cursor.execute("SET SESSION sql_mode = 'STRICT_TRANS_TABLES'")
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.close()

    def make_pool(reactor: Any, size: int) -> adbapi.ConnectionPool:
        pool = adbapi.ConnectionPool(
            "pymysql",
            cp_reactor=reactor,
            cp_reconnect=True,
            cp_noisy=False,
            cp_min=1,
            cp_max=size,
            cp_openfun=prepare,
            read_timeout=_STUCK,
            write_timeout=_STUCK,
            **options,
        )
        pool.connectionFactory = _ReconnectedConnection
        return pool

    def connect(timeout: int) -> Any:
        return pymysql.connect(read_timeout=timeout, write_timeout=timeout, **options)

    def lock_schema(cursor: Any) -> bool:
        # In a historical table a time may be 0, which strict modes refuse to write again.
        cursor.execute("SET SESSION time_zone = '+00:00', sql_mode = ''")
        cursor.execute("SELECT GET_LOCK('ocpproxy schema', 1)")
        return bool(cursor.fetchone() == (1,))

    return Backend(MYSQL, make_pool, 8, connect, lock_schema)


class _ReconnectedConnection(adbapi.Connection):
    """A connection that is replaced when the database has gone.

    adbapi's own logs two tracebacks for each one that cannot be rolled back any more. The error of the interaction is
    enough: it reaches its caller, and `availability` logs it once.
    """

    def rollback(self) -> None:
        """Roll back, and find out whether the database still answers; forget the connection when it does not."""
        connection: Any = self._connection
        try:
            connection.rollback()
            with connection.cursor() as cursor:
                cursor.execute(self._pool.good_sql)
            connection.commit()
        except Exception:
            self._pool.disconnect(connection)


def copies_on_write(path: str) -> bool:
    """Return whether the file system of a path writes each change to another place.

    SQLite's write-ahead log, which lets readers and a writer work at the same time, needs a file in mapped memory.
    Where a disk is full, or a quota used up, there is no place for a change of it, and the kernel ends the process
    (SIGBUS). Other file systems have reserved that place. So there the older rollback journal is used.
    """
    place = os.path.dirname(os.path.realpath(path))
    try:
        text = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return False  # no Linux
    kind, at = "", ""
    for line in text.split("\n"):
        fields = line.split(" ")
        mounted = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[1]) if len(fields) > 2 else ""
        is_above = mounted.startswith("/") and os.path.commonpath((place, mounted)) == mounted
        # What is mounted later hides what is there, whether it is the same directory or one above it.
        if is_above and (len(mounted) >= len(at) or at.startswith(mounted)):
            kind, at = fields[2], mounted
    return kind in _COPIES_ON_WRITE


def _sqlite(path: str) -> Backend:
    def prepare(connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA busy_timeout = {_SQLITE_LOCKED * 1000}")
        with suppress(sqlite3.OperationalError):  # another process has the file open, so its mode stays for now
            connection.execute(f"PRAGMA journal_mode = {'TRUNCATE' if copies_on_write(path) else 'WAL'}")
        connection.execute("PRAGMA synchronous = NORMAL")

    def make_pool(reactor: Any, size: int) -> adbapi.ConnectionPool:
        return adbapi.ConnectionPool(
            "sqlite3",
            path,
            cp_reactor=reactor,
            cp_noisy=False,
            cp_min=1,
            cp_max=size,
            cp_openfun=prepare,
            check_same_thread=False,
            isolation_level=None,
            timeout=_SQLITE_LOCKED,
        )

    def connect(timeout: int) -> Any:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, isolation_level=None, timeout=_SQLITE_LOCKED)
        prepare(connection)
        return connection

    def lock_schema(cursor: Any) -> bool:
        cursor.execute(SQLITE.begin)
        return True

    return Backend(SQLITE, make_pool, 2, connect, lock_schema)
