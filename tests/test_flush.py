"""``ocpproxy flush`` with real daemons, in the middle of misses, and without a daemon."""

from __future__ import annotations

import json
import signal
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from twisted.internet.defer import Deferred, gatherResults

from tests.daemons import Daemon, pause
from tests.databases import OnMariaDB, OnSQLite
from tests.prefetching import SLABS, PrefetchCase, admin_client


class FlushTests(PrefetchCase):
    """The command."""

    async def fill(self, token: str = "kat") -> None:
        """Bring a token into the cache."""
        code, out = await self.command("prefetch", token, "--levels", "0-2")
        self.assertEqual(code, 0, out)

    def stored(self, token: str = "kat") -> int:
        """Return how many tiles of a token are on disk."""
        return sum(1 for _ in (self.place / "cache" / "tiles" / token).rglob("*.png"))

    async def test_exact(self) -> None:
        """Exactly what was named is counted, forgotten and removed: other tokens and levels stay."""
        daemon = await self.begin()
        await self.fill()
        await self.fill("kat11")
        part = ("kat", "--levels", "0-0", "--box", "0:512,0:512,8:10")
        code, out = await self.command("flush", *part, "--dry-run")
        self.assertEqual((code, out[:8]), (0, "2 tiles "), out)
        code, out = await self.command("flush", "kat", "--levels", "1-", "--dry-run", "--json")
        self.assertEqual((code, json.loads(out)["tiles"]), (0, 128))
        self.assertEqual(self.stored(), 384, "nothing was forgotten yet")
        code, out = await self.command(
            "flush", "kat", "--levels", "0-0", "--box", "0:512,0:512,8:10", "--yes", "--wait"
        )
        self.assertEqual(code, 0, out)
        self.assertIn("are forgotten", out)
        self.assertIn("all files are removed", out)
        self.assertEqual((self.stored(), self.stored("kat11")), (382, 384))
        code, out = await self.command("flush", "kat", "--yes", "--wait", "--config", str(self.config))
        self.assertEqual((code, self.stored(), self.stored("kat11")), (0, 0, 384))
        await daemon.rest()
        self.assertEqual(await daemon.metric("ocpproxy_cache_tiles"), 384)
        asked = self.service.asked["cutout"]
        for token, result in (("kat11", "ocpproxy; hit"), ("kat", "ocpproxy; fwd=miss")):
            _, _, headers = await daemon.get(f"{token}/5/0_0_0.png")
            self.assertTrue(headers["cache-status"].startswith(result), headers["cache-status"])
        self.assertEqual(self.service.asked["cutout"], asked + 1)
        code, out = await self.command("flush", "--list")
        self.assertEqual((code, out), (0, "no files are being removed\n"))

    async def test_usage(self) -> None:
        """What each token, plane and level takes, as a table, JSON and CSV, with and without a daemon."""
        daemon = await self.begin()
        await self.fill()
        await self.fill("kat11")
        await daemon.get("kat/xz/0/0_0_0.png")
        code, out = await self.command("prefetch", "kat", "--plane", "xz", "--levels", "2-2")
        await daemon.rest()
        for running in (True, False):
            if not running:
                await daemon.stop()
            code, out = await self.command("usage", "--by", "level", "--json")
            found = [json.loads(line) for line in out.splitlines()]
            expected: dict[tuple[str, str, int], tuple[int, int]] = {}
            for path in (self.place / "cache" / "tiles").rglob("*.png"):
                token, plane, _, _, _, level, _, _ = path.relative_to(self.place / "cache" / "tiles").parts
                tiles, size = expected.get((token, plane, int(level)), (0, 0))
                expected[token, plane, int(level)] = (tiles + 1, size + path.stat().st_size)
            key = ("token", "plane", "level")
            self.assertEqual({tuple(one[k] for k in key): (one["tiles"], one["bytes"]) for one in found}, expected)
            self.assertTrue(all(one["used"] > 1.7e9 for one in found))
            code, out = await self.command("usage")
            lines = [line.split() for line in out.splitlines()]
            self.assertEqual([line[0] for line in lines], ["token", "kat", "kat11", "all"])
            self.assertEqual(lines[2][1], "384")
            code, out = await self.command("usage", "--csv", "--by", "plane")
            self.assertEqual((code, out.splitlines()[0]), (0, "token,plane,tiles,bytes,used"))
            self.assertEqual(len(out.splitlines()), 4)

    async def test_refused(self) -> None:
        """Without --yes and a terminal nothing is done; what makes no sense is refused with what was expected."""
        await self.begin()
        for words, expected in (
            (("kat",), "expected --yes"),
            (("kat", "--yes", "--plane", "ab"), "expected some of xy, xz, yz, zy"),
            (("../x", "--yes"), "expected a name"),
            (("kat", "--yes", "--box", "5:5,0:1,0:1"), "expected x0 < x1"),
            (("kat", "--yes", "--box", "1,2"), "expected x0:x1,y0:y1,z0:z1"),
            (("kat", "--yes", "--older-than", "30"), "expected a duration with its unit"),
            (("nothing", "--yes", "--box", "0:1,0:1,0:1"), "nothing"),
            (("kat", "--list"), "not allowed with"),
        ):
            code, out = await self.command("flush", *words)
            self.assertEqual((code, expected in out), (2, True), out)

    async def test_odd_requests(self) -> None:
        """Odd values at the admin endpoint are refused with what was expected, and nothing is forgotten."""
        daemon = await self.begin()
        client = admin_client(self.short / "admin.sock")
        odd: list[dict[str, Any]] = [
            {"older_than": ""},
            {"older_than": False},
            {"older_than": []},
            {"older_than": 10**400},
            {"older_than": -1},
            {"channels": []},
            {"planes": []},
            {"levels": [2, 1]},
            {"all": True},
        ]
        for more in odd:
            response = await client.post("http://x/v1/flushes", data=json.dumps({"token": "kat", **more}).encode())
            self.assertEqual((response.code, "expected" in (await response.json())["error"]), (422, True), more)
        self.assertNotIn("Traceback", daemon.log)
        self.assertEqual(list((self.place / "cache").rglob("*.json")), [])

    async def test_without_daemon(self) -> None:
        """Where no daemon runs the command does it itself; the next daemon finds index and disk consistent."""
        daemon = await self.begin()
        await self.fill()
        await daemon.stop(signal.SIGKILL)
        code, out = await self.command("flush", "kat", "--levels", "0-0", "--dry-run")
        self.assertEqual((code, out.split()[0]), (0, "256"), out)
        code, out = await self.command("flush", "kat", "--levels", "0-0", "--box", "0:512,0:512,0:1000", "--yes")
        self.assertEqual((code, self.stored()), (0, 320), out)
        code, out = await self.command("fsck")
        self.assertIn("320 tiles", out)
        daemon = await self.start_again()
        _, _, headers = await daemon.get("kat/5/0_0_0.png")
        self.assertIn("fwd=miss", headers["cache-status"])


