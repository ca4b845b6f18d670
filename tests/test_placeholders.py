"""Placeholders: the arithmetic, the pixels, and the real daemon while its upstream fails."""

from __future__ import annotations

import json
from fractions import Fraction
from io import BytesIO
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.cache.placeholders import coarser
from ocpproxy.imagery import png
from ocpproxy.imagery.upscaled import upscaled
from ocpproxy.model.address import ImageBase
from ocpproxy.model.dataset import Channel, Dataset, Level, Plane
from ocpproxy.model.stack import Stack, Tile
from tests.prefetching import PrefetchCase
from tests.volumes import em


def stack(plane: Plane = Plane.XY, kind: str = "image", dtype: str = "uint8", offset: int = 0) -> Stack:
    """Return a stack with three levels; z is ten times as thick as x and y at the finest."""
    levels = {
        n: Level(
            (-(-3000 // 2**n), -(-2000 // 2**n), 700),
            (offset >> n, 0, 0),
            (64, 64, 16),
            (Fraction(2**n), Fraction(2**n), Fraction(10)),
        )
        for n in range(3)
    }
    return Stack.build(Dataset("kat", levels, (Channel("c", kind, dtype),), "c"), ImageBase("kat", plane, ()))


class ArithmeticTests(SynchronousTestCase):
    """Which part of a coarser level shows the same."""

    def test_worked(self) -> None:
        """Halved levels show the same in halves; planes that show z too, whose pixels are square."""
        found = list(coarser(stack(), Tile("", 0, 0, 7, 3, 5)))
        self.assertEqual(found, [(1, 7, (1280, 768, 1536, 1024)), (2, 7, (640, 384, 768, 512))])
        found = list(coarser(stack(Plane.XZ), Tile("", 0, 1, 100, 2, 0)))
        self.assertEqual(found, [(2, 50, (0, 512, 256, 768))])

    @given(st.sampled_from(list(Plane)), st.integers(0, 2), st.integers(0, 6), st.integers(0, 6), st.integers(0, 699))
    def test_same_place(self, plane: Plane, level: int, row: int, col: int, slice_: int) -> None:
        """A part lies where the tile does, in nanometres, to a pixel; its slice is in the volume."""
        one = stack(plane, offset=512)
        for number, found, (left, top, right, bottom) in coarser(one, Tile("", 0, level, slice_, row, col)):
            here, there = one.dataset.levels[level], one.dataset.levels[number]
            _, _, through = plane.axes
            self.assertTrue(there.offset[through] <= found < there.end[through])
            factor = 2 ** (number - level)
            self.assertEqual((right - left, bottom - top), (512 / factor, 512 / factor))
            self.assertLessEqual(abs(left - col * 512 / factor), 1 + here.offset[0])


class PixelTests(SynchronousTestCase):
    """The pixels of an enlarged part."""

    def test_ids(self) -> None:
        """Colours of ids are enlarged as they are, over several tiles, and what lies beyond is blank."""
        whole = np.random.default_rng(1).integers(0, 256, (1024, 1024, 4), np.uint8)
        whole[..., 3] = 255
        pictures = {}
        for row in (0, 1):
            for col in (0, 1):
                out = BytesIO()
                Image.fromarray(whole[row * 512 :, col * 512 :][:512, :512]).save(out, "PNG")
                pictures[row + 3, col + 4] = out.getvalue()
        labels = stack(kind="annotation", dtype="uint32")
        x, y = 4 * 512 + 400, 3 * 512 + 300
        got = np.asarray(Image.open(BytesIO(upscaled(pictures, (x, y, x + 256, y + 256), labels))))
        expected = whole[300:556, 400:656].repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(got, expected)
        x, y = 6 * 512 - 128, 3 * 512
        got = np.asarray(Image.open(BytesIO(upscaled(pictures, (x, y, x + 256, y + 256), labels))))
        np.testing.assert_array_equal(got[:, :256], whole[:256, 896:].repeat(2, 0).repeat(2, 1))
        self.assertEqual(got[:, 256:].max(), 0)

    @given(st.floats(-50, 600), st.floats(-50, 600), st.floats(1, 512))
    def test_any_window(self, left: float, top: float, side: float) -> None:
        """Any part is a tile."""
        picture = {(0, 0): png.grey(em()[0, :512, :512])}
        if left + side > 0.01 and top + side > 0.01 and left < 511 and top < 511:
            made = Image.open(BytesIO(upscaled(picture, (left, top, left + side, top + side), stack())))
            self.assertEqual((made.size, made.mode), ((512, 512), "L"))


class PlaceholderDaemonTests(PrefetchCase):
    """The real daemon."""

    def pixels(self, body: bytes) -> Any:
        """Return the grey pixels of a tile."""
        return np.asarray(Image.open(BytesIO(body)).convert("L")).astype(int)

    async def test_upscaled(self) -> None:
        """A coarser level that is cached is shown, is kept by nobody, and is replaced when the upstream is back."""
        daemon = await self.begin(server_placeholder="upscaled", upstream_retries="0")
        code, out = await self.command("prefetch", "kat", "--levels", "2-", "--plane", "xy,xz")
        self.assertEqual(code, 0, out)
        self.service.bad = frozenset({"/"})
        for path, coarse in (("kat/5/0_0_0.png", "kat/5/0_0_2.png"), ("kat/xz/8/0_0_1.png", "kat/xz/4/0_0_2.png")):
            code, body, headers = await daemon.get(path)
            self.assertEqual((code, headers["cache-status"]), (200, "ocpproxy; fwd=miss; detail=placeholder"), path)
            self.assertEqual((headers["cache-control"], headers["content-type"]), ("no-store", "image/png"))
            _, small, _ = await daemon.get(coarse)
            factor = 4 if "_0.png" in path else 2
            part = Image.open(BytesIO(small)).convert("L")
            side = 512 // factor
            expected = part.resize((512, 512), Image.Resampling.BILINEAR, box=(0, 0, side, side))
            np.testing.assert_array_equal(self.pixels(body), np.asarray(expected), path)
        self.assertEqual((await daemon.get("kat/yz/5/0_0_0.png"))[0], 503, "there is nothing coarser")
        self.assertGreater(await daemon.metric('ocpproxy_tiles_total{result="placeholder"}'), 1)
        self.service.bad = frozenset()
        while True:
            code, body, headers = await daemon.get("kat/5/0_0_0.png")
            if "placeholder" not in headers["cache-status"]:
                break
        self.assertEqual((code, headers["cache-status"]), (200, "ocpproxy; fwd=miss; stored"))
        self.assertTrue((self.pixels(body) == self.service.volume[5, :512, :512]).all())

    async def test_blank(self) -> None:
        """A blank tile."""
        daemon = await self.begin(server_placeholder="blank", upstream_retries="0")
        self.assertEqual(json.loads((await daemon.get("kat/"))[1])["token"], "kat")
        self.service.bad = frozenset({"/"})
        code, body, headers = await daemon.get("kat/5/0_0_0.png")
        self.assertEqual((code, headers["cache-control"], self.pixels(body).max()), (200, "no-store", 0))
