"""The same volume in every format and behind every kind of server, through the running daemon, pixel for pixel."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from tests import doubles, formats, oracle
from tests.bossserver import BossServer, Served
from tests.daemons import Daemon
from tests.dvidserver import DvidServer, Grayscale, pyramid
from tests.test_views import ViewsCase, opaque
from tests.tileserver import TileServer
from tests.volumes import em, level, mitochondria, nuclei

Array = np.ndarray[Any, Any]
PLANES = ("xy", "xz", "yz")
Z = Fraction(450, 46)
"""How much thicker a slice of the files is than a voxel is wide."""


def section(name: str, **options: object) -> str:
    """A section of a configuration."""
    return f"[dataset {name}]\n" + "".join(f"{key} = {value}\n" for key, value in options.items())


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

    timeout = 600

    async def gateway(self, sections: str, **options: str) -> Daemon:
        """Start it."""
        path = self.configure("http://127.0.0.1:9", **options)
        with path.open("a") as file:
            file.write(sections)
        return await self.start(path)

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
                    await self.check(daemon, f"{base}/{plane}", shown, n, first + slice_, not labels)


class EveryFormat(FormatsCase):
    """TileFiles."""

    async def test_files(self) -> None:
        """precomputed raw, jpeg, png, gzip, brotli, sharded; N5; Zarr 2 and 3; OME-Zarr 0.4 and 0.5."""
        files = self.place / "files"
        volume, offset = em(), (64, 32, 5)
        formats.precomputed(files / "raw", volume, offset=offset, shuffle=True)
        formats.precomputed(files / "jpeg", volume, encoding="jpeg")
        formats.precomputed(files / "png", volume, encoding="png", chunk=(200, 190, 7))
        formats.precomputed(files / "sharded", volume, sharded=True)
        formats.n5(files / "n5", volume)
        formats.zarr2(files / "zarr2", volume)
        formats.zarr3(files / "zarr3", volume, sharded=True)
        formats.ome_zarr(files / "ome04", volume, version="0.4", axes="czyx")
        formats.ome_zarr(files / "ome05", volume, version="0.5", axes="tczyx")
        stored = {"gzip": self.place / "gzip", "br": self.place / "br"}
        formats.precomputed(stored["gzip"] / "v", volume, stored="gzip", chunk=(64, 64, 64))
        formats.precomputed(stored["br"] / "v", volume, stored="br", chunk=(512, 512, 16))
        url = self.serve(doubles.Bucket(directory=files))
        kinds = {"n5": "n5", "zarr2": "zarr", "zarr3": "zarr", "ome04": "zarr", "ome05": "volume"}
        names = ("raw", "jpeg", "png", "sharded", *kinds)
        sections = "".join(section(n, type=kinds.get(n, "precomputed"), url=f"{url}/{n}") for n in names)
        for name, directory in stored.items():
            there = self.serve(doubles.Bucket(directory=directory, encoding=name))
            sections += section(name, type="precomputed", url=f"{there}/v")
        sections += section("local", type="volume", url=f"file://{files}/ome04")
        daemon = await self.gateway(sections)
        levels = [level(volume, n) for n in range(3)]
        await self.every(daemon, "raw", levels, offset)
        await self.every(daemon, "jpeg", decoded(files / "jpeg"))
        for name in ("png", "sharded", "gzip", "br", "n5", "ome04", "ome05", "local"):
            await self.every(daemon, name, levels)
        for name in ("zarr2", "zarr3"):  # one array is one level, and tells nothing of its voxels' edges
            await self.every(daemon, name, levels[:1], z_scale=Fraction(1))

    async def test_types(self) -> None:
        """Segmentations and images of all widths, and several values in a voxel."""
        files = self.place / "files"
        ids, cells = mitochondria(), nuclei()[:20]
        wide = ids.astype(np.uint64) * np.uint64(3_000_000_000_019)
        formats.precomputed(files / "ids64", wide, encoding="compressed_segmentation", kind="segmentation")
        formats.precomputed(files / "ids32", wide.astype(np.uint32), kind="segmentation")
        formats.precomputed(files / "ids16", ids.astype(np.uint16), encoding="png", kind="segmentation")
        formats.precomputed(files / "cells", cells, encoding="png")
        formats.precomputed(files / "counts", cells.astype(np.uint32) << np.uint32(15), chunk=(100, 100, 5))
        formats.precomputed(files / "sure", em().astype(np.float32) / 255)
        formats.precomputed(files / "colours", np.stack([em(), em()[::-1], ids]), encoding="png")
        url = self.serve(doubles.Bucket(directory=files))
        names = ("ids64", "ids32", "ids16", "cells", "counts", "sure", "colours")
        daemon = await self.gateway("".join(section(n, type="precomputed", url=f"{url}/{n}") for n in names))
        for name, volume in (
            ("ids64", wide),
            ("ids32", wide.astype(np.uint32)),
            ("ids16", ids.astype(np.uint16)),
        ):
            await self.every(daemon, name, [level(volume, n) for n in range(3)], labels=True)
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
        levels = [level(em(), n) for n in range(3)]
        await self.every(daemon, "boss/em", levels, z_scale=Fraction(35, 4))
        ids = [level(mitochondria().astype(np.uint64) << np.uint64(33), n) for n in range(3)]
        await self.every(daemon, "boss/ids", ids, z_scale=Fraction(35, 4), labels=True)
        await self.every(daemon, "dvid", levels, (64, 32, 5), z_scale=Fraction(1))
        await self.every(daemon, "tiles", levels)

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

    async def test_failures(self) -> None:
        """Every kind answers alike when its server fails, and works when it is well again."""
        files = self.place / "files"
        formats.precomputed(files / "v", em(), chunk=(512, 512, 16))
        formats.ome_zarr(files / "z", em())
        boss = BossServer({"em": Served(em())})
        dvid = DvidServer({"grayscale": Grayscale(em())})
        tiles = TileServer(em(), 3, (512, 512), 1, "jpg")
        bucket, other = doubles.Bucket(directory=files), doubles.Bucket(directory=files)
        servers = {
            "precomputed": (bucket, "v"),
            "zarr": (other, "z"),
            "boss": (doubles.Speaking(speaker=boss.answer), "vnc/stack1"),
            "dvid": (doubles.Speaking(speaker=dvid.answer), "api/node/a89eb3af/grayscale"),
            "catmaid": (doubles.Speaking(speaker=tiles.answer), "x"),
        }
        sections = ""
        for kind, (double, path) in servers.items():
            more = {"dimension": "640, 600, 20", "file_extension": "jpg"} if kind == "catmaid" else {}
            sections += section(kind, type=kind, url=f"{self.serve(double)}/{path}", timeout=1.5, **more)
        daemon = await self.gateway(sections)
        for kind, (double, _) in servers.items():
            for mode, status in (
                ("error500", 503),
                ("reset", 503),
                ("short", 503),
                ("mute", 504),
                ("silence", 504),
                ("refused", 403),
                ("well", 200),
            ):
                double.mode = mode
                for _ in range(5000):  # the last failure is remembered for a second
                    code, body, headers = await daemon.get(f"{kind}/xy/3/0_0_0.png")
                    if code == status:
                        break
                self.assertEqual(code, status, (kind, mode))
                self.assertEqual(headers["cache-control"] == "no-store", status != 200)
                self.assertEqual(body[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0"), status != 403, (kind, mode, body[:9]))
