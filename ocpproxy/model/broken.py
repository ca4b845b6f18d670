"""Slices that are broken: lost when the block was cut, or when it was imaged. Viewers are shown something else."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class BrokenSlices:
    """The broken xy slices of a dataset, as the finest level counts them."""

    ranges: tuple[tuple[int, int], ...]
    """(first, last), in order, with good slices between them."""
    nearest: bool
    """True to show the nearest good slice instead, False for a blank one."""

    @classmethod
    def of(cls, ranges: Iterator[tuple[int, int]], *, nearest: bool) -> BrokenSlices:
        """Return the slices of some ranges, in any order, which may touch and overlap."""
        merged: list[tuple[int, int]] = []
        for first, last in sorted(ranges):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], last))
            else:
                merged.append((first, last))
        return cls(tuple(merged), nearest)

    def _range(self, first: int, last: int) -> tuple[int, int] | None:
        """Return the range that has all of these slices, or None."""
        n = bisect_right(self.ranges, (first, 2**62)) - 1
        return self.ranges[n] if n >= 0 and self.ranges[n][1] >= last else None

    def shown(self, slice_: int, thickness: Fraction, level: Span, finest: Span) -> int | None:
        """Return the slice of a level to show instead of one; the slice itself if it is good, None for a blank one.

        :param thickness: slices of the finest level that one of this level stands for. It is broken if all are.
        :param level: the first slice of the level, and the one after its last.
        :param finest: the same of the finest level.
        """
        broken = self._range(*_finest(slice_, thickness, finest))
        if broken is None:
            return slice_
        if not self.nearest:
            return None
        # The slices beside the range are good, so whatever has one of them is not broken.
        good = [one for one in (broken[0] - 1, broken[1] + 1) if finest[0] <= one < finest[1]]
        candidates = [one for one in (floor(n / thickness) for n in good) if level[0] <= one < level[1]]
        return min(candidates, key=lambda one: abs(one - slice_), default=None)

    def within(self, first: int, end: int) -> Iterator[int]:
        """Yield the broken slices of a range."""
        for low, high in self.ranges:
            yield from range(max(low, first), min(high + 1, end))


def _finest(slice_: int, thickness: Fraction, finest: Span) -> Span:
    """Return the first and the last slice of the finest level that a slice of a level stands for."""
    first = ceil(slice_ * thickness)
    last = max(first, ceil((slice_ + 1) * thickness) - 1)
    return max(first, finest[0]), min(last, finest[1] - 1)
