"""Tiles as PNG, against an independent decoder."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy import imagery
from tests.volumes import em, expected_tile


def pixels(picture: bytes) -> np.ndarray:  # type: ignore[type-arg]
    """What Pillow reads."""
    image = Image.open(BytesIO(picture))
    image.load()
    assert (image.mode, image.size, image.format) == ("L", (512, 512), "PNG"), image
    return np.array(image)


class GreyTests(SynchronousTestCase):
    """8-bit grey, always 512 x 512."""

    def test_em(self) -> None:
        """Whole, cut and empty parts of the volume come out pixel for pixel, padded with 0."""
        volume = em()
        for z in (0, 19):
            for row in range(2):
                for col in range(2):
                    part = volume[z, row * 512 : row * 512 + 512, col * 512 : col * 512 + 512]
                    got = pixels(imagery.grey_png(part))
                    np.testing.assert_array_equal(got, expected_tile(volume, 0, z, row, col))

    @given(st.integers(0, 512), st.integers(0, 512), st.integers(0, 2**32 - 1))
    def test_any(self, rows: int, columns: int, seed: int) -> None:
        """Any shape and any values."""
        part = np.random.default_rng(seed).integers(0, 256, (rows, columns), np.uint8)
        got = pixels(imagery.grey_png(part))
        np.testing.assert_array_equal(got[:rows, :columns], part)
        self.assertEqual(int(got.sum()), int(part.sum()))

    def test_too_large(self) -> None:
        """More than a tile is refused."""
        self.assertRaises(ValueError, imagery.grey_png, np.zeros((513, 1), np.uint8))

    def test_blank(self) -> None:
        """The blank tile is black and small."""
        self.assertEqual(int(pixels(imagery.blank_png()).max()), 0)
        self.assertLess(len(imagery.blank_png()), 2048)


class WholeTests(SynchronousTestCase):
    """A torn file is told from a whole one."""

    def test_torn(self) -> None:
        """Every shortened tile, and foreign bytes, are not whole."""
        picture = imagery.grey_png(em()[0, :512, :512])
        self.assertTrue(imagery.is_whole(picture))
        self.assertTrue(imagery.is_whole(imagery.blank_png()))
        for length in (0, 8, 33, 60, len(picture) // 2, len(picture) - 1):
            self.assertFalse(imagery.is_whole(picture[:length]))
        small = BytesIO()
        Image.new("L", (64, 64)).save(small, "PNG")
        for other in (picture + b"\0", b"<html>" + picture, b"\0" * len(picture), small.getvalue()):
            self.assertFalse(imagery.is_whole(other))

    def test_fingerprint(self) -> None:
        """It tells pictures apart that differ in one pixel, and is the same for the same pixels."""
        part = em()[0, :512, :512].copy()
        one = imagery.fingerprint(imagery.grey_png(part))
        self.assertEqual(one, imagery.fingerprint(imagery.grey_png(part)))
        part[100, 100] ^= 1
        self.assertNotEqual(one, imagery.fingerprint(imagery.grey_png(part)))
