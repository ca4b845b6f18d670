"""The database: one suite for SQLite and MariaDB, and what only a server can do."""

from __future__ import annotations

import sqlite3
from threading import Event
from typing import Any

import pymysql
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from ocpproxy.config import IndexUrl
from ocpproxy.index.backends import backend
from ocpproxy.index.database import Database, DatabaseUnavailable, OutcomeUnknown
from ocpproxy.index.descriptions import Description, Descriptions
from ocpproxy.index.dialect import Transaction
from ocpproxy.index.schema import upgrade
from ocpproxy.model.dataset import Channel, Dataset, Level
from tests.databases import OnDatabase, OnMariaDB, OnSQLite, started

HISTORICAL = """
CREATE TABLE contents (highkey BIGINT, lowkey BIGINT, filename VARCHAR(255), reftime TIMESTAMP,
  PRIMARY KEY (highkey, lowkey));
CREATE TABLE datasets (dataset VARCHAR(255) PRIMARY KEY, datasetid INT UNIQUE AUTO_INCREMENT, ximagesz INT,
  yimagesz INT, zoffset INT, zmaxslice INT, zscale FLOAT);
CREATE TABLE metadata (numtiles BIGINT);
INSERT INTO metadata (numtiles) VALUES (2);
CREATE TABLE fetching (url VARCHAR(255) PRIMARY KEY);
INSERT INTO contents (highkey, lowkey, filename) VALUES (65536, 1, '/data/cache/kat_xy/r0/sl1/y0x1.png');
INSERT INTO contents (highkey, lowkey, filename) VALUES (65536, 2, '/data/cache/kat_xy/r0/sl1/y0x2.png');
INSERT INTO fetching (url) VALUES ('http://host/ca/kat/npz/0/0,512/0,512/1,17/');
"""


