"""A look at the index database: is it there, whole, with all its tables, and can it be written to?

Everything here blocks and is called in a thread. It has a connection of its own, which is closed after each look.
"""

from __future__ import annotations

from typing import Any

from ocpproxy.index.backends import Backend
from ocpproxy.index.schema.upgrade import steps, steps_applied, upgrade

_TIMEOUT = 10
"""Seconds that a statement of a look may take."""
_CHECK_TIMEOUT = 300
"""Seconds that one statement of a schema step may take, or the check of a database that seems damaged."""
_WRITE = "DELETE FROM fetching WHERE url = ''"
"""Writes nothing, waits for no lock, and fails where nothing can be written."""


class SchemaBusy(Exception):
    """Another process is changing the schema."""


class DatabaseDamaged(Exception):
    """The database cannot be read as a whole."""


class Probe:
    """Looks at one database."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._damaged = False
        self.all_steps = steps(backend.dialect.name)
        """The steps of the schema: so many are applied to an empty database."""

    def suspect(self, error: Exception) -> None:
        """Remember that a statement failed: where the database may be damaged, the next look reads all of it."""
        self._damaged = self._damaged or type(error) in self._backend.dialect.damage

    def look(self) -> int:
        """Look; make or change tables where that is needed. Return how many steps of the schema were applied.

        :raises Exception: whatever is wrong; the message says what.
        """
        if self._damaged and self._backend.dialect.check:
            self._check()
            self._damaged = False
        applied = 0
        if self._try(lambda cursor: steps_applied(cursor, self._backend.dialect.errors)) != self.all_steps:
            applied = self._upgrade()
        self._try(lambda cursor: cursor.execute(_WRITE))
        return applied

    def answers(self) -> bool:
        """Return whether the server answers anything. That it gives no more connections is an answer too."""
        try:
            self._try(lambda cursor: cursor.execute("SELECT 1"))
        except self._backend.dialect.errors as error:
            return self._backend.dialect.crowded(error)
        return True

    def _try(self, work: Any) -> Any:
        """Return what some statements return, on a connection of their own."""
        connection = self._backend.connect(_TIMEOUT)
        try:
            result = work(connection.cursor())
            connection.commit()
            return result
        except self._backend.dialect.errors as error:
            if not self._backend.dialect.conflict(error):
                raise
            return None
        finally:
            connection.close()

    def _check(self) -> None:
        connection = self._backend.connect(_CHECK_TIMEOUT)
        try:
            cursor = connection.cursor()
            cursor.execute(self._backend.dialect.check)
            found = cursor.fetchone()
        finally:
            connection.close()
        if found != ("ok",):
            raise DatabaseDamaged(f"it is damaged: {str(found and found[0])[:200]}")

    def _upgrade(self) -> int:
        connection = self._backend.connect(_CHECK_TIMEOUT)
        try:
            cursor = connection.cursor()
            if not self._backend.lock_schema(cursor):
                raise SchemaBusy("another process is changing the schema")
            applied = upgrade(cursor, self._backend.dialect.name, self._backend.dialect.errors)
            connection.commit()
            return applied
        finally:
            connection.close()
