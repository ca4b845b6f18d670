"""Datasets put together from volumes, one for each channel or several, that are pyramids of scales.

Precomputed, N5 and Zarr all say for each scale how large a voxel is; an address says a level's number. Scales become
levels by the size of their voxels, the finest first, in whatever order they are written, and volumes of one dataset
whose voxels are alike share a level.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from typing import Generic, NamedTuple, Protocol, TypeVar

from ocpproxy.model.dataset import Channel, Dataset, Level, Triple
from ocpproxy.upstream.documents import checks
from ocpproxy.upstream.documents.checks import unexpected
from ocpproxy.upstream.grid import Grid

_SAME = Fraction(1, 100)
"""Voxels that differ by less are of one level."""
Voxel = tuple[Fraction, Fraction, Fraction]
"""The edges of a voxel along x, y and z."""


class Gridded(Protocol):
    """A scale."""

    @property
    def grid(self) -> Grid:
        """Where its voxels are."""


S = TypeVar("S", bound=Gridded)


class Part(NamedTuple):
    """A channel of a volume."""

    name: str
    """Behind the name of the volume."""
    number: int
    """Its place among the values of a voxel."""
    window: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Volume(Generic[S]):
    """One volume."""

    labels: bool
    """Its voxels are ids."""
    dtype: str
    parts: Sequence[Part]
    scales: Sequence[tuple[Voxel, S]]
    version: str
    times: int = 1
    writable: bool = False


def version(told: object) -> str:
    """A word that changes with what was told."""
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def size(grid: Grid) -> Triple:
    """Voxels along each axis."""
    (ox, oy, oz), (x, y, z) = grid.offset, grid.end
    return (x - ox, y - oy, z - oz)


def assembled(token: str, volumes: Mapping[str | None, Volume[S]]) -> Dataset:
    """The dataset whose channels are these volumes; its `theirs` is, by channel, its place in a voxel and its scales.

    :raises Unexpected: none of them can be shown.
    """
    levels: list[tuple[Voxel, S]] = []
    for volume in volumes.values():
        for one in volume.scales:
            if not any(same(one[0], other[0]) for other in levels):
                levels.append(one)
    levels.sort(key=lambda one: (one[0][0] * one[0][1] * one[0][2], one[0]))
    channels: list[Channel] = []
    theirs: dict[str, tuple[int, tuple[S | None, ...]]] = {}
    for name, volume in volumes.items():
        if volume.dtype not in checks.DTYPES:
            continue  # signed, or of another kind: there is no picture of it
        scales = tuple(
            next((scale for voxel, scale in volume.scales if same(voxel, level)), None) for level, _ in levels
        )
        base = next(n for n, scale in enumerate(scales) if scale is not None)
        kind = _kind(volume)
        called = name or ("annotation" if kind == "annotation" else "image")
        for part in volume.parts:
            time = (0, volume.times - 1)
            channel = Channel(
                called + part.name,
                kind,
                volume.dtype,
                part.window,
                time,
                base_level=base,
                version=volume.version,
                writable=volume.writable,
            )
            if channel.name in theirs:
                raise unexpected("channels of different names", channel.name)
            channels.append(channel)
            theirs[channel.name] = (part.number, scales)
    if not channels:
        raise unexpected("voxels of " + ", ".join(checks.DTYPES), [volume.dtype for volume in volumes.values()])
    found = {
        n: Level(size(scale.grid), scale.grid.offset, scale.grid.chunk, voxel)
        for n, (voxel, scale) in enumerate(levels)
        for n, (voxel, scale) in enumerate(levels)
    }
    default = next((channel.name for channel in channels if channel.kind != "annotation"), channels[0].name)
    return Dataset(token, found, tuple(channels), default, upstream_data=theirs)


def _kind(volume: Volume[S]) -> str:
    if volume.labels and volume.dtype.startswith("uint"):
        return "annotation"
    if volume.dtype not in ("uint8", "uint16"):
        return "grey"
    return "timeseries" if volume.times > 1 else "image"


def same(a: Voxel, b: Voxel) -> bool:
    """Whether voxels are of one level."""
    return all(abs(x - y) < _SAME * y for x, y in zip(a, b, strict=True))
