"""Volumes whose scales are N-dimensional arrays: what N5 and Zarr have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, prod
from typing import Any, TypeVar

import numpy as np

from ocpproxy.model.voxels import VOXEL_TYPES
from ocpproxy.upstream.documents import checks, pyramids
from ocpproxy.upstream.documents.checks import Unexpected, integer, json_array, json_object, string, unexpected
from ocpproxy.upstream.documents.encodings import Encoding
from ocpproxy.upstream.documents.pyramids import Volume, VolumeChannel, VoxelSize
from ocpproxy.upstream.grid import Grid

Documents = Mapping[str, str]
"""The documents of a volume by their paths below its address; the first one is its own, the others those of arrays."""
UNIT_VOXEL: VoxelSize = (Fraction(1), Fraction(1), Fraction(1))
"""The size of voxels for which a document has none."""
MAX_DIMENSIONS = 8
_MAX_CHUNK = 512 * 2**20
"""Bytes of the voxels of a chunk."""
MAX_CHANNELS = 64
_MAX_WINDOW = 2**40
_ABSENT = "absent"
_MAX_REASON = 1000
_PATH = re.compile(r"[\w.~+@=,-][\w.~+@=, /-]*")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ArrayScale:
    """A scale of a volume: an array that `ocpproxy.upstream.tensorstore` can read."""

    channel: str | None
    """The channel whose address the volume is at."""
    driver: str
    """The name of TensorStore's driver: ``zarr``, ``zarr3`` or ``n5``."""
    path: str
    """The path of the array below the volume's address."""
    axes: str
    """A letter for each axis: x, y, z, c for channel, t for time, 1 for an unknown one of length 1."""
    grid: Grid
    dtype: str
    """The type of its voxels as they are stored, one of `pyramids.STORED_TYPES`."""
    encoding: Encoding
    chunk_bytes: int
    """Bytes of the voxels of a chunk."""


@dataclass(frozen=True, slots=True)
class DescribedArray:
    """An array as its document describes it."""

    scale: ArrayScale
    shape: tuple[int, ...]
    """In the order of the axes."""


def parse_object(documents: Documents, name: str) -> Mapping[str, Any]:
    """Return a document, which must be a JSON object.

    :raises Unexpected: it is not; or it could not be read, and the reason is kept in its place (`absent`).
    """
    members = json_object(name, checks.parse_json(documents[name]))
    if members.keys() == {_ABSENT}:
        raise Unexpected(str(members[_ABSENT])[:_MAX_REASON])
    return members


def absent(reason: str) -> str:
    """Return what stands in the place of a document that cannot be read."""
    return json.dumps({_ABSENT: reason})


def parse_path(value: object) -> str:
    """Return the path of an array below the volume.

    :raises Unexpected: it is not a path, or leads out of the volume.
    """
    path = string("a path", value).strip("/")
    if ".." in path.split("/") or not _PATH.fullmatch(path):
        raise unexpected("a path below the volume", value)
    return path


def parse_shape(name: str, value: object) -> tuple[int, ...]:
    """Return the shape of an array.

    :raises Unexpected: it is not a shape of 2 to `MAX_DIMENSIONS` dimensions.
    """
    sizes = json_array(name, value, max_length=MAX_DIMENSIONS)
    if len(sizes) < 2:
        raise unexpected(f"at least two dimensions for {name}", value)
    return tuple(integer(name, size, 1, checks.MAX_EXTENT) for size in sizes)


def parse_chunk(name: str, value: object, dimensions: int) -> tuple[int, ...]:
    """Return the shape of an array's chunks.

    :raises Unexpected: it is not a shape of so many dimensions.
    """
    return tuple(integer(name, size, 1, checks.MAX_EXTENT) for size in json_array(name, value, dimensions))


def check_axes(letters: str, shape: tuple[int, ...]) -> str:
    """Return the axes of an array as in `ArrayScale.axes`.

    :param letters: the first letter of each axis' name, in lower case.
    :raises Unexpected: x or y is missing, an axis occurs twice, or an unknown one is longer than 1.
    """
    if len(letters) != len(shape):
        raise unexpected(f"{len(letters)} dimensions, one for each axis", shape)
    axes = "".join(
        letter if letter in "xyzct" else "1" if size == 1 else "?" for letter, size in zip(letters, shape, strict=True)
    )
    known = axes.replace("1", "")
    if "?" in axes or len(set(known)) != len(known) or not {"x", "y"} <= set(known):
        raise unexpected("axes x, y, z, c, t, each at most once", letters)
    return axes


def chunk_bytes(chunk: Sequence[int], shape: Sequence[int], dtype: str) -> int:
    """Return the bytes of the voxels of a chunk.

    :raises Unexpected: they are too many to be read.
    """
    nbytes = prod(chunk) * np.dtype(dtype).itemsize
    if prod(min(a, b) for a, b in zip(chunk, shape, strict=True)) * np.dtype(dtype).itemsize > _MAX_CHUNK:
        raise unexpected(f"chunks of at most {_MAX_CHUNK >> 20} MiB", tuple(chunk))
    return min(nbytes, _MAX_CHUNK)


def check_dtype(name: str, value: object) -> str:
    """Return the type of an array's voxels.

    :raises Unexpected: it is not one of numbers that can be shown.
    """
    dtype = string(name, value)
    if dtype not in pyramids.STORED_TYPES:
        raise unexpected(f"{', '.join(pyramids.STORED_TYPES)} for {name}", value)
    return dtype


