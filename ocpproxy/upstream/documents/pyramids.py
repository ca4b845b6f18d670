"""Datasets whose channels are volumes that consist of scales.

Precomputed, N5 and Zarr give the size of a voxel for each scale; a tile's address gives the number of a level. Scales
become levels by the volume of their voxels, the finest first, whatever their order in the documents. Scales of several
volumes whose voxels have the same size share a level.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from typing import Generic, NamedTuple, Protocol, TypeVar

from ocpproxy.model.dataset import Channel, Dataset, Level, Triple
from ocpproxy.upstream.documents import checks
from ocpproxy.upstream.documents.checks import unexpected
from ocpproxy.upstream.grid import Grid

_TOLERANCE = Fraction(1, 100)
"""The relative difference up to which two sizes of voxels are the same."""
VoxelSize = tuple[Fraction, Fraction, Fraction]
"""The edges of a voxel along x, y and z, in any unit that is the same for all scales of a dataset."""


class HasGrid(Protocol):
    """A scale of any kind of volume."""

    @property
    def grid(self) -> Grid:
        """Its extent and its chunks, in voxels of the scale."""


S = TypeVar("S", bound=HasGrid)


class VolumeChannel(NamedTuple):
    """A channel of a volume."""

    suffix: str
    """What follows the volume's name in the name of the channel."""
    number: int
    """Its index among the values of a voxel."""
    window: tuple[int, int] = (0, 0)
    """The values that are shown as black and white; (0, 0) for the defaults."""


@dataclass(frozen=True, slots=True)
class Volume(Generic[S]):
    """The volume that a document describes."""

    labels: bool
    """Whether its voxels are ids."""
    dtype: str
    channels: Sequence[VolumeChannel]
    scales: Sequence[tuple[VoxelSize, S]]
    """In any order."""
    version: str
    """Changes when the voxels may have changed."""
    times: int = 1
    writable: bool = False


def version(content: object) -> str:
    """Return a string that is different for different content, which must be JSON."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def grid_size(grid: Grid) -> Triple:
    """Return the number of voxels along x, y and z."""
    (ox, oy, oz), (x, y, z) = grid.offset, grid.end
    return (x - ox, y - oy, z - oz)


def same_level(a: VoxelSize, b: VoxelSize) -> bool:
    """Return whether scales with voxels of these sizes share a level."""
    return all(abs(x - y) < _TOLERANCE * y for x, y in zip(a, b, strict=True))


def by_voxel_size(scales: Iterable[tuple[VoxelSize, S]]) -> list[tuple[VoxelSize, S]]:
    """Return the scales sorted by the volume of their voxels, the finest first."""

    def key(scale: tuple[VoxelSize, S]) -> tuple[Fraction, VoxelSize]:
        (x, y, z), _ = scale
        return x * y * z, (x, y, z)

    return sorted(scales, key=key)


def build_dataset(token: str, volumes: Mapping[str | None, Volume[S]]) -> Dataset:
    """Return the dataset whose channels are those of the volumes.

    :param volumes: by name; None for the only one, whose channel is called ``image`` or ``annotation``.
    :returns: its `upstream_data` has by the name of a channel its index among the values of a voxel, and for each level
        the scale of its volume or None.
    :raises Unexpected: none of the volumes can be shown, or two channels have the same name.
    """
    levels = _levels(volumes.values())
    channels: list[Channel] = []
    scales_of: dict[str, tuple[int, tuple[S | None, ...]]] = {}
    for name, volume in volumes.items():
        if volume.dtype not in checks.DTYPES:
            continue  # signed, for example: it cannot be drawn
        scales = tuple(_scale_at(volume, voxel) for voxel, _ in levels)
        base_level = next(number for number, scale in enumerate(scales) if scale is not None)
        for number, channel in _channels(name, volume, base_level):
            if channel.name in scales_of:
                raise unexpected("channels of different names", channel.name)
            channels.append(channel)
            scales_of[channel.name] = (number, scales)
    if not channels:
        raise unexpected("voxels of " + ", ".join(checks.DTYPES), [volume.dtype for volume in volumes.values()])
    default = next((channel.name for channel in channels if channel.kind != "annotation"), channels[0].name)
    numbered = {
        number: Level(grid_size(scale.grid), scale.grid.offset, scale.grid.chunk, voxel)
        for number, (voxel, scale) in enumerate(levels)
    }
    return Dataset(token, numbered, tuple(channels), default, upstream_data=scales_of)


def _levels(volumes: Iterable[Volume[S]]) -> list[tuple[VoxelSize, S]]:
    """Return the scale that stands for each level: the first of those that share it."""
    levels: list[tuple[VoxelSize, S]] = []
    for volume in volumes:
        for voxel, scale in volume.scales:
            if not any(same_level(voxel, other) for other, _ in levels):
                levels.append((voxel, scale))
    return by_voxel_size(levels)


def _scale_at(volume: Volume[S], level: VoxelSize) -> S | None:
    return next((scale for voxel, scale in volume.scales if same_level(voxel, level)), None)


def _channels(name: str | None, volume: Volume[S], base_level: int) -> Iterator[tuple[int, Channel]]:
    """Yield the channels of a volume, each with its index among the values of a voxel."""
    kind = _kind(volume)
    prefix = name or ("annotation" if kind == "annotation" else "image")
    for part in volume.channels:
        yield (
            part.number,
            Channel(
                prefix + part.suffix,
                kind,
                volume.dtype,
                part.window,
                (0, volume.times - 1),
                base_level=base_level,
                version=volume.version,
                writable=volume.writable,
            ),
        )


def _kind(volume: Volume[S]) -> str:
    if volume.labels and volume.dtype.startswith("uint"):
        return "annotation"
    if volume.dtype not in ("uint8", "uint16"):
        return "grey"
    return "timeseries" if volume.times > 1 else "image"
