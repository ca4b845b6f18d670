"""The tables of the index, by numbered steps.

Step 0 is the historical set-up; each later file adds to it. A fresh database walks through all of them, a historical
one starts at 1, so there is one source for the schema and fresh equals upgraded. ``metadata.version`` is the number
of steps done. MySQL commits every ALTER at once, so a step that was interrupted is simply walked through again: what is
already there is passed over.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Protocol

_HERE = "ocpproxy.index.schema"
_THERE_ALREADY = {1050, 1060, 1061}
"""MySQL: table exists, duplicate column, duplicate index."""


class Cursor(Protocol):
    """The part of a DB-API cursor that is used here."""

    def execute(self, statement: str) -> object:
        """Execute one statement."""

    def fetchone(self) -> tuple[object, ...] | None:
        """The next row of its answer."""


class SchemaTooNew(Exception):
    """The database was upgraded by a later version of ocpproxy."""


def statements(dialect: str, step: int) -> list[str]:
    """The statements of one step, without comments."""
    text = files(_HERE).joinpath(dialect, f"{step}.sql").read_text(encoding="utf-8")
    text = re.sub(r"--.*", "", text)
    return [statement.strip() for statement in text.split(";") if statement.strip()]


def steps(dialect: str) -> int:
    """How many steps there are."""
    return len([file for file in files(_HERE).joinpath(dialect).iterdir() if file.name.endswith(".sql")])


def upgrade(cursor: Cursor, dialect: str, errors: type[Exception]) -> int:
    """Bring the database to this version's schema; the caller holds a lock and commits. Returns the steps taken.

    :param errors: the driver's error class.
    :raises SchemaTooNew: when it is already beyond.
    """
    done = _done(cursor, errors)
    last = steps(dialect)
    if done > last:
        raise SchemaTooNew(f"the index has schema {done}, this version knows {last}: install a newer ocpproxy")
    for step in range(done, last):
        for statement in statements(dialect, step):
            _execute(cursor, statement, errors)
        if step == 0:
            _execute(cursor, "ALTER TABLE metadata ADD COLUMN version INT NOT NULL DEFAULT 0", errors)
        cursor.execute("SELECT COUNT(*) FROM metadata")
        rows = cursor.fetchone()
        if rows != (1,):  # none, or more than the one there must be: the account is counted anew
            cursor.execute("DELETE FROM metadata")
            cursor.execute("INSERT INTO metadata (numtiles) VALUES (0)")
        cursor.execute(f"UPDATE metadata SET version = {step + 1}")
    return last - done


def _done(cursor: Cursor, errors: type[Exception]) -> int:
    """How many steps the database has behind it; a historical one has walked step 0 by hand."""
    try:
        cursor.execute("SELECT numtiles FROM metadata")
    except errors:
        return 0
    cursor.fetchone()
    try:
        cursor.execute("SELECT MAX(version) FROM metadata")
    except errors:
        _execute(cursor, "ALTER TABLE metadata ADD COLUMN version INT NOT NULL DEFAULT 0", errors)
        return 1
    found = cursor.fetchone()
    return max(1, int(str(found[0]))) if found and found[0] is not None else 1


def _execute(cursor: Cursor, statement: str, errors: type[Exception]) -> None:
    try:
        cursor.execute(statement)
    except errors as error:
        if not error.args or error.args[0] not in _THERE_ALREADY:
            raise