def along_xyz(axes: str, values: Sequence[T], default: T) -> tuple[T, T, T]:
    """Return the values along x, y and z of values in the order of the axes.

    :param default: the value along an axis that does not exist.
    """
    x, y, z = (values[axes.index(axis)] if axis in axes else default for axis in "xyz")
    return (x, y, z)


def array_grid(axes: str, shape: tuple[int, ...], chunk: tuple[int, ...]) -> Grid:
    """Return the grid of an array's chunks along x, y and z."""
    return Grid((0, 0, 0), along_xyz(axes, shape, 1), along_xyz(axes, chunk, 1))


@dataclass(frozen=True, slots=True)
class SizedArray:
    """An array, and the size of its voxels."""

    name: str
    """For people."""
    voxel: VoxelSize
    unit: Fraction | None
    """As in `Volume`."""
    array: DescribedArray


def build_volume(
    arrays: Sequence[SizedArray],
    notes: Sequence[str] = (),
    *,
    labels: bool = False,
    windows: Sequence[tuple[float, float]] = (),
) -> Volume[ArrayScale]:
    """Return the volume whose scales are these arrays; its version is empty.

    :param arrays: if two sizes are the same, all are derived from the shapes. An array that differs from the first one
        in its type or axes is left out.
    :param notes: of what was left out before.
    :param labels: whether the document says that voxels are ids. Those of some types always are
        (`VoxelType.holds_ids`), because most documents do not say.
    :param windows: the values shown as black and white for each channel.
    :raises Unexpected: they have too many channels.
    """
    first = arrays[0].array
    alike = [sized for sized in arrays if _likeness(sized.array) == _likeness(first)]
    notes = [*notes, *(_unlike(sized, first) for sized in arrays if sized not in alike)]
    for sized in alike:
        notes += [f"level {sized.name}: {note}" for note in sized.array.scale.encoding.notes]
    sizes = dict(zip(first.scale.axes, first.shape, strict=True))
    channels = sizes.get("c", 1)
    if channels > MAX_CHANNELS:
        raise unexpected(f"at most {MAX_CHANNELS} channels", channels)
    scales = [(sized.voxel, sized.array.scale) for sized in alike]
    if any(pyramids.same_level(a, b) for n, (a, _) in enumerate(scales) for b, _ in scales[:n]):
        scales = _sized_by_extent(scales)
    dtype = first.scale.dtype
    return Volume(
        labels or (dtype in VOXEL_TYPES and VOXEL_TYPES[dtype].holds_ids),
        dtype,
        _channels(channels, [_whole_window(window, dtype) for window in windows]),
        pyramids.by_voxel_size(scales),
        "",
        sizes.get("t", 1),
        unit=alike[0].unit,
        notes=tuple(notes),
    )


def _likeness(array: DescribedArray) -> tuple[object, ...]:
    """Return what has to be the same for all levels: the type, the axes, the channels and times."""
    sizes = dict(zip(array.scale.axes, array.shape, strict=True))
    return (array.scale.dtype, array.scale.axes, sizes.get("c"), sizes.get("t"))


def _unlike(sized: SizedArray, first: DescribedArray) -> str:
    """Return the note of an array that is left out."""
    (dtype, axes, *_), (other, others, *_) = _likeness(first), _likeness(sized.array)
    expected = f"voxels of {dtype}, axes {axes} and the channels and times of the first level, {first.shape}"
    return f"level {sized.name} is left out: expected {expected}, not {other}, {others} and {sized.array.shape}"


def _whole_window(window: tuple[float, float], dtype: str) -> tuple[int, int]:
    """Return a window in whole numbers that the type has, rounded outwards; (0, 0) is none."""
    if dtype not in VOXEL_TYPES or window == (0, 0):
        return (0, 0)
    integer_type = VOXEL_TYPES[dtype].is_integer
    least, most = (np.iinfo(dtype).min, np.iinfo(dtype).max) if integer_type else (-_MAX_WINDOW, _MAX_WINDOW)
    low, high = max(window[0], least), min(window[1], most)
    return (floor(low), ceil(high)) if low < high else (0, 0)


def _channels(count: int, windows: Sequence[tuple[int, int]]) -> list[VolumeChannel]:
    """Return the channels; a document may have fewer windows than an array has channels, or more."""
    numbered = [*windows[:count], *[(0, 0)] * (count - len(windows))]
    if count == 1:
        return [VolumeChannel("", 0, numbered[0])]
    return [VolumeChannel(f"_{number}", number, window) for number, window in enumerate(numbered)]


def _sized_by_extent(scales: Sequence[tuple[VoxelSize, ArrayScale]]) -> list[tuple[VoxelSize, ArrayScale]]:
    """Return the scales with the sizes of voxels that follow from the extents of the grids.

    The first scale keeps its size of a voxel.
    """
    (voxel, first), *_ = scales
    extent = pyramids.grid_size(first.grid)
    resized = []
    for _, scale in scales:
        steps = [max(1, round(a / b)) for a, b in zip(extent, pyramids.grid_size(scale.grid), strict=True)]
        x, y, z = (edge * step for edge, step in zip(voxel, steps, strict=True))
        resized.append(((x, y, z), scale))
    return resized
