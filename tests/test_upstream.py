"""Upstreams: the suite that all kinds pass, and what is particular to some.

A new kind is a class here: its double, how it is configured, and what of the common faults it tells otherwise.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ocpproxy.metrics import Metrics
from ocpproxy.model.dataset import Box, Cutout
from ocpproxy.upstream import demo
from ocpproxy.upstream.base import (
    InstrumentedUpstream,
    OutOfRange,
    UnknownToken,
    Upstream,
    UpstreamBroken,
)
from tests import doubles, formats, ocpserver
from tests.bossserver import BossServer, Served
from tests.buckets import BucketTests
from tests.conformance import (
    ConformanceTests,
    DescribingTests,
    PoliteTests,
    ServedTests,
    UpstreamCase,
    a_turn,
)
from tests.dvidserver import DvidServer, Grayscale, Labels, Tiles, pyramid
from tests.tileserver import TileServer
from tests.volumes import em


@cache
def many_ids() -> Any:
    """Ids of 64 bits: as many as the micrograph has shades."""
    return em().astype(np.uint64) << np.uint64(40)


class DemoTests(ConformanceTests, UpstreamCase):
    """The built-in tissue."""

    def upstream(self) -> Upstream:
        """One."""
        return self.configured("type = demo\n")

    async def test_size(self) -> None:
        """At least 16,384 x 16,384 x 1,024 voxels in 6 levels, and a coarse level shows the same tissue."""
        dataset = await self.described(self.upstream(), "demo")
        self.assertEqual((dataset.levels[0].size, len(dataset.levels)), ((16384, 16384, 1024), 6))
        fine = demo.tissue(Box(4096, 4608, 4096, 4608, 40, 41), 0)[0, ::2, ::2].astype(float)
        coarse = demo.tissue(Box(2048, 2304, 2048, 2304, 40, 41), 1)[0].astype(float)
        self.assertGreater(float(np.corrcoef(fine.ravel(), coarse.ravel())[0, 1]), 0.8)


# -- Open Connectome


class OpenConnectomeTests(PoliteTests, DescribingTests):
    """Each generation over the real volume."""

    generation = 0
    faults = {**ServedTests.faults, "wrong_type": UpstreamBroken, "pickle": UpstreamBroken}  # noqa: RUF012

    def double(self) -> doubles.Double:
        """Of this generation."""
        return ocpserver.Service(em(), self.generation, (0, 0, 1) if self.generation == 1 else (64, 32, 5))

    def at(self: Any, url: str, **options: object) -> Upstream:
        """A client of it."""
        upstream: Upstream = self.configured(f"type = ocp\nurl = {url}\n", **options)
        return upstream

    async def test_unknown_token(self: Any) -> None:
        """The server knows its tokens."""
        with self.assertRaises(UnknownToken):
            await self.upstream().describe("nope")

    async def test_out_of_range(self: Any) -> None:
        """A server that says there is no such box: what we know is out of date."""
        upstream = self.upstream()
        dataset = await self.described(upstream, "kat")
        end = dataset.levels[0].end
        box = Box(*(v for e in end for v in (e, e + 8)))
        with self.assertRaises(OutOfRange):
            await upstream.cutout(Cutout(dataset, dataset.channel(None), 0, 0, box))


class FirstGenerationTests(OpenConnectomeTests, UpstreamCase):
    """2013 to March 2015."""

    generation = 1


class SecondGenerationTests(OpenConnectomeTests, UpstreamCase):
    """April 2015 to 2016."""

    generation = 2

    async def test_redirect_on_the_same_host(self) -> None:
        """A redirect that stays on the host is followed."""
        upstream = self.at(self.serve(ocpserver.Service(em(), 2)) + "/moved")
        self.assertIn("dataset", json.loads(await upstream.describe("kat")))

    async def test_measured(self) -> None:
        """Requests are counted by what came of them."""
        metrics = Metrics()
        upstream = InstrumentedUpstream(self.upstream(), metrics)
        with self.assertRaises(UnknownToken):
            await upstream.describe("nope")
        await upstream.describe("kat")
        for outcome in ("ok", "unknown"):
            count = metrics.registry.get_sample_value(
                "ocpproxy_upstream_requests_total", {"kind": "info", "outcome": outcome}
            )
            self.assertEqual(count, 1)


class ThirdGenerationTests(OpenConnectomeTests, UpstreamCase):
    """December 2016 on."""

    generation = 3


# -- files in buckets


class RawTests(PoliteTests, BucketTests, UpstreamCase):
    """precomputed, raw chunks of 128 x 128 x 16; scales in disorder, an offset."""

    def write(self, directory: Path) -> None:
        """By TensorStore."""
        formats.precomputed(directory, em(), offset=(64, 32, 5), shuffle=True)


class RenumberedTests(RawTests):
    """The same under other numbers of slices and levels."""

    def at(self, url: str, **options: object) -> Upstream:
        """A client of it."""
        return super().at(url, z_shift=-2, levels="1: 0, 2: 1, 3: 2", **options)

    def level(self, number: int) -> Any:
        """A level of it."""
        return super().level(number - 1)


class OpenNeurodataTests(PoliteTests, BucketTests, UpstreamCase):
    """precomputed as in the bucket open-neurodata: raw chunks of 512 x 512 x 16, stored as brotli."""

    encoding = "br"

    def write(self, directory: Path) -> None:
        """By TensorStore."""
        formats.precomputed(directory, em(), chunk=(512, 512, 16), stored="br")


class GzipTests(PoliteTests, BucketTests, UpstreamCase):
    """precomputed, raw, stored as gzip."""

    encoding = "gzip"

    def write(self, directory: Path) -> None:
        """By TensorStore."""
        formats.precomputed(directory, em(), stored="gzip", chunk=(64, 64, 64))


class JpegTests(PoliteTests, BucketTests, UpstreamCase):
    """precomputed, JPEG."""

    lossy = True

    def write(self, directory: Path) -> None:
        """By TensorStore."""
        formats.precomputed(directory, em(), encoding="jpeg")


class PngTests(PoliteTests, BucketTests, UpstreamCase):
    """precomputed, PNG, chunks that divide nothing."""

    def write(self, directory: Path) -> None:
        """By TensorStore."""
        formats.precomputed(directory, em(), encoding="png", chunk=(200, 190, 7))


class SegmentationTests(PoliteTests, BucketTests, UpstreamCase):
    """precomputed, compressed segmentation of 64 bits."""

    def volume(self) -> Any:
        """Its ids are the voxels of the micrograph: there are many."""
        return many_ids()

    def write(self, directory: Path) -> None:
        """By TensorStore."""
        formats.precomputed(directory, self.volume(), encoding="compressed_segmentation", kind="segmentation")


# -- BossDB


class BossTests(PoliteTests, DescribingTests, UpstreamCase):
    """An image channel of a Boss."""

    served_as = "image"

    def double(self) -> doubles.Double:
        """A Boss."""
        server = BossServer({"em": Served(self.volume(), self.served_as)})
        return doubles.Speaking(speaker=server.answer)

    def at(self, url: str, **options: object) -> Upstream:
        """A client of it."""
        return self.configured(f"type = boss\nurl = {url}/vnc/stack1\n", **options)


class BossAnnotationTests(BossTests):
    """An annotation channel of a Boss, uint64."""

    served_as = "annotation"

    def volume(self) -> Any:
        """Many ids."""
        return many_ids()


# -- DVID


class DvidTests(PoliteTests, DescribingTests):
    """A DVID whose grayscale halves x and y."""

    channels = "image: grayscale"

    def instances(self) -> Any:
        """What it holds."""
        return pyramid("grayscale", Grayscale(em(), offset=(64, 32, 5)), 3, axes="xy")

    def double(self) -> doubles.Double:
        """A DVID."""
        return doubles.Speaking(speaker=DvidServer(self.instances()).answer)

    def at(self: Any, url: str, **options: object) -> Upstream:
        """A client of it."""
        lines = f"type = dvid\nurl = {url}/api/node/a89eb3af/{{channel}}\nchannels = {self.channels}\n"
        upstream: Upstream = self.configured(lines, **options)
        return upstream

    async def test_unknown_token(self: Any) -> None:
        """There is no such instance, or no such node."""
        self.channels = "image: nothing"
        with self.assertRaises(UnknownToken):
            await self.at(self.serve(self.double())).describe("kat")


class GrayscaleTests(DvidTests, UpstreamCase):
    """By raw."""


class GridStoreTests(DvidTests, UpstreamCase):
    """By blocks, where raw is refused."""

    def instances(self) -> Any:
        """Its blocks are elsewhere."""
        return pyramid("grayscale", Grayscale(em(), offset=(64, 32, 5), gridstore=True), 3, axes="xy")


class LabelmapTests(DvidTests, UpstreamCase):
    """Ids, whose scales halve all axes."""

    channels = "labels"

    def volume(self) -> Any:
        """Many ids."""
        return many_ids()

    def level(self, number: int) -> Any:
        """All axes are halved."""
        step = 2**number
        return self.volume()[::step, ::step, ::step]

    def instances(self) -> Any:
        """What it holds."""
        return {"labels": Labels(self.volume(), max_scale=2)}


# -- tile servers


class TileServerTests(PoliteTests):
    """Another CATMAID's tiles."""

    type: Any = 1
    tile = (512, 512)
    format: Any = "png"

    def double(self) -> doubles.Double:
        """A tile server."""
        server = TileServer(em(), 3, self.tile, self.type, self.format)
        return doubles.Speaking(speaker=server.answer)

    def at(self: Any, url: str, **options: object) -> Upstream:
        """A client of it."""
        said = {
            "type": "catmaid",
            "url": f"{url}/em/",
            "tile_source_type": self.type,
            "tile_size": f"{self.tile[0]}, {self.tile[1]}",
            "file_extension": self.format,
            "dimension": "(640, 600, 20)",
            "resolution": "(4.6, 4.6, 45)",
            "zoom_levels": 3,
        }
        lines = "".join(f"{name} = {value}\n" for name, value in said.items())
        upstream: Upstream = self.configured(lines, **options)
        return upstream


