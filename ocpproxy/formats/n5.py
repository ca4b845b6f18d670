"""N5: a folder with the metadata of multi-resolution viewers, and a dataset for each level, ``s0``, ``s1`` and so on.

The axes are in the order x, y, z, c, t, the fastest first. A block has a header with its size, and its voxels big
endian; the last ones end where the volume ends. Level s0 is the finest there is. Source: github.com/saalfeldlab/n5
(README), n5-viewer and the multiscale metadata of n5-ij; neuroglancer, src/datasource/n5.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import partial
from typing import Any

from ocpproxy.formats.chunk_file import GZIP_LEVEL, gzip
from ocpproxy.formats.location import (
    ChunkPlace,
    Encode,
    Folder,
    FormatItem,
    ServedVolume,
    json_document,
    number,
    numbers,
)
from ocpproxy.model.voxels import Voxels

ATTRIBUTES = "attributes.json"
_GZIP = {"type": "gzip", "level": GZIP_LEVEL, "useZlib": False}
_UNITS = {"nanometer": "nm", None: "pixel"}


class N5Format:
    """N5."""

    name = "n5"
    axis_of_channels = True

    def find(self, served: ServedVolume, path: Sequence[str]) -> FormatItem | None:
        """Return what a path means; see `VoxelFormat.find`."""
        if not path:
            return Folder([ATTRIBUTES, *(f"s{n}/" for n in range(len(served.levels)))])
        if path == [ATTRIBUTES]:
            return json_document(_root(served))
        scale = number(path[0][1:]) if path[0][:1] == "s" else None
        if scale is None or scale >= len(served.levels):
            return None
        level = served.levels[scale]
        if len(path) == 1:
            return Folder([ATTRIBUTES])
        if list(path[1:]) == [ATTRIBUTES]:
            return json_document(_dataset(served, level))
        found = numbers(path[1:])
        return None if found is None else served.place(level, found[::-1])

    def encoder(self, served: ServedVolume, place: ChunkPlace) -> Encode:
        """Return what makes the body of a block: every one has a header."""
        return partial(_body, len(served.axes), compressed=served.is_compressed(place.level))

    def has_type(self, dtype: str) -> bool:
        """Return True: N5 has all types."""
        return True

    def plain_length(self, served: ServedVolume, place: ChunkPlace) -> int | None:
        """Return the bytes of a block with its header; see `VoxelFormat.plain_length`."""
        box = place.grid.box(place.number)
        if box is None or served.is_compressed(place.level):
            return None
        z, y, x = box.shape
        return 4 + 4 * len(served.axes) + z * y * x * place.volume.channel.itemsize


def _body(axes: int, voxels: Voxels, *, compressed: bool) -> bytes:
    """Return the header and the voxels of a block."""
    size = [*voxels.shape[::-1], *([1] * (axes - 3))]
    header = struct.pack(f">HH{axes}I", 0, axes, *size)
    plain = voxels.astype(voxels.dtype.newbyteorder(">")).tobytes()
    return header + (gzip(plain) if compressed else plain)


def _factors(served: ServedVolume, level: int) -> list[float]:
    """Return the edge of this level's voxels in voxels of the finest level, along each axis."""
    finest, own = served.dataset.finest, served.dataset.levels[level]
    ratios = [a / b for a, b in zip(own.voxel, finest.voxel, strict=True)]
    found = [int(ratio) if ratio.denominator == 1 else float(ratio) for ratio in ratios]
    return [*found, *([1] * (len(served.axes) - 3))]


def _root(served: ServedVolume) -> dict[str, Any]:
    letters, unit = list(served.axes[::-1]), _UNITS[served.unit]
    units = [unit if letter in "xyz" else "" for letter in letters]
    factors = [_factors(served, level) for level in served.levels]
    return {
        "n5": "2.0.0",
        "axes": letters,
        "units": units,
        "resolution": served.scale(served.levels[0])[::-1],
        "pixelResolution": {"unit": unit, "dimensions": served.scale(served.levels[0])[::-1]},
        "scales": factors,
        "downsamplingFactors": factors,
        "multiscales": [
            {
                "name": served.name,
                "datasets": [
                    {"path": f"s{n}", "transform": _transform(served, level)} for n, level in enumerate(served.levels)
                ],
            }
        ],
    }


def _transform(served: ServedVolume, level: int) -> dict[str, Any]:
    """Return scale and translation of a level in C order, as n5-viewer's metadata has them."""
    unit = _UNITS[served.unit]
    return {
        "axes": list(served.axes),
        "units": [unit if letter in "xyz" else "" for letter in served.axes],
        "scale": served.scale(level),
        "translate": served.translation(level),
    }


def _dataset(served: ServedVolume, level: int) -> dict[str, Any]:
    scale = served.scale(level)[::-1]
    return {
        "dataType": served.dtype,
        "dimensions": served.shape(level)[::-1],
        "blockSize": served.chunk(level)[::-1],
        "compression": _GZIP if served.is_compressed(level) else {"type": "raw"},
        "axes": list(served.axes[::-1]),
        "downsamplingFactors": _factors(served, level),
        "pixelResolution": {"unit": _UNITS[served.unit], "dimensions": scale},
        "transform": _transform(served, level),
    }
