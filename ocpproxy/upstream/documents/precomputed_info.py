"""The ``info`` document of neuroglancer's precomputed volumes (src/datasource/precomputed/volume.rst)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

from ocpproxy.model.dataset import Box, Triple
from ocpproxy.upstream.codecs.precomputed_chunk import ChunkForm
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
from ocpproxy.upstream.documents.pyramids import Volume, VolumeChannel, VoxelSize
from ocpproxy.upstream.grid import Grid

DOCUMENT = "info"
_MAX_CHUNK = 64 * 2**20
"""Bytes of the voxels of a chunk."""
_MAX_COMPONENTS = 64
_MAX_BLOCK = 64
"""Voxels of a block of compressed segmentation along one axis."""
_ENCODINGS: Mapping[str, Sequence[str]] = {
    "raw": checks.DTYPES,
    "jpeg": ("uint8",),
    "png": ("uint8", "uint16"),
    "compressed_segmentation": ("uint32", "uint64"),
}
"""The encodings that are read, and the types that each can hold."""
_VOLUME, _SHARDS = "neuroglancer_multiscale_volume", "neuroglancer_uint64_sharded_v1"
_HASHES = ("identity", "murmurhash3_x86_128")
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
    resolution: Sequence[float]
    """Edges of a voxel along x, y, z, in nanometres."""
    sharding: Mapping[str, Any] | None
    """How its shards are made, as the document has it; None where each chunk is an object."""

    def chunk_path(self, box: Box) -> str:
        """Return the path of the chunk with these voxels, below the volume's address."""
        return f"{self.key}/{box.x0}-{box.x1}_{box.y0}-{box.y1}_{box.z0}-{box.z1}"

    @property
    def form(self) -> ChunkForm:
        """How its chunks are written."""
        return ChunkForm(self.encoding, self.dtype, self.components, self.block)

    def nbytes(self, box: Box) -> int:
        """Return the bytes of the voxels in a box."""
        return self.form.nbytes(box.shape)


def parse_info(channel: str | None, document: str, address: str) -> Volume[PrecomputedScale]:
    """Return the volume that an info document describes.

    :param channel: the channel whose address the volume is at.
    :param address: its address, which is part of its version: a volume at another one is another volume.
    :raises Unexpected: with what was expected.
    """
    info = json_object("the info", checks.parse_json(document))
    check_kind(info)
    kind = string("type", _lower(info.get("type")), "image", "segmentation")
    dtype = string("data_type", _lower(info.get("data_type")), *checks.DTYPES)
    components = integer("num_channels", info.get("num_channels", 1), 1, _MAX_COMPONENTS)
    values = json_array("scales", info.get("scales"))
    parse = partial(_parse_scale, channel, dtype, components, not address.startswith("file:"))
    scales, notes = pyramids.parse_scales(values, _name, parse)
    channels = [VolumeChannel("" if components == 1 else f"_{n}", n) for n in range(components)]
    version = pyramids.version([address, {name: info.get(name) for name in _VERSIONED}])
    sizes = pyramids.by_voxel_size(scales)
    return Volume(kind == "segmentation", dtype, channels, sizes, version, unit=Fraction(1), notes=tuple(notes))


def check_kind(info: Mapping[str, Any]) -> None:
    """Check that a document is that of a volume: meshes, skeletons and points have an ``info`` too.

    :raises Unexpected: it is not.
    """
    kind = info.get("@type", _VOLUME)
    if kind != _VOLUME:
        raise unexpected(_VOLUME, kind)
    if "scales" not in info:
        raise unexpected("the info of a volume, with scales", sorted(map(str, info)))


def _lower(value: object) -> object:
    """Return a word in small letters: programs write it in either."""
    return value.lower() if isinstance(value, str) else value


def _name(scale: object) -> str:
    """Return the name of a scale, for people."""
    return str(scale.get("key"))[:60] if isinstance(scale, dict) else str(scale)[:60]


def _parse_scale(
    channel: str | None, dtype: str, components: int, may_leave: bool, value: object
) -> tuple[VoxelSize, PrecomputedScale]:
    """Return a scale.

    :param may_leave: whether its key may lead out of the volume, as the format allows.
    """
    members = json_object("a scale", value)
    encoding = string("encoding", _lower(members.get("encoding")))
    if dtype not in _ENCODINGS.get(encoding, ()):
        known = ", ".join(name for name, types in _ENCODINGS.items() if dtype in types)
        raise unexpected(f"chunks of {dtype} in an encoding that can be read here ({known})", encoding)
    if encoding == "compressed_segmentation" and components != 1:
        raise unexpected("compressed_segmentation of one channel", components)
    resolution = fraction_triple("resolution", members.get("resolution"))
    key = string("key", members.get("key"))
    if ".." in key.split("/") and (members.get("sharding") is not None or not may_leave):
        raise unexpected("a key below the volume", key)
    scale = PrecomputedScale(
        channel,
        key,
        encoding,
        dtype,
        components,
        _parse_grid(members),
        integer_triple("block size", members.get("compressed_segmentation_block_size", [8, 8, 8]), 1, _MAX_BLOCK),
        [float(edge) for edge in resolution],
        _parse_sharding(members.get("sharding")),
    )
    _check_chunk(scale)
    return resolution, scale


def _parse_sharding(value: object) -> Mapping[str, Any] | None:
    if value is None:
        return None
    sharding = json_object("sharding", value)
    string("the @type of sharding", sharding.get("@type"), _SHARDS)
    string("the hash of sharding", sharding.get("hash"), *_HASHES)
    return sharding


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