class DatabaseTests(OnDatabase):
    """What every database does."""

    async def test_commit_and_roll_back(self) -> None:
        """What an interaction returns is committed; what raises has changed nothing."""
        database = await started(self, self.index_url())

        def spoil(tx: Transaction) -> None:
            tx.run("UPDATE metadata SET numtiles = 99")
            raise KeyError("spoilt")

        def count(tx: Transaction) -> int:
            return int(tx.one("SELECT numtiles FROM metadata")[0])

        def add(tx: Transaction, by: int) -> int:
            return tx.run("UPDATE metadata SET numtiles = numtiles + ?", by)

        with self.assertRaises(KeyError):
            await database.run(spoil)
        self.assertEqual(await database.run(add, 3), 1)
        self.assertEqual(await database.read(count), 3)

    async def test_side_by_side(self) -> None:
        """Read-modify-write interactions that run at once lose nothing."""
        database = await started(self, self.index_url())

        def increment(tx: Transaction) -> None:
            (found,) = tx.one("SELECT numtiles FROM metadata" + tx.dialect.for_update)
            tx.run("UPDATE metadata SET numtiles = ?", int(found) + 1)

        await gatherResults([Deferred.fromCoroutine(database.run(increment)) for _ in range(40)])
        (found,) = await database.read(lambda tx: tx.one("SELECT numtiles FROM metadata"))
        self.assertEqual(found, 40)

    async def test_descriptions_wait_for_the_database(self) -> None:
        """A description that comes while the database is unavailable is saved when it is back; of two, the newer."""
        database = await started(self, self.index_url())
        descriptions = Descriptions(database, reactor)
        grid = Level((64, 64, 4), (0, 0, 1), (64, 64, 4))
        dataset = Dataset("kat", {0: grid}, (Channel("image", "image", "uint8"),), "image")
        database._availability.down("for the test")
        newest = Description("second", 2.0)
        saves = [
            Deferred.fromCoroutine(descriptions.save(dataset, "here", description))
            for description in (Description("first", 1.0), newest)
        ]
        await gatherResults(saves)
        self.assertEqual(await descriptions.load("kat", "here"), newest)
        self.assertIsNone(await descriptions.load("kat", "elsewhere"))

    async def test_values_are_bound(self) -> None:
        """Quotes, marks and percent signs in values are values."""
        database = await started(self, self.index_url())
        name = "'; DROP TABLE fetching; -- ? %s %"

        def keep(tx: Transaction) -> list[tuple[Any, ...]]:
            tx.run("INSERT INTO fetching (url, owner, expires) VALUES (?, ?, ?)", name, "me", 5)
            return tx.many("SELECT url, owner, expires FROM fetching")

        self.assertEqual(await database.run(keep), [(name, "me", 5)])

    async def test_names_keep_their_case(self) -> None:
        """Tokens that differ in case only are two tokens."""
        database = await started(self, self.index_url())

        def keep(tx: Transaction) -> int:
            for name in ("kat", "Kat"):
                tx.run("INSERT INTO fetching (url) VALUES (?)", name)
                tx.run("INSERT INTO datasets (dataset) VALUES (?)", name)
            return len(tx.many("SELECT datasetid FROM datasets WHERE dataset = ?", "KAT"))

        self.assertEqual(await database.run(keep), 0)

    async def test_shared_clock(self) -> None:
        """The database's time is microseconds since 1970."""
        database = await started(self, self.index_url())
        (now,) = await database.read(lambda tx: tx.one(f"SELECT {tx.dialect.now}"))
        self.assertLess(abs(now / 1e6 - reactor.seconds()), 30)

    async def test_nobody_waits_for_what_is_unavailable(self) -> None:
        """Before it is up, and when it is stopped, run raises at once."""
        database = Database(reactor, backend(self.index_url()))
        with self.assertRaises(DatabaseUnavailable):
            await database.run(lambda tx: None)
        database = await started(self, self.index_url())
        database.stopService()
        with self.assertRaises(DatabaseUnavailable):
            await database.run(lambda tx: None)
        database.startService()

    async def test_late_result(self) -> None:
        """A result that comes when nobody waits any more is given to `late`: after patience, and after a cancel."""
        database = await started(self, self.index_url())
        for leaves in (False, True):
            begun: Deferred[None] = Deferred()
            late: Deferred[str | None] = Deferred()
            go_on = Event()

            def slow(tx: Transaction, begun: Deferred[None] = begun, go_on: Event = go_on) -> str:
                IReactorFromThreads(reactor).callFromThread(begun.callback, None)
                go_on.wait(20)
                return "done"

            patience = 20 if leaves else 0.2
            work = Deferred.fromCoroutine(database.run_within(patience, late.callback, slow))
            outcome: Deferred[Any] = work.addErrback(lambda failure: failure.type)
            await begun
            if leaves:
                work.cancel()
            self.assertIs(await outcome, CancelledError if leaves else OutcomeUnknown)
            self.assertTrue(database.available, "a short patience does not mean that it is unavailable")
            go_on.set()
            self.assertEqual(await late.addTimeout(300, reactor), "done")

    async def test_not_begun(self) -> None:
        """Work that was given up while it waited for a thread is not begun, and that is reported."""
        database = await started(self, self.index_url())
        ran: list[int] = []
        reported: list[Deferred[None]] = []

        def note(tx: Transaction, number: int) -> None:
            ran.append(number)

        for n in range(50):
            reported.append(Deferred())
            work = Deferred.fromCoroutine(database.run_within(20, reported[-1].callback, note, n))
            work.addErrback(lambda failure: failure.trap(CancelledError))
            work.cancel()
        await gatherResults(reported)
        self.assertLess(len(ran), 20)

    async def test_two_come_at_once(self) -> None:
        """Daemons that start together on an empty database make its schema once."""
        url = self.index_url()
        databases = await gatherResults([Deferred.fromCoroutine(started(self, url)) for _ in range(3)])
        (rows,) = await databases[0].read(lambda tx: tx.one("SELECT COUNT(*) FROM metadata"))
        self.assertEqual(rows, 1)

    async def test_newer_schema_is_left_alone(self) -> None:
        """A database of a later version is not touched, and the reason is given."""
        url = self.index_url()
        database = await started(self, url)
        await database.run(lambda tx: tx.run("UPDATE metadata SET version = 99"))
        other = Database(reactor, backend(url))
        other.startService()
        self.addCleanup(other.close)
        self.addCleanup(other.stopService)
        while "schema 99" not in other.reason:
            await deferLater(reactor, 0.01)
        self.assertFalse(other.available)


