"""The ``info`` document of neuroglancer's precomputed volumes (src/datasource/precomputed/volume.rst)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ocpproxy.model.dataset import Box, Triple
from ocpproxy.upstream.documents import checks, pyramids
from ocpproxy.upstream.documents.checks import (
    fraction_triple,
    integer,
    integer_triple,
    json_array,
    json_object,
    string,
    unexpected,
)
from ocpproxy.upstream.documents.pyramids import Volume, VolumeChannel
from ocpproxy.upstream.grid import Grid

MAX_INFO = 2 * 2**20
"""Bytes of an info document."""
_MAX_CHUNK = 64 * 2**20
"""Bytes of the voxels of a chunk."""
_MAX_COMPONENTS = 64
_MAX_BLOCK = 64
"""Voxels of a block of compressed segmentation along one axis."""
_DTYPES = (*checks.DTYPES, "int8", "int16", "int32", "int64")
_VERSIONED = ("type", "data_type", "num_channels", "scales")
"""The members that the version of a volume depends on; others do not change its voxels."""


@dataclass(frozen=True, slots=True, eq=False)
class PrecomputedScale:
    """A scale of a volume. It is part of the key of every chunk, so it is compared by identity, which is quick."""

    channel: str | None
    """The channel whose address the volume is at."""
    key: str
    encoding: str
    dtype: str
    components: int
    """Values of a voxel."""
    grid: Grid
    block: Triple
    """The size of the blocks of compressed segmentation, (x, y, z)."""
    number: int
    """Its index in the info document."""
    sharded: bool

    def chunk_path(self, box: Box) -> str:
        """Return the path of the chunk with these voxels, below the volume's address."""
        return f"{self.key}/{box.x0}-{box.x1}_{box.y0}-{box.y1}_{box.z0}-{box.z1}"

    def nbytes(self, box: Box) -> int:
        """Return the bytes of the voxels in a box."""
        z, y, x = box.shape
        return z * y * x * self.components * np.dtype(self.dtype).itemsize


def parse_info(channel: str | None, document: str, address: str) -> Volume[PrecomputedScale]:
    """Return the volume that an info document describes.

    :param channel: the channel whose address the volume is at.
    :param address: its address, which is part of its version: a volume at another one is another volume.
    :raises Unexpected: with what was expected.
    """
    info = json_object("the info", checks.parse_json(document))
    kind = string("type", info.get("type"), "image", "segmentation")
    dtype = string("data_type", info.get("data_type"), *_DTYPES)
    components = integer("num_channels", info.get("num_channels", 1), 1, _MAX_COMPONENTS)
    values = json_array("scales", info.get("scales"))
    if not values:
        raise unexpected("at least one scale", values)
    scales = []
    for number, value in enumerate(values):
        members = json_object("a scale", value)
        scale = PrecomputedScale(
            channel,
            string("key", members.get("key")),
            string("encoding", members.get("encoding")),
            dtype,
            components,
            _parse_grid(members),
            integer_triple("block size", members.get("compressed_segmentation_block_size", [8, 8, 8]), 1, _MAX_BLOCK),
            number,
            members.get("sharding") is not None,
        )
        _check_chunk(scale)
        scales.append((fraction_triple("resolution", members.get("resolution")), scale))
    channels = [VolumeChannel("" if components == 1 else f"_{n}", n) for n in range(components)]
    version = pyramids.version([address, {name: info.get(name) for name in _VERSIONED}])
    return Volume(kind == "segmentation", dtype, channels, pyramids.by_voxel_size(scales), version)


def _parse_grid(members: Mapping[str, Any]) -> Grid:
    x, y, z = integer_triple("size", members.get("size"), 1)
    ox, oy, oz = integer_triple("voxel_offset", members.get("voxel_offset", [0, 0, 0]), -checks.MAX_EXTENT)
    chunks = json_array("chunk_sizes", members.get("chunk_sizes"))
    chunk = integer_triple("chunk_sizes", chunks[0] if chunks else None, 1)
    return Grid((ox, oy, oz), (ox + x, oy + y, oz + z), chunk)


def _check_chunk(scale: PrecomputedScale) -> None:
    """Raise `Unexpected` if the chunks are too large."""
    sizes = zip(scale.grid.chunk, pyramids.grid_size(scale.grid), strict=True)
    x, y, z = (min(chunk, size) for chunk, size in sizes)
    if scale.nbytes(Box(0, x, 0, y, 0, z)) > _MAX_CHUNK:
        raise unexpected(f"chunks of at most {_MAX_CHUNK >> 20} MiB", scale.grid.chunk)
