"""The same volume in every format and behind every kind of server, through the running daemon, pixel for pixel."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from twisted.internet.utils import getProcessOutputAndValue

from tests import doubles, formats, oracle
from tests.bossserver import BossServer, Served
from tests.channels import ViewsCase
from tests.daemons import ROOT, Daemon, pause
from tests.dvidserver import DvidServer, Grayscale, pyramid
from tests.pictures import opaque
from tests.tileserver import TileServer
from tests.volumes import em, level, mitochondria, nuclei

Array = np.ndarray[Any, Any]
PLANES = ("xy", "xz", "yz")
Z = Fraction(450, 46)
"""How much thicker a slice of the files is than a voxel is wide."""


def section(name: str, **options: object) -> str:
    """A section of a configuration."""
    return f"[dataset {name}]\n" + "".join(f"{key} = {value}\n" for key, value in options.items())


def levels() -> list[Array]:
    """The levels of the micrograph, finest first."""
    return [level(em(), n) for n in range(3)]


def decoded(directory: Path) -> list[Array]:
    """The levels of a precomputed volume as TensorStore reads them, axes (z, y, x)."""
    found = []
    for number in range(3):
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{directory}/"},
            "scale_index": number,
        }
        found.append(ts.open(spec, read=True).result()[..., 0].T.read(order="C").result())
    return found


class FormatsCase(ViewsCase):
    """A daemon before everything at once."""

    async def gateway(self, sections: str, **options: str) -> Daemon:
        """Start it; with small cutouts, for a cuboid is drawn whole and these tests look at few of its slices."""
        path = self.configure("http://127.0.0.1:9", **{"upstream_max_cutout": "2", **options})
        with path.open("a") as file:
            file.write(sections)
        return await self.start(path)

    async def buckets(self, *names: str, **kinds: str) -> Daemon:
        """A daemon before the volumes of a directory, each of the kind that is given, or precomputed."""
        url = self.serve(doubles.Bucket(directory=self.files))
        sections = [section(name, type="precomputed", url=f"{url}/{name}") for name in names]
        sections += [section(name, type=kind, url=f"{url}/{name}") for name, kind in kinds.items()]
        return await self.gateway("".join(sections))

    @property
    def files(self) -> Path:
        """The directory of the volumes."""
        return self.place / "files"

    async def every(
        self,
        daemon: Daemon,
        base: str,
        levels: Sequence[Array],
        offset: tuple[int, int, int] = (0, 0, 0),
        z_scale: Fraction = Z,
        labels: bool = False,
    ) -> None:
        """First, middle and last slice of every plane and level equal the voxels."""
        for n, voxels in enumerate(levels):
            for plane in PLANES:
                through = {"xy": 0, "xz": 1, "yz": 2}[plane]
                first = (offset[2], offset[1] >> n, offset[0] >> n)[through]
                for slice_ in sorted({0, voxels.shape[through] // 2, voxels.shape[through] - 1}):
                    picture = oracle.plane(voxels, plane, slice_, z_scale / 2**n)
                    shown = oracle.labels(picture) if labels else opaque(oracle.grey(picture))
                    await self.check(daemon, f"ocpcatmaid/{base}/{plane}", shown, n, first + slice_, not labels)


class EveryFormat(FormatsCase):
    """TileFiles."""

    async def test_precomputed(self) -> None:
        """precomputed raw, jpeg, png and sharded."""
        formats.precomputed(self.files / "raw", em(), offset=(64, 32, 5), shuffle=True)
        formats.precomputed(self.files / "jpeg", em(), encoding="jpeg")
        formats.precomputed(self.files / "png", em(), encoding="png", chunk=(200, 190, 7))
        formats.precomputed(self.files / "sharded", em(), sharded=True)
        daemon = await self.buckets("raw", "jpeg", "png", "sharded")
        await self.every(daemon, "raw", levels(), (64, 32, 5))
        await self.every(daemon, "jpeg", decoded(self.files / "jpeg"))
        for name in ("png", "sharded"):
            await self.every(daemon, name, levels())

    async def test_compressed(self) -> None:
        """precomputed whose files are stored as gzip and brotli."""
        stored = {"gzip": self.place / "gzip", "br": self.place / "br"}
        formats.precomputed(stored["gzip"] / "v", em(), stored="gzip", chunk=(64, 64, 64))
        formats.precomputed(stored["br"] / "v", em(), stored="br", chunk=(512, 512, 16))
        sections = ""
        for name, directory in stored.items():
            url = self.serve(doubles.Bucket(directory=directory, encoding=name))
            sections += section(name, type="precomputed", url=f"{url}/v")
        daemon = await self.gateway(sections)
        for name in stored:
            await self.every(daemon, name, levels())

    async def test_arrays(self) -> None:
        """N5; Zarr 2 and 3, where one array is one level and holds nothing of its voxels' edges."""
        formats.n5(self.files / "n5", em())
        formats.zarr2(self.files / "zarr2", em())
        formats.zarr3(self.files / "zarr3", em(), sharded=True)
        daemon = await self.buckets(n5="n5", zarr2="zarr", zarr3="zarr")
        await self.every(daemon, "n5", levels())
        for name in ("zarr2", "zarr3"):
            await self.every(daemon, name, levels()[:1], z_scale=Fraction(1))

    async def test_ome_zarr(self) -> None:
        """OME-Zarr 0.4 and 0.5, behind a web server and as files."""
        formats.ome_zarr(self.files / "ome04", em(), version="0.4", axes="czyx")
        formats.ome_zarr(self.files / "ome05", em(), version="0.5", axes="tczyx")
        url = self.serve(doubles.Bucket(directory=self.files))
        sections = section("ome04", type="zarr", url=f"{url}/ome04")
        sections += section("ome05", type="volume", url=f"{url}/ome05")
        sections += section("local", type="volume", url=f"file://{self.files}/ome04")
        daemon = await self.gateway(sections)
        for name in ("ome04", "ome05", "local"):
            await self.every(daemon, name, levels())

    async def test_segmentations(self) -> None:
        """Segmentations of all widths."""
        ids = mitochondria()
        wide = ids.astype(np.uint64) * np.uint64(3_000_000_000_019)
        formats.precomputed(self.files / "ids64", wide, encoding="compressed_segmentation", kind="segmentation")
        formats.precomputed(self.files / "ids32", wide.astype(np.uint32), kind="segmentation")
        formats.precomputed(self.files / "ids16", ids.astype(np.uint16), encoding="png", kind="segmentation")
        daemon = await self.buckets("ids64", "ids32", "ids16")
        for name, volume in (
            ("ids64", wide),
            ("ids32", wide.astype(np.uint32)),
            ("ids16", ids.astype(np.uint16)),
        ):
            await self.every(daemon, name, [level(volume, n) for n in range(3)], labels=True)

    async def test_images(self) -> None:
        """Images of all widths, and several values in a voxel."""
        ids, cells = mitochondria(), nuclei()[:20]
        formats.precomputed(self.files / "cells", cells, encoding="png")
        formats.precomputed(self.files / "counts", cells.astype(np.uint32) << np.uint32(15), chunk=(100, 100, 5))
        formats.precomputed(self.files / "sure", em().astype(np.float32) / 255)
        formats.precomputed(self.files / "colours", np.stack([em(), em()[::-1], ids]), encoding="png")
        daemon = await self.buckets("cells", "counts", "sure", "colours")
        await self.every(daemon, "cells", [level(cells, n) for n in range(3)])
        high = (cells.astype(np.uint32) << np.uint32(15)) >> np.uint32(24)
        await self.every(daemon, "counts", [level(high.astype(np.uint8), n) for n in range(3)])
        await self.every(daemon, "sure", [level(em().astype(np.float32) / 255, n) for n in range(3)])
        for number, volume in enumerate((em(), em()[::-1], ids)):
            await self.every(daemon, f"colours/image_{number}", [level(volume, n) for n in range(3)])

    async def test_servers(self) -> None:
        """A Boss, a DVID, tile servers."""
        boss = BossServer({"em": Served(em()), "ids": Served(mitochondria().astype(np.uint64) << 33, "annotation")})
        dvid = DvidServer(pyramid("grayscale", Grayscale(em(), offset=(64, 32, 5)), 3, axes="xy"))
        large = TileServer(em(), 3, (1024, 1024), 5, "png")
        geometry = {"dimension": "640, 600, 20", "resolution": "4.6, 4.6, 45", "zoom_levels": 3}
        sections = section("boss", type="boss", url=self.serve(doubles.Speaking(speaker=boss.answer)) + "/vnc/stack1")
        node = self.serve(doubles.Speaking(speaker=dvid.answer)) + "/api/node/a89eb3af"
        sections += section("dvid", type="dvid", url=f"{node}/grayscale")
        there = self.serve(doubles.Speaking(speaker=large.answer))
        sections += section(
            "tiles",
            type="catmaid",
            url=f"{there}/x/",
            tile_source_type=5,
            tile_size=1024,
            file_extension="png",
            **geometry,
        )
        daemon = await self.gateway(sections)
        await self.every(daemon, "boss/em", levels(), z_scale=Fraction(35, 4))
        ids = [level(mitochondria().astype(np.uint64) << np.uint64(33), n) for n in range(3)]
        await self.every(daemon, "boss/ids", ids, z_scale=Fraction(35, 4), labels=True)
        await self.every(daemon, "dvid", levels(), (64, 32, 5), z_scale=Fraction(1))
        await self.every(daemon, "tiles", levels())

    async def test_aliases(self) -> None:
        """A token of 2014 shows the volume from its present home: other slices, levels and names, one URL a channel."""
        files = self.place / "files"
        formats.precomputed(files / "collection" / "exp" / "EM_25K", em())
        formats.precomputed(files / "collection" / "exp" / "mito", mitochondria(), kind="segmentation")
        url = self.serve(doubles.Bucket(directory=files))
        sections = section(
            "kasthuri11",
            type="precomputed",
            url=f"{url}/collection/exp/{{channel}}",
            channels="image: EM_25K, mitochondria: mito",
            z_shift=1,
            levels="1: 0, 2: 1, 3: 2",
        )
        where = f"\n  em: {url}/collection/exp/EM_25K\n  mito: {url}/collection/exp/mito"
        sections += section("each", type="precomputed", url=where)
        sections += section("any", type="precomputed", url=f"{url}/{{token}}/exp/EM_25K", token="collection")
        config = self.configure("")
        config.write_text(config.read_text().partition("[upstream]")[0] + sections)
        daemon = await self.start(config)
        code, body, _ = await daemon.get("kasthuri11/")
        self.assertIn(b'"mitochondria"', body)
        for n in range(3):
            for z in (1, 20):
                for base in ("ocpcatmaid/kasthuri11", "kasthuri11/xy", "ocpcatmaid/kasthuri11/image/xy"):
                    await self.check(daemon, base, opaque(level(em(), n)[z - 1]), n + 1, z)
                shown = oracle.labels(level(mitochondria(), n)[z - 1])
                await self.check(daemon, "kasthuri11/mitochondria/xy", shown, n + 1, z, False)
                await self.check(daemon, "each/em/xy", opaque(level(em(), n)[z - 1]), n, z - 1)
                await self.check(daemon, "any", opaque(level(em(), n)[z - 1]), n, z - 1)
        for path in ("kasthuri11/xy/0/0_0_1.png", "kasthuri11/xy/1/0_0_0.png"):  # before the first slice; no level 0
            code, _, headers = await daemon.get(path)
            self.assertEqual((code, headers["cache-status"]), (200, "ocpproxy; detail=out-of-bounds"))
        code, body, _ = await daemon.get("unknown/xy/1/0_0_0.png")
        self.assertEqual((code, body), (404, b"unknown token unknown\n"))


