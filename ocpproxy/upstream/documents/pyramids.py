"""Datasets whose channels are volumes that consist of scales.

Precomputed, N5 and Zarr give the size of a voxel for each scale; a tile's address gives the number of a level. Scales
become levels by the volume of their voxels, the finest first, whatever their order in the documents. Scales of several
volumes whose voxels have the same size share a level.

What a dataset can do without never refuses it: a scale, a volume or a channel that cannot be read is left out, and a
note says why (`Dataset.notes`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import sha256
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from ocpproxy.model.dataset import Channel, Dataset, Level, Triple
from ocpproxy.model.voxels import VOXEL_TYPES, Voxels
from ocpproxy.upstream.documents import checks
from ocpproxy.upstream.documents.checks import Unexpected, unexpected
from ocpproxy.upstream.grid import Grid

_TOLERANCE = Fraction(1, 100)
"""The relative difference up to which two sizes of voxels are the same."""
VoxelSize = tuple[Fraction, Fraction, Fraction]
"""The edges of a voxel along x, y and z."""
BOOLEAN = "bool"
STORED_TYPES = (*checks.DTYPES, BOOLEAN)
"""The types of voxels that volumes may have: those that are drawn, and booleans, which become 0 and 255, or ids."""


class HasGrid(Protocol):
    """A scale of any kind of volume."""

    @property
    def grid(self) -> Grid:
        """Its extent and its chunks, in voxels of the scale."""


S = TypeVar("S", bound=HasGrid)
T = TypeVar("T")
P = TypeVar("P")


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
    """In any order; in nanometres where the document has units."""
    version: str
    """Changes when the voxels may have changed."""
    times: int = 1
    writable: bool = False
    unit: Fraction | None = None
    """The unit of the document in nanometres, or None where it has none."""
    notes: tuple[str, ...] = ()
    """What was left out or ignored, and why, for people."""

    @property
    def channel_type(self) -> str:
        """The type of voxels as the gateway's channels have it."""
        if self.dtype == BOOLEAN:
            return "uint8"
        return (VOXEL_TYPES[self.dtype].id_type if self.labels else "") or self.dtype


NOT_UNDERSTOOD = "not understood: "


@dataclass(frozen=True, slots=True)
class Absent:
    """A volume that cannot be shown, and why: its channels are left out of the dataset."""

    reason: str


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


def parse_scales(values: Iterable[T], name: Callable[[T], str], parse: Callable[[T], P]) -> tuple[list[P], list[str]]:
    """Return the scales that can be parsed, and a note for each other one.

    :param name: returns the name of a scale, for people.
    :param parse: returns a scale, or raises `Unexpected`.
    :raises Unexpected: none can be parsed; with what is wrong with the first one.
    """
    parsed: list[P] = []
    notes: list[str] = []
    first: Unexpected | None = None
    for value in values:
        try:
            parsed.append(parse(value))
        except Unexpected as error:
            first = first or error
            notes.append(f"level {name(value)} is left out: {error}")
    if not parsed:
        raise first or unexpected("at least one level", [])
    return parsed, notes


def build_dataset(token: str, found: Mapping[str | None, Volume[S] | Absent]) -> Dataset:
    """Return the dataset whose channels are those of the volumes.

    A volume whose document has no unit is taken to have that of the first other one that has one.

    :param found: by name; None for the only one, whose channel is called ``image`` or ``annotation``.
    :returns: its `upstream_data` has by the name of a channel its index among the values of a voxel, and for each level
        the scale of its volume or None.
    :raises Unexpected: none of the volumes can be shown, or two channels have the same name.
    """
    volumes, notes = _shown(found)
    levels = _levels(volumes.values())
    channels: list[Channel] = []
    scales_of: dict[str, tuple[int, tuple[S | None, ...]]] = {}
    for name, volume in volumes.items():
        scales = tuple(_scale_at(volume, voxel) for voxel, _ in levels)
        base_level = next(number for number, scale in enumerate(scales) if scale is not None)
        for number, channel in _channels(name, volume, base_level):
            if channel.name in scales_of:
                raise unexpected("channels of different names", channel.name)
            channels.append(channel)
            scales_of[channel.name] = (number, scales)
    default = next((channel.name for channel in channels if channel.kind != "annotation"), channels[0].name)
    numbered = {
        number: Level(grid_size(scale.grid), scale.grid.offset, scale.grid.chunk, voxel)
        for number, (voxel, scale) in enumerate(levels)
    }
    known = any(volume.unit is not None for volume in found.values() if isinstance(volume, Volume))
    return Dataset(token, numbered, tuple(channels), default, scales_of, in_nanometres=known, notes=tuple(notes))


def _shown(found: Mapping[str | None, Volume[S] | Absent]) -> tuple[dict[str | None, Volume[S]], list[str]]:
    """Return the volumes that can be shown, their scales in one unit, and notes of the others.

    :raises Unexpected: there are none.
    """
    notes: list[str] = []
    reasons: list[str] = []
    shown: dict[str | None, Volume[S]] = {}
    for name, volume in found.items():
        if isinstance(volume, Volume) and volume.dtype not in STORED_TYPES:
            volume = Absent(f"expected voxels of {', '.join(STORED_TYPES)}, not {volume.dtype[:40]!r}")
        if isinstance(volume, Absent):
            reasons.append(volume.reason)
            notes.append(f"channel {name} is left out: {volume.reason}")
            continue
        shown[name] = volume
        notes += volume.notes if name is None else [f"channel {name}: {note}" for note in volume.notes]
    if not shown:
        raise Unexpected(reasons[0].removeprefix(NOT_UNDERSTOOD) if reasons else "expected at least one channel")
    unit = next((volume.unit for volume in shown.values() if volume.unit is not None), None)
    if unit is not None:
        shown = {name: _with_unit(volume, unit) for name, volume in shown.items()}
    return shown, notes


def _with_unit(volume: Volume[S], unit: Fraction) -> Volume[S]:
    """Return a volume with its scales in nanometres.

    :param unit: that of a document without one, in nanometres.
    """
    if volume.unit is not None:
        return volume
    return replace(volume, scales=[((x * unit, y * unit, z * unit), scale) for (x, y, z), scale in volume.scales])


def as_channel(voxels: Voxels, channel: Channel) -> Voxels:
    """Return voxels as the type of their channel (`Volume.channel_type`); their shape stays."""
    if voxels.dtype == np.bool_:
        return voxels.view(np.uint8) if channel.kind == "annotation" else voxels.view(np.uint8) * np.uint8(255)
    return voxels.view(channel.dtype)


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
                volume.channel_type,
                part.window,
                (0, volume.times - 1),
                base_level=base_level,
                version=volume.version,
                writable=volume.writable,
            ),
        )


def _kind(volume: Volume[S]) -> str:
    if volume.labels and (volume.dtype == BOOLEAN or VOXEL_TYPES[volume.dtype].is_integer):
        return "annotation"
    if VOXEL_TYPES[volume.channel_type].itemsize > 2:
        return "grey"
    return "timeseries" if volume.times > 1 else "image"
