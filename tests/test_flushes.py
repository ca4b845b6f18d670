"""Flushes of a store, on both databases: what they cover, in all processes, and what becomes of the files."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ocpproxy.imagery import png
from ocpproxy.index.leases import Leases
from ocpproxy.model.dataset import Plane
from ocpproxy.model.stack import Tile
from ocpproxy.store import flush, flushes, keys
from ocpproxy.store.cleaning import Cleaning
from ocpproxy.store.flush import Area, Flush, NoFlush
from tests.databases import OnMariaDB, OnSQLite
from tests.stores import PICTURES, OpenStore, OpenStoreMixin, tile
from tests.volumes import em

BLACK = png.grey(em()[0, :512, :512] * 0)
SPANS = st.tuples(st.integers(0, 4), st.integers(0, 4))
STACKS = (
    "kat/xy/image/00000000",
    "kat/xz/image/00000000",
    "kat/xy/other/00000000",
    "kat/xy/~0123456789abcdef/00000000",
)
TILES = st.builds(
    Tile,
    st.sampled_from([*STACKS, "kat1/xy/image/00000000", "ka/xy/image/00000000"]),
    *(st.integers(0, 3) for _ in range(5)),
)
FLUSHES = st.builds(
    Flush,
    st.floats(0, 1e9),
    st.sampled_from(["kat", "kat1", "ka"]),
    st.sampled_from([(), ("image",), ("other", "image")]),
    st.sampled_from([tuple(Plane), (Plane.XY,), (Plane.XZ, Plane.YZ)]),
    st.sampled_from([(0, None), (1, 2), (3, 3), (2, None)]),
    st.none() | SPANS,
    st.none()
    | st.dictionaries(
        st.tuples(st.sampled_from(list(Plane)), st.integers(0, 3)), st.builds(Area, SPANS, SPANS, SPANS), max_size=4
    ),
)


class FlushTests(SynchronousTestCase):
    """What one flush covers."""

    @given(FLUSHES)
    def test_text(self, one: Flush) -> None:
        """A flush is read as it was written."""
        self.assertEqual(Flush.of_text(one.to_text()), one)

    @given(FLUSHES, TILES)
    def test_covers(self, one: Flush, tile_: Tile) -> None:
        """A tile is covered if each of its numbers is within, and it was made in time."""
        token, plane, channel, _ = tile_.stack.split("/")
        first, last = one.levels
        within = [
            token == one.token,
            Plane(plane) in one.planes,
            not one.channels or channel in one.channels or channel[0] == "~",
            first <= tile_.level <= (99 if last is None else last),
            one.times is None or one.times[0] <= tile_.time <= one.times[1],
        ]
        if one.areas is not None:
            area = one.areas.get((Plane(plane), tile_.level), Area((0, 0), (0, 0), (0, 0)))
            for number, (low, high) in ((tile_.row, area.rows), (tile_.col, area.cols), (tile_.slice, area.slices)):
                within.append(low <= number < high)
        self.assertEqual(one.covers(tile_, one.at), all(within))
        self.assertFalse(one.covers(tile_, one.at + 1))

    @given(
        st.text()
        | st.dictionaries(st.sampled_from([*json.loads(Flush(1.0, "a").to_text())]), st.integers() | st.text()).map(
            lambda changed: json.dumps({**json.loads(Flush(1.0, "a").to_text()), **changed, "token": "../x"})
        )
    )
    def test_hostile(self, text: str) -> None:
        """Whatever else is in the file is refused."""
        self.assertRaises(NoFlush, Flush.of_text, text)

    def test_walk(self) -> None:
        """The files of a flush are those that it covers, and links are not followed."""
        place = Path(self.mktemp())
        found = []
        for stack in (*STACKS, "kat1/xy/image/00000000"):
            for n in range(3**4):
                one = Tile(stack, n % 3, n // 3 % 3, n // 9 % 3, n // 27, 1)
                path = place / keys.path(one)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                os.utime(path, (n, n))
                found.append((one, n))
        (place / "kat" / "yz").symlink_to(place.absolute() / "kat1" / "xy")
        areas = {(Plane.XY, 1): Area((0, 2), (0, 5), (1, 3)), (Plane.XZ, 2): Area((0, 5), (0, 5), (0, 5))}
        for wanted in (
            Flush(1e9, "kat"),
            Flush(40.0, "kat", ("image",), (Plane.XY, Plane.YZ), (1, None), (0, 1)),
            Flush(60.0, "kat", areas=areas),
            Flush(60.0, "nothing"),
        ):
            expected = {tile_ for tile_, made in found if wanted.covers(tile_, made)}
            self.assertEqual({tile_ for tile_, _ in flush.walk(place, wanted)}, expected)


class FlushedStoreTests(OpenStoreMixin):
    """Two processes with one cache."""

    async def flushed(self, opened: OpenStore, wanted: Flush) -> str:
        """Flush, and check that all processes know it; return its name."""
        name, silent = await opened.store.flushes.add(
            replace(wanted, at=opened.store.flushes.context.now() - wanted.at)
        )
        self.assertEqual(silent, set())
        return name

    def cleaning(self, opened: OpenStore) -> Cleaning:
        """Return what removes the files."""
        leases = Leases(opened.database, opened.store.journal._owner, 30, reactor)
        return Cleaning(opened.store, leases, reactor, pause=0)

    async def served(self, opened: OpenStore, tiles: list[Tile]) -> list[Tile]:
        """Return those tiles that a process serves."""
        now = []
        for one in tiles:
            file = opened.store.open_now(one)
            if file is not None:
                file.close()
                now.append(one)
        self.assertEqual([one for one in tiles if await opened.store.read(one)], now)
        self.assertEqual([*await opened.store.sizes(tiles)], now)
        return now

    async def test_gone_at_once(self) -> None:
        """Neither process serves what was flushed; nothing else is gone; files, rows and totals follow."""
        one, two = await self.open_store("one"), await self.open_store("two")
        other = "kat1/xy/image/0123abcd"
        tiles = [tile(n, level=n % 3) for n in range(30)]
        others = [tile(n, stack=other) for n in range(5)]
        await one.store.write([(t, PICTURES[t.slice % 4]) for t in tiles[:20]])
        await two.store.write([(t, BLACK if t.slice % 2 else PICTURES[0]) for t in tiles[20:] + others])
        await self.flushed(one, Flush(0, "kat", levels=(1, 2)))
        left = [t for t in tiles if t.level == 0] + others
        for opened in (one, two):
            self.assertEqual(await self.served(opened, tiles + others), left)
        self.assertTrue(await self.cleaning(two).clean())
        await one.store.flushes.look()
        self.assertEqual((len(one.store.flushes.active), os.listdir(one.store.flushes.directory)), (0, []))
        for opened in (one, two):
            self.assertEqual(await self.served(opened, tiles + others), left)
        await one.store.pending.reconciled()
        await one.store.refresh()
        self.assertEqual((await one.assert_consistent()).tiles, len(left))

    async def test_asked_for_before(self) -> None:
        """What was asked for before a flush is not stored after it, even over an old file; what comes later is."""
        one, two = await self.open_store("one"), await self.open_store("two")
        black, grey, both = tile(1), tile(2), [tile(1), tile(2)]
        await one.store.write([(black, BLACK), (grey, PICTURES[0])])
        before = [opened.store.flushes.looked for opened in (one, two)]
        await self.flushed(one, Flush(0, "kat"))
        for opened, made in zip((one, two), before, strict=True):
            self.assertEqual(await opened.store.write([(black, BLACK), (grey, PICTURES[1])], made), 0)
            self.assertEqual(await self.served(opened, both), [])
        await two.store.flushes.look()
        self.assertEqual(await two.store.write([(black, BLACK), (grey, PICTURES[2])]), 2)
        for opened in (one, two):
            self.assertEqual(await self.served(opened, both), both)
            found = await opened.store.read(grey)
            self.assertEqual(found and found.picture, PICTURES[2])
        self.assertTrue(await self.cleaning(one).clean())
        self.assertEqual(await self.served(two, both), both)
        await two.store.pending.reconciled()
        await two.store.refresh()
        await two.assert_consistent()

    async def test_older(self) -> None:
        """Only what was made so long ago is gone."""
        one = await self.open_store()
        now = one.store.flushes.context.now()
        for n, age in enumerate((0, 3600, 86400 * 10)):
            await one.store.write([(tile(n), PICTURES[n]), (tile(10 + n), BLACK)], now - age)
        tiles = [tile(n) for n in (0, 1, 2, 10, 11, 12)]
        await self.flushed(one, Flush(86400 * 5, "kat"))
        self.assertEqual(await self.served(one, tiles), [tile(0), tile(1), tile(10), tile(11)])

    async def test_dead_and_silent(self) -> None:
        """Nobody waits for the dead; who does not answer is reported, and no file is removed before it does."""
        one, two, dead = await self.open_store("one"), await self.open_store("two"), await self.open_store("dead")
        await one.store.write([(tile(1), PICTURES[0])])
        dead.store.flushes._loop.stop()
        dead.die()
        two.store.flushes._loop.stop()
        self.patch(flushes, "_PATIENCE", 0.3)
        name, silent = await one.store.flushes.add(Flush(one.store.flushes.context.now(), "kat"))
        self.assertEqual(silent, {"two"})
        self.assertFalse(await self.cleaning(one).clean())
        self.assertTrue(one.store.files.stat(tile(1)))
        two.store.flushes._loop.start(0.1)
        while await one.store.flushes.silent(name):
            await deferLater(reactor, 0.02)
        self.assertTrue(await self.cleaning(one).clean())
        self.assertIsNone(one.store.files.stat(tile(1)))
        dead.store.flushes._loop.start(0.1)  # as its service is stopped with the test

    async def test_restart(self) -> None:
        """A flush outlives all processes; a process that starts knows it before it serves."""
        one = await self.open_store("one")
        await one.store.write([(tile(1), PICTURES[0])])
        await self.flushed(one, Flush(0, "kat"))
        two = await self.open_store("two")
        self.assertEqual(await self.served(two, [tile(1)]), [])

    async def test_odd_files(self) -> None:
        """What is no flush is logged once and left alone; a directory that is gone is no failure."""
        one = await self.open_store()
        place = one.store.flushes.directory
        (place / "1-a.json").write_text("nothing")
        (place / "1-b.json").mkdir()
        (place / "1-c.json").symlink_to("/etc/passwd")
        (place / "readme").write_text("nothing")
        for _ in range(2):
            await one.store.flushes.look()
        self.assertEqual(one.store.flushes.active, {})
        self.assertEqual(len(os.listdir(place)), 4)
        shutil.rmtree(place)
        await one.store.flushes.look()
        await self.flushed(one, Flush(0, "kat"))


class SQLiteFlushTests(OnSQLite, FlushedStoreTests, TestCase):
    """The same on SQLite."""


class MariaDBFlushTests(OnMariaDB, FlushedStoreTests, TestCase):
    """The same on MariaDB."""
