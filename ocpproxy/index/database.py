"""The index database: adbapi as a service that nobody waits for without bound.

MySQL (or MariaDB) through PyMySQL, or SQLite, behind one `Database`; what differs between them is a `Dialect` value.
SQL is written once, with ``?`` for every value.

**Up or away.** The gateway lives without its index: hits need none, and a miss can be fetched and stored and be
accounted for later. So the database is at every moment *up* or *away*, and `Database.run` raises `DatabaseUnavailable` at once
while it is away. It goes away when it refuses, or when an interaction outlasts the caller's patience (a frozen server
neither answers nor refuses); a probe finds it when it is back and tells those who asked (`when_up`). At the start it is
away until the schema has been looked at.

**Run twice.** A connection that MySQL has closed is noticed only by the statement that uses it (adbapi's
``cp_reconnect`` still lets that one fail), and InnoDB may choose a transaction as the victim of a deadlock. Both are
mended by running the interaction again, so interactions must be safe to run twice; ours compute what they add to an
account from the rows they find, within the transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pymysql
from twisted.application.service import Service
from twisted.enterprise import adbapi
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from ocpproxy.config import IndexUrl
from ocpproxy.index.dialect import MYSQL, SQLITE, Dialect, Transaction
from ocpproxy.index.schema.upgrade import upgrade

T = TypeVar("T")
P = ParamSpec("P")

PATIENCE = 5.0
"""Seconds that a background interaction may take before the database counts as away."""
_PROBE_EVERY = 0.5
_ATTEMPTS = 10
"""Runs of one interaction; more than the pool has connections, for all of them may have been closed by the server."""
_UPGRADE = 300
"""Seconds that one statement of a schema step may take."""
_STUCK = 10
"""Seconds after which a MySQL connection that says nothing is given up (its thread is stuck until then)."""


_REFUSALS = (pymysql.OperationalError, pymysql.InterfaceError, sqlite3.OperationalError)


class DatabaseUnavailable(Exception):
    """The database does not answer, or not in time. Nothing is wrong with what was asked."""


class OutcomeUnknown(DatabaseUnavailable):
    """The work was begun, and may still be carried out: its end is told to `late`."""


class Database(Service):
    """The index database.

    :param pool: makes the adbapi pool; called at `startService`, because twistd forks after makeService.
    :param connect: opens one connection outside the pool, for the schema.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        dialect: Dialect,
        pool: Callable[[], adbapi.ConnectionPool],
        connect: Callable[[], Any],
        up: Callable[[bool], None] = lambda up: None,
    ) -> None:
        self._reactor = reactor
        self.dialect = dialect
        self._make_pool = pool
        self._connect = connect
        self._told = up
        self._pool: adbapi.ConnectionPool | None = None
        self._schema_known = False
        self.up = False
        self.reason = "it has not answered yet"
        self._listeners: list[Callable[[], None]] = []
        self._waiting: list[Deferred[None]] = []
        self._probe = LoopingCall(self._look)
        self._probe.clock = reactor
        self._looking: Deferred[None] | None = None

    # -- life

    def startService(self) -> None:
        """Open the pool and begin to look whether the database is there."""
        super().startService()
        self._pool = self._make_pool()
        self._told(False)
        self._probe.start(_PROBE_EVERY)

    def stopService(self) -> Deferred[None] | None:
        """Stop looking. The pool closes itself when the reactor stops, behind everybody who may still use it."""
        super().stopService()
        self._probe.stop()
        self.up, self.reason = False, "the gateway is stopping"
        if self._looking is not None:
            self._looking.cancel()
        return None

    def close(self) -> None:
        """Close the pool now; for programs that end without a reactor's shutdown."""
        if self._pool is not None:
            self._pool.close()

    def when_up(self, call: Callable[[], None]) -> None:
        """Call this every time that the database has come back, the first time included."""
        self._listeners.append(call)

    def wait_up(self) -> Deferred[None]:
        """Fires when the database is up."""
        waiting: Deferred[None] = Deferred(lambda d: self._waiting.remove(d))
        self._waiting.append(waiting)
        if self.up:
            self._release()
        return waiting

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    # -- up and away

    def _look(self) -> None:
        """One turn of the probe: when the database is away, see whether it is back. Never two looks at a time."""
        if self.up or self._looking is not None:
            return
        self._looking = Deferred.fromCoroutine(self._arrive())
        self._looking.addErrback(lambda failure: self._log.failure("looking for the database", failure))
        self._looking.addBoth(lambda _: setattr(self, "_looking", None))

    async def _arrive(self) -> None:
        pool = self._pool
        if pool is None:
            return
        try:
            await pool.runInteraction(self._reading, lambda tx: tx.many("SELECT 1"), (), {})
            if not self._schema_known:
                taken = await deferToThreadPool(self._reactor, pool.threadpool, self._upgrade)
                self._schema_known = True
                self._log.info("index schema is ready, {taken} steps taken", taken=taken)
        except CancelledError:
            return
        except Exception as error:  # whatever a driver may raise: it is still away
            if self.reason != str(error):
                self._log.warn("the index database is away: {reason}", reason=str(error))
            self.reason = str(error)
            return
        if not self.running:
            return
        self.up, self.reason = True, ""
        self._told(True)
        self._log.info("the index database is up")
        self._release()
        for call in self._listeners:
            call()

    def _upgrade(self) -> int:
        connection = self._connect()
        try:
            cursor = connection.cursor()
            if self.dialect is MYSQL:
                cursor.execute("SELECT GET_LOCK('ocpproxy schema', 1)")
                if cursor.fetchone() != (1,):
                    raise DatabaseUnavailable("another process is making the schema")
            elif self.dialect.begin:
                cursor.execute(self.dialect.begin)
            taken = upgrade(cursor, self.dialect.name, self.dialect.errors)
            connection.commit()
            return taken
        finally:
            connection.close()

    def _gone(self, reason: str) -> DatabaseUnavailable:
        if self.up:
            self.up, self.reason = False, reason
            self._told(False)
            self._log.warn("the index database is away: {reason}", reason=reason)
        return DatabaseUnavailable(reason)

    def _too_slow(self, patience: float) -> OutcomeUnknown:
        reason = f"no answer within {patience:g} s"
        if patience == PATIENCE:  # a caller in a hurry says nothing of the database
            self._gone(reason)
        return OutcomeUnknown(reason)

    # -- work

    def _writing(self, cursor: Any, interaction: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        if self.dialect.begin:
            cursor.execute(self.dialect.begin)
        return self._reading(cursor, interaction, args, kwargs)

    def _reading(self, cursor: Any, interaction: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        return interaction(Transaction(cursor, self.dialect), *args, **kwargs)

    async def run(
        self,
        interaction: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run the interaction in a transaction, with the patience of background work.

        :raises DatabaseUnavailable: when the database is not there, or does not answer in time.
        """
        return await self._run(self._writing, PATIENCE, None, interaction, args, kwargs)

    async def read(
        self,
        interaction: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """The same for an interaction that only reads: each of its statements sees a snapshot, and it blocks nobody.

        :raises DatabaseUnavailable: when the database is not there, or does not answer in time.
        """
        return await self._run(self._reading, PATIENCE, None, interaction, args, kwargs)

    async def run_within(
        self,
        patience: float,
        late: Callable[[T | None], None] | None,
        interaction: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """`run` for somebody who waits at most `patience` seconds.

        An interaction cannot be called back: it may still be carried out when nobody waits for it any more (patience
        ran out, or the caller was cancelled). Its result then goes to `late`, or None when it came to nothing. That
        a short patience ran out does not yet mean that the database is away.

        :raises DatabaseUnavailable: when the database is not there; `OutcomeUnknown` when it does not answer in time.
        """
        return await self._run(self._writing, patience, late, interaction, args, kwargs)

    async def _run(
        self,
        within: Callable[..., T],
        patience: float,
        late: Callable[[T | None], None] | None,
        interaction: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> T:
        failed: Exception | None = None
        for _ in range(_ATTEMPTS):
            if not self.up or self._pool is None:
                raise DatabaseUnavailable(self.reason)
            wanted: list[bool] = [True]

            def if_wanted(cursor: Any, wanted: list[bool] = wanted) -> T:
                # Work that has been given up while it waited for a thread is not begun.
                if not wanted:
                    raise DatabaseUnavailable("nobody waits for it any more")
                return within(cursor, interaction, args, kwargs)

            work: Deferred[T] = self._pool.runInteraction(if_wanted)
            try:
                return await self._bounded(work, patience, late, wanted)
            except CancelledError:
                raise
            except self.dialect.errors as error:
                failed = error
                if self.dialect.conflict(error) or self.dialect.lost(error):
                    continue
                if isinstance(error, _REFUSALS):
                    break
                raise
        raise self._gone(str(failed)) from failed

    def _bounded(
        self, work: Deferred[T], patience: float, late: Callable[[T | None], None] | None, wanted: list[bool]
    ) -> Deferred[T]:
        """The result of the work, for `patience` seconds and as long as it is not cancelled."""

        def cancelled(_: object) -> None:
            wanted.clear()
            timer.cancel()

        def out_of_patience() -> None:
            wanted.clear()
            answer.errback(self._too_slow(patience))

        answer: Deferred[T] = Deferred(cancelled)
        timer = self._reactor.callLater(patience, out_of_patience)

        def finished(result: Any) -> None:
            if not answer.called:
                timer.cancel()
                answer.callback(result)
            elif late is not None:
                late(None if isinstance(result, Failure) else result)

        work.addBoth(finished)
        return answer


def open_database(url: IndexUrl, reactor: Any, up: Callable[[bool], None] = lambda up: None) -> Database:
    """The database that the address names; nothing is opened before it is started."""
    if url.mysql:
        options: dict[str, Any] = {
            "user": url.user,
            "password": url.password,
            "database": url.database,
            "charset": "utf8mb4",
            "connect_timeout": 5,
            **({"unix_socket": url.unix_socket} if url.unix_socket else {"host": url.host, "port": url.port}),
        }

        def prepare(connection: Any) -> None:
            cursor = connection.cursor()
            # Times are UTC. Gap locks would only make deadlocks: every writer of the account locks `metadata` first.
            cursor.execute("SET SESSION time_zone = '+00:00'")
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            cursor.close()

        return Database(
            reactor,
            MYSQL,
            lambda: adbapi.ConnectionPool(
                "pymysql",
                cp_reactor=reactor,
                cp_reconnect=True,
                cp_noisy=False,
                cp_min=1,
                cp_max=8,
                cp_openfun=prepare,
                read_timeout=_STUCK,
                write_timeout=_STUCK,
                **options,
            ),
            lambda: pymysql.connect(read_timeout=_UPGRADE, **options),
            up,
        )

    def pragmas(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA busy_timeout = 4000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    def connect() -> sqlite3.Connection:
        Path(url.path).parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(url.path, isolation_level=None, timeout=4)
        pragmas(connection)
        return connection

    return Database(
        reactor,
        SQLITE,
        lambda: adbapi.ConnectionPool(
            "sqlite3",
            url.path,
            cp_reactor=reactor,
            cp_noisy=False,
            cp_min=1,
            cp_max=2,
            cp_openfun=pragmas,
            check_same_thread=False,
            isolation_level=None,
            timeout=4,
        ),
        connect,
        up,
    )
