"""Tiles as PNG, against an independent decoder."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from io import BytesIO
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.imagery import contrast, overview, palette, png
from ocpproxy.imagery.drawing import draw
from ocpproxy.model.address import Adjustment, ChannelName, Colouring, ImageBase
from ocpproxy.model.dataset import CannotDisplay, Channel, Dataset, Level, Plane
from ocpproxy.model.display import DisplaySettings
from ocpproxy.model.stack import Stack
from tests import oracle
from tests.volumes import em, expected_tile


def pixels(picture: bytes) -> np.ndarray:
    """Return the pixels as Pillow reads them."""
    image = Image.open(BytesIO(picture))
    image.load()
    assert (image.mode, image.size, image.format) == ("L", (512, 512), "PNG"), image
    return np.array(image)


def random_volume(seed: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return random voxels of a type, many of them 0; floats also beyond 0 and 1, and no numbers."""
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        noise = rng.random(shape, np.float32) * np.float32(1.1) - np.float32(0.05)
        noise[rng.random(shape) < 0.01] = np.nan
        noise[rng.random(shape) < 0.01] = np.inf
        return noise
    whole = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    whole[rng.random(shape) < 0.2] = 0
    return whole


class GreyTests(SynchronousTestCase):
    """8-bit grey, always 512 x 512."""

    def test_em(self) -> None:
        """Whole, cut and empty parts of the volume come out pixel for pixel, padded with 0."""
        volume = em()
        for z in (0, 19):
            for row in range(2):
                for col in range(2):
                    part = volume[z, row * 512 : row * 512 + 512, col * 512 : col * 512 + 512]
                    got = pixels(png.grey(part))
                    np.testing.assert_array_equal(got, expected_tile(volume, 0, z, row, col))

    @given(st.integers(0, 512), st.integers(0, 512), st.integers(0, 2**32 - 1))
    def test_any(self, rows: int, columns: int, seed: int) -> None:
        """Any shape and any values."""
        part = np.random.default_rng(seed).integers(0, 256, (rows, columns), np.uint8)
        got = pixels(png.grey(part))
        np.testing.assert_array_equal(got[:rows, :columns], part)
        self.assertEqual(int(got.sum()), int(part.sum()))

    def test_too_large(self) -> None:
        """More than a tile is refused."""
        self.assertRaises(ValueError, png.grey, np.zeros((513, 1), np.uint8))

    def test_blank(self) -> None:
        """The blank tile is black and small."""
        self.assertEqual(int(pixels(png.blank(clear=False)).max()), 0)
        self.assertLess(len(png.blank(clear=False)), 2048)
        clear = Image.open(BytesIO(png.blank(clear=True)))
        self.assertEqual((clear.mode, clear.size), ("L", (512, 512)))
        self.assertEqual(np.array(clear.convert("RGBA")).max(), 0)


