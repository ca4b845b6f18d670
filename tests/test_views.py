"""Every plane, level, time, type and colour through the running daemon, pixel for pixel; and CATMAID's own clients."""

from __future__ import annotations

import json
import sqlite3
from fractions import Fraction
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest

from tests import ocpserver, oracle
from tests.daemons import Daemon, DaemonCase
from tests.ocpserver import Served
from tests.volumes import em, level, mitochondria, nuclei, shared

Array = np.ndarray[Any, Any]
PLANES = ("xy", "xz", "yz", "zy")
SMALL: dict[str, Any] = {"side": 16, "depth": 2}
"""Cubes whose slabs have few tiles: these tests look at few slices, and each slab is drawn whole."""


def rgba(body: bytes) -> Array:
    """What a viewer shows of a tile."""
    image = Image.open(BytesIO(body))
    assert (image.format, image.size) == ("PNG", (512, 512)), image
    return np.array(image.convert("RGBA"))


def opaque(grey: Array) -> Array:
    """Grey pixels as colours."""
    return np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=-1)


@cache
def channels() -> dict[str, Served]:
    """A volume of every type on one grid, from the real ones: electrons, ids, and fluorescence laid over them."""
    electrons, ids = em(), mitochondria()
    wide = np.zeros(electrons.shape, np.uint16)
    cells = nuclei()[: electrons.shape[0]]
    wide[: cells.shape[0], : cells.shape[1], : cells.shape[2]] = cells
    moving = np.stack([np.roll(electrons, 40 * n, 2) for n in range(13)])
    quad = wide.astype(np.uint64)
    return {
        "em": Served(electrons),
        "wide": Served(wide),
        "windowed": Served(wide, window=(500, 20000)),
        "moving": Served(moving, "timeseries"),
        "moving16": Served(np.stack([wide, wide[::-1]]), "timeseries"),
        "ids": Served(ids.astype(np.uint32) * 1_000_003, "annotation"),
        "ids64": Served(ids.astype(np.uint64) * 3_000_000_000_019, "annotation"),
        "mask": Served((ids > 40).astype(np.uint8) * 3, "bitmask"),
        "sure": Served(electrons.astype(np.float32) / 250, "probability"),
        "rgb": Served(electrons.astype(np.uint32) * 65793 + (ids.astype(np.uint32) << 24), "rgba"),
        "rgb64": Served(quad | quad << np.uint64(17) | np.uint64(0xFFFF << 48), "rgba"),
    }


def shown(name: str, served: Served, picture: Array) -> Array:
    """A whole picture of one channel, as it is shown by itself."""
    if served.kind == "annotation":
        return oracle.labels(picture)
    if served.kind == "rgba":
        return oracle.rgba(picture)
    return opaque(light(served, picture))


def light(served: Served, picture: Array, window: tuple[int, int] | None = None) -> Array:
    """A channel as light."""
    if served.kind == "bitmask":
        return np.where(picture == 0, 0, 255).astype(np.uint8)
    return oracle.grey(picture, served.window if served.window[1] else window)


