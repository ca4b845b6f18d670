"""The export as CATMAID's importer reads it, rule by rule; canaries; and ``ocpproxy catmaid-import``."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.web.catmaid.canaries import bright_pixel
from tests import doubles, ocpserver
from tests.channels import SMALL, Array, ViewsCase, channels
from tests.daemons import ROOT, Daemon
from tests.doubles import Answer
from tests.ocpserver import Served
from tests.pictures import rgba
from tests.volumes import em

TRIPLE = re.compile(r"\(-?[\d.e+-]+, -?[\d.e+-]+, -?[\d.e+-]+\)")
WHOLE = re.compile(r"\(\d+, \d+, \d+\)")


def faults(document: Any) -> list[str]:
    """Return what CATMAID's importer would refuse, or misread, of a document (django/…/control/importer.py)."""
    if not isinstance(document, list):
        return ["JSON has to be a list"]
    found = []
    for item in document:
        project = item.get("project", {})
        if not isinstance(project.get("title"), str):
            found.append("a project needs a title")
        for stack in project.get("stacks", ()):
            found += _stack_faults(stack)
    return found


def _relations(stack: dict[str, Any]) -> list[str]:
    return [one["relation"] for one in stack["stackgroups"]]


def _stack_faults(stack: dict[str, Any]) -> list[str]:
    rules: dict[str, Callable[[], bool]] = {
        "title is a text": lambda: isinstance(stack["title"], str),
        "dimension is a text of whole numbers": lambda: bool(WHOLE.fullmatch(stack["dimension"])),
        "resolution is a text": lambda: bool(TRIPLE.fullmatch(stack["resolution"])),
        "translation is a text": lambda: bool(TRIPLE.fullmatch(stack["translation"])),
        "orientation is 0, 1 or 2": lambda: stack["orientation"] in (0, 1, 2),
        "factors are whole numbers": lambda: all(map(WHOLE.fullmatch, stack["downsample_factors"])),
        "the first factors are ones": lambda: stack["downsample_factors"][0] == "(1, 1, 1)",
        "canary_location is a text": lambda: bool(WHOLE.fullmatch(stack["canary_location"])),
        "broken_sections are numbers": lambda: all(isinstance(one, int) for one in stack["broken_sections"]),
        "there is no zoomlevels": lambda: "zoomlevels" not in stack,
        "relations are view or channel": lambda: (
            {one["relation"] for one in stack["stackgroups"]} <= {"view", "channel"}
        ),
        "groups have titles": lambda: all(isinstance(one["title"], str) for one in stack["stackgroups"]),
        "there is a mirror": lambda: bool(stack["mirrors"]),
        "positions differ": lambda: len({one["position"] for one in stack["mirrors"]}) == len(stack["mirrors"]),
    }
    found = [f"{stack.get('title')}: {rule}" for rule, holds in rules.items() if not holds()]
    for mirror in stack["mirrors"]:
        if not mirror["title"] or not mirror["url"].startswith("http") or not mirror["url"].endswith("/"):
            found.append(f"{stack['title']}: a mirror needs a title, and an absolute address with a slash at its end")
        if (mirror["fileextension"], mirror["tile_width"], mirror["tile_height"]) != ("png", 512, 512):
            found.append(f"{stack['title']}: tiles are 512 x 512 pixels, png without a dot")
        if mirror["tile_source_type"] != 1:
            found.append(f"{stack['title']}: type 1 is the one that all clients know")
    return found


