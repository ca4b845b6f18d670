"""Grids of chunks: which chunks a box touches, and arrays put together from overlapping boxes. No I/O.

Coordinates are voxels of one level, in the order x, y, z. Arrays have the axes (z, y, x), or (z, y, x, component) where
a voxel has several values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ocpproxy.model.dataset import Box, Triple
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import OutOfRange

_MOST_CHUNKS = 65536
"""Chunks that a box may touch."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Chunks of equal size from `offset` on; the last ones end where the volume ends."""

    offset: Triple
    end: Triple
    chunk: Triple
    """Voxels of a chunk along x, y, z."""

    def boxes(self, box: Box) -> list[Box]:
        """Return the box of each chunk that a box touches, cut at the end of the volume, in the order z, y, x.

        :raises OutOfRange: when there are more than 65,536.
        """
        spans = []
        count = 1
        for axis in range(3):
            start, stop, step = self.offset[axis], self.end[axis], self.chunk[axis]
            first, end = max(box[2 * axis], start), min(box[2 * axis + 1], stop)
            numbers = range((first - start) // step, (end - start - 1) // step + 1) if first < end else range(0)
            count *= len(numbers)
            spans.append([(start + n * step, min(start + (n + 1) * step, stop)) for n in numbers[:_MOST_CHUNKS]])
        if count > _MOST_CHUNKS:
            raise OutOfRange(f"a box of {count} chunks is too large for one request")
        xs, ys, zs = spans
        return [Box(*x, *y, *z) for z in zs for y in ys for x in xs]

    def clip(self, box: Box) -> Box | None:
        """Return the part of a box that lies in the volume, or None when there is none."""
        (ox, oy, oz), (x, y, z) = self.offset, self.end
        return intersection(box, Box(ox, x, oy, y, oz, z))


def intersection(a: Box, b: Box) -> Box | None:
    """Return the box that two boxes share, or None when they are disjoint."""
    shared = Box(max(a.x0, b.x0), min(a.x1, b.x1), max(a.y0, b.y0), min(a.y1, b.y1), max(a.z0, b.z0), min(a.z1, b.z1))
    return shared if min(shared.shape) > 0 else None


def paste(target: Voxels, target_box: Box, voxels: Voxels, box: Box) -> None:
    """Copy voxels of `box` into `target`, an array of `target_box`, where the two boxes overlap."""
    shared = intersection(target_box, box)
    if shared is not None:
        target[_slices(shared, target_box)] = voxels[_slices(shared, box)]


def compose(box: Box, pieces: Iterable[tuple[Box, Voxels]], dtype: str) -> Voxels:
    """Return an array of a box put together from pieces, with 0 where no piece is.

    All pieces have the same axes, (z, y, x) or (z, y, x, component), and so has the result.
    """
    pieces = list(pieces)
    components = pieces[0][1].shape[3:] if pieces else ()
    target = np.zeros((*box.shape, *components), dtype)
    for piece, voxels in pieces:
        paste(target, box, voxels, piece)
    return target


def _slices(part: Box, box: Box) -> tuple[slice, slice, slice]:
    """Return the index of a part of a box in an array (z, y, x) of the whole box."""
    return (
        slice(part.z0 - box.z0, part.z1 - box.z0),
        slice(part.y0 - box.y0, part.y1 - box.y0),
        slice(part.x0 - box.x0, part.x1 - box.x0),
    )