class WholeTests(SynchronousTestCase):
    """A torn file is distinguished from a whole one."""

    def test_torn(self) -> None:
        """Every shortened tile, and foreign bytes, are not whole."""
        picture = png.grey(em()[0, :512, :512])
        self.assertTrue(png.is_whole(picture))
        self.assertTrue(png.is_whole(png.blank(clear=True)))
        for length in (0, 8, 33, 60, len(picture) // 2, len(picture) - 1):
            self.assertFalse(png.is_whole(picture[:length]))
        small = BytesIO()
        Image.new("L", (64, 64)).save(small, "PNG")
        for other in (picture + b"\0", b"<html>" + picture, b"\0" * len(picture), small.getvalue()):
            self.assertFalse(png.is_whole(other))

    def test_uniform(self) -> None:
        """Tiles of one single value are distinguished from all others, whatever they are made of."""
        one = np.full((512, 512), 9, np.uint8)
        colour = np.broadcast_to(np.array([1, 2, 3, 255], np.uint8), (512, 512, 4)).copy()
        labels = png.indexed(one, palette.COLOURS, clear=True)
        for picture in (png.grey(one), png.rgba(colour), labels, png.blank(clear=False), png.blank(clear=True)):
            self.assertTrue(png.is_uniform(picture))
        for place in ((0, 0), (0, 511), (511, 0), (511, 511), (100, 100)):
            other, odd = one.copy(), colour.copy()
            other[place] = 8
            odd[place][2] = 7
            for picture in (png.grey(other), png.rgba(odd), png.indexed(other, palette.COLOURS, clear=True)):
                self.assertFalse(png.is_uniform(picture), place)
        self.assertFalse(png.is_uniform(png.grey(one[:511])))
        self.assertFalse(png.is_uniform(png.grey(em()[0, :512, :512])))

    def test_fingerprint(self) -> None:
        """The fingerprint differs for pictures that differ in one pixel, and is the same for the same pixels."""
        part = em()[0, :512, :512].copy()
        one = png.fingerprint(png.grey(part))
        self.assertEqual(one, png.fingerprint(png.grey(part)))
        part[100, 100] ^= 1
        self.assertNotEqual(one, png.fingerprint(png.grey(part)))


KINDS = (
    ("image", "uint8"),
    ("image", "uint16"),
    ("timeseries", "uint8"),
    ("probability", "float32"),
    ("bitmask", "uint8"),
    ("annotation", "uint32"),
    ("annotation", "uint64"),
    ("annotation", "uint8"),
    ("rgba", "uint32"),
    ("image", "uint64"),
)


def expected(face: np.ndarray, channel: Channel, look: DisplaySettings) -> np.ndarray:
    """Return the colours of a whole plane of one channel, by the oracle."""
    if channel.kind == "annotation":
        return oracle.labels(face)
    if channel.dtype in ("uint32", "uint64"):
        return oracle.rgba(face)
    if channel.kind == "bitmask":
        grey = np.where(face == 0, 0, 255).astype(np.uint8)
    else:
        grey = oracle.grey(face, look.window(channel))
    red = look.red and channel.dtype == "float32"
    black = np.zeros_like(grey)
    return np.stack([grey, black if red else grey, black if red else grey, np.full_like(grey, 255)], axis=-1)


def as_rgba(picture: bytes) -> np.ndarray:
    """Return the colours that a viewer shows."""
    image = Image.open(BytesIO(picture))
    assert (image.size, image.format) == ((512, 512), "PNG")
    return np.array(image.convert("RGBA"))


def drawn(stack: Stack, volumes: list[np.ndarray | None], tile: tuple[int, int, int]) -> bytes:
    """Return a tile (slice, row, col) of level 0 of whole volumes (z, y, x)."""
    found = stack.tile(None, 0, *tile)
    assert found is not None
    cuboid = stack.cuboid(found)
    x0, x1, y0, y1, z0, z1 = cuboid.box
    ox, oy, oz = stack.dataset.levels[0].offset
    voxels = [None if v is None else v[z0 - oz : z1 - oz, y0 - oy : y1 - oy, x0 - ox : x1 - ox] for v in volumes]
    return draw(cuboid, voxels, found)


class DrawTests(SynchronousTestCase):
    """Random volumes, offsets, scales and tiles in every plane and of every type, against the oracle."""

    @settings(max_examples=80)
    @given(st.data())
    def test_any(self, data: st.DataObject) -> None:
        """One channel by itself, of any type."""
        kind, dtype = data.draw(st.sampled_from(KINDS))
        seed = data.draw(st.integers(0, 2**32 - 1))
        size = data.draw(st.tuples(st.integers(1, 700), st.integers(1, 600), st.integers(1, 40)))
        offset = data.draw(st.tuples(*[st.integers(0, 100)] * 3))
        voxel = tuple(Fraction(data.draw(st.integers(1, 12)), 2) for _ in range(3))
        plane = data.draw(st.sampled_from(Plane))
        low = data.draw(st.integers(0, 200))
        look = DisplaySettings(
            native=data.draw(st.booleans()),
            red=data.draw(st.booleans()),
            windows=data.draw(st.sampled_from([(), ((None, (low, low + 1 + seed % 70)),)])),
        )
        volume = random_volume(seed, size[::-1], dtype)
        channel = Channel("c", kind, dtype)
        level = Level(size, offset, (128, 64, 16), (voxel[0], voxel[1], voxel[2]))
        stack = Stack.build(Dataset("t", {0: level}, (channel,), "c"), ImageBase("t", plane), look)
        columns, rows, through = stack.plane.axes
        scale = Fraction(1) if look.native or plane is Plane.XY else voxel[2] / voxel[columns if rows == 2 else rows]
        n = data.draw(st.integers(0, size[through] - 1))
        picture = oracle.plane(volume, plane.value, n, scale)
        row = data.draw(st.integers(0, (picture.shape[0] - 1) // 512))
        col = data.draw(st.integers(0, (picture.shape[1] - 1) // 512))
        got = as_rgba(drawn(stack, [volume], (n + offset[through], row, col)))
        want = oracle.cut(expected(picture, channel, look), row, col)
        if want[..., 3].any() and kind not in ("annotation", "rgba") and dtype not in ("uint32", "uint64"):
            want[..., 3] = 255  # grey is opaque beyond the volume too
        np.testing.assert_array_equal(got, want)

    @settings(max_examples=40)
    @given(st.data())
    def test_false_colour(self, data: st.DataObject) -> None:
        """Up to six channels of different types, with and without gain, background and windows."""
        count = data.draw(st.integers(1, 6))
        seed = data.draw(st.integers(0, 2**32 - 1))
        types = [data.draw(st.sampled_from(KINDS[:5])) for _ in range(count)]
        letters = [data.draw(st.sampled_from("CMYRGB")) for _ in range(count)]
        size, plane = (530, 100, 9), data.draw(st.sampled_from(Plane))
        look = DisplaySettings(
            gain=data.draw(st.sampled_from([1.0, 4.0, 0.5, 1.3])),
            opaque=data.draw(st.booleans()),
            windows=data.draw(st.sampled_from([(), ((None, (10, 3000)),), (("c0", (0, 99)),)])),
        )
        channels = tuple(Channel(f"c{n}", *type_) for n, type_ in enumerate(types))
        level = Level(size, (3, 4, 5), (64, 64, 8), (Fraction(1), Fraction(1), Fraction(3)))
        items = tuple(ChannelName(f"c{n}", letter) for n, letter in enumerate(letters))
        stack = Stack.build(Dataset("t", {0: level}, channels), ImageBase("t", plane, items, Colouring.NAMED), look)
        volumes = [random_volume(seed + n, size[::-1], dtype) for n, (_, dtype) in enumerate(types)]
        missing = data.draw(st.integers(0, count - 1)) if count > 1 and data.draw(st.booleans()) else None
        through = stack.plane.axes[2]
        n = data.draw(st.integers(0, size[through] - 1))
        scale = Fraction(1) if plane is Plane.XY else Fraction(3)
        parts = []
        for number, (volume, channel, letter) in enumerate(zip(volumes, channels, letters, strict=True)):
            face = oracle.plane(volume, plane.value, n, scale)
            grey = np.where(face == 0, 0, 255) if channel.kind == "bitmask" else oracle.grey(face, look.window(channel))
            parts.append((grey * (number != missing), letter))
        given_ = [None if number == missing else volume for number, volume in enumerate(volumes)]
        got = as_rgba(drawn(stack, given_, (n + level.offset[through], 0, 0)))
        want = oracle.cut(oracle.false_colour(parts, look.gain, look.opaque), 0, 0)
        if look.opaque:
            want[..., 3] = 255
        np.testing.assert_array_equal(got, want)

    def test_worked_colours(self) -> None:
        """The sums of section 4.3, and what the gain of 2013 does."""
        channels = tuple(Channel(name, "image", "uint8") for name in "abc")
        level = Level((1, 1, 1), (0, 0, 0), (64, 64, 16))
        items = tuple(ChannelName(name, colour) for name, colour in zip("abc", "CMY", strict=True))
        for values, gain, want in (
            ((200, 0, 0), 1, (0, 200, 200, 255)),
            ((10, 20, 30), 1, (50, 40, 30, 255)),
            ((200, 100, 0), 1, (100, 200, 255, 255)),
            ((128, 128, 0), 1, (128, 128, 255, 255)),
            ((255, 255, 255), 1, (255, 255, 255, 255)),
            ((0, 0, 0), 1, (0, 0, 0, 0)),
            ((10, 20, 100), 4, (255, 255, 120, 255)),
        ):
            look = DisplaySettings(gain=gain)
            stack = Stack.build(
                Dataset("t", {0: level}, channels), ImageBase("t", Plane.XY, items, Colouring.NAMED), look
            )
            voxels = [np.full((1, 1, 1), value, np.uint8) for value in values]
            self.assertEqual(tuple(as_rgba(drawn(stack, list(voxels), (0, 0, 0)))[0, 0]), want)

    def test_palette(self) -> None:
        """The published table, and three ids of it."""
        digest = hashlib.sha256(palette.ENTRIES).hexdigest()
        self.assertEqual(digest, "12d869ec189ee768decceeb19bd6cbb764988fd5303e72f346a74753f32b1726")
        ids = np.array([[0, 1, 217, 218, 2**32 - 1]], np.uint32)
        shown = oracle.labels(ids)[0]
        self.assertEqual(
            shown[:4].tolist(), [[0] * 4, [163, 121, 243, 255], [121, 243, 127, 255], [163, 121, 243, 255]]
        )
        np.testing.assert_array_equal(
            oracle.cut(oracle.labels(ids), 0, 0),
            as_rgba(png.indexed(palette.indices(ids), palette.COLOURS, clear=True)),
        )


class RetouchTests(SynchronousTestCase):
    """Other contrast and colour, and overviews."""

    def stack(self, dtype: str = "uint8", plane: Plane = Plane.XY, **look: Any) -> Stack:
        """Return a stack of one channel."""
        kind = "annotation" if dtype == "uint32" else "image"
        level = Level((640, 600, 20), (0, 0, 0), (64, 64, 16))
        dataset = Dataset("t", {0: level}, (Channel("c", kind, dtype),), "c")
        return Stack.build(dataset, ImageBase("t", plane), DisplaySettings(**look))

    def test_tone(self) -> None:
        """Contrast, gamma and colour of each grey value, in the channel's own numbers."""
        ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
        picture = png.grey(ramp)
        values = ramp.astype(np.float64)
        cases: tuple[tuple[Adjustment, str, dict[str, Any], float, float], ...] = (
            (Adjustment(), "uint8", {}, 0, 255),
            (Adjustment(50, 200), "uint8", {}, 50, 200),
            (Adjustment(low=100), "uint8", {}, 100, 255),
            (Adjustment(12800, 51200), "uint16", {}, 50, 200),
            (Adjustment(1500, 2000), "uint16", {"windows": ((None, (1000, 3000)),)}, 63.75, 127.5),
            (Adjustment(0.25, 0.75), "float32", {}, 64, 192),
        )
        for tone, dtype, look, low, high in cases:
            for gamma in (1.0, 0.5, 2.2):
                full = Adjustment(tone.low, tone.high, gamma)
                want = np.floor(255 * np.clip((values - low) / (high - low), 0, 1) ** gamma)
                got = pixels(contrast.adjusted(picture, self.stack(dtype, **look), full))[:16, :16]
                self.assertLessEqual(np.abs(got - want).max(), 0 if gamma == 1 and not look else 1)
                tinted = Adjustment(tone.low, tone.high, gamma, (255, 0, 128))
                rgb = np.array(
                    Image.open(BytesIO(contrast.adjusted(picture, self.stack(dtype, **look), tinted))).convert("RGB")
                )
                np.testing.assert_array_equal(rgb[:16, :16, 0], got)
                np.testing.assert_array_equal(rgb[:16, :16, 2], got.astype(int) * 128 // 255)
                self.assertEqual(rgb[..., 1].max(), 0)
        self.assertRaises(CannotDisplay, contrast.adjusted, picture, self.stack(), Adjustment(9, 9))
        self.assertRaises(CannotDisplay, contrast.adjusted, picture, self.stack("uint32"), Adjustment(1, 2))

    def test_overview(self) -> None:
        """192 pixels on the longer side, and the mean of what they stand for."""
        volume = em()
        tiles = {
            (r, c): png.grey(volume[3, r * 512 : r * 512 + 512, c * 512 : c * 512 + 512])
            for r in (0, 1)
            for c in (0, 1)
        }
        small = Image.open(BytesIO(overview.overview(tiles, (640, 600), self.stack())))
        self.assertEqual((small.mode, small.size), ("L", (192, 180)))
        self.assertLess(abs(float(np.array(small).mean()) - float(volume[3].mean())), 1)
        blank = Image.open(BytesIO(overview.overview({}, (100, 1000), self.stack())))
        self.assertEqual((blank.size, np.array(blank).max()), ((19, 192), 0))
        ids = np.zeros((600, 640), np.uint32)
        ids[:300] = 7
        labels = {(0, 0): png.indexed(palette.indices(ids[:512, :512]), palette.COLOURS, clear=True)}
        found = Image.open(BytesIO(overview.overview(labels, (640, 600), self.stack("uint32"))))
        self.assertEqual(
            {tuple(c) for c in np.array(found).reshape(-1, 4)}, {(0, 0, 0, 0), tuple(oracle.labels(ids)[0, 0])}
        )
