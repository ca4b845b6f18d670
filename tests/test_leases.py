"""Leases: one process at a time, on both databases."""

from __future__ import annotations

from threading import Event

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from ocpproxy.config import IndexUrl
from ocpproxy.index import leases
from ocpproxy.index.database import Database
from ocpproxy.index.dialect import Transaction
from ocpproxy.index.leases import Leases
from tests.databases import OnDatabase, OnMariaDB, OnSQLite, started


class LeaseTests(OnDatabase):
    """Leases on every database."""

    async def leases(self, owner: str, url: IndexUrl, term: float = 10) -> Leases:
        """Return the leases of one process."""
        found = Leases(await started(self, url), owner, term, Clock())
        found.startService()
        self.addCleanup(found.stopService)
        return found

    async def test_one_at_a_time(self) -> None:
        """One process has a lease; another gets it after the release; releasing another's lease does nothing."""
        url = self.index_url()
        one, two = await self.leases("one", url), await self.leases("two", url)
        self.assertEqual([await one.acquire("a"), await two.acquire("a"), await two.acquire("b")], [True, False, True])
        await two.release("a")
        self.assertFalse(await two.acquire("a"))
        await one.release("a")
        self.assertTrue(await two.acquire("a"))

    async def test_race(self) -> None:
        """Of many processes that try to take a lease at once exactly one gets it."""
        url = self.index_url()
        found = [await self.leases(f"p{n}", url) for n in range(4)]
        for name in "abcdef":
            taken = await gatherResults([Deferred.fromCoroutine(one.acquire(name)) for one in found])
            self.assertEqual(sum(taken), 1)

    async def test_expiry(self) -> None:
        """A dead owner's lease is taken when it has expired, and not before; a living one's is renewed."""
        url = self.index_url()
        one, two = await self.leases("one", url, 3600.0), await self.leases("two", url)
        for name in "abc":
            await one.acquire(name)
        await self.expire(one.database, "c")
        await one._renew()
        await self.expire(one.database, "b")
        self.assertEqual([await two.acquire(name) for name in "abc"], [False, True, False])
        await self.expire(one.database, "a")
        self.assertTrue(await two.acquire("a"))
        await one.release("a")
        self.assertFalse(await one.acquire("a"), "what was taken over is not given back by its old owner")

    @staticmethod
    async def expire(database: Database, name: str) -> None:
        """Set a lease to have expired."""
        await database.run(lambda tx: tx.run("UPDATE fetching SET expires = expires - 3600000000 WHERE url = ?", name))

    async def test_real_time(self) -> None:
        """A lease lasts as long as its term, by the database's clock."""
        url = self.index_url()
        one, two = await self.leases("one", url, 0.5), await self.leases("two", url)
        began = reactor.seconds()
        await one.acquire("a")
        while not await two.acquire("a"):
            pass
        self.assertGreater(reactor.seconds() - began, 0.45)

    async def test_stop_releases(self) -> None:
        """A process that stops releases its leases; those of a dead one, and expired ones, are deleted."""
        url = self.index_url()
        one, two = await self.leases("one", url), await self.leases("two", url)
        for name in "abc":
            await one.acquire(name)
        await one._release_held()
        self.assertTrue(await two.acquire("a"))
        self.assertEqual(await two.database.run(leases.release_all, "two"), 1)
        await one.database.run(lambda tx: tx.run("INSERT INTO fetching (url) VALUES ('historical')"))
        self.assertEqual(await one.database.run(leases.delete_expired), ["historical"])

    async def test_successor(self) -> None:
        """A late release, for a cancelled request, does not release the lease of the next one."""
        url = self.index_url()
        one, two = await self.leases("one", url), await self.leases("two", url)
        left = Deferred.fromCoroutine(one.acquire("a"))
        left.addErrback(lambda _: None)
        left.cancel()
        while not await one.acquire("a"):
            pass
        for _ in range(10):
            self.assertFalse(await two.acquire("a"))
            await one._renew()
        await one.release("a")
        self.assertTrue(await two.acquire("a"))

    async def test_given_up(self) -> None:
        """A lease that comes when nobody waits any more is given back."""
        url = self.index_url()
        one, two = await self.leases("one", url), await self.leases("two", url)
        waiting = Deferred.fromCoroutine(one.acquire("a"))
        waiting.addErrback(lambda _: None)
        waiting.cancel()
        while not await two.acquire("a"):
            pass
        self.assertEqual(one._held, {})

    async def test_slow(self) -> None:
        """A database that is only slow is waited for: to go on without a lease is for one that answers nothing."""
        self.patch(leases, "PATIENCE", 8.0)  # a busy machine makes any answer slow
        self.patch(leases, "_SLOW", 60.0)
        url = self.index_url()
        one, two = await self.leases("one", url), await self.leases("two", url)
        two.reactor = reactor
        await one.acquire("a")
        locked: Deferred[None] = Deferred()
        unlock = Event()

        def hold(tx: Transaction) -> None:
            tx.run("UPDATE fetching SET expires = expires WHERE url = 'a'")
            two.reactor.callFromThread(locked.callback, None)
            unlock.wait(60)

        holding = Deferred.fromCoroutine(one.database.run_within(60, None, hold))
        await locked
        reactor.callLater(leases.PATIENCE * 0.75, unlock.set)  # the database is asked another question before
        asked = [Deferred.fromCoroutine(two.acquire("a")) for _ in range(4)]  # more than there are connections
        self.assertEqual(await gatherResults(asked), [False] * 4)
        await holding


class SQLiteLeaseTests(OnSQLite, LeaseTests, TestCase):
    """The same on SQLite."""


class MariaDBLeaseTests(OnMariaDB, LeaseTests, TestCase):
    """The same on MariaDB."""
