"""What a path below a format means: a document, a folder, or a chunk.

A format serves what `ServedVolume` has: one channel, or several as an axis of one array. It is asked with the segments
of a path, and knows the names of everything that it has; whatever else is asked for is not there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol, TypeVar

from ocpproxy.formats.chunk_file import gzip
from ocpproxy.model.chunks import ChunkedVolume, ChunkGrid
from ocpproxy.model.dataset import Dataset, Level, Triple
from ocpproxy.model.stack import Tile
from ocpproxy.model.voxels import Voxels

T = TypeVar("T")
_MOST_DIGITS = 9


@dataclass(frozen=True)
class FormatDocument:
    """A JSON document of metadata."""

    body: bytes

    @cached_property
    def digest(self) -> str:
        """32 hex digits that identify the body."""
        return blake2b(self.body, digest_size=16).hexdigest()

    @cached_property
    def zipped(self) -> bytes:
        """The body, compressed by gzip."""
        return gzip(self.body)


class Folder(NamedTuple):
    """A folder, which some readers look at."""

    names: Sequence[str]
    """What is in it; those of folders end with a slash."""


class ChunkPlace(NamedTuple):
    """A chunk."""

    volume: ChunkedVolume
    time: int
    level: int
    number: Triple
    """Its numbers along x, y, z."""

    @property
    def grid(self) -> ChunkGrid:
        """The grid of its level."""
        return self.volume.grids[self.level]

    @property
    def tile(self) -> Tile:
        """Its identity."""
        x, y, z = self.number
        return Tile(self.volume.name, self.time, self.level, z, y, x)

    @property
    def raw_length(self) -> int | None:
        """Bytes of its voxels, where they are kept as they are; else None."""
        box = self.grid.box(self.number)
        if box is None or self.grid.encoding != "raw":
            return None
        z, y, x = box.shape
        return z * y * x * self.volume.channel.itemsize

    @property
    def is_whole(self) -> bool:
        """True if it is not cut at the end of the volume."""
        box = self.grid.box(self.number)
        return box is not None and box.shape == self.grid.chunk[::-1]


FormatItem = FormatDocument | Folder | ChunkPlace


@dataclass(frozen=True)
class ServedVolume:
    """What is served at one address."""

    volumes: tuple[ChunkedVolume, ...]
    """The channels, which have the same type, times and grids; several are an axis."""
    time: int | None = None
    """The only time point that is served; None for all."""

    @property
    def dataset(self) -> Dataset:
        """The dataset of the channels."""
        return self.volumes[0].dataset

    @property
    def levels(self) -> list[int]:
        """The numbers of the levels, the finest first."""
        return sorted(self.dataset.levels)

    @property
    def times(self) -> range:
        """The time points."""
        first, last = self.volumes[0].channel.time if self.time is None else (self.time, self.time)
        return range(first, last + 1)

    @property
    def axes(self) -> str:
        """The letters of the axes of an array in C order: ``zyx``, with ``c`` and ``t`` before them."""
        return "t" * (len(self.times) > 1) + "c" * (len(self.volumes) > 1) + "zyx"

    @property
    def dtype(self) -> str:
        """The numpy name of the type of voxels."""
        return self.volumes[0].channel.dtype

    @property
    def holds_ids(self) -> bool:
        """Whether the voxels are ids."""
        return self.volumes[0].channel.kind == "annotation"

    def is_compressed(self, level: int) -> bool:
        """Return whether the chunks of a level are compressed where a format leaves the choice: ids are."""
        return self.volumes[0].grids[level].encoding == "compressed_segmentation"

    @property
    def name(self) -> str:
        """A name for people."""
        token = self.dataset.token
        return token if len(self.volumes) > 1 else f"{token}/{self.volumes[0].channel.name}"

    @property
    def unit(self) -> str | None:
        """The unit of the edges of voxels, or None."""
        return "nanometer" if self.dataset.in_nanometres else None

    def shape(self, level: int) -> list[int]:
        """Return the length of each of the axes."""
        return [*self._others(len(self.times), len(self.volumes)), *self.dataset.levels[level].size[::-1]]

    def chunk(self, level: int) -> list[int]:
        """Return the length of a whole chunk along each of the axes."""
        return [*self._others(1, 1), *self.volumes[0].grids[level].chunk[::-1]]

    def scale(self, level: int) -> list[float]:
        """Return the edge of a voxel along each of the axes; 1 for those that are not of space."""
        return [*self._others(1.0, 1.0), *(float(edge) for edge in self.dataset.levels[level].voxel[::-1])]

    def translation(self, level: int) -> list[float]:
        """Return where the centre of the first voxel is, along each of the axes.

        The centre of voxel 0 of the finest level is at 0. The corners of the levels meet, so that their centres do not.
        """
        finest, own = self.dataset.finest, self.dataset.levels[level]
        places = (_centre(own, axis) - finest.voxel[axis] / 2 for axis in (2, 1, 0))
        return [*self._others(0.0, 0.0), *map(float, places)]

    def _others(self, time: T, channel: T) -> list[T]:
        return [time] * ("t" in self.axes) + [channel] * ("c" in self.axes)

    def place(self, level: int, numbers: Sequence[int]) -> ChunkPlace | None:
        """Return the chunk with these numbers along the axes, or None for one that is off the grid."""
        if len(numbers) != len(self.axes):
            return None
        at = dict(zip(self.axes, numbers, strict=True))
        time, channel = at.get("t", 0), at.get("c", 0)
        if time >= len(self.times) or channel >= len(self.volumes):
            return None
        number = (at["x"], at["y"], at["z"])
        return chunk_place(self.volumes[channel], self.times[time], level, number)


def _centre(level: Level, axis: int) -> Any:
    return (level.offset[axis] * 2 + 1) * level.voxel[axis] / 2


def chunk_place(volume: ChunkedVolume, time: int, level: int, number: Triple) -> ChunkPlace | None:
    """Return a chunk, or None for one that is off the grid."""
    place = ChunkPlace(volume, time, level, number)
    return None if level not in volume.grids or place.grid.box(number) is None else place


Encode = Callable[[Voxels], bytes]
"""Makes a body of the voxels of a chunk, axes (z, y, x), which are cut at the end of the volume."""


class VoxelFormat(Protocol):
    """A format in which voxels are served."""

    name: str
    """The first segment of its addresses."""
    axis_of_channels: bool
    """Whether several channels can be one array."""

    def find(self, served: ServedVolume, path: Sequence[str]) -> FormatItem | None:
        """Return what the segments of a path mean; None where the format has no such name, or it is off the grid."""

    def has_type(self, dtype: str) -> bool:
        """Return whether the format has this type of voxels."""

    def plain_length(self, served: ServedVolume, place: ChunkPlace) -> int | None:
        """Return the bytes of a chunk's body; None where that depends on its voxels."""

    def encoder(self, served: ServedVolume, place: ChunkPlace) -> Encode | None:
        """Return what makes the body of a chunk; None where the body is the one that is kept."""


def json_document(value: object) -> FormatDocument:
    """Return a JSON document."""
    return FormatDocument(json.dumps(value, indent=1).encode())


def number(text: str) -> int | None:
    """Return a number as names have it: decimal, without zeros before it."""
    fine = text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS and (text == "0" or text[0] != "0")
    return int(text) if fine else None


def numbers(texts: Sequence[str]) -> list[int] | None:
    """Return the numbers, or None where a text is not one."""
    found = [number(text) for text in texts]
    known = [one for one in found if one is not None]
    return known if len(known) == len(found) else None
