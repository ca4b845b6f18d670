"""The worked example of ``docs/extending.md``, installed and run for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
from PIL import Image
from twisted.internet.threads import deferToThread

from ocpproxy.model.dataset import Box, Cutout
from ocpproxy.upstream.base import Upstream, UpstreamBroken
from ocpproxy.upstream.registry import GROUP, KINDS
from tests import doubles
from tests.conformance import PoliteTests, UpstreamCase
from tests.test_formats import FormatsCase, section
from tests.volumes import Volume, em

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
GEOMETRY = {"dimension": "640, 600, 20", "resolution": "4.6, 4.6, 45"}


def install(directory: Path, **entry_points: str) -> None:
    """Install the example's distribution into a directory, as pip would.

    :param entry_points: upstreams to declare instead of those in the example's ``pyproject.toml``.
    """
    project = tomllib.loads((EXAMPLES / "pyproject.toml").read_text())["project"]
    dist_info = directory / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    dist_info.mkdir(parents=True)
    shutil.copy(EXAMPLES / "slices.py", directory)
    (dist_info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    declared = entry_points or project["entry-points"][GROUP]
    lines = [f"[{GROUP}]", *(f"{name} = {value}" for name, value in declared.items())]
    (dist_info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def write_slices(directory: Path, volume: Volume) -> None:
    """Write one PNG file for each z slice of a volume (z, y, x)."""
    directory.mkdir(parents=True)
    for z, pixels in enumerate(volume):
        Image.fromarray(pixels).save(directory / f"{z}.png")


class InstalledCase(UpstreamCase):
    """The example, installed into this process for the time of a test."""

    def setUp(self) -> None:
        """Install the example, and start the suite."""
        super().setUp()
        self.patch(KINDS, "_kinds", dict(KINDS._kinds))
        self.patch(sys, "path", [*sys.path])
        self.addCleanup(sys.modules.pop, "slices", None)

    def install(self, **entry_points: str) -> None:
        """Make the distribution visible to this process."""
        directory = Path(self.mktemp()).absolute()
        install(directory, **entry_points)
        sys.path.insert(0, str(directory))


class SlicesTests(PoliteTests, InstalledCase):
    """The conformance suite on ``type = slices``."""

    least_levels = 1

    def setUp(self) -> None:
        """Install the example."""
        super().setUp()
        self.install()

    def double(self) -> doubles.Double:
        """Return a web server with the files."""
        directory = Path(self.mktemp()).absolute()
        write_slices(directory / "volume", self.volume())
        return doubles.Bucket(directory=directory)

    def at(self, url: str, **options: object) -> Upstream:
        """Return an upstream of the example."""
        return self.configured(f"type = slices\nurl = {url}/volume\n", **GEOMETRY, **options)

    async def test_missing(self) -> None:
        """A slice that the server does not have is black."""
        directory = Path(self.mktemp()).absolute()
        write_slices(directory / "volume", em())
        (directory / "volume" / "3.png").unlink()
        upstream = self.at(self.serve(doubles.Bucket(directory=directory)))
        dataset = await self.described(upstream, "kat")
        voxels = await upstream.cutout(Cutout(dataset, dataset.channels[0], 0, 0, Box(0, 64, 0, 64, 2, 5)))
        expected = em()[2:5, :64, :64].copy()
        expected[1] = 0
        np.testing.assert_array_equal(voxels, expected)

    async def test_wide(self) -> None:
        """A file of 16 bits is refused."""
        directory = Path(self.mktemp()).absolute()
        write_slices(directory / "volume", em().astype(np.uint16))
        upstream = self.at(self.serve(doubles.Bucket(directory=directory)))
        dataset = await self.described(upstream, "kat")
        with self.assertRaises(UpstreamBroken):
            await upstream.cutout(Cutout(dataset, dataset.channels[0], 0, 0, Box(0, 64, 0, 64, 2, 5)))


class EntryPointTests(InstalledCase):
    """Entry points that declare upstreams."""

    def test_wrong_value(self) -> None:
        """An entry point that is no kind, or has another name than its kind, is an error that names it."""
        self.install(slices="slices:Slices", other="slices:KIND")
        for name in ("slices", "other"):
            error = self.assertRaises(TypeError, KINDS.get, name)
            self.assertIn(f"the entry point {name} of {GROUP}", str(error))
        self.assertIsNone(KINDS.get("nothing"))


class SlicesDaemonTests(FormatsCase):
    """A daemon that serves ``type = slices``."""

    async def test_tiles(self) -> None:
        """Tiles of all planes equal the voxels of the files."""
        install(self.place / "site")
        write_slices(self.place / "files" / "volume", em())
        url = self.serve(doubles.Bucket(directory=self.place / "files"))
        path = self.configure("http://127.0.0.1:9")
        with path.open("a") as file:
            file.write(section("mine", type="slices", url=f"{url}/volume", **GEOMETRY))
        daemon = await self.start(path, PYTHONPATH=str(self.place / "site"))
        await self.every(daemon, "mine", [em()])

    async def test_check_config(self) -> None:
        """check-config demands the option that the example requires, and knows the type only where it is installed."""
        install(self.place / "site")
        for options, python_path, code, expected in (
            (GEOMETRY, "site", 0, "is fine"),
            ({}, "site", 1, "[dataset mine] dimension = '': expected voxels along x, y, z"),
            ({"dimension": "1, 2"}, "site", 1, "[dataset mine] dimension = '1, 2': expected voxels along x, y, z"),
            (GEOMETRY, "", 1, "[dataset mine] type = 'slices': expected one of ocp, "),
        ):
            path = self.place / "check.ini"
            path.write_text(section("mine", type="slices", url="https://example.org/volume", **options))
            command = [sys.executable, "-m", "ocpproxy.cli", "check-config", "--config", str(path)]
            environment = {**os.environ, "PYTHONPATH": str(self.place / python_path)}
            result = await deferToThread(
                subprocess.run, command, env=environment, capture_output=True, text=True, check=False
            )
            self.assertIn(expected, result.stdout, result.stderr)
            self.assertEqual(result.returncode, code)