class FlushedFormats(FormatsCase):
    """Volumes that are written again under the same description."""

    async def test_arrays(self) -> None:
        """After a flush the voxels are read again, whatever a reader of the format keeps for a while."""

        def write(volume: Array) -> None:
            formats.precomputed(self.files / "raw", volume)
            formats.precomputed(self.files / "sharded", volume, sharded=True)
            formats.n5(self.files / "n5", volume)
            formats.zarr3(self.files / "zarr3", volume, sharded=True)

        write(em())
        daemon = await self.buckets("raw", "sharded", n5="n5", zarr3="zarr")
        new = 255 - em()
        for name in ("raw", "sharded", "n5", "zarr3"):
            await self.check(daemon, f"ocpcatmaid/{name}/xy", opaque(oracle.grey(em()[3])), 0, 3)
        shutil.rmtree(self.files)
        write(new)
        for name in ("raw", "sharded", "n5", "zarr3"):
            words = ["-m", "ocpproxy.cli", "flush", name, "--yes", "--config", str(self.place / "ocp.ini")]
            out, err, code = await getProcessOutputAndValue(sys.executable, words, {**os.environ}, str(ROOT))
            self.assertEqual(code, 0, out + err)
            await self.check(daemon, f"ocpcatmaid/{name}/xy", opaque(oracle.grey(new[3])), 0, 3)


