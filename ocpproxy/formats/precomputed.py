"""neuroglancer's precomputed volumes: ``info``, and a chunk under the range of its voxels.

``{level}/{x0}-{x1}_{y0}-{y1}_{z0}-{z1}`` names a chunk, offset included, and the last ones end where the volume ends.
There are no shards, whatever the upstream has. The format has no axis of time: a volume is that of one time point.
Source: neuroglancer, src/datasource/precomputed/volume.rst.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ocpproxy.formats.location import ChunkPlace, Folder, FormatItem, ServedVolume, chunk_place, json_document, number

_TYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "float32")
"""The types that the format has."""
_CHUNK = re.compile(r"(-?\d{1,9})-(-?\d{1,9})_(-?\d{1,9})-(-?\d{1,9})_(-?\d{1,9})-(-?\d{1,9})", re.ASCII)


class PrecomputedFormat:
    """Precomputed volumes."""

    name = "precomputed"
    axis_of_channels = False

    def find(self, served: ServedVolume, path: Sequence[str]) -> FormatItem | None:
        """Return what a path means; see `VoxelFormat.find`."""
        if not self.has_type(served.dtype):
            return None
        if path == ["info"]:
            return json_document(info(served))
        if not path:
            return Folder(["info", *(f"{level}/" for level in served.levels)])
        level = number(path[0])
        if level is None or level not in served.levels:
            return None
        if len(path) == 1:
            return Folder([])
        return _chunk(served, level, path[1]) if len(path) == 2 else None

    def has_type(self, dtype: str) -> bool:
        """Return whether the format has this type of voxels: it has no int64."""
        return dtype in _TYPES

    def plain_length(self, served: ServedVolume, place: ChunkPlace) -> int | None:
        """Return the bytes of a chunk's body; see `VoxelFormat.plain_length`."""
        return place.raw_length

    def encoder(self, served: ServedVolume, place: ChunkPlace) -> None:
        """Return None: chunks are kept as this format has them."""
        return


def _chunk(served: ServedVolume, level: int, name: str) -> ChunkPlace | None:
    found = _CHUNK.fullmatch(name)
    if found is None:
        return None
    volume = served.volumes[0]
    grid, ranges = volume.grids[level], [int(group) for group in found.groups()]
    x, y, z = (
        (ranges[2 * axis] - offset) // step
        for axis, (offset, step) in enumerate(zip(grid.offset, grid.chunk, strict=True))
    )
    place = chunk_place(volume, served.times[0], level, (x, y, z))
    box = None if place is None else grid.box(place.number)
    return place if box is not None and name == f"{box.x0}-{box.x1}_{box.y0}-{box.y1}_{box.z0}-{box.z1}" else None


def info(served: ServedVolume) -> dict[str, Any]:
    """Return the document ``info``."""
    return {
        "@type": "neuroglancer_multiscale_volume",
        "type": "segmentation" if served.holds_ids else "image",
        "data_type": served.dtype,
        "num_channels": 1,
        "scales": [_scale(served, level) for level in served.levels],
    }


def _scale(served: ServedVolume, level: int) -> dict[str, Any]:
    shape, grid = served.dataset.levels[level], served.volumes[0].grids[level]
    scale: dict[str, Any] = {
        "key": str(level),
        "size": shape.size,
        "voxel_offset": shape.offset,
        "resolution": [float(edge) for edge in shape.voxel],
        "chunk_sizes": [grid.chunk],
        "encoding": grid.encoding,
    }
    if grid.encoding == "compressed_segmentation":
        scale["compressed_segmentation_block_size"] = grid.block
    return scale
