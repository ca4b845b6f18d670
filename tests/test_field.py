"""Volumes as people have them, through the running daemon: shown voxel for voxel, or refused with a reason."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from twisted.internet import reactor
from twisted.internet.utils import getProcessOutputAndValue

from ocpproxy.cli.describe import lines
from ocpproxy.daemon.describing import DatasetReport, describe
from ocpproxy.daemon.tap import load
from tests import (
    doubles,
    field,
    field_addresses,
    field_attacks,
    field_collections,
    field_display,
    field_n5,
    field_ome,
    field_precomputed,
    field_zarr,
    oracle,
)
from tests.channels import ViewsCase
from tests.daemons import Daemon
from tests.field import TABLE, Array, Channel, Input, Outcome, Refused, Shown
from tests.pictures import opaque, rgba
from tests.test_formats import section

WRITERS = (
    *(field_addresses, field_attacks, field_collections, field_display),
    *(field_n5, field_ome, field_precomputed, field_zarr),
)
"""The modules that fill the table."""
PAGE = b"<!DOCTYPE html><html><body>Welcome</body></html>"


class Static(doubles.Bucket):
    """A bucket whose names may have any letters."""

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> doubles.Answer:
        """A file."""
        return super().answer(unquote(path), query, headers)


@dataclass(kw_only=True)
class Pages(Static):
    """A bucket behind a web application, which answers something for everything that is not there."""

    page: bytes = PAGE

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> doubles.Answer:
        """A file, or the page."""
        kind, code, told, body = super().answer(path, query, headers)
        if code == 404:
            return kind, 200, {"content-type": "text/html"}, self.page
        return kind, code, told, body


@dataclass(frozen=True)
class Served:
    """An input at one of its addresses."""

    token: str
    outcome: Outcome


def text(body: bytes) -> str:
    """An answer, for people."""
    return "(a picture)" if body.startswith(b"\x89PNG") else body.decode()


def grey(channel: Channel, picture: Array) -> Array:
    """A picture of light."""
    if picture.dtype.kind == "i":
        picture = picture.astype(np.int64)
    return opaque(oracle.grey(picture, channel.window))


class FieldTests(ViewsCase):
    """Each input at a web server and, where it can be, as files."""

    async def inputs(self, item: int) -> None:
        """All of one number; what is wrong is told together."""
        chosen = [one for one in TABLE if one.item == item]
        self.assertGreater(len(chosen), 2)
        wrong = await self.compare(str(item), chosen)
        if wrong:
            self.fail(f"{len(wrong)} wrong:\n" + "\n".join(wrong))

    async def compare(self, name: str, inputs: Sequence[Input]) -> list[str]:
        """One daemon before these inputs; what is wrong."""
        files = self.place / name
        files.mkdir()
        servers = {
            "bucket": self.serve(Static(directory=files)),
            "pages": self.serve(Pages(directory=files)),
            "closed": self.serve(Static(directory=files, absent=403)),
            "latin": self.serve(Pages(directory=files, page="<p>Página no encontrada</p>".encode("latin-1"))),
            "words": self.serve(Pages(directory=files, page=b'{"error": "not found"}')),
        }
        served, sections = [], {}
        for given in inputs:
            outcome = given.write(files / given.name)
            there = {given.name: servers[given.server]}
            if given.server == "bucket":
                there[f"{given.name}-file"] = f"file://{files}"
            for token, root in there.items():
                at = f"{root}/{given.name}"
                scheme, _, rest = at.partition("://")
                url = given.url.format(at=at, upper=f"{scheme.upper()}://{rest}")
                sections[token] = section(token, type=given.kind, url=url, **given.options)
                served.append(Served(token, outcome))
        config = self.configure("http://127.0.0.1:9", name=f"{name}.ini", cache_directory=f"cache-{name}")
        start = config.read_text()
        config.write_text(start + "".join(sections.values()))
        impossible = await self.faults(config)
        config.write_text(start + "".join(text for token, text in sections.items() if token not in impossible))
        daemon = await self.start(config)
        reports = await self.reports(config)
        wrong = []
        for one in served:
            try:
                if one.token in impossible:
                    self.configured(one, impossible[one.token])
                else:
                    self.described(one.outcome, reports[one.token])
                    await self.look(daemon, one)
            except AssertionError as error:
                wrong.append(f"{one.token}: {' '.join(str(error).split())[:400]}")
        await daemon.stop()
        return wrong

    async def reports(self, config: Path) -> dict[str, DatasetReport]:
        """What `ocpproxy describe` finds for each section."""
        settings = load(str(config))
        reports = await describe(reactor, settings, list(settings.datasets))
        return {report.token: report for report in reports}

    def described(self, outcome: Outcome, report: DatasetReport) -> None:
        """An administrator sees the documents, and each reason."""
        printed = "\n".join(lines(report)).lower()
        words: Sequence[str] = ()
        if isinstance(outcome, Shown):
            self.assertIsNotNone(report.entry, printed)
            words = [word for word in outcome.logged if word != "missing"]  # of chunks, and no document
        elif report.entry is None:
            words = outcome.words
        for word in words:
            self.assertIn(word.lower(), printed)
        self.assertIn(report.origin, "\n".join(lines(report)))
        self.assertTrue(report.documents, printed)

    async def faults(self, config: Path) -> dict[str, str]:
        """What check-config has against each section."""
        program = str(Path(sys.executable).parent / "ocpproxy")
        out, err, _ = await getProcessOutputAndValue(program, ["check-config", "--config", str(config)], os.environ)
        lines = (out + err).decode().splitlines()
        return {found[1]: line for line in lines if (found := re.match(r"\[dataset (\S+)\]", line))}

    def configured(self, served: Served, fault: str) -> None:
        """The configuration is refused: that is an answer, too."""
        if not isinstance(served.outcome, Refused):
            self.fail(f"the configuration is refused: {fault}")
        for word in served.outcome.words:
            self.assertIn(word.lower(), fault.lower())

    async def look(self, daemon: Daemon, served: Served) -> None:
        """Compare one."""
        code, body, _ = await daemon.get(f"{served.token}/")
        outcome = served.outcome
        if isinstance(outcome, Refused):
            if code == 200 and outcome.otherwise is not None:
                await self.shown(daemon, served.token, outcome.otherwise, json.loads(body))
                return
            await self.refused(daemon, served.token, outcome, code, body)
            return
        self.assertEqual(code, 200, text(body))
        await self.shown(daemon, served.token, outcome, json.loads(body))

    async def refused(self, daemon: Daemon, token: str, outcome: Refused, code: int, body: bytes) -> None:
        """There is a reason, and it will not go away."""
        said = text(body).lower()
        if code == 200:
            tile, _, _ = await daemon.get(f"{token}/xy/0/0_0_0.png")
            self.fail(f"described, and its tile is {tile}: expected a refusal with {outcome.words}")
        for word in outcome.words:
            self.assertIn(word.lower(), said, f"{code} {said}")
        self.assertNotIn("try again", said)
        self.assertIn(code, (404, 502))

    async def shown(self, daemon: Daemon, token: str, outcome: Shown, told: dict[str, Any]) -> None:
        """The levels and channels there are, and a slice of each through the middle."""
        names = {channel["name"] for channel in told["channels"]}
        self.assertEqual(names, set(outcome.channels))
        if outcome.levels is not None:
            self.assertEqual(len(told["levels"]), outcome.levels, "levels")
        for name, channel in outcome.channels.items():
            time = "" if channel.time is None else f"/{channel.time}"
            for number, voxels in channel.levels.items():
                picture = voxels[voxels.shape[0] // 2]
                at = f"{token}/{name}/xy{time}/{voxels.shape[0] // 2}/0_0_{number}.png"
                await self.same(daemon, at, channel, picture)
            if outcome.aspect is not None and 0 in channel.levels:
                voxels = channel.levels[0]
                row = voxels.shape[1] // 2
                picture = oracle.plane(voxels, "xz", row, Fraction(outcome.aspect))
                await self.same(daemon, f"{token}/{name}/xz{time}/{row}/0_0_0.png", channel, picture)
        named = re.compile(rf"(?<![\w-]){token}(?![\w-])")
        lines = [line for line in daemon.log.splitlines() if named.search(line)]
        for words, many in ((outcome.logged, 1), (outcome.unlogged, 0)):
            if words:
                found = [line for line in lines if all(word in line for word in words)]
                self.assertEqual(len(found), many, f"lines of the log with {words}")

    async def same(self, daemon: Daemon, path: str, channel: Channel, picture: Array) -> None:
        """A tile has these pixels."""
        code, body, _ = await daemon.get(path)
        self.assertEqual(code, 200, path)
        want = oracle.cut(oracle.labels(picture) if channel.labels else grey(channel, picture), 0, 0)
        if not channel.labels:
            want[..., 3] = 255
        got = rgba(body)
        if not np.array_equal(got, want):
            self.fail(
                f"{path}: {int((got != want).any(axis=-1).sum())} pixels differ, {_range(got)} for {_range(want)}"
            )

    async def test_unreadable(self) -> None:
        """What nobody here reads (2)."""
        await self.inputs(2)

    async def test_addresses(self) -> None:
        """Addresses as they are pasted (3, too)."""
        await self.inputs(30)

    async def test_collections(self) -> None:
        """Collections, plates, wells and labels (3)."""
        await self.inputs(3)

    async def test_names_of_chunks(self) -> None:
        """Chunks under other names, or none (4)."""
        await self.inputs(4)

    async def test_not_needed(self) -> None:
        """What is wrong and not needed, and what costs a level (5)."""
        await self.inputs(5)

    async def test_documents(self) -> None:
        """Documents that TensorStore takes another view of (6)."""
        await self.inputs(6)

    async def test_windows(self) -> None:
        """OMERO's windows (7)."""
        await self.inputs(7)

    async def test_missing_status(self) -> None:
        """What is missing in a bucket that answers 403 for it (8)."""
        await self.inputs(8)

    async def test_units(self) -> None:
        """Units of length (9)."""
        await self.inputs(9)

    async def test_finding_out(self) -> None:
        """What is there and what is not (10)."""
        await self.inputs(10)

    async def test_types(self) -> None:
        """Types of voxels (11)."""
        await self.inputs(11)

    async def test_codecs(self) -> None:
        """Codecs of numcodecs (13)."""
        await self.inputs(13)


def _range(picture: Array) -> str:
    """The least and the largest value of colours."""
    return f"{picture[..., :3].min()}..{picture[..., :3].max()}"


assert field.TABLE and WRITERS