class ExportTests(ViewsCase):
    """What the importer gets."""

    async def before(self, **options: Any) -> Daemon:
        """Start a daemon with a volume whose middle is background."""
        hollow = em().copy()
        hollow[:, 150:450, :] = 0
        hollow[6:14] = 0
        served = {"hollow": Served(hollow), "ids64": channels()["ids64"]}
        service = ocpserver.Service(hollow, 2, levels=2, channels=served, **SMALL)
        extra = "[dataset kat]\nbroken = 3, 5-6: nearest\n[dataset katzen]\ntoken = kat\naspect = native\n"
        return await self.view(service, extra, **options)

    async def export(self, daemon: Daemon) -> list[Any]:
        """Return the export when the canaries have been found."""
        await daemon.get("projects/export")
        await daemon.rest()
        _, body, headers = await daemon.get("projects/export")
        self.assertIn("json", headers["content-type"])
        found: list[Any] = json.loads(body)
        return found

    async def test_rules(self) -> None:
        """Every rule of the importer holds, for all planes and channels, and the document of the docs breaks some."""
        daemon = await self.before(server_mirrors="https://other.example.org/ocp")
        document = await self.export(daemon)
        self.assertEqual(faults(document), [])
        stacks = [stack for one in document for stack in one["project"]["stacks"]]
        self.assertEqual(len(stacks), 12)
        for stack in stacks:
            self.assertEqual(len(stack["mirrors"]), 2)
            self.assertTrue(stack["mirrors"][1]["url"].startswith("https://other.example.org/ocp/ocpcatmaid/kat"))
            self.assertEqual({one["relation"] for one in stack["stackgroups"]}, {"view", "channel"})
        broken = {stack["title"]: stack["broken_sections"] for stack in stacks}
        self.assertEqual((broken["kat hollow XY"], broken["kat hollow XZ"]), ([3, 5, 6], []))
        wrong = json.loads(json.dumps(document))
        wrong[0]["project"]["stacks"][0] |= {"translation": [0, 0, 0], "zoomlevels": 3}
        wrong[0]["project"]["stacks"][0]["stackgroups"][0]["relation"] = "has_channel"
        with self.assertRaises(TypeError):
            faults(wrong)
        wrong[0]["project"]["stacks"][0]["translation"] = "(0, 0, 0)"
        self.assertEqual(len(faults(wrong)), 2)

    async def test_canaries(self) -> None:
        """The tile at each canary shows data at that pixel, though the middle of the volume is background."""
        daemon = await self.before()
        for one in await self.export(daemon):
            for stack in one["project"]["stacks"]:
                column, row, slice_ = (int(part) for part in re.findall(r"\d+", stack["canary_location"]))
                base = stack["mirrors"][0]["url"].removeprefix(f"{daemon.url}/")
                code, body, headers = await daemon.get(f"{base}{slice_}/{row // 512}_{column // 512}_0.png")
                self.assertEqual(code, 200)
                self.assertNotIn("out-of-bounds", headers["cache-status"], stack["title"])
                if "hollow" in stack["title"]:
                    around = rgba(body)[row % 512 - 1 : row % 512 + 2, column % 512 - 1 : column % 512 + 2, :3]
                    self.assertGreater(around.max(), 0, stack["title"])

    async def command(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        """Run the command, and return its exit code and what it has printed."""
        out, err, code = await getProcessOutputAndValue(
            sys.executable, ["-m", "ocpproxy.cli", "catmaid-import", *arguments], {**os.environ, **environ}, str(ROOT)
        )
        return code, out.decode(), err.decode()

    async def test_command(self) -> None:
        """It finds what a CATMAID lacks or has otherwise, and makes the document that adds it."""
        daemon = await self.before()
        await self.export(daemon)
        code, out, err = await self.command("--url", daemon.url, "--gateway", daemon.url)
        self.assertEqual((code, out), (0, ""), err)
        self.assertEqual(err.count(": the same"), 12)
        asked: list[str] = []
        stack = {"id": 7, "title": "kat hollow XY"}
        info = {
            "dimension": {"x": 640, "y": 600, "z": 99},
            "resolution": {"x": 1.0, "y": 1.0, "z": 10.0},
            "orientation": 0,
            "mirrors": [],
        }

        def speak(path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Answer:
            asked.append(headers.get("x-authorization", ""))
            document = [{"id": 3, "title": "mine", "stacks": [stack]}] if path == "/projects/" else info
            return "info", 200, {"content-type": "application/json"}, json.dumps(document).encode()

        catmaid = self.serve(doubles.Speaking(speaker=speak)).rstrip("/")
        place = self.place / "missing.json"
        code, out, err = await self.command(
            "kat", "--url", catmaid, "--gateway", daemon.url, "--output", str(place), CATMAID_API_TOKEN="t0k"
        )
        self.assertEqual((code, out), (1, ""), err)
        self.assertEqual(set(asked), {"Token t0k"})
        self.assertIn("dimension is (640.0, 600.0, 99.0) there", err)
        self.assertIn("no mirror has the image base", err)
        self.assertIn("kat ids64 ZY: missing", err)
        document = json.loads(Path(place).read_text())
        self.assertEqual(faults(document), [])
        self.assertEqual(len(document[0]["project"]["stacks"]), 5)
        code, out, _ = await self.command("--url", catmaid, "--gateway", daemon.url, "--json")
        self.assertEqual((code, len(json.loads(out))), (1, 12))

    async def test_cannot_ask(self) -> None:
        """Whoever does not answer is named, and what was expected."""
        daemon = await self.before()
        for arguments, words in (
            (("--url", "http://127.0.0.1:9"), "127.0.0.1:9/projects/ does not answer"),
            (("--url", f"{daemon.url}/metrics"), "gives no JSON"),
            (("nothing", "--url", daemon.url), "exports no dataset nothing"),
        ):
            code, out, err = await self.command(*arguments, "--gateway", daemon.url)
            self.assertEqual((code, out), (2, ""))
            self.assertIn(words, err)
            self.assertNotIn("Traceback", err)


class BrightPixelTests(SynchronousTestCase):
    """The pixel for a canary."""

    def found(self, pixels: Array, middle: tuple[float, float]) -> tuple[int, int] | None:
        """Return the pixel of a picture."""
        out = BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        return bright_pixel(out.getvalue(), middle)

    def test_places(self) -> None:
        """It is the nearest to the middle that has data around it; background has none."""
        pixels = np.zeros((64, 64), np.uint8)
        self.assertIsNone(self.found(pixels, (32, 32)))
        pixels[5, 5] = 255
        self.assertIsNone(self.found(pixels, (32, 32)))
        pixels[40:50, 10:20] = 9
        self.assertEqual(self.found(pixels, (32, 32)), (17, 42))
        self.assertEqual(self.found(np.full((64, 64), 9, np.uint8), (-100, 500)), (2, 61))