class MissingTileTests(TileServerTests):
    """Those that say of a tile that it is not there."""

    async def test_missing(self: Any) -> None:
        """A tile that is not there is black, or a fault where the operator says so; any other failure is one."""
        for options, black in (({}, True), ({"missing": "error"}, False), ({"missing_status": "403"}, False)):
            server = TileServer(em(), 3, self.tile, self.type, self.format, {(3, 0, 0, 0)})
            upstream = self.at(self.serve(doubles.Speaking(speaker=server.answer)), **options)
            dataset = await self.described(upstream, "kat")
            for z in (3, 4):
                cutout = Cutout(dataset, dataset.channels[0], 0, 0, Box(0, 64, 0, 64, z, z + 1))
                if z == 4 or black:
                    voxels = await upstream.cutout(cutout)
                    self.assertEqual(bool(voxels.any()), z == 4)
                else:
                    with self.assertRaises(UpstreamBroken):
                        await upstream.cutout(cutout)
            await a_turn()


class FileBasedTests(MissingTileTests, UpstreamCase):
    """Type 1, PNG, 512 x 512."""


class QueryTests(MissingTileTests, UpstreamCase):
    """Type 2, tiles of 300 x 200."""

    type = 2
    tile = (300, 200)


class ZoomDirectoriesTests(MissingTileTests, UpstreamCase):
    """Type 4, JPEG, 1024 x 1024."""

    type = 4
    tile = (1024, 1024)
    format = "jpg"
    lossy = True


class DirectoriesTests(MissingTileTests, UpstreamCase):
    """Type 5, 2048 x 512."""

    type = 5
    tile = (2048, 512)


class RenderTests(MissingTileTests, UpstreamCase):
    """Type 7."""

    type = 7


class FlixServerTests(MissingTileTests, UpstreamCase):
    """Type 9, JPEG."""

    type = 9
    format = "jpg"
    lossy = True


class ImageTileTests(TileServerTests, UpstreamCase):
    """Type 8: a DVID's imagetile."""

    type = 8

    def double(self) -> doubles.Double:
        """A DVID."""
        server = DvidServer({"tiles": Tiles(em(), levels=3)})

        def speak(path: str, query: dict[str, list[str]], headers: dict[str, str]) -> doubles.Answer:
            return server.answer(path.replace("/em/", "/api/node/a89eb3af/tiles/tile/"), query, headers)

        return doubles.Speaking(speaker=speak)