class SQLiteTests(OnSQLite, DatabaseTests, TestCase):
    """The same on SQLite."""

    async def test_fresh_is_upgraded(self) -> None:
        """A historical database becomes what a fresh one is."""

        def shape(path: str) -> list[Any]:
            connection = sqlite3.connect(path)
            tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            columns = {t: connection.execute(f"PRAGMA table_info({t})").fetchall() for t in tables}
            indices = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index'").fetchall()
            connection.close()
            return [columns, indices]

        old, fresh = self.index_url(), self.index_url()
        connection = sqlite3.connect(old.path)
        for statement in upgrade.statements("sqlite", 0):
            connection.execute(statement)
        connection.execute("INSERT INTO metadata (numtiles) VALUES (7)")
        connection.commit()
        connection.close()
        database = await started(self, old)
        await started(self, fresh)
        self.assertEqual(shape(old.path), shape(fresh.path))
        self.assertEqual(await database.read(lambda tx: tx.one("SELECT numtiles, bytes FROM metadata")), (7, 0))


class MariaDBTests(OnMariaDB, DatabaseTests, TestCase):
    """The same on MariaDB, and what only a server can do."""

    def connection(self, url: IndexUrl) -> Any:
        """Return a connection of the test's own."""
        where: dict[str, Any] = {"unix_socket": url.unix_socket} if url.unix_socket else {"host": url.host}
        found = pymysql.connect(
            user=url.user, password=url.password, port=url.port, database=url.database, autocommit=True, **where
        )
        self.addCleanup(found.close)
        return found

    def shape(self, url: IndexUrl) -> list[Any]:
        """Return columns, indices and engines."""
        cursor = self.connection(url).cursor()
        found = []
        for sql in (
            "SELECT table_name, column_name, column_type, is_nullable, column_default, extra, collation_name "
            "FROM information_schema.columns WHERE table_schema = %s ORDER BY table_name, column_name",
            "SELECT table_name, index_name, seq_in_index, column_name, non_unique "
            "FROM information_schema.statistics WHERE table_schema = %s ORDER BY 1, 2, 3",
            "SELECT table_name, engine FROM information_schema.tables WHERE table_schema = %s ORDER BY 1",
        ):
            cursor.execute(sql, (url.database,))
            found.append(cursor.fetchall())
        return found

    async def test_fresh_is_upgraded(self) -> None:
        """A database made by the historical statements, in MyISAM and with rows, becomes what a fresh one is."""
        old, fresh = self.index_url(), self.index_url()
        cursor = self.connection(old).cursor()
        for statement in HISTORICAL.split(";"):
            if statement.strip():
                engine = " ENGINE = MyISAM DEFAULT CHARSET = latin1" if "CREATE" in statement else ""
                cursor.execute(statement + engine)
        database = await started(self, old)
        await started(self, fresh)
        self.assertEqual(self.shape(old), self.shape(fresh))
        self.assertEqual(await database.read(lambda tx: tx.one("SELECT numtiles, bytes FROM metadata")), (2, 0))
        self.assertEqual(await database.read(lambda tx: tx.one("SELECT COUNT(*) FROM contents")), (2,))

    async def test_interrupted_upgrade(self) -> None:
        """An upgrade that was cut short after any statement is finished by the next start."""
        fresh = self.index_url()
        await started(self, fresh)
        first = upgrade.statements("mysql", 0)
        statements = [*first, upgrade._ADD_VERSION, *upgrade.statements("mysql", 1)]
        for done in (*range(1, len(first) + 2), len(first) + 6, len(statements)):
            url = self.index_url()
            cursor = self.connection(url).cursor()
            for statement in statements[:done]:
                upgrade._execute(cursor, statement, pymysql.MySQLError)
            await started(self, url)
            self.assertEqual(self.shape(url), self.shape(fresh), f"after {done} statements")

    async def test_times_that_are_none(self) -> None:
        """Historical rows may have the time 0, which strict servers refuse to write again."""
        url = self.index_url()
        cursor = self.connection(url).cursor()
        cursor.execute("SET SESSION sql_mode = ''")
        for statement in upgrade.statements("mysql", 0):
            cursor.execute(statement)
        cursor.execute("INSERT INTO contents VALUES (1, 2, 'x', '0000-00-00 00:00:00')")
        cursor.execute("INSERT INTO metadata (numtiles) VALUES (1)")
        database = await started(self, url)
        (year,) = await database.read(lambda tx: tx.one("SELECT YEAR(reftime) FROM contents"))
        self.assertEqual(year, 1970)

    async def kill_all(self, url: IndexUrl, database: Database) -> int:
        """Close every connection of the database from the server's side."""
        connection = self.connection(url)
        cursor = connection.cursor()
        cursor.execute(
            "SELECT id FROM information_schema.processlist WHERE db = %s AND id <> CONNECTION_ID()", (url.database,)
        )
        ids = [row[0] for row in cursor.fetchall()]
        for one in ids:
            cursor.execute(f"KILL {one}")
        return len(ids)

    async def test_killed_connections(self) -> None:
        """Connections that the server has closed cost nobody anything."""
        url = self.index_url()
        database = await started(self, url)

        def sleep(tx: Transaction) -> None:
            tx.many("SELECT SLEEP(0.05)")

        await gatherResults([Deferred.fromCoroutine(database.run(sleep)) for _ in range(8)])
        self.assertGreater(await self.kill_all(url, database), 4)
        answers = await gatherResults(
            [Deferred.fromCoroutine(database.run(lambda tx: tx.one("SELECT 1")[0])) for _ in range(16)]
        )
        self.assertEqual(answers, [1] * 16)
        self.assertTrue(database.available)
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_deadlock(self) -> None:
        """The victim of a deadlock is run again."""
        url = self.index_url()
        database = await started(self, url)
        await database.run(lambda tx: [tx.run("INSERT INTO fetching (url) VALUES (?)", n) for n in "ab"])

        def cross(tx: Transaction, first: str, second: str) -> None:
            tx.run("UPDATE fetching SET expires = expires + 1 WHERE url = ?", first)
            tx.many("SELECT SLEEP(0.3)")
            tx.run("UPDATE fetching SET expires = expires + 1 WHERE url = ?", second)

        await gatherResults([Deferred.fromCoroutine(database.run(cross, *pair)) for pair in (("a", "b"), ("b", "a"))])
        rows = await database.read(lambda tx: tx.many("SELECT expires FROM fetching"))
        self.assertEqual(rows, [(2,), (2,)])

    async def test_refused(self) -> None:
        """A server that refuses is unavailable, and is found when it is there."""
        url = self.index_url()
        self.connection(url).cursor().execute(f"DROP DATABASE {url.database}")
        database = Database(reactor, backend(url))
        database.startService()
        self.addCleanup(database.close)
        self.addCleanup(database.stopService)
        while "nknown database" not in database.reason:
            await deferLater(reactor, 0.01)
        back: Deferred[None] = Deferred()
        database.when_available(lambda: back.callback(None))
        server = pymysql.connect(host=url.host, user=url.user, password=url.password, port=url.port)
        server.cursor().execute(f"CREATE DATABASE {url.database}")
        server.close()
        await back.addTimeout(300, reactor)
        self.assertEqual(await database.run(lambda tx: tx.one("SELECT 1")[0]), 1)
