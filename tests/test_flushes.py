"""Flushes of a store, on both databases: what they cover, in all processes, and what becomes of the files."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ocpproxy.imagery import png
from ocpproxy.index.leases import Leases
from ocpproxy.model.dataset import Plane
from ocpproxy.model.stack import Tile
from ocpproxy.store import keys
from ocpproxy.store.flushing import flush, flushes
from ocpproxy.store.flushing.cleaning import Cleaning
from ocpproxy.store.flushing.flush import Flush, NoFlush
from ocpproxy.store.part import ALL_PLANES, Area, TilePart, area_name_of
from ocpproxy.store.provenance import Provenance
from tests.databases import OnMariaDB, OnSQLite
from tests.stores import PICTURES, OpenStore, OpenStoreMixin, tile
from tests.volumes import em

KAT = TilePart("kat")
DOCUMENT = json.loads(Flush(1.0, KAT).to_text())
BLACK = png.grey(em()[0, :512, :512] * 0)
SPANS = st.tuples(st.integers(0, 4), st.integers(0, 4))
STACKS = (
    "kat/3d/image/00000000",
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
AREA_NAMES = st.sampled_from([*(plane.value for plane in Plane), "3d/image"])
PARTS = st.builds(
    TilePart,
    st.sampled_from(["kat", "kat1", "ka"]),
    st.sampled_from([(), ("image",), ("other", "image")]),
    st.sampled_from([ALL_PLANES, ("xy",), ("xz", "yz"), ("3d",)]),
    st.sampled_from([(0, None), (1, 2), (3, 3), (2, None)]),
    st.none() | SPANS,
    st.none()
    | st.dictionaries(st.tuples(AREA_NAMES, st.integers(0, 3)), st.builds(Area, SPANS, SPANS, SPANS), max_size=4),
)
FLUSHES = st.builds(Flush, st.floats(0, 1e9), PARTS, st.booleans())


class FlushTests(SynchronousTestCase):
    """What one flush covers."""

    @given(FLUSHES)
    def test_text(self, one: Flush) -> None:
        """A flush is read as it was written."""
        self.assertEqual(Flush.of_text(one.to_text()), one)

    @given(PARTS, TILES, st.booleans())
    def test_covers(self, one: TilePart, tile_: Tile, everything: bool) -> None:
        """A tile is covered if each of its numbers is within, and it was made in time, or has an impossible time."""
        token, plane, channel, _ = tile_.stack.split("/")
        first, last = one.levels
        within = [
            token == one.token,
            plane in one.planes,
            not one.channels or channel in one.channels or channel[0] == "~",
            first <= tile_.level <= (99 if last is None else last),
            one.times is None or one.times[0] <= tile_.time <= one.times[1],
        ]
        if one.areas is not None:
            area = one.areas.get((area_name_of(tile_.stack), tile_.level), Area((0, 0), (0, 0), (0, 0)))
            for number, (low, high) in ((tile_.row, area.rows), (tile_.col, area.cols), (tile_.slice, area.slices)):
                within.append(low <= number < high)
        self.assertEqual(one.has(tile_), all(within))
        rule = Flush(1000.0, one, everything)
        self.assertEqual(rule.covers(tile_, 1000.0, 1000.0), all(within))
        self.assertFalse(rule.covers(tile_, 1001.0, 1000.0))
        self.assertEqual(rule.covers(tile_, 5000.0, 2000.0), all(within) and everything)

    @given(
        st.text()
        | st.dictionaries(
            st.sampled_from([*json.loads(Flush(1.0, TilePart("a")).to_text())]), st.integers() | st.text()
        ).map(
            lambda changed: json.dumps({**json.loads(Flush(1.0, TilePart("a")).to_text()), **changed, "token": "../x"})
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
        areas = {("xy", 1): Area((0, 2), (0, 5), (1, 3)), ("xz", 2): Area((0, 5), (0, 5), (0, 5))}
        for wanted in (
            Flush(1e9, TilePart("kat")),
            Flush(40.0, TilePart("kat", ("image",), ("xy", "yz"), (1, None), (0, 1))),
            Flush(60.0, TilePart("kat", areas=areas)),
            Flush(60.0, TilePart("nothing")),
        ):
            expected = {tile_ for tile_, made in found if wanted.covers(tile_, made, 1e9)}
            walked = {file[0] for file in flush.walk(place, wanted, 1e9) if file is not None}
            self.assertEqual(walked, expected)


class FlushedStoreTests(OpenStoreMixin):
    """Two processes with one cache."""

    @property
    def flush_directory(self) -> Path:
        """The directory of flushes."""
        return self.directory / "flushes"

    async def flushed(self, opened: OpenStore, part: TilePart = KAT, age: float | None = None) -> str:
        """Flush, and check that all processes know it; return its name."""
        name, silent = await opened.store.flushes.add(part, age)
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
        await self.flushed(one, TilePart("kat", levels=(1, 2)))
        left = [t for t in tiles if t.level == 0] + others
        for opened in (one, two):
            self.assertEqual(await self.served(opened, tiles + others), left)
        self.assertTrue(await self.cleaning(two).clean())
        await one.store.flushes.look()
        self.assertEqual((len(one.store.flushes.active), os.listdir(self.flush_directory)), (0, []))
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
        await self.flushed(one)
        for opened, made in zip((one, two), before, strict=True):
            self.assertEqual(await opened.store.write([(black, BLACK), (grey, PICTURES[1])], Provenance(made)), 0)
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
            await one.store.write([(tile(n), PICTURES[n]), (tile(10 + n), BLACK)], Provenance(now - age))
        tiles = [tile(n) for n in (0, 1, 2, 10, 11, 12)]
        await self.flushed(one, age=86400 * 5)
        self.assertEqual(await self.served(one, tiles), [tile(0), tile(1), tile(10), tile(11)])

    async def test_dead_and_silent(self) -> None:
        """Nobody waits for the dead; who does not answer is reported, and no file is removed before it does."""
        one, two, dead = await self.open_store("one"), await self.open_store("two"), await self.open_store("dead")
        await one.store.write([(tile(1), PICTURES[0])])
        dead.store.flushes._loop.stop()
        dead.die()
        two.store.flushes._loop.stop()
        self.patch(flushes, "_PATIENCE", 0.3)
        name, silent = await one.store.flushes.add(KAT)
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
        await self.flushed(one)
        two = await self.open_store("two")
        self.assertEqual(await self.served(two, [tile(1)]), [])

    async def test_odd_files(self) -> None:
        """What is no flush is logged once and left alone; a directory that is gone is no failure."""
        one = await self.open_store()
        place = self.flush_directory
        place.mkdir()
        (place / "1-0123456a.json").write_text("nothing")
        (place / "1-0123456b.json").mkdir()
        (place / "1-0123456c.json").symlink_to("/etc/passwd")
        (place / ".x.json").write_text(Flush(1e9, KAT).to_text())
        (place / "readme").write_text("nothing")
        for _ in range(2):
            await one.store.flushes.look()
        self.assertEqual(one.store.flushes.active, {})
        self.assertEqual(len(os.listdir(place)), 5)
        shutil.rmtree(place)
        await one.store.flushes.look()
        await self.flushed(one)

    async def test_late(self) -> None:
        """What was asked for before a flush is not stored when it arrives after the flush was carried out."""
        one, two = await self.open_store("one"), await self.open_store("two")
        before = Provenance(two.store.flushes.looked)
        await self.flushed(one)
        self.assertTrue(await self.cleaning(one).clean())
        await two.store.flushes.look()
        self.assertEqual(await two.store.write([(tile(1), PICTURES[0]), (tile(2), BLACK)], before), 0)
        self.assertEqual(await two.store.write([(tile(1, stack="other/xy/a/00000000"), PICTURES[0])], before), 1)

    async def test_shared_files(self) -> None:
        """A black tile of another token that was asked for before a flush does not take fresh black tiles with it."""
        one = await self.open_store()
        before = one.store.flushes.looked
        await self.flushed(one)
        other = tile(1, stack="other/xy/a/00000000")
        self.assertEqual(await one.store.write([(other, BLACK)], Provenance(before)), 1)
        self.assertEqual(await one.store.write([(tile(1), BLACK)]), 1)
        self.assertEqual(await self.served(one, [tile(1), other]), [tile(1), other])
        self.assertTrue(await self.cleaning(one).clean())
        self.assertEqual(await self.served(one, [tile(1), other]), [tile(1), other])

    async def test_wrong_clock(self) -> None:
        """A file from the future is forgotten with everything, as it cannot have been made since."""
        one = await self.open_store()
        await one.store.write([(tile(1), PICTURES[0])], Provenance(one.store.flushes.context.now() + 86400))
        await self.flushed(one)
        self.assertEqual(await self.served(one, [tile(1)]), [])
        self.assertTrue(await self.cleaning(one).clean())
        self.assertIsNone(one.store.files.stat(tile(1)))

    async def test_looks_follow_one_another(self) -> None:
        """A look that takes long does not undo what a later one has seen."""
        one = await self.open_store()
        waiting: list[Deferred[None]] = [Deferred()]
        run = one.store.flushes.context.run_in_thread

        def slowly(*args: Any) -> Deferred[Any]:
            later = waiting.pop() if waiting else succeed(None)
            return run(*args).addCallback(lambda found: later.addCallback(lambda _: found))

        self.patch(one.store.flushes, "context", replace(one.store.flushes.context, run_in_thread=slowly))
        first = waiting[0]
        slow = Deferred.fromCoroutine(one.store.flushes.look())
        one.store.flushes.files.write(KAT, None)
        later = Deferred.fromCoroutine(one.store.flushes.look())
        await deferLater(reactor, 0.1)
        first.callback(None)
        await gatherResults([slow, later])
        self.assertEqual(len(one.store.flushes.active), 1)

    async def test_disk_refuses(self) -> None:
        """A row goes with its file when the disk refuses the new one."""
        one = await self.open_store()
        await one.store.write([(tile(1), PICTURES[0])])
        await one.assert_consistent()
        await self.flushed(one)

        def refuse(*_: object) -> bool:
            raise OSError(5, "for the test")

        self.patch(one.store.files, "create", refuse)
        await one.store.flushes.look()
        self.assertEqual(await one.store.write([(tile(1), PICTURES[1])]), 0)
        self.assertEqual((await one.assert_consistent()).tiles, 0)

    async def test_acknowledged_in_the_end(self) -> None:
        """An acknowledgement that is refused or lost is made again; what cannot be read for a moment is read again."""
        one, two = await self.open_store("one"), await self.open_store("two")
        await one.store.write([(tile(1), PICTURES[0])])
        tries: list[None] = []
        acknowledge, read = two.store.flushes.files.acknowledge, flush.read

        def refuse(names: Any) -> None:
            tries.append(None)
            if len(tries) < 4:
                raise OSError(28, "for the test")
            acknowledge(names)

        def no_descriptors(path: Path) -> Flush:
            if len(tries) < 2:
                tries.append(None)
                raise OSError(24, "for the test")
            return read(path)

        self.patch(two.store.flushes.files, "acknowledge", refuse)
        self.patch(flush, "read", no_descriptors)
        name = await self.flushed(one)
        self.assertGreater(len(tries), 3)
        for file in self.flush_directory.glob("*.ack"):
            file.unlink()
        while await one.store.flushes.silent(name):
            await deferLater(reactor, 0.02)
        self.assertTrue(await self.cleaning(one).clean())

    async def test_listeners(self) -> None:
        """A fault of one who is told keeps nobody else from being told, and the flush from nothing."""
        one = await self.open_store()
        heard: list[Flush] = []

        def fail(_: Flush) -> None:
            raise ValueError("for the test")

        one.store.flushes.when_flushed(fail)
        one.store.flushes.when_flushed(heard.append)
        await self.flushed(one)
        self.assertEqual((len(heard), len(self.flushLoggedErrors(ValueError))), (1, 1))

    async def test_slow_disk(self) -> None:
        """A flush that takes long to write covers what is made until it can be seen; one that takes for ever fails."""
        one = await self.open_store()
        slow, sync = [0.0], os.fsync

        def fsync(fd: int) -> None:
            sync(fd)
            moment = one.store.flushes.files._now() + slow[0]
            one.store.flushes.files._now = lambda: moment

        self.patch(os, "fsync", fsync)
        slow[0] = 0.5
        _, begun = one.store.flushes.files.write(KAT, None)
        self.assertGreater(begun.at, one.store.flushes.files._now())
        slow[0] = 60.0
        self.assertRaises(OSError, one.store.flushes.files.write, KAT, None)
        self.assertEqual(len(os.listdir(self.flush_directory)), 1)

    async def test_unusable(self) -> None:
        """A file in the place of the directory: the store does not start, and stops cleanly."""
        one = await self.open_store()
        (self.directory / "flushes").write_text("nothing")
        with self.assertRaises(NotADirectoryError):
            await self.open_store("two")
        self.assertTrue(one.store.running)


class SQLiteFlushTests(OnSQLite, FlushedStoreTests, TestCase):
    """The same on SQLite."""


class MariaDBFlushTests(OnMariaDB, FlushedStoreTests, TestCase):
    """The same on MariaDB."""