class SQLiteInFlightTests(OnSQLite, PrefetchCase):
    """A flush in the middle of misses through two daemons."""

    async def test_misses(self) -> None:
        """No voxel that was asked for before the flush is served after it, by either daemon; nothing else is gone."""
        url = self.index_url()
        one = await self.begin()
        await one.stop()
        configs = [
            self.configure(self.upstream, url, f"{n}.ini", admin_listen=f"unix:{self.short}/{n}.sock") for n in (1, 2)
        ]
        self.config = configs[0]
        daemons = [await self.start(config) for config in configs]
        old = self.service.volume
        paths = [f"kat/{z}/{row}_{col}_0.png" for z in range(16 * SLABS) for row in (0, 1) for col in (0, 1)]
        await self.get_all(daemons, [path for path in paths if int(path.split("/")[1]) < 16])
        self.service.delay = 0.3
        flying = [Deferred.fromCoroutine(self.get_all(daemons, paths[n::4])) for n in range(4)]
        await pause(0.5)
        new = 255 - old
        self.service.channels["image"].voxels = new
        code, out = await self.command("flush", "kat", "--box", "0:512,0:2000,0:40", "--yes", "--plane", "xy")
        self.assertEqual(code, 0, out)
        asked = len(self.service.cutouts)
        answered = await self.get_all(daemons, paths)
        await gatherResults(flying)
        for (path, picture), daemon in zip(answered, [d for _ in paths for d in daemons], strict=True):
            z, row, col = (int(number) for number in path.replace("_", "/").split("/")[1:4])
            y, x = row * 512, col * 512
            before = self.crop(old, z, y, x)
            if col == 0 and z < 40:
                self.assertTrue((picture == self.crop(new, z, y, x)).all(), f"{path} from {daemon.url}")
            elif z < 16:
                self.assertTrue((picture == before).all(), path)
        lately = [path for path in self.service.cutouts[asked:] if "/512,640/" in path and "/0,16/" in path]
        self.assertEqual(lately, [], "what was not flushed is still there")
        await pause(1)
        for daemon in daemons:
            await daemon.rest()
        self.config = configs[1]
        code, out = await self.command("fsck")
        self.assertEqual(code, 0, out)

    def crop(self, volume: np.ndarray, z: int, y: int, x: int) -> np.ndarray:
        """Return the pixels of a tile: what lies outside of the volume is black."""
        tile = np.zeros((512, 512), np.uint8)
        part = volume[z, y : y + 512, x : x + 512]
        tile[: part.shape[0], : part.shape[1]] = part
        return tile

    async def get_all(self, daemons: list[Daemon], paths: list[str]) -> list[tuple[str, np.ndarray]]:
        """Return the pixels of tiles, from each daemon."""
        found = []
        for path in paths:
            for code, body, _ in await gatherResults([Deferred.fromCoroutine(d.get(path)) for d in daemons]):
                self.assertEqual(code, 200, path)
                found.append((path, np.asarray(Image.open(BytesIO(body)).convert("L"))))
        return found


class MariaDBInFlightTests(OnMariaDB, SQLiteInFlightTests):
    """The same on MariaDB."""
