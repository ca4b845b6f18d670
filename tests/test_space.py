"""What may take how much space: pins, quotas, and what stays free on the disk, on both databases."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ocpproxy.cache.eviction import Evictor
from ocpproxy.cache.quotas import Quotas
from ocpproxy.index.dialect import Transaction
from ocpproxy.index.leases import Leases
from ocpproxy.store.part import Area, TilePart
from ocpproxy.store.provenance import Provenance
from ocpproxy.store.space import pins
from ocpproxy.store.space.capacity import CacheLimits, Capacity
from ocpproxy.store.space.free_space import KeepFree
from ocpproxy.store.space.usage import Usage
from tests.daemons import pause
from tests.databases import OnMariaDB, OnSQLite
from tests.prefetching import PrefetchCase
from tests.stores import PICTURES, OpenStore, OpenStoreMixin, tile

BOX = TilePart("kat", ("image",), ("xy",), (0, 0), None, {("xy", 0): Area((0, 1), (0, 1), (0, 10))})


class PinTests(OpenStoreMixin):
    """Pins of one store, and quotas."""

    async def filled(self, levels: int = 3) -> OpenStore:
        """Return a store with 30 tiles of two tokens, used in the order of their slices."""
        opened = await self.open_store()
        for n in range(15):
            for stack in ("kat/xy/image/0123abcd", "ka_/xy/image/0123abcd"):
                made = opened.store.flushes.context.now() - 1000 + n
                await opened.store.write([(tile(n, level=n % levels, stack=stack), PICTURES[n % 4])], Provenance(made))
        await opened.assert_consistent()
        return opened

    def left(self, opened: OpenStore) -> set[tuple[str, int]]:
        """Return (token, slice) of what is on disk."""
        parts = [Path(path).parts for path, _ in opened.store.files.walk()]
        return {(part[0], int(part[-1].partition(".")[0])) for part in parts}

    async def test_never_evicted(self) -> None:
        """What is pinned, by the index or the configuration, outlives everything else; nobody evicts it for ever."""
        opened = await self.filled()
        opened.store.pinned = (TilePart("ka_", levels=(2, None)),)
        now = opened.store.flushes.context.now()
        pin = await opened.database.run(pins.insert, BOX, Usage(10, 1000), now)
        removed = await opened.store.evict(Usage(), 7)
        self.assertEqual(removed.tiles, 4, "the first seven have three that are pinned")
        while (await opened.store.evict(Usage(), 4)).tiles:
            pass
        pinned = {("ka_", n) for n in range(2, 15, 3)} | {("kat", n) for n in range(0, 10, 3)}
        self.assertEqual(self.left(opened), pinned)
        await opened.assert_consistent()
        self.assertEqual((await opened.store.evict(Usage(), 100)).tiles, 0)
        for one in list(pinned)[:3]:
            opened.store.note_use(tile(one[1], level=one[1] % 3, stack=f"{one[0]}/xy/image/0123abcd"))
        self.assertEqual((await opened.store.evict(Usage(), 100)).tiles, 0)
        self.assertEqual(await opened.database.run(pins.delete, pin.id), pin)
        self.assertIsNone(await opened.database.run(pins.delete, pin.id))
        self.assertEqual((await opened.store.evict(Usage(), 100)).tiles, 0, "its tiles were not released")
        await opened.fsck.sweep()
        self.assertEqual((await opened.store.evict(Usage(), 100)).tiles, 4)
        self.assertEqual({token for token, _ in self.left(opened)}, {"ka_"})

    async def test_odd_rows(self) -> None:
        """Rows that are no pins are ignored, and numbers that are none do no harm."""
        opened = await self.open_store()
        await opened.database.run(pins.insert, BOX, Usage(1, 600), 1.0)
        for text in ("", "nothing", "[]", json.dumps({**BOX.to_json(), "token": "../x"}), "[" * 5000):
            sql = "INSERT INTO pins (id, part, tiles, bytes, created) SELECT MAX(id) + 1, ?, 9, 9999, 0 FROM pins"
            await opened.database.run(Transaction.run, sql, text)
        if not self.index_url().mysql:
            await opened.database.run(Transaction.run, "UPDATE pins SET bytes = 9e999, created = 'x'")
        self.assertEqual([pin.part for pin in await opened.database.read(pins.read)], [BOX])

    async def test_all_pinned(self) -> None:
        """A cache that is full of what is pinned is left alone, stores nothing new at once, and says so once."""
        usage = await (await self.filled()).store.refresh()
        opened = await self.open_store("two", CacheLimits(usage.bytes // 2, 0, 0.95, 0.9))
        opened.store.pinned = (TilePart("kat"), TilePart("ka_"))
        await opened.store.refresh()
        calls: list[None] = []
        evict = opened.store.evict

        async def count(*args: Any) -> Usage:
            calls.append(None)
            return await evict(*args)

        self.patch(opened.store, "evict", count)
        evictor = Evictor(opened.store, Leases(opened.database, "one", 30, reactor), 0.2, reactor, opened.metrics)
        evictor.startService()
        self.assertEqual(await opened.store.store([(tile(100), PICTURES[0])]), 0)  # which takes a second
        calls.clear()
        for n in range(5):
            self.assertEqual(await opened.store.store([(tile(101 + n), PICTURES[0])]), 0)
        await pause(1)
        self.assertLess(len(calls), 4)
        opened.store.pinned = ()
        await opened.store.release_unpinned()
        while await opened.store.store([(tile(200), PICTURES[0])]) == 0:
            await pause(0.2)
        evictor.stopService()

    async def test_quota(self) -> None:
        """A dataset over its quota evicts its own oldest tiles, and no others; what is pinned stays."""
        opened = await self.filled()
        leases = Leases(opened.database, "one", 30, reactor)
        size = sum(one for path, one in opened.store.files.walk() if path.startswith("ka_/"))
        quotas = Quotas(opened.store, leases, {"ka_": size // 2, "kat": size * 2}, reactor, opened.metrics)
        quotas.startService()
        await quotas.look()
        left = self.left(opened)
        own = sorted(n for token, n in left if token == "ka_")
        self.assertEqual(own, list(range(15 - len(own), 15)), "the oldest went")
        self.assertTrue(5 <= len(own) <= 8, own)
        self.assertEqual(len(left) - len(own), 15)
        await opened.assert_consistent()
        opened.store.pinned = (TilePart("ka_"),)
        await quotas.stopService()
        strict = Quotas(opened.store, leases, {"ka_": 1}, reactor, opened.metrics)
        strict.startService()
        await strict.look()
        self.assertEqual(self.left(opened), left)
        await strict.stopService()


class SQLitePinTests(OnSQLite, PinTests, TestCase):
    """The same on SQLite."""


class MariaDBPinTests(OnMariaDB, PinTests, TestCase):
    """The same on MariaDB."""


class FreeSpaceTests(SynchronousTestCase):
    """What stays free on the disk."""

    def test_measured(self) -> None:
        """The spare space is what is free beyond the share, or the bytes; where nobody can tell it is plenty."""
        found = os.statvfs(".")
        total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        for keep, expected in ((KeepFree(0.25), free - total // 4), (KeepFree(bytes=free + 10**9), -(10**9))):
            self.assertLess(abs(keep.spare(Path(".")).bytes - expected), 10**9 / 2)
        self.assertEqual(KeepFree().spare(Path(".")).bytes, 2**62)
        self.assertEqual(KeepFree(0.5).spare(Path("nowhere")), Usage(2**62, 2**62))

    def test_limits(self) -> None:
        """The limits follow the disk, down and up again."""
        limits = CacheLimits(1000, 0, 0.95, 0.9)
        capacity = Capacity(limits, Usage, reactor)
        for usage, spare, size, tiles in (
            (Usage(10, 500), Usage(2**62, 2**62), 1000, 0),
            (Usage(10, 500), Usage(2**62, 200), 700, 0),
            (Usage(10, 500), Usage(2**62, -200), 300, 0),
            (Usage(10, 500), Usage(-4, 2**62), 1000, 6),
            (Usage(10, 500), Usage(-40, -4000), 1, 1),
            (Usage(10, 500), Usage(2**62, 2**62), 1000, 0),
            (Usage(10, 500), Usage(2**62, -100), 400, 0),
            (Usage(6, 300), Usage(2**62, -90), 400, 0),
            (Usage(6, 300), Usage(2**62, -90), 400, 0),
            (Usage(6, 300), Usage(2**62, -95), 205, 0),
            (Usage(3, 200), Usage(2**62, 5), 205, 0),
            (Usage(10, 500), Usage(10**6, 501), 1000, 10**6 + 10),
            (Usage(10, 500), Usage(2**62, 501), 1000, 0),
        ):
            capacity.adapt(usage, spare)
            self.assertEqual(capacity.limits, replace(limits, size=size, max_tiles=tiles), (usage, spare))

    def test_warning(self) -> None:
        """A cache that is full on a disk with space for it is no reason to warn; one that may not grow is."""
        capacity = Capacity(CacheLimits(1000, 0, 0.95, 0.9), Usage, reactor)
        with capturedLogs() as events:
            capacity.adapt(Usage(10, 990), Usage(10**6, 10**9))
            self.assertEqual(events, [])
            capacity.adapt(Usage(10, 990), Usage(10**6, -100))
            capacity.adapt(Usage(9, 890), Usage(10**6, 10**9))
        formats = [str(event["log_format"]).partition(":")[0] for event in events]
        expected = ["the disk has no space", "the disk has space again"]
        self.assertEqual([one[: len(text)] for one, text in zip(formats, expected, strict=True)], expected)


class SpaceCommandTests(PrefetchCase):
    """``pin``, ``pins``, ``unpin`` and the options of datasets, with a real daemon."""

    async def test_commands(self) -> None:
        """A pin is refused where it does not fit, shown, counted, and ended; with --prefetch its tiles are fetched."""
        daemon = await self.begin(cache_size="60MiB")
        code, out = await self.command("pin", "kat", "--levels", "0-")
        self.assertEqual((code, "more than the" in out), (2, True), out)
        code, out = await self.command("pins")
        self.assertEqual((code, out), (0, "nothing is pinned\n"))
        code, out = await self.command("pin", "kat", "--levels", "2-", "--prefetch")
        self.assertEqual(code, 0, out)
        self.assertIn("pin 1: kat/image levels 2- xy is never evicted; all its 64 tiles take about ", out)
        while (await self.job())["state"] == "running":
            await pause(0.1)
        await daemon.rest()
        code, out = await self.command("usage", "--json")
        (one,) = map(json.loads, out.splitlines())
        self.assertEqual((one["token"], one["tiles"], one["pinned"], one["quota"]), ("kat", 64, one["bytes"], None))
        code, out = await self.command("pin", "kat/image", "--levels", "0", "--box", "0:512,0:512,0:16", "--json")
        self.assertEqual((code, json.loads(out)["pin"]["id"]), (0, 2), out)
        for words, expected in (
            (("pin", "kat/nothing", "--levels", "0"), "nothing"),
            (("pin", "kat", "--levels", "9"), "no level 9"),
            (("pin", "kat", "--levels", "x"), "expected"),
            (("unpin", "7"), "there is no pin 7"),
            (("unpin", "9" * 30), "pin"),
            (("pin", "kat", "--levels", "2-"), "is pinned already"),
            (("unpin", "x"), "invalid int"),
        ):
            code, out = await self.command(*words)
            self.assertEqual((code, expected in out), (2, True), out)
        await daemon.stop(signal.SIGTERM)
        code, out = await self.command("pins", "--json")
        self.assertEqual([json.loads(line)["pin"]["id"] for line in out.splitlines()], [1, 2])
        code, out = await self.command("unpin", "2")
        self.assertEqual((code, "may be evicted again" in out), (0, True), out)
        code, out = await self.command("pin", "kat", "--levels", "2", "--prefetch")
        self.assertEqual((code, "no daemon runs" in out), (2, True), out)
        code, out = await self.command("unpin", "9" * 30)
        self.assertEqual((code, "there is no pin" in out), (2, True), out)

    async def test_quota_and_pin(self) -> None:
        """[dataset] quota and pin hold in the daemon: the others keep their tiles, and the pinned level stays."""
        daemon = await self.begin()
        await daemon.stop()
        self.config = self.configure(self.upstream, None, "ocp.ini", admin_listen=f"unix:{self.short}/admin.sock")
        self.config.write_text(self.config.read_text() + "[dataset katsmall]\nquota = 12\npin = 2-\n")
        daemon = await self.start(self.config)
        for token in ("kat", "katsmall"):
            for z in range(0, 64, 16):
                for place in ("0_0_2", "0_0_0", "0_1_0"):
                    self.assertEqual((await daemon.get(f"{token}/{z}/{place}.png"))[0], 200)
        await daemon.rest()
        found: dict[str, Any] = {}
        while not found or found["katsmall"]["bytes"] > 12 * 2**20:
            await pause(0.2)
            _, out = await self.command("usage", "--json")
            found = {one["token"]: one for one in map(json.loads, out.splitlines())}
        self.assertEqual(found["katsmall"]["quota"], 12 * 2**20)
        self.assertGreater(found["kat"]["bytes"], 12 * 2**20)
        self.assertGreater(found["katsmall"]["pinned"], 0)
        _, out = await self.command("usage", "--by", "level", "--json")
        tiles = {(one["token"], one["level"]): one["tiles"] for one in map(json.loads, out.splitlines())}
        self.assertEqual(tiles["katsmall", 2], 64)
        self.assertLess(tiles["katsmall", 0], tiles["kat", 0])
        code, out = await self.command("prefetch", "katsmall", "--levels", "0")
        self.assertEqual(code, 2)
        self.assertIn("12 MiB may be there before tiles are evicted", out)

    async def test_keep_free(self) -> None:
        """Where too little is free on the disk the cache evicts, and says why."""
        daemon = await self.begin(cache_reclaim_interval="0.2")
        for z in range(0, 64, 16):
            await daemon.get(f"kat/{z}/0_0_0.png")
        await daemon.rest()
        before = await daemon.metric("ocpproxy_cache_tiles")
        await daemon.stop()
        found = os.statvfs(self.place)
        kept = found.f_bavail * found.f_frsize // 2**20 + 10**6  # MiB: more than is free, whatever others do meanwhile
        daemon = await self.start_again(cache_reclaim_interval="0.2", cache_keep_free=str(kept))
        while "the disk has no space for all that the cache may hold" not in daemon.log:
            await pause(0.1)
        while await daemon.metric("ocpproxy_cache_tiles") == before:
            await pause(0.1)
