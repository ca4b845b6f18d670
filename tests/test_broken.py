"""Broken slices: which are shown instead, and what CATMAID learns of them."""

from __future__ import annotations

import json
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.config.dataset_values import broken_slices
from ocpproxy.config.values import BadValue
from ocpproxy.model.broken import BrokenSlices
from tests.prefetching import PrefetchCase

RANGES = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 6)).map(lambda one: (one[0], one[0] + one[1])), max_size=6
)


class BrokenTests(SynchronousTestCase):
    """The arithmetic."""

    @given(RANGES, st.integers(0, 40), st.sampled_from([Fraction(1), Fraction(2), Fraction(4)]), st.integers(0, 5))
    def test_nearest(self, ranges: list[tuple[int, int]], slice_: int, thickness: Fraction, start: int) -> None:
        """The nearest slice is shown that has a good one, by a search through all of them."""
        broken = BrokenSlices.of(iter(ranges), nearest=True)
        lost = {n for first, last in ranges for n in range(first, last + 1)}
        finest = (start, 47)
        level = (int(start / thickness), int(47 / thickness))
        slice_ = level[0] + slice_ % (level[1] - level[0])

        def is_broken(one: int) -> bool:
            first = -(-one * thickness.numerator // thickness.denominator)
            after = -(-(one + 1) * thickness.numerator // thickness.denominator)
            return all(n in lost for n in range(max(first, start), min(max(after, first + 1), 47)))

        good = [one for one in range(*level) if not is_broken(one)]
        found = broken.shown(slice_, thickness, level, finest)
        if not is_broken(slice_):
            self.assertEqual(found, slice_)
        elif good:
            assert found is not None
            self.assertFalse(is_broken(found))
            self.assertEqual(abs(found - slice_), min(abs(one - slice_) for one in good))
        else:
            self.assertIsNone(found)
        blank = BrokenSlices.of(iter(ranges), nearest=False).shown(slice_, thickness, level, finest)
        self.assertEqual(blank, None if is_broken(slice_) else slice_)
        self.assertEqual(set(broken.within(3, 30)), {n for n in lost if 3 <= n < 30})

    def test_values(self) -> None:
        """What is written in the configuration; anything else is refused with an example."""
        here = Path()
        self.assertIsNone(broken_slices("", here))
        found = broken_slices("12, 40-44, 13: nearest", here)
        self.assertEqual(found, BrokenSlices(((12, 13), (40, 44)), nearest=True))
        self.assertEqual(broken_slices("7:blank", here), BrokenSlices(((7, 7),), nearest=False))
        for text in (
            "12",
            "12: other",
            "a: nearest",
            "9-8: blank",
            ": nearest",
            "1,,2: blank",
            "-1: blank",
            "1: 2: blank",
        ):
            self.assertRaises(BadValue, broken_slices, text, here)


class BrokenDaemonTests(PrefetchCase):
    """The real daemon."""

    async def test_shown(self) -> None:
        """Tiles of lost slices are those of the nearest good ones, or blank; the export for CATMAID has them."""
        daemon = await self.begin()
        await daemon.stop()
        text = self.config.read_text()
        for policy, shown in (
            ("nearest", {3: 3, 4: 3, 5: 3, 6: 8, 7: 8, 8: 8}),
            ("blank", {3: 3, 4: None, 7: None, 8: 8}),
        ):
            self.config.write_text(f"{text}[dataset kat]\nbroken = 4, 5-7: {policy}\n")
            daemon = await self.start(self.config)
            for asked, expected in shown.items():
                code, body, headers = await daemon.get(f"kat/{asked}/0_0_0.png")
                got = np.asarray(Image.open(BytesIO(body)).convert("L"))
                want = np.zeros((512, 512)) if expected is None else self.service.volume[expected, :512, :512]
                self.assertEqual((code, headers["content-type"]), (200, "image/png"))
                np.testing.assert_array_equal(got, want, str(asked))
            for project in json.loads((await daemon.get("projects/export"))[1]):
                for stack in project["project"]["stacks"]:
                    self.assertEqual(stack["broken_sections"], [4, 5, 6, 7] if stack["orientation"] == 0 else [])
            await daemon.stop()
