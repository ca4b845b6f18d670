"""The ``info`` document of neuroglancer's precomputed volumes (src/datasource/precomputed/volume.rst)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ocpproxy.model.dataset import Box, Triple
from ocpproxy.upstream.documents import checks, pyramids
from ocpproxy.upstream.documents.checks import items, mapping, ratios, triple, unexpected, whole, word
from ocpproxy.upstream.documents.pyramids import Part, Volume
from ocpproxy.upstream.grid import Grid

LONGEST_INFO = 2 * 2**20
"""Bytes of an info document."""
_LARGEST_CHUNK = 64 * 2**20
"""Bytes of the voxels of a chunk."""


@dataclass(frozen=True, slots=True)
class PrecomputedScale:
    """One resolution of one volume."""

    place: str | None
    """The channel whose address it is at."""
    key: str
    encoding: str
    dtype: str
    components: int
    """Values of a voxel."""
    grid: Grid
    block: Triple
    """Of compressed segmentation."""
    number: int
    """Its place in the info document."""
    sharded: bool

    def chunk(self, box: Box) -> str:
        """The name of a chunk."""
        return f"{self.key}/{box.x0}-{box.x1}_{box.y0}-{box.y1}_{box.z0}-{box.z1}"

    def nbytes(self, box: Box) -> int:
        """Bytes of a chunk's voxels."""
        return int(np.prod(box.shape, dtype=np.int64)) * self.components * np.dtype(self.dtype).itemsize


def parsed(place: str | None, document: str, where: str) -> Volume[PrecomputedScale]:
    """The volume that an info document describes.

    :param where: its address; a volume elsewhere is another one.
    :raises Unexpected: with what was expected.
    """
    info = mapping("a JSON object", checks.parsed(document))
    kind = word("type", info.get("type"), "image", "segmentation")
    dtype = word("data_type", info.get("data_type"), *checks.DTYPES, "int8", "int16", "int32", "int64")
    components = whole("num_channels", info.get("num_channels", 1), 1, 64)
    said = items("scales", info.get("scales"))
    if not said:
        raise unexpected("at least one scale", said)
    scales = []
    for number, value in enumerate(said):
        scale = mapping("a scale", value)
        size = triple("size", scale.get("size"), 1)
        offset = triple("voxel_offset", scale.get("voxel_offset", [0, 0, 0]), -checks.LARGEST)
        chunks = items("chunk_sizes", scale.get("chunk_sizes"))
        chunk = triple("chunk_sizes", chunks[0] if chunks else None, 1)
        end = (offset[0] + size[0], offset[1] + size[1], offset[2] + size[2])
        encoding = word("encoding", scale.get("encoding"))
        block = triple("block size", scale.get("compressed_segmentation_block_size", [8, 8, 8]), 1, 64)
        sharding = scale.get("sharding")
        key = word("key", scale.get("key"))
        found = PrecomputedScale(
            place, key, encoding, dtype, components, Grid(offset, end, chunk), block, number, sharding is not None
        )
        held = [min(a, b) for a, b in zip(chunk, size, strict=True)]
        if found.nbytes(Box(0, held[0], 0, held[1], 0, held[2])) > _LARGEST_CHUNK:
            raise unexpected(f"chunks of at most {_LARGEST_CHUNK >> 20} MiB", chunk)
        scales.append((ratios("resolution", scale.get("resolution")), found))
    scales.sort(key=lambda one: (one[0][0] * one[0][1] * one[0][2], one[0]))
    parts = [Part(f"_{n}", n) for n in range(components)] if components > 1 else [Part("", 0)]
    told = [where, {name: info.get(name) for name in ("type", "data_type", "num_channels", "scales")}]
    return Volume(kind == "segmentation", dtype, parts, scales, pyramids.version(told))
