"""What differs between MySQL and SQLite, as values, and a transaction that hides it.

SQL is written once, in words that both understand, with ``?`` for every value; a `Dialect` has the few words that
differ.
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
    placeholder: str
    begin: str | None
    """A statement that begins a writing transaction, where the driver does not."""
    insert_new: str
    """The words of an INSERT that passes over rows that are there already."""
    now: str
    """Microseconds since 1970 by the clock that all processes share."""
    for_update: str
    """Ends a SELECT whose rows stay locked until the transaction ends."""
    later: str
    """The later of a row's ``reftime`` and the time text ``{}``."""
    lost: Callable[[Exception], bool]
    """The connection was lost: the same interaction on a new one may well work."""
    conflict: Callable[[Exception], bool]
    """Another transaction was in the way: the same interaction may well work."""


MYSQL = Dialect(
    name="mysql",
    errors=pymysql.MySQLError,
    placeholder="%s",
    begin=None,
    insert_new="INSERT IGNORE INTO",
    now="CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)",
    for_update=" FOR UPDATE",
    later="GREATEST(reftime, CAST({} AS DATETIME(6)))",
    # Gone away, lost during query, lost at some point, idle-killed; and what PyMySQL says of a socket it has closed.
    lost=lambda e: (
        isinstance(e, pymysql.MySQLError) and e.args[:1] in ((2006,), (2013,), (2055,), (4031,), (0,), (1927,))
    ),
    conflict=lambda e: isinstance(e, pymysql.MySQLError) and e.args[:1] in ((1213,), (1205,), (1020,)),
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
    lost=lambda e: False,
    conflict=lambda e: isinstance(e, sqlite3.OperationalError) and "locked" in str(e),
)


class Transaction:
    """One transaction in a database thread; committed when the interaction returns, rolled back when it raises."""

    def __init__(self, cursor: Any, dialect: Dialect) -> None:
        self._cursor = cursor
        self.dialect = dialect

    def _execute(self, sql: str, values: Values) -> None:
        self._cursor.execute(sql.replace("?", self.dialect.placeholder), tuple(values))

    def run(self, sql: str, *values: Any) -> int:
        """Execute; the number of rows that were changed."""
        self._execute(sql, values)
        return int(self._cursor.rowcount)

    def run_many(self, sql: str, rows: Iterable[Values]) -> None:
        """Execute once for each row of values."""
        self._cursor.executemany(sql.replace("?", self.dialect.placeholder), list(rows))

    def many(self, sql: str, *values: Any) -> list[Row]:
        """All rows of the answer."""
        self._execute(sql, values)
        return [tuple(row) for row in self._cursor.fetchall()]

    def maybe(self, sql: str, *values: Any) -> Row | None:
        """The one row of the answer, or None."""
        rows = self.many(sql, *values)
        if len(rows) > 1:
            raise ValueError(f"expected at most one row, got {len(rows)}: {sql}")
        return rows[0] if rows else None

    def one(self, sql: str, *values: Any) -> Row:
        """The one row of the answer."""
        row = self.maybe(sql, *values)
        if row is None:
            raise ValueError(f"expected one row, got none: {sql}")
        return row