class MirroredFormats(FormatsCase):
    """Volumes with two homes, the first of which fails."""

    async def test_takes_over(self) -> None:
        """Every kind of volume is read from its second home, pixel for pixel, also renumbered and by channel."""
        homes = []
        for name in ("one", "two"):
            directory = self.place / name
            chunk = 64 if name == "one" else 128  # each home is read by its own description
            formats.precomputed(directory / "raw", em(), chunk=(chunk, chunk, 16))
            formats.n5(directory / "n5", em(), chunk=(chunk, chunk, 8))
            formats.zarr3(directory / "zarr3", em())
            homes.append(doubles.Bucket(directory=directory))
        urls = [self.serve(home) for home in homes]

        def both(path: str, channel: str = "") -> str:
            return "\n  ".join(f"{channel}{url}/{path}" for url in urls)

        text = section("raw", type="precomputed", url=both("raw"))
        text += section("n5", type="n5", url=both("n5"))
        text += section("zarr3", type="zarr", url=both("zarr3"))
        text += section("shifted", type="precomputed", url=both("raw"), z_shift=1)
        text += section("named", type="precomputed", url=both("raw", "a: ") + "\n  " + both("raw", "b: "), channel="b")
        daemon = await self.gateway(text, upstream_retries="0")
        shown = [opaque(oracle.grey(em()[z])) for z in (3, 9)]
        for name in ("raw", "n5", "zarr3", "named"):
            await self.check(daemon, f"ocpcatmaid/{name}/xy", shown[0], 0, 3)
        await self.check(daemon, "shifted/xy", shown[0], 0, 4)
        homes[0].mode = "error500"
        for name in ("raw", "n5", "zarr3", "named"):
            await self.check(daemon, f"ocpcatmaid/{name}/xy", shown[1], 0, 9)
        await self.check(daemon, "shifted/xy", shown[1], 0, 10)
        await daemon.stop()
        daemon = await self.gateway(text, upstream_retries="0", cache_directory="new", index_url="sqlite:///new.sqlite")
        for name in ("raw", "n5", "named"):
            await self.check(daemon, f"ocpcatmaid/{name}/xy", shown[1], 0, 9)


