"""Chunks of voxels: how they are made of a cuboid's voxels, and read again.

Chunks are kept like tiles: encoded as neuroglancer's precomputed volumes have them, for that is how most are sent. What
other formats need is made of that.
"""

from __future__ import annotations

import numpy as np

from ocpproxy.formats import chunk_file
from ocpproxy.formats.chunk_file import BadChunk
from ocpproxy.model.chunks import ChunkCuboid, ChunkedVolume
from ocpproxy.model.stack import Tile
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamBroken
from ocpproxy.upstream.codecs import precomputed_chunk, segmentation
from ocpproxy.upstream.codecs.precomputed_chunk import ChunkForm

_MOST_ENCODED = 4
"""A chunk may be so many times larger than its voxels: compressed segmentation has tables."""


def chunk_form(volume: ChunkedVolume, level: int) -> ChunkForm:
    """Return how the chunks of a level are written."""
    grid = volume.grids[level]
    return ChunkForm(grid.encoding, volume.channel.dtype, 1, grid.block)


def encode(cuboid: ChunkCuboid, voxels: Voxels | None, tile: Tile) -> bytes:
    """Return the content of a chunk's file (`chunk_file`).

    :param voxels: of the whole cuboid, axes (z, y, x); None where it has none.
    """
    box, whole = cuboid.stack.box(tile), cuboid.box
    if voxels is None:
        return background(cuboid.stack, tile)
    part = voxels[
        box.z0 - whole.z0 : box.z1 - whole.z0,
        box.y0 - whole.y0 : box.y1 - whole.y0,
        box.x0 - whole.x0 : box.x1 - whole.x0,
    ]
    return _content(part, chunk_form(cuboid.stack, tile.level))


def _content(voxels: Voxels, form: ChunkForm) -> bytes:
    uniform = bool((voxels == voxels[0, 0, 0]).all())
    if form.encoding == "compressed_segmentation":
        body = segmentation.encode(voxels, form.block)
    else:
        body = np.ascontiguousarray(voxels, np.dtype(form.dtype).newbyteorder("<")).tobytes()
    return chunk_file.pack(body, uniform=uniform)


def native(cuboid: ChunkCuboid, body: bytes, tile: Tile) -> bytes:
    """Return the content of the file of a chunk that is served as its upstream has it; an empty body is background."""
    if not body:
        return background(cuboid.stack, tile)
    form = chunk_form(cuboid.stack, tile.level)
    return chunk_file.pack(body, compress=form.encoding in ("raw", "compressed_segmentation"))


def background(volume: ChunkedVolume, tile: Tile) -> bytes:
    """Return the content of the file of a chunk that is all 0."""
    form, shape = chunk_form(volume, tile.level), volume.box(tile).shape
    zeros = np.zeros(shape, form.dtype)
    if form.encoding in ("jpeg", "png"):
        return chunk_file.pack(precomputed_chunk.encode_picture(zeros, form.encoding), uniform=True, compress=False)
    return _content(zeros, form)


def decode(volume: ChunkedVolume, tile: Tile, body: bytes | memoryview, *, gzipped: bool) -> Voxels:
    """Return the voxels of a kept chunk, axes (z, y, x).

    :raises BadChunk: it is damaged.
    """
    form, shape = chunk_form(volume, tile.level), volume.box(tile).shape
    plain = plain_body(volume, tile, body) if gzipped else bytes(body)
    try:
        return precomputed_chunk.decode(plain, form, shape)
    except UpstreamBroken as error:
        raise BadChunk(str(error)) from None


def plain_body(volume: ChunkedVolume, tile: Tile, body: bytes | memoryview) -> bytes:
    """Return the body of a chunk that is compressed, in whatever format, without compression.

    :raises BadChunk: it is damaged.
    """
    # Of a whole chunk: Zarr fills up those at the end of a volume.
    nbytes = chunk_form(volume, tile.level).nbytes(volume.grids[tile.level].chunk)
    return chunk_file.gunzip(body, _MOST_ENCODED * nbytes + 2**16)
