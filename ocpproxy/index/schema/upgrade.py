"""The upgrade of the schema, in numbered steps.

Step 0 is the historical set-up; each later file adds to it. A fresh database and a historical one go through all of
them, so there is one source for the schema, and a fresh database equals an upgraded one. ``metadata.version`` is the
number of steps that were applied. MySQL commits every statement at once, so a step that was interrupted is applied
again, and so are those from the one on whose table is missing; what exists already is skipped.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Protocol

_PACKAGE = "ocpproxy.index.schema"
_EXISTS = {1050, 1060, 1061, 1068}
"""MySQL: table exists, duplicate column, duplicate index, multiple primary key."""
_EXISTS_WORDS = ("already exists", "duplicate column name")
"""SQLite's words for the same."""
_TABLES = {
    0: ("contents", "datasets", "metadata", "fetching"),
    3: ("jobs", "job_failures"),
    4: ("accounts",),
    5: ("pins",),
}
"""The tables that a step makes."""
_ADD_VERSION = "ALTER TABLE metadata ADD COLUMN version INT NOT NULL DEFAULT 0"


class Cursor(Protocol):
    """The part of a DB-API cursor that is used here."""

    def execute(self, statement: str) -> object:
        """Execute one statement."""

    def fetchone(self) -> tuple[object, ...] | None:
        """Return the next row of the result."""


class SchemaTooNew(Exception):
    """The database was upgraded by a later version of ocpproxy."""


def statements(dialect: str, step: int) -> list[str]:
    """Return the statements of one step, without comments."""
    text = files(_PACKAGE).joinpath(dialect, f"{step}.sql").read_text(encoding="utf-8")
    text = re.sub(r"--.*", "", text)
    return [statement.strip() for statement in text.split(";") if statement.strip()]


def steps(dialect: str) -> int:
    """Return how many steps there are."""
    return sum(file.name.endswith(".sql") for file in files(_PACKAGE).joinpath(dialect).iterdir())


def upgrade(cursor: Cursor, dialect: str, errors: type[Exception]) -> int:
    """Bring the database to this version's schema, and return how many steps were applied.

    The caller holds a lock, and commits.

    :param errors: the driver's error class.
    :raises SchemaTooNew: when the database has more steps than this version knows.
    """
    applied = steps_applied(cursor, errors)
    last = steps(dialect)
    if applied > last:
        raise SchemaTooNew(f"the index has schema {applied}, this version knows {last}: install a newer ocpproxy")
    for step in range(applied, last):
        for statement in statements(dialect, step):
            _execute(cursor, statement, errors)
        if step == 0:
            _execute(cursor, _ADD_VERSION, errors)
        cursor.execute("SELECT COUNT(*) FROM metadata")
        if cursor.fetchone() != (1,):  # none, or more than the one there must be: the tiles are counted again
            cursor.execute("DELETE FROM metadata")
            cursor.execute("INSERT INTO metadata (numtiles) VALUES (0)")
        cursor.execute(f"UPDATE metadata SET version = {step + 1}")
    return last - applied


def steps_applied(cursor: Cursor, errors: type[Exception]) -> int:
    """Return how many steps the database has; no more than were before the one that makes a missing table."""
    try:
        cursor.execute("SELECT MAX(version) FROM metadata")
    except errors:
        return 0
    row = cursor.fetchone()
    applied = int(str(row[0])) if row and row[0] is not None else 0
    for step, tables in _TABLES.items():
        try:
            for table in tables if step < applied else ():
                cursor.execute(f"SELECT 1 FROM {table} WHERE 1 = 0")
                cursor.fetchone()
        except errors:
            return step
    return applied


def _execute(cursor: Cursor, statement: str, errors: type[Exception]) -> None:
    try:
        cursor.execute(statement)
    except errors as error:
        code = error.args[0] if error.args else None
        if code not in _EXISTS and not any(word in str(code) for word in _EXISTS_WORDS):
            raise