class FailureTests(FormatsCase):
    """Every kind answers alike when its server fails, and works when it is well again."""

    async def break_servers(self, kind: str, make: Callable[[], doubles.Double], path: str, **options: object) -> None:
        """Let servers of a kind fail in each way; only what must run into its deadline has a short one."""
        patient, hasty = make(), make()
        daemon = await self.gateway(
            section("patient", type=kind, url=f"{self.serve(patient)}/{path}", timeout=60, retries=0, **options)
            + section("hasty", type=kind, url=f"{self.serve(hasty)}/{path}", timeout=1, retries=0, **options)
        )
        for token, double, mode, status in (
            ("patient", patient, "error500", 503),
            ("patient", patient, "reset", 503),
            ("patient", patient, "short", 503),
            ("patient", patient, "refused", 403),
            ("patient", patient, "well", 200),
            ("hasty", hasty, "mute", 504),
            ("hasty", hasty, "silence", 504),
            ("hasty", hasty, "well", 200),
        ):
            double.mode, asked = mode, double.asked["cutout"]
            while True:  # the last failure is remembered for a second
                code, body, headers = await daemon.get(f"{token}/xy/3/0_0_0.png")
                if code == status and double.asked["cutout"] > asked:
                    break
                await pause(0.05)
            self.assertEqual(headers["cache-control"] == "no-store", status != 200)
            self.assertEqual(body[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0"), status != 403, (mode, body[:9]))

    async def test_precomputed(self) -> None:
        """Neuroglancer's files."""
        formats.precomputed(self.place / "files" / "v", em(), chunk=(512, 512, 16))
        await self.break_servers("precomputed", lambda: doubles.Bucket(directory=self.place / "files"), "v")

    async def test_zarr(self) -> None:
        """OME-Zarr, read by TensorStore."""
        formats.ome_zarr(self.place / "files" / "z", em())
        await self.break_servers("zarr", lambda: doubles.Bucket(directory=self.place / "files"), "z")

    async def test_boss(self) -> None:
        """A Boss."""
        server = BossServer({"em": Served(em())})
        await self.break_servers("boss", lambda: doubles.Speaking(speaker=server.answer), "vnc/stack1")

    async def test_dvid(self) -> None:
        """A DVID."""
        server = DvidServer({"grayscale": Grayscale(em())})
        await self.break_servers("dvid", lambda: doubles.Speaking(speaker=server.answer), "api/node/a89eb3af/grayscale")

    async def test_catmaid(self) -> None:
        """A tile server."""
        server = TileServer(em(), 3, (512, 512), 1, "jpg")
        geometry = {"dimension": "640, 600, 20", "file_extension": "jpg"}
        await self.break_servers("catmaid", lambda: doubles.Speaking(speaker=server.answer), "x", **geometry)
