"""Stacks of several channels, and what sets stacks of the same voxels apart, pixel for pixel through the daemon."""

from __future__ import annotations

import sqlite3
from fractions import Fraction
from io import BytesIO

import numpy as np
from PIL import Image

from tests import ocpserver, oracle
from tests.channels import PLANES, SMALL, ViewsCase, channels, light
from tests.ocpserver import Served
from tests.pictures import opaque
from tests.volumes import em, level


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
                "sure,wide,windowed,mask,moving,em",
                list(zip(("sure", "wide", "windowed", "mask", "moving", "em"), "CMYRGB", strict=True)),
                0,
            ),
        )
        for token, gain, back, window in (("kat", 1, False, {}), ("katbright", 4, True, windows)):
            for listed, parts, time in cases:
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
                    base = f"mcfc/{token}/{listed}/{plane}" + ("" if time is None else f"/{time}")
                    if back:
                        got = await self.pictures(daemon, [f"{base}/{first + 3}/0_0_0.png"])
                        want = oracle.cut(whole, 0, 0)
                        want[..., 3] = 255
                        np.testing.assert_array_equal(got[0], want)
                    else:
                        await self.check(daemon, base, whole, 0, first + 3, solid=False)

    async def test_channel_project(self) -> None:
        """Generation 1: numbers and names, places kept free, and the error when nothing is named."""
        for dtype in ("uint8", "uint16"):
            one, two = (
                (v.astype(np.uint16) * 250).astype(dtype) if dtype == "uint16" else v for v in (em(), em()[::-1])
            )
            served = {"DAPI-1": Served(one, "channels"), "Synapsin": Served(two, "channels")}
            service = ocpserver.Service(em(), 1, levels=1, channels=served)
            daemon = await self.view(
                service, name=f"{dtype}.ini", cache_directory=dtype, index_url=f"sqlite:///{dtype}.sqlite"
            )
            for listed, parts in (
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
                    await self.check(daemon, f"kat/{plane}/{listed}", oracle.false_colour(lights), 0, first + 2, False)
                    if plane == "xy":
                        await self.check(daemon, f"kat/{listed}", oracle.false_colour(lights), 0, 3, False)
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
        """No cutout has more voxels than it may; where a single slice would, the error states that."""
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
        code, body, _ = await daemon.get("mcfc/kat/wide,windowed,moving16,em/xy/5/0_0_0.png")
        self.assertEqual(code, 404)
        self.assertIn(b"needs 2 MiB of voxels, and a cutout may have 1", body)

    async def test_blank(self) -> None:
        """Outside, in every plane: black, or nothing where it is an overlay; and no request is made."""
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
        bases += [f"mcfc/kat/{listed}/{plane}" for listed in ("em:R", "em:G", "em,wide", "wide,em") for plane in PLANES]
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
