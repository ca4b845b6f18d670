"""Datasets as CATMAID's projects and stacks.

The ids of projects and stacks are derived from their names, so they are the same after a restart.

All triples are in the axes of the stack: columns, rows, slices. Slices are counted absolutely, as in the tiles'
addresses, and those before the first one are blank. Columns and rows begin with the volume.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from zlib import crc32

from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.model.address import ChannelName, ImageBase, write_base
from ocpproxy.model.dataset import CannotDisplay, Level, Plane, Triple, Z
from ocpproxy.model.stack import Stack

ORIENTATIONS = {Plane.XY: 0, Plane.XZ: 1, Plane.ZY: 2}
"""CATMAID's numbers of orientations."""


def image_bases(entry: CatalogueEntry, planes: tuple[Plane, ...] = tuple(Plane)) -> Iterator[ImageBase]:
    """Yield the image bases of each channel that can be shown by itself."""
    for channel in entry.dataset.channels if entry.source.display.as_tiles else ():
        for plane in planes:
            base = ImageBase(entry.dataset.token, plane, (ChannelName(channel.name),))
            try:
                entry.stack(base)
            except CannotDisplay:
                break
            yield base


@dataclass(frozen=True, slots=True)
class StackInfo:
    """What a viewer has to know of a stack."""

    base: ImageBase
    dimension: Triple
    resolution: tuple[float, float, float]
    factors: list[Triple]
    """By zoom level: how many pixels and slices of level 0 one pixel and one slice stand for."""
    canary: Triple
    """Where CATMAID loads a tile to see whether a mirror works: the middle of the volume, or as `canaries` have it."""
    broken: tuple[int, ...] = ()
    """Slices that are broken."""
    has_other_channels: bool = False
    """Whether the dataset has stacks of other channels too."""

    @property
    def title(self) -> str:
        """The name of the stack, for people."""
        return f"{self.base.token} {self.base.channels[0].name} {self.base.plane.value.upper()}"

    @property
    def id(self) -> int:
        """The id of the stack."""
        return _id(write_base(self.base))


def stack_infos(entry: CatalogueEntry) -> Iterator[StackInfo]:
    """Yield every stack that CATMAID has an orientation for; none when the volume has no level 0."""
    if 0 in entry.dataset.levels:
        several = len(entry.dataset.channels) > 1
        for base in image_bases(entry, tuple(ORIENTATIONS)):
            yield replace(_stack_info(entry.stack(base), base), has_other_channels=several)


def _stack_info(stack: Stack, base: ImageBase) -> StackInfo:
    levels = stack.dataset.levels
    extent = stack.extent(levels[0])
    through = stack.plane.axes[2]
    first, size = levels[0].offset[through], levels[0].size[through]
    resolution = _pixel(stack, levels[0])
    factors = []
    for n in range(max(levels) + 1):
        if n in levels:
            ratios = [a / b for a, b in zip(_pixel(stack, levels[n]), resolution, strict=True)]
            columns, rows, slices = (max(1, round(ratio)) for ratio in ratios)
            factors.append((columns, rows, 1 if stack.display.full_slices else slices))
        else:
            factors.append((2**n, 2**n, 1))
    width, height, depth = map(float, resolution)
    return StackInfo(
        base,
        (extent[0], extent[1], first + size),
        (width, height, depth),
        factors,
        (extent[0] // 2, extent[1] // 2, first + size // 2),
        _broken(stack, first, first + size),
    )


def _broken(stack: Stack, first: int, end: int) -> tuple[int, ...]:
    broken = stack.display.broken
    return () if broken is None or stack.plane is not Plane.XY else tuple(broken.within(first, end))


def _pixel(stack: Stack, level: Level) -> list[Fraction]:
    """Return the edges of a pixel along columns and rows, and the thickness of a slice."""
    scale = stack.z_scale(level)
    return [
        level.voxel[axis] / scale if axis == Z and n < 2 else level.voxel[axis]
        for n, axis in enumerate(stack.plane.axes)
    ]


def project_id(token: str) -> int:
    """Return the id of a dataset."""
    return _id(token)


def _id(name: str) -> int:
    return crc32(name.encode()) & 0x7FFFFFFF or 1
