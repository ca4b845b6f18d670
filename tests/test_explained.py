"""What the gateway tells of its tiles: where they come from, what a request does, how long the stages take."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ocpproxy.cli.main import SUBCOMMANDS
from ocpproxy.imagery import png
from ocpproxy.store import provenance
from ocpproxy.store.files import TileFiles
from ocpproxy.store.provenance import Provenance
from tests.daemons import pause
from tests.prefetching import PickyService, PrefetchCase
from tests.stores import PICTURES, tile

PATH = "kat/3/0_1_0.png"
PROVENANCE = ("x-dataset-version", "x-cuboid", "x-fetched", "x-upstream")


class ProvenanceFileTests(SynchronousTestCase):
    """What a file records."""

    def setUp(self) -> None:
        """Make a directory of tiles."""
        self.files = TileFiles(Path(self.mktemp()).absolute() / "tiles", "test")

    def test_kept(self) -> None:
        """Time and home of a tile are those that it was made with; a shared file is only shared by tiles of a home."""
        black, origins = png.blank(clear=False), [Provenance(1e9 + n, f"ocp-{n}") for n in range(2)]
        for n, origin in enumerate(origins):
            self.assertTrue(self.files.create(tile(n), PICTURES[n], origin))
            self.assertTrue(self.files.create(tile(10 + n), black, origin))
            for number in (n, 10 + n):
                found = self.files.read(tile(number))
                assert found is not None
                self.assertEqual(found.provenance, origin)
                opened = self.files.open_now(tile(number))
                assert opened is not None
                self.assertEqual(Provenance(opened.made, opened.read_home()), origin)
                opened.close()

    def test_hostile(self) -> None:
        """What somebody else has written into the attribute reaches no header."""
        self.files.create(tile(1), PICTURES[0], Provenance(1e9, "ocp-1"))
        name = self.files._at(tile(1))
        for text in (b"a\r\nSet-Cookie: x", b"x" * 500, b"", b"\xff", "caf\u00e9".encode(), b"a b"):
            os.setxattr(name, provenance._HOME, text)
            found = self.files.read(tile(1))
            assert found is not None
            self.assertEqual(found.provenance.home, "", text)
        self.assertTrue(self.files.create(tile(2), PICTURES[1], Provenance(1e9, "a\r\nb")))
        found = self.files.read(tile(2))
        self.assertEqual(found and found.provenance.home, "")


class ExplainedTests(PrefetchCase):
    """The real daemon."""

    async def test_provenance(self) -> None:
        """A miss, a hit and a hit after a restart have the same provenance; describe knows the home's address."""
        daemon = await self.begin()
        found = []
        for again in (False, True):
            if again:
                await daemon.rest()
                await daemon.stop()
                daemon = await self.start_again()
            for _ in range(3):
                code, _, headers = await daemon.get(PATH)
                self.assertEqual(code, 200)
                found.append(tuple(headers.get(name) for name in PROVENANCE))
        self.assertEqual(len(set(found)), 1, found)
        version, cuboid, fetched, home = found[0]
        self.assertEqual(cuboid, f"kat/xy/image/{version}/0/0/0_1/0-16")
        self.assertTrue(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", str(fetched)))
        self.assertTrue(re.fullmatch(r"ocp-[0-9a-f]{8}", str(home)))
        self.assertNotIn(self.upstream, str(found))
        _, _, blank = await daemon.get("kat/999/0_0_0.png")
        self.assertEqual([name for name in PROVENANCE if name in blank], [])
        _, out = await self.command("trace", PATH)
        self.assertIn(f"{home} (ocp {self.upstream}", out)

    async def test_mirror(self) -> None:
        """The home that has given a tile is the one that is named, though another one comes first."""
        daemon = await self.begin()
        await daemon.stop()
        sick = PickyService(self.service.volume, 2, side=512, depth=16, offset=(0, 0, 0))
        sick.bad = frozenset({"/image/npz/"})
        self.upstream = f"{self.serve(sick)}\n  {self.upstream}"
        daemon = await self.start_again()
        _, _, headers = await daemon.get(PATH)
        _, out = await self.command("trace", f"/{PATH.replace('3/', '60/')}", "--json")
        steps = [json.loads(line) for line in out.splitlines()]
        homes = [step["found"].partition(" ")[0] for step in steps if step["step"] == "upstream"]
        self.assertEqual((len(homes), headers["x-upstream"]), (2, homes[1]))
        self.assertGreater(sick.asked["cutout"], 0)

    async def traced(self, *words: str) -> dict[str, str]:
        """Return what ``ocpproxy trace`` finds at each step."""
        code, out = await self.command("trace", *words, "--json")
        self.assertEqual(code, 0, out)
        return {step["step"]: step["found"] for step in map(json.loads, out.splitlines())}

    async def test_trace(self) -> None:
        """A trace tells what a request would do, and changes nothing; --fetch does it and tells how it went."""
        daemon = await self.begin()

        steps = await self.traced(f"{daemon.url}/{PATH}")
        names = "address, upstream's answer, dataset, tile, cuboid, memory, disk, index, flight, upstream, answer"
        self.assertEqual(", ".join(steps), f"request, {names}")
        self.assertIn("of kat, channel by default, plane xy: slice 3, row 0, column 1, level 0", steps["address"])
        self.assertEqual((steps["disk"], steps["answer"][:6]), ("no file", "a miss"))
        self.assertIn("the cuboid's lease is free", steps["index"])
        self.assertEqual(self.service.asked["cutout"], 0)
        steps = await self.traced(f"/{PATH}", "--fetch")
        self.assertIn("fwd=miss; stored", steps["carried out"])
        self.assertIn(self.upstream, steps["upstream's answer"])
        self.assertEqual(len(re.findall(r"[\d.]+ ms", steps["times"])), 3)
        self.assertEqual(self.service.asked["cutout"], 1)
        await daemon.rest()
        steps = await self.traced(f"/ocpcatmaid/{PATH}")
        self.assertEqual(steps["answer"], "200: a hit, from memory")
        self.assertIn("a row, last use", steps["index"])
        self.assertEqual((await self.traced("/kat/3/99_0_0.png"))["answer"][:19], "200: a blank tile: ")
        self.assertEqual((await self.traced("/kat/nix/xy/3/0_0_0.png"))["answer"][:4], "404:")
        self.assertEqual((await self.traced("/kat/3/0_0_0.jpg"))["answer"][:4], "404:")
        self.assertEqual((await self.traced("http://a b/"))["answer"][:4], "400:")
        self.service.bad = frozenset({"/"})
        steps = await self.traced("/kat/20/0_0_0.png", "--fetch")
        self.assertIn("500", steps["upstream's answer"])
        self.assertEqual(steps["answer"][:4], "503:")

    async def test_trace_of_voxels(self) -> None:
        """A chunk is traced like a tile, and everything else below a format is named."""
        daemon = await self.begin()

        path = "/zarr/kat/image/0/0/0/0"
        steps = await self.traced(f"{daemon.url}{path}")
        self.assertEqual((steps["answer"][:6], steps["disk"]), ("a miss", "no file"))
        self.assertIn("/3d/image/", steps["chunk"])
        steps = await self.traced(path, "--fetch")
        self.assertIn("fwd=miss; stored", steps["carried out"])
        self.assertEqual((await self.traced(path))["answer"], "200: a hit, from memory")
        self.assertEqual((await self.traced("/zarr/kat/image/.zattrs"))["answer"][:4], "200:")
        self.assertEqual((await self.traced("/zarr/kat/image/"))["answer"][:4], "200:")
        self.assertEqual((await self.traced("/zarr/kat/image/0/0/0/99"))["answer"][:4], "404:")
        self.service.bad = frozenset({"/"})
        self.assertEqual((await self.traced("/zarr/kat/image/0/1/1/1", "--fetch"))["answer"][:4], "503:")

    async def test_flying(self) -> None:
        """A trace sees the flight and the lease of a cuboid that is being fetched."""
        daemon = await self.begin()
        await daemon.get("kat/")
        self.service.delay = 3.0
        waiting = Deferred.fromCoroutine(daemon.get(PATH))
        while not self.service.asked["cutout"]:
            await pause(0.02)
        _, out = await self.command("trace", f"/{PATH}")
        self.assertIn("is being fetched now; 1 of ", out)
        self.assertIn("lease is held by this process", out)
        await waiting

    async def test_stages(self) -> None:
        """Every stage of a fetch, and every answer, is in a histogram."""
        daemon = await self.begin(server_workers="2")
        for path in (PATH, PATH, "kat/999/0_0_0.png"):
            await daemon.get(path)
        await daemon.rest()
        for stage in ("queue", "upstream", "render", "store"):
            self.assertEqual(await daemon.metric(f'ocpproxy_miss_seconds_count{{stage="{stage}"}}'), 1, stage)
        total = await daemon.metric("ocpproxy_tile_seconds_count")
        self.assertEqual((total, await daemon.metric("ocpproxy_tiles_total")), (3, 3))
        self.assertGreater(await daemon.metric('ocpproxy_tile_seconds_sum{result="miss"}'), 0)


class HelpTests(TestCase):
    """The help of every command."""

    timeout = 600

    async def test_help(self) -> None:
        """Each command explains itself, and has a line in the help of all."""
        every, *shown = await gatherResults([self.help(), *map(self.help, SUBCOMMANDS)])
        for name, text in zip(SUBCOMMANDS, shown, strict=True):
            self.assertRegex(every, rf"\n    {name}\s")
            self.assertIn(f"usage: ocpproxy {name}", text)
            self.assertIn("--config", text)
            self.assertIn("Exit code 0: ", " ".join(text.split()))

    async def _help(self, *words: str) -> str:
        out, err, code = await getProcessOutputAndValue(
            sys.executable, ["-m", "ocpproxy.cli", *words, "--help"], os.environ, reactor=reactor
        )
        self.assertEqual(code, 0, err)
        return str(out, "utf-8")

    def help(self, *words: str) -> Deferred[str]:
        """Return what a command prints with --help."""
        return Deferred.fromCoroutine(self._help(*words))
