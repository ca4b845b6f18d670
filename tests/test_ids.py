"""Ids of stacks: they end at 2^24, those without tiles are used again, and without one nothing is stored."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from ocpproxy.index.dialect import Transaction
from ocpproxy.store import keys
from ocpproxy.store.space.usage import Usage
from tests.daemons import pause
from tests.databases import OnMariaDB, OnSQLite
from tests.stores import PICTURES, OpenStore, OpenStoreMixin, tile
from tests.test_tile_store import NoEvictor

LAST = keys.IDS - 1


class IdTests(OpenStoreMixin):
    """What must hold on every database."""

    async def use_up(self, opened: OpenStore, *taken: tuple[int, str]) -> None:
        """Give out ids, and let the next one be too large."""

        def insert(tx: Transaction) -> None:
            for number, name in (*taken, (keys.IDS, "a-token")):
                tx.run("INSERT INTO datasets (dataset, datasetid) VALUES (?, ?)", name, number)

        await opened.database.run(insert)
        opened.store.capacity.evictor = NoEvictor()

    async def test_gaps(self) -> None:
        """An id between others is used when the last one is gone."""
        opened = await self.open_store()
        await self.use_up(opened, (1, "one"), (2, "kat/xy/image/00000001"), (4, "four"))
        for n in range(3):
            some = [(tile(1, stack=f"kat/xy/image/1000000{n}"), PICTURES[n])]
            self.assertEqual(await opened.store.store(some), 1)
        usage = await opened.assert_consistent()
        self.assertEqual(usage.tiles, 3)

    async def test_none_left(self) -> None:
        """Stacks without tiles give their ids back; when none is left, no file is written and no row is lost."""
        self.patch(keys, "IDS", 8)
        opened = await self.open_store()
        await self.use_up(opened, *[(n, f"kat/xy/image/0000000{n}") for n in range(1, 8)])
        for n in range(9):
            some = [(tile(1, stack=f"kat/xy/image/1000000{n}"), PICTURES[n % 4])]
            self.assertEqual(await opened.store.store(some), int(n < 7), n)
            await opened.store.pending.reconciled()
        usage = await opened.assert_consistent()
        self.assertEqual((usage.tiles, opened.unstored), (7, 2))
        await opened.store.evict(Usage(2**62, 0), 1)
        self.assertEqual(await opened.store.store([(tile(1, stack="kat/xy/image/20000000"), PICTURES[0])]), 1)
        await opened.assert_consistent()
        self.flushLoggedErrors()

    async def test_written_without_the_index(self) -> None:
        """Tiles that were stored while nobody could tell are removed when there is no id: the cache stays bounded."""
        self.patch(keys, "IDS", 2)
        opened = await self.open_store()
        await self.use_up(opened, (1, "one"))
        await opened.store.write([(tile(1), PICTURES[0])])
        while len(opened.store.pending) or list(opened.store.files.walk()):
            await pause(0.02)
        self.assertEqual((await opened.assert_consistent()).tiles, 0)
        self.flushLoggedErrors()


class SQLiteIdTests(OnSQLite, IdTests, TestCase):
    """The same on SQLite."""


class MariaDBIdTests(OnMariaDB, IdTests, TestCase):
    """The same on MariaDB."""
