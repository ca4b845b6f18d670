"""What differs between MySQL and SQLite, as values, and a transaction that hides it.

SQL is written once, in the words that both have in common, with ``?`` for every value. A `Dialect` holds the few words
that differ.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pymysql

Values = Sequence[Any]
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Dialect:
    """What differs between the databases."""

    name: str
    errors: type[Exception]
    """The base class of the driver's errors."""
    placeholder: str
    begin: str | None
    """The statement that begins a writing transaction, where the driver does not."""
    insert_new: str
    """The beginning of an INSERT that skips rows that exist already."""
    now: str
    """Microseconds since 1970 by the clock that all processes share."""
    for_update: str
    """Ends a SELECT whose rows stay locked until the transaction ends."""
    later: str
    """The later of a row's ``reftime`` and the time ``{}``."""
    lost: Callable[[Exception], bool]
    """Returns whether the connection was lost: the same interaction may work on a new one."""
    conflict: Callable[[Exception], bool]
    """Returns whether another transaction was in the way: the same interaction may work now."""
    crowded: Callable[[Exception], bool]
    """Returns whether there was no connection because the server gives no more of them."""
    refused: Callable[[Exception], bool]
    """Returns whether the fault is the database's, not the interaction's: it is down, read-only, damaged, or tables
    are missing."""
    damage: tuple[type[Exception], ...]
    """The classes of errors after which the whole database is read before it is used again."""
    check: str
    """A statement that shows whether the whole database can be read; its only row is ``ok``. Empty where a server
    does that itself."""


_MYSQL_LOST = {2006, 2013, 2055, 4031, 0, 1927}
"""MySQL's errors for a connection that the server has closed: before a query (2006, "server has gone away"), during one
(2013, 2055), because it was idle (4031) or was killed (1927). PyMySQL raises 0 for a socket that it has closed."""
_MYSQL_CONFLICT = {1213, 1205, 1020}
"""MySQL's errors for a deadlock (1213), a lock that was not free in time (1205), and a row that changed after it
was read (1020)."""


_MYSQL_CROWDED = {1040, 1203, 1226}
"""MySQL's errors for too many connections: of the server, of a user, of a user's account."""
_MYSQL_MISSING = {1046, 1049, 1051, 1054, 1146, 1932}
"""MySQL's errors for a database, a table or a column that is not there (any more)."""


def _mysql_refused(error: Exception) -> bool:
    ours = (pymysql.IntegrityError, pymysql.DataError, pymysql.ProgrammingError, pymysql.NotSupportedError)
    return not isinstance(error, ours) or _mysql_code(error) in _MYSQL_MISSING


def _sqlite_refused(error: Exception) -> bool:
    ours = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.NotSupportedError)
    return not isinstance(error, ours)


def _mysql_code(error: Exception) -> object:
    return error.args[0] if isinstance(error, pymysql.MySQLError) and error.args else None


MYSQL = Dialect(
    name="mysql",
    errors=pymysql.MySQLError,
    placeholder="%s",
    begin=None,
    insert_new="INSERT IGNORE INTO",
    now="CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)",
    for_update=" FOR UPDATE",
    later="GREATEST(reftime, CAST({} AS DATETIME(6)))",
    lost=lambda error: _mysql_code(error) in _MYSQL_LOST,
    conflict=lambda error: _mysql_code(error) in _MYSQL_CONFLICT,
    crowded=lambda error: _mysql_code(error) in _MYSQL_CROWDED,
    refused=_mysql_refused,
    damage=(),
    check="",
)
SQLITE = Dialect(
    name="sqlite",
    errors=sqlite3.Error,
    placeholder="?",
    begin="BEGIN IMMEDIATE",
    insert_new="INSERT OR IGNORE INTO",
    now="CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",
    for_update="",  # BEGIN IMMEDIATE has locked everything
    later="MAX(reftime, {})",
    lost=lambda error: False,
    conflict=lambda error: isinstance(error, sqlite3.OperationalError) and "locked" in str(error),
    crowded=lambda error: False,
    refused=_sqlite_refused,
    damage=(sqlite3.DatabaseError,),
    check="PRAGMA quick_check(1)",
)


class Transaction:
    """One transaction in a database thread: committed when the interaction returns, rolled back when it raises."""

    def __init__(self, cursor: Any, dialect: Dialect) -> None:
        self._cursor = cursor
        self.dialect = dialect

    def _execute(self, sql: str, values: Values) -> None:
        self._cursor.execute(sql.replace("?", self.dialect.placeholder), tuple(values))

    def run(self, sql: str, *values: Any) -> int:
        """Execute the statement and return the number of rows that were changed."""
        self._execute(sql, values)
        return int(self._cursor.rowcount)

    def run_many(self, sql: str, rows: Iterable[Values]) -> None:
        """Execute the statement once for each row of values."""
        self._cursor.executemany(sql.replace("?", self.dialect.placeholder), list(rows))

    def many(self, sql: str, *values: Any) -> list[Row]:
        """Return all rows of the result."""
        self._execute(sql, values)
        return [tuple(row) for row in self._cursor.fetchall()]

    def maybe(self, sql: str, *values: Any) -> Row | None:
        """Return the only row of the result, or None when it has none.

        :raises ValueError: when it has several.
        """
        rows = self.many(sql, *values)
        if len(rows) > 1:
            raise ValueError(f"expected at most one row, got {len(rows)}: {sql}")
        return rows[0] if rows else None

    def one(self, sql: str, *values: Any) -> Row:
        """Return the only row of the result.

        :raises ValueError: when it has none, or several.
        """
        row = self.maybe(sql, *values)
        if row is None:
            raise ValueError(f"expected one row, got none: {sql}")
        return row