class ViewsCase(DaemonCase):
    """A daemon before a server of many channels."""

    timeout = 900

    async def view(self, service: ocpserver.Service, extra: str = "", **options: str) -> Daemon:
        """Start both."""
        path = self.configure(self.serve(service), **options)
        with path.open("a") as file:
            file.write(extra)
        return await self.start(path)

    async def pictures(self, daemon: Daemon, paths: list[str]) -> list[Array]:
        """The tiles, all at once."""
        answers = await gatherResults([Deferred.fromCoroutine(daemon.get(path)) for path in paths])
        for path, (code, body, headers) in zip(paths, answers, strict=True):
            self.assertEqual((code, headers["content-type"]), (200, "image/png"), (path, body[:200]))
            self.assertEqual(headers["content-length"], str(len(body)))
        return [rgba(body) for _, body, _ in answers]

    async def check(self, daemon: Daemon, base: str, whole: Array, n: int, slice_: int, solid: bool = True) -> None:
        """Every tile of one slice of an image base equals a whole picture, and around it all is blank."""
        rows, cols = (-(-side // 512) for side in whole.shape[:2])
        places = [(row, col) for row in range(rows) for col in range(cols)]
        found = await self.pictures(daemon, [f"{base}/{slice_}/{row}_{col}_{n}.png" for row, col in places])
        for (row, col), got in zip(places, found, strict=True):
            want = oracle.cut(whole, row, col)
            if solid:
                want[..., 3] = 255  # what is grey is black beyond the volume
            np.testing.assert_array_equal(got, want, f"{base} {slice_} {row} {col} {n}")


class GenerationTests:
    """Each type of channel: every plane and level; first, middle and last slices; one time in the middle."""

    generation = 0
    options: dict[str, str] = {}  # noqa: RUF012
    cube = SMALL

    async def every(self: Any, *names: str) -> None:
        """Compare all pixels of these channels."""
        generation = self.generation
        served = {name: channels()[name] for name in names}
        offset = (0, 0, 1) if generation == 1 else (64, 32, 5)
        service = ocpserver.Service(em(), generation, offset, levels=2, channels=served, scale=5, **self.cube)
        daemon = await self.view(service, name=f"{names[0]}.ini", cache_directory=names[0], **self.options)
        for name, one in served.items():
            called = "image" if generation == 1 and one.kind in ("image", "timeseries") else name
            called = one.kind if generation == 1 and called == name and one.kind != "channels" else called
            for n in range(2):
                volume = level(one.voxels, n)
                time = volume.shape[0] - 1 if one.kind == "timeseries" else None
                volume = volume if time is None else volume[time]
                for plane in PLANES:
                    through = {"xy": 0, "xz": 1, "yz": 2, "zy": 2}[plane]
                    first = (offset[2], offset[1] >> n, offset[0] >> n)[through]
                    scale = Fraction(5, 2**n)
                    for slice_ in (0, volume.shape[through] // 2, volume.shape[through] - 1):
                        whole = shown(name, one, oracle.plane(volume, plane, slice_, scale))
                        base = f"kat/{called}/{plane}" + ("" if time is None else f"/{time}")
                        await self.check(daemon, base, whole, n, first + slice_, one.kind not in ("annotation", "rgba"))

    async def test_images(self) -> None:
        """Images of 8 and 16 bits."""
        await self.every("em", "wide")

    async def test_times(self) -> None:
        """Time series."""
        await self.every("moving", "moving16")

    async def test_ids(self) -> None:
        """Annotations of 32 and 64 bits."""
        await self.every("ids", "ids64")

    async def test_shares(self) -> None:
        """Bitmasks and probabilities."""
        await self.every("mask", "sure")

    async def test_colours(self) -> None:
        """Colours of 32 and 64 bits."""
        await self.every("rgb", "rgb64")


class FirstGenerationTests(GenerationTests, ViewsCase):
    """One type for a whole project."""

    generation = 1

    async def every(self, *names: str) -> None:
        """Each channel is a project of its own."""
        for name in names:
            await super().every(name)


class NamedChannelsTests(GenerationTests):
    """Channels with names, among them those with a window of their own."""

    async def test_window(self) -> None:
        """A window that the upstream knows."""
        await self.every("windowed")


class SecondGenerationTests(NamedChannelsTests, ViewsCase):
    """In slabs that are thinner than usual."""

    generation = 2
    options = {"upstream_max_cutout": "2"}  # noqa: RUF012
    cube: dict[str, Any] = {}  # noqa: RUF012


class ThirdGenerationTests(NamedChannelsTests, ViewsCase):
    """With times of their own, in blosc."""

    generation = 3
    options = {"upstream_format": "blosc"}  # noqa: RUF012


class EveryView(ViewsCase):
    """All pixels of what is made of several channels, and each stack apart from all others."""

    async def test_false_colour(self) -> None:
        """mcfc of mixed types, in every plane, at a time, with gain, background and windows."""
        served = channels()
        service = ocpserver.Service(em(), 3, levels=2, channels=served, scale=1, **SMALL)
        extra = "[dataset katbright]\ntoken = kat\ngain = 4\nopaque = on\nwindow = wide: 100, 5000\n  em: 50, 99\n"
        daemon = await self.view(service, extra, upstream_max_cutout="5")
        windows = {"wide": (100, 5000), "em": (50, 99)}
        cases: tuple[tuple[str, list[tuple[str, str]], int | None], ...] = (
            ("em:R", [("em", "R")], None),
            ("em,windowed", [("em", "C"), ("windowed", "M")], None),
            ("em:B,0,sure", [("em", "B"), ("sure", "Y")], None),
            ("mask:Y,wide:R,em:G", [("mask", "Y"), ("wide", "R"), ("em", "G")], None),
            ("moving:M,moving16:G", [("moving", "M"), ("moving16", "G")], 1),
            ("moving,moving16,em", [("moving", "C")], 7),
            (
                "em,wide,windowed,mask,sure,em",
                list(zip(("em", "wide", "windowed", "mask", "sure", "em"), "CMYRGB", strict=True)),
                None,
            ),
        )
        for token, gain, back, window in (("kat", 1, False, {}), ("katbright", 4, True, windows)):
            for said, parts, time in cases:
                for plane in PLANES:
                    lights = []
                    for name, colour in parts:
                        volume = served[name].voxels
                        volume = volume[time or 0] if served[name].kind == "timeseries" else volume
                        picture = oracle.plane(volume, plane, 3, Fraction(1))
                        low_high = window.get(name) if name in ("wide", "em") else None
                        lights.append((light(served[name], picture, low_high), colour))
                    whole = oracle.false_colour(lights, gain, back)
                    first = 1 if plane == "xy" else 0
                    base = f"mcfc/{token}/{said}/{plane}" + ("" if time is None else f"/{time}")
                    if back:
                        got = await self.pictures(daemon, [f"{base}/{first + 3}/0_0_0.png"])
                        want = oracle.cut(whole, 0, 0)
                        want[..., 3] = 255
                        np.testing.assert_array_equal(got[0], want)
                    else:
                        await self.check(daemon, base, whole, 0, first + 3, solid=False)

    async def test_channel_project(self) -> None:
        """Generation 1: numbers and names, places kept free, and what is said when nothing is named."""
        for dtype in ("uint8", "uint16"):
            one, two = (
                (v.astype(np.uint16) * 250).astype(dtype) if dtype == "uint16" else v for v in (em(), em()[::-1])
            )
            served = {"DAPI-1": Served(one, "channels"), "Synapsin": Served(two, "channels")}
            service = ocpserver.Service(em(), 1, levels=1, channels=served)
            daemon = await self.view(
                service, name=f"{dtype}.ini", cache_directory=dtype, index_url=f"sqlite:///{dtype}.sqlite"
            )
            for said, parts in (
                ("1,2", [("DAPI-1", "C"), ("Synapsin", "M")]),
                ("Synapsin", [("Synapsin", "C")]),
                ("0,0,2", [("Synapsin", "Y")]),
                ("0,DAPI-1,0,2", [("DAPI-1", "M"), ("Synapsin", "R")]),
            ):
                for plane, first in (("xy", 1), ("xz", 0)):
                    lights = [
                        (oracle.grey(oracle.plane(served[name].voxels, plane, 2, Fraction(10))), colour)
                        for name, colour in parts
                    ]
                    await self.check(daemon, f"kat/{plane}/{said}", oracle.false_colour(lights), 0, first + 2, False)
                    if plane == "xy":
                        await self.check(daemon, f"kat/{said}", oracle.false_colour(lights), 0, 3, False)
            await self.check(daemon, "kat/DAPI-1/xy", opaque(oracle.grey(one[4])), 0, 5)
            for path in ("kat/3/0_0_0.png", "kat/xy/3/0_0_0.png", "kat/xz/3/0_0_0.png"):
                code, body, _ = await daemon.get(path)
                self.assertEqual(code, 404)
                self.assertIn(b"naming its channels; they are: DAPI-1, Synapsin", body)
            await daemon.stop()

    async def test_red_and_more(self) -> None:
        """Probabilities in red; native stacks and full slices beside the default of the same volume; viking."""
        served = channels()
        service = ocpserver.Service(em(), 2, levels=2, channels=served, scale=10, **SMALL)
        extra = (
            "[dataset katred]\ntoken = kat\nprobability = red\n"
            "[dataset katmaid]\ntoken = kat\naspect = native\nslice_coordinate = full\nchannel = em\n"
        )
        daemon = await self.view(service, extra, upstream_max_cutout="2")
        sure = oracle.grey(served["sure"].voxels[2])
        red = opaque(sure)
        red[..., 1:3] = 0
        await self.check(daemon, "katred/sure/xy", red, 0, 3)
        for plane, axis in (("xz", 1), ("zy", 2), ("yz", 2)):
            for n in (0, 1):
                number = 300 >> n
                whole = oracle.plane(level(em(), n), plane, number, Fraction(1))
                await self.check(daemon, f"katmaid/{plane}", opaque(whole), n, 300)
                scale = Fraction(10, 2**n)
                await self.check(
                    daemon, f"kat/em/{plane}", opaque(oracle.plane(level(em(), n), plane, number, scale)), n, number
                )
            self.assertGreater(em().shape[axis], 300)
        got = await self.pictures(daemon, ["viking/kat/volume/em/1/X0_Y0_Z4.png"])
        np.testing.assert_array_equal(got[0], opaque(oracle.cut(level(em(), 1)[3], 0, 0)))

    async def test_faces_share_voxels(self) -> None:
        """What other stacks show of the same voxels costs no other cutout."""
        service = ocpserver.Service(em(), 2, levels=1, channels=channels(), scale=1, delay=0.1)
        daemon = await self.view(service, "[dataset other]\ntoken = kat\ngain = 2\n")
        for paths, cutouts in (
            (["kat/em/yz/5/0_1_0.png", "kat/em/zy/5/1_0_0.png"], 1),
            (["kat/em/zy/9/1_0_0.png", "mcfc/kat/em:R/zy/5/1_0_0.png"], 1),
            (["kat/em/xy/5/0_0_0.png", "mcfc/kat/em:R/xy/5/0_0_0.png", "mcfc/kat/em:B,mask/xy/6/0_0_0.png"], 3),
            (["mcfc/other/em:R/xy/5/0_0_0.png", "mcfc/kat/mask,em/xy/7/0_0_0.png"], 3),
            (["kat/em/xz/5/0_0_0.png"], 4),
        ):
            await self.pictures(daemon, paths)
            self.assertEqual(len(service.cutouts), cutouts, service.cutouts)

    async def test_bounded_cutouts(self) -> None:
        """No cuboid asks for more voxels than it may; where a single slice would, that is said."""
        service = ocpserver.Service(em(), 2, levels=1, channels=channels(), scale=0.02)
        daemon = await self.view(service, upstream_max_cutout="1")
        for path, share in (
            ("kat/em/xy/5", 4),
            ("kat/em/xz/5", 100),
            ("kat/em/zy/5", 100),
            ("mcfc/kat/em,wide/xy/5", 1),
        ):
            service.cutouts.clear()
            whole = await self.pictures(daemon, [f"{path}/0_0_0.png"])
            self.assertEqual(whole[0].shape, (512, 512, 4))
            asked = 0
            for cutout in service.cutouts:
                _, _, name, _, _, *ranges = cutout.split("/")[:8]
                voxels = 1
                for low, high in (map(int, one.split(",")) for one in ranges):
                    voxels *= high - low
                asked += voxels * (2 if name == "wide" else 1)
            self.assertLessEqual(asked, 2**20)
            self.assertGreaterEqual(asked * share, 2**19)
        code, body, _ = await daemon.get("mcfc/kat/wide,windowed,moving16,em,em/xy/5/0_0_0.png")
        self.assertEqual(code, 404)
        self.assertIn(b"needs 2 MiB of voxels, and a cutout may have 1", body)

    async def test_blank(self) -> None:
        """Outside, in every plane: black, or nothing where it is an overlay; and nobody is asked."""
        service = ocpserver.Service(em(), 3, levels=2, channels=channels(), scale=1)
        daemon = await self.view(service)
        for base, clear in (
            ("kat/em", False),
            ("kat/sure", False),
            ("kat/ids", True),
            ("kat/rgb", True),
            ("mcfc/kat/em:R,wide", True),
        ):
            for plane in PLANES:
                outside = [
                    f"{base}/{plane}/{s}/{r}_{c}_{n}.png"
                    for s, r, c, n in (
                        (-1, 0, 0, 0),
                        (9999, 0, 0, 0),
                        (5, -1, 0, 0),
                        (5, 0, -3, 0),
                        (5, 9, 0, 0),
                        (5, 0, 0, 7),
                    )
                ]
                outside.append(f"{base}/{plane}/40/5/0_0_0.png")
                for path in outside:
                    code, body, headers = await daemon.get(path)
                    self.assertEqual((code, headers["cache-status"]), (200, "ocpproxy; detail=out-of-bounds"), path)
                    image = Image.open(BytesIO(body))
                    self.assertEqual((image.mode, image.size), ("L", (512, 512)))
                    self.assertEqual(
                        np.array(image.convert("RGBA")).reshape(-1, 4).max(0).tolist(), [0, 0, 0, 0 if clear else 255]
                    )
        self.assertEqual(service.cutouts, [])

    async def test_every_name_is_its_own(self) -> None:
        """All combinations of channel, plane, time, level, slice and colour: no key, file or ETag comes twice."""
        service = ocpserver.Service(em(), 2, levels=2, channels=channels(), scale=1, **SMALL)
        daemon = await self.view(service, upstream_max_cutout="2")
        bases = [f"kat/{name}/{plane}" for name in channels() for plane in PLANES]
        bases += [f"mcfc/kat/{said}/{plane}" for said in ("em:R", "em:G", "em,wide", "wide,em") for plane in PLANES]
        bases += [
            f"kat/{name}/{plane}/{time}" for name in ("moving", "moving16") for plane in PLANES for time in (0, 1)
        ]
        paths = [f"{base}/{s}/0_{c}_{n}.png" for base in bases for s in (5, 6) for c in (0, 1) for n in (0, 1)]
        seen: dict[str, tuple[str, bytes]] = {}
        for path in paths:
            code, body, headers = await daemon.get(path)
            self.assertEqual(code, 200, path)
            if "out-of-bounds" in headers["cache-status"]:
                continue
            etag = headers["etag"]
            twin = seen.get(etag)
            if twin is not None:  # a time series without a time is its first time
                self.assertEqual(path.replace("/0/", "/"), twin[0].replace("/0/", "/"))
            seen[etag] = (path, body)
        await daemon.rest()
        await daemon.stop()
        tiles = self.place / "cache" / "tiles"
        files = list(tiles.rglob("*.png"))
        with sqlite3.connect(self.place / "index.sqlite") as index:
            keys = index.execute("SELECT highkey, lowkey, filename FROM contents").fetchall()
        self.assertEqual(len({key[:2] for key in keys}), len(files))
        self.assertEqual(len({key[2] for key in keys}), len(files))
        self.assertGreater(len(seen), 300)


class CatmaidTests(ViewsCase):
    """What CATMAID's front end and its Python clients ask."""

    async def test_types(self) -> None:
        """Every tile source type gives the same tile, behind every form of image base."""
        service = ocpserver.Service(em(), 2, levels=2, channels={"em": Served(em())}, scale=1, **SMALL)
        daemon = await self.view(service)
        for base, plane in (
            ("kat/", "xy"),
            ("kat/xz/", "xz"),
            ("kat/em/zy/", "zy"),
            ("ocpcatmaid/tilecache/kat/em/xz/", "xz"),
        ):
            first = await self.pictures(daemon, [f"{base}5/0_1_0.png"])
            want = oracle.cut(oracle.plane(em(), plane, 4 if plane == "xy" else 5), 0, 1)
            np.testing.assert_array_equal(first[0], opaque(want))
            host, _, rest = base.partition("tilecache/")
            prefixed = f"h2n5/{rest or host}"
            same = [
                f"{base}5/0/0_1.png",
                f"{base}0/5/0/1.png",
                f"{base}largeDataTileSource/512/512/0/5/0/1.png?maxTileSpecsToRender=5",
                f"{base}?x=512&y=0&width=512&height=512&row=y&col=x&scale=1&z=5",
                f"{base}?x=512&y=0&width=512&height=512&row=0&col=1&scale=0&z=5",
                f"{base}5/0_1_0.png?quality=80",
                f"{prefixed}s0/0_1_2/512_512/512_0_5.png",
                {"xy": f"{base}xy/0/1_0_5", "xz": f"{base}xz/0/1_5_0", "zy": f"{base}yz/512/0/1/0/5"}[plane],
                {"xy": f"{base}xy/512/0/1/0/5", "xz": f"{base}xz/512/0/1/5/0", "zy": f"{base}yz/512/0/1/0/5"}[plane],
            ]
            for got in await self.pictures(daemon, same):
                np.testing.assert_array_equal(got, first[0])
        transposed = await self.pictures(daemon, ["kat/yz/0/7_1_0", "kat/zy/7/1_0_0.png"])
        np.testing.assert_array_equal(transposed[0].transpose(1, 0, 2), transposed[1])
        code, _, headers = await daemon.get("kat/xy/512/0/1/0/5", "OPTIONS")
        self.assertEqual(code, 204)
        self.assertIn("Authorization", headers["access-control-allow-headers"])
        for base in ("kat/", "kat/xz/", "kat/em/zy/", "kat/em,em/", "mcfc/kat/em:R/xy/", "kat/xy/?unknown=1"):
            code, body, headers = await daemon.get(base)
            self.assertEqual(
                (code, headers["content-type"], json.loads(body)["token"]), (200, "application/json", "kat")
            )

    async def test_vectors(self) -> None:
        """Each URL that CATMAID's own front end makes is a tile, and the right one."""
        path = shared("fixtures", "catmaid-url-vectors.json")
        if path is None:
            raise SkipTest("the fixtures are not here")
        service = ocpserver.Service(em(), 2, levels=2, channels={"em": Served(em())}, scale=1, **SMALL)
        daemon = await self.view(service)
        for one in json.loads(path.read_text())["vectors"]:
            plane = one["orientation"].lower()
            base = f"kat/em/{plane}/"
            url = one["url"].replace("http://gw/base/", base).replace("http://gw/h2n5/vol/", f"h2n5/{base}")
            same = f"{base}{one['z']}/{one['row']}_{one['col']}_{one['zoom']}.png"
            got, want = await self.pictures(daemon, [url, same])
            np.testing.assert_array_equal(got.transpose(1, 0, 2) if one["client_transposes"] else got, want, url)

    async def test_tone_and_overview(self) -> None:
        """Type 9's contrast and colour; small.png of types 1, 4, 5 and 7, of few tiles."""
        service = ocpserver.Service(em(), 2, levels=2, channels=channels(), scale=1, **SMALL)
        daemon = await self.view(service)
        plain, contrast, tinted, again = await self.pictures(
            daemon,
            [
                "kat/em/xy/5/0_0_0.png",
                "kat/em/xy/5/0_0_0.png?min=60&max=180&gamma=1&quality=70",
                "kat/em/xy/5/0_0_0.png?min=60&max=180&color=magenta",
                "kat/em/xy/5/0_0_0.png",
            ],
        )
        want = oracle.grey(plain[..., 0], (60, 180))
        np.testing.assert_array_equal(contrast, opaque(want))
        np.testing.assert_array_equal(tinted[..., 0], want)
        np.testing.assert_array_equal(tinted[..., 1], want * 0)
        np.testing.assert_array_equal(again, plain)
        etags = {
            (await daemon.get(f"kat/em/xy/5/0_0_0.png{q}"))[2]["etag"] for q in ("", "?min=60", "?min=61", "?gamma=2")
        }
        self.assertEqual(len(etags), 4)
        code, body, _ = await daemon.get("kat/ids/xy/5/0_0_0.png?min=3")
        self.assertEqual((code, b"only grey" in body), (404, True))
        before = len(service.cutouts)
        pictures = set()
        for path in ("5/small.png", "small/5.png", "largeDataTileSource/512/512/small/5.png"):
            code, body, headers = await daemon.get(f"kat/em/xy/{path}")
            image = Image.open(BytesIO(body))
            self.assertEqual(
                (code, image.size, image.mode, headers["content-type"]), (200, (192, 180), "L", "image/png")
            )
            self.assertLess(abs(float(np.array(image).mean()) - float(em()[4].mean())), 2)
            pictures.add(body)
            self.assertEqual((await daemon.get(f"kat/em/xy/{path}", "HEAD"))[0], 200)
        self.assertEqual(len(pictures), 1)
        self.assertLessEqual(len(service.cutouts), before + 1)
        for path, size in (("kat/em/xz/300/small.png", (192, 6)), ("kat/ids/zy/300/small.png", (6, 192))):
            _, body, _ = await daemon.get(path)
            self.assertEqual(Image.open(BytesIO(body)).size, size)
        for plane, size in (("xy", (192, 180)), ("xz", (192, 6)), ("zy", (6, 192))):
            _, body, _ = await daemon.get(f"kat/em/{plane}/9999/small.png")
            small = Image.open(BytesIO(body))
            self.assertEqual((small.size, np.array(small).max()), (size, 0))

    async def test_catpy(self) -> None:
        """catpy reads the volume through the gateway alone: all orientations, types and zoom levels 0 and 1."""
        offset = (0, 0, 0)
        service = ocpserver.Service(em(), 2, offset, levels=2, channels={"em": Served(em())}, scale=1, **SMALL)
        extra = "[dataset katmaid]\ntoken = kat\nslice_coordinate = full\n"
        daemon = await self.view(service, extra, upstream_max_cutout="2")
        code, body, headers = await daemon.get("projects/")
        self.assertEqual((code, headers["content-type"]), (200, "application/json"))
        (project,) = (one for one in json.loads(body) if one["title"] == "katmaid")
        _, listed, _ = await daemon.get(f"{project['id']}/stacks")
        self.assertEqual({one["id"] for one in json.loads(listed)}, {one["id"] for one in project["stacks"]})
        for number in (f"{project['id']}/stack/1/info", "77/stacks", "77/stack/1/info"):
            self.assertEqual((await daemon.get(number))[0], 404)
        stacks = {one["title"].split()[-1]: one["id"] for one in project["stacks"]}
        self.assertEqual(set(stacks), {"XY", "XZ", "ZY"})
        for orientation, number in stacks.items():
            _, body, _ = await daemon.get(f"{project['id']}/stack/{number}/info")
            told = json.loads(body)
            self.assertEqual(len(told), 18)
            for zoom in (0, 1):
                volume = level(em(), zoom)
                scale = Fraction(1, 2**zoom)
                want = self.as_stack(em() if orientation == "XY" else volume, volume, orientation, scale, zoom)
                for type_ in (1, 4, 5, 7, 9):
                    got = await deferToThread(
                        self.read_by_catpy, daemon.url, project["id"], number, f"type {type_}", zoom, want.shape
                    )
                    np.testing.assert_array_equal(got, want, f"{orientation} {zoom} {type_}")

    def as_stack(self, finest: Array, volume: Array, orientation: str, scale: Fraction, zoom: int) -> Array:
        """A part of the volume, axes (slice, row, column) of the stack, over the border of tiles where there is one."""
        if orientation == "XY":
            return volume[3:6, :, :]
        axis = 1 if orientation == "XZ" else 2
        slices = [301, 302, 303]
        planes = [oracle.plane(volume, orientation.lower(), n >> zoom, scale) for n in slices]
        self.assertGreater(finest.shape[axis], 100)
        return np.stack(planes)

    @staticmethod
    def read_by_catpy(url: str, project: int, stack: int, mirror: str, zoom: int, shape: tuple[int, int, int]) -> Array:
        """What catpy makes of it, axes (slice, row, column)."""
        from catpy import CatmaidClient
        from catpy.image import ImageFetcher

        first = 3 if shape[2] > 100 and shape[1] > 100 else 301
        fetcher = ImageFetcher.from_catmaid(CatmaidClient(url, project_id=project), stack, preferred_mirror=mirror)
        roi = [[first, 0, 0], [first + shape[0], shape[1], shape[2]]]
        found: Array = fetcher.get_scaled_space(roi, zoom)
        return found
