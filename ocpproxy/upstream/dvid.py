"""DVID: the address of a channel is ``http://HOST:8000/api/node/UUID/INSTANCE``.

==============  ===================================================================================================
description     ``{instance}/info``: type, block, voxel size, first and last point (inclusive)
grayscale       ``raw/0_1_2/{dx}_{dy}_{dz}/{x}_{y}_{z}``: (z, y, x) in C order, no header. Coarser levels are instances
                of their own: ``NAME_1``, ``NAME_2``, ...
labelmap        the same with ``?scale=S&compression=gzip``, uint64; each scale halves x, y and z
grayscale by    ``subvolblocks/{dx}_{dy}_{dz}/{x}_{y}_{z}?compression=uncompressed``, aligned to blocks: for each stored
blocks          block int32 x, y, z of the block, int32 n, and n bytes
==============  ===================================================================================================

A grayscale that keeps its blocks in another store (a GridStore) refuses ``raw`` and is read by blocks. Errors are text
in a 400. Voxels outside the volume are 0. (DVID, datatype/imageblk, datatype/labelmap.) Tiles of an imagetile instance
are read by `ocpproxy.upstream.catmaid`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import log2
from typing import Any

import numpy as np

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.config import UpstreamSettings
from ocpproxy.model.dataset import Box, Cutout, Dataset, Triple
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UnknownToken, UpstreamBroken, UpstreamFailure, VoxelsOnly
from ocpproxy.upstream.chunks import read_clipped
from ocpproxy.upstream.codecs import content_encoding
from ocpproxy.upstream.documents import channels, checks, pyramids
from ocpproxy.upstream.documents.checks import (
    fraction_triple,
    integer,
    integer_triple,
    json_array,
    json_object,
    string,
    unexpected,
)
from ocpproxy.upstream.documents.pyramids import Volume, VolumeChannel, VoxelSize, build_dataset
from ocpproxy.upstream.fetch import DOCUMENT_LIMIT, fetch_document
from ocpproxy.upstream.grid import Grid, compose, intersection
from ocpproxy.upstream.http import HttpResponse, status_failure
from ocpproxy.upstream.kind import CHANNELS, Kind, UpstreamContext
from ocpproxy.upstream.locations import Location, describe_channels, list_addresses

_LEVELS = 16
_MOST_BYTES = 128 * 2**20
"""Bytes of blocks in one response."""
_GZIP = 31
_BLOCK = struct.Struct("<iiii")


class RawRefused(UpstreamBroken):
    """The instance refuses ``raw``; a grayscale may still be read by blocks."""


@dataclass(frozen=True, slots=True)
class DvidScale:
    """One level of a channel."""

    channel: str | None
    """The channel at whose address the instance is."""
    suffix: str
    """What follows the name of the instance in the address: empty, or ``_1`` and so on."""
    number: int
    labels: bool
    by_blocks: bool
    """True if the instance reports that it keeps its blocks in another store."""
    grid: Grid


class Dvid(VoxelsOnly):
    """Data instances of DVID servers: the channels of each token.

    An instance may refuse ``raw`` although its info does not say so. A grayscale that responds to ``raw`` with 400 is
    read by blocks from then on, until the process restarts, even if the 400 had another reason: DVID has one status for
    all errors, and blocks hold the same voxels. Label instances have no such fallback, because blocks are of 8 bits.

    :param locations: the location of each channel.
    """

    def __init__(self, locations: Mapping[str | None, Location], run_in_thread: RunInThread) -> None:
        self._locations = locations
        self._in_thread = run_in_thread
        self._refuse_raw: set[tuple[str | None, str]] = set()
        self.origin = f"dvid {list_addresses(locations)}"

    async def describe(self, token: str) -> str:
        """Return the info of each instance and of its coarser levels; see `Upstream.describe`."""

        async def describe_channel(channel: str | None) -> str:
            location, infos = self._locations[channel], []
            for n in range(_LEVELS):
                instance = f"../{_instance(location, token)}{f'_{n}' if n else ''}"
                try:
                    text = await fetch_document(location.client, location.path(token, f"{instance}/info"), _check_info)
                except UnknownToken:
                    if not n:
                        raise
                    break
                with checks.parsing(f"the info of {instance}"):
                    info = json_object("info", checks.parse_json(text))
                    kind = string("TypeName", json_object("Base", info.get("Base")).get("TypeName"))
                infos.append(text)
                if kind == "labelmap":
                    break
            return json.dumps(infos)

        return await describe_channels(self._locations, describe_channel)

    def dataset(self, token: str, description: str) -> Dataset:
        """Return a dataset; see `Upstream.dataset`."""

        def parse(name: str | None, text: str) -> Volume[Any]:
            infos = [
                json_object("info", checks.parse_json(string("info", info, max_length=DOCUMENT_LIMIT)))
                for info in json_array("the infos", checks.parse_json(text))
            ]
            return _volume(name, infos, self._locations[name].for_token(token))

        with checks.parsing(f"the instances of {token}"):
            return build_dataset(token, channels.parse_volumes(description, self._locations, parse))

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Return voxels; see `Upstream.cutout`."""
        _, scales = cutout.dataset.upstream_data[cutout.channel.name]
        scale: DvidScale | None = scales[cutout.level]
        dtype = cutout.channel.dtype
        if scale is None:
            return np.zeros(cutout.box.shape, dtype)
        read = partial(self._read, cutout.dataset.upstream_token, scale, dtype)
        return await read_clipped(cutout.box, scale.grid, dtype, read)

    async def _read(self, token: str, scale: DvidScale, dtype: str, box: Box) -> Voxels:
        """Return the voxels of a box within the volume, by ``raw`` or by blocks."""
        instance = (scale.channel, scale.suffix)
        if not scale.by_blocks and instance not in self._refuse_raw:
            try:
                return await self._read_raw(token, scale, dtype, box)
            except RawRefused:
                if scale.labels:
                    raise
                self._refuse_raw.add(instance)
        return await self._read_blocks(token, scale, box)

    def _path(self, token: str, scale: DvidScale, method: str, box: Box) -> str:
        location = self._locations[scale.channel]
        z, y, x = box.shape
        instance = f"../{_instance(location, token)}{scale.suffix}"
        return location.path(token, f"{instance}/{method}/{x}_{y}_{z}/{box.x0}_{box.y0}_{box.z0}")

    async def _read_raw(self, token: str, scale: DvidScale, dtype: str, box: Box) -> Voxels:
        path = self._path(token, scale, "raw/0_1_2", box)
        nbytes = int(np.prod(box.shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if scale.labels:
            path += f"?scale={scale.number}&compression=gzip"
        limit = content_encoding.max_encoded_size(nbytes)
        response = await self._locations[scale.channel].client.get(path, limit, _check_voxels)

        def decode() -> Voxels:
            body = content_encoding.decode_content(response.body, response.encoding, limit)
            if scale.labels:
                body = content_encoding.inflate(body, nbytes, _GZIP)
            if len(body) != nbytes:
                raise UpstreamBroken(f"expected {nbytes} bytes of voxels, not {len(body)}")
            return np.frombuffer(body, np.dtype(dtype).newbyteorder("<")).reshape(box.shape)

        voxels: Voxels = await self._in_thread(decode)
        return voxels

    async def _read_blocks(self, token: str, scale: DvidScale, box: Box) -> Voxels:
        block = scale.grid.chunk
        spans = [(box[2 * a] // block[a] * block[a], -(-box[2 * a + 1] // block[a]) * block[a]) for a in range(3)]
        aligned = Box(*spans[0], *spans[1], *spans[2])
        nbytes = int(np.prod(aligned.shape, dtype=np.int64))
        if nbytes > _MOST_BYTES:
            raise UpstreamBroken(f"blocks of {block} make {nbytes} bytes of a cutout, expected at most {_MOST_BYTES}")
        limit = content_encoding.max_encoded_size(
            nbytes + _BLOCK.size * (nbytes // int(np.prod(block, dtype=np.int64)))
        )
        path = self._path(token, scale, "subvolblocks", aligned) + "?compression=uncompressed"
        response = await self._locations[scale.channel].client.get(path, limit, _check_voxels)

        def decode() -> Voxels:
            body = content_encoding.decode_content(response.body, response.encoding, limit)
            return compose(box, _blocks(body, block, aligned), "uint8")

        voxels: Voxels = await self._in_thread(decode)
        return voxels


def _blocks(body: bytes, block: Triple, within: Box) -> Iterator[tuple[Box, Voxels]]:
    """Yield the boxes of the blocks in a response, and their voxels (z, y, x).

    :param within: the box that was requested.
    :raises UpstreamBroken: when a block is incomplete or lies outside of it.
    """
    x, y, z = block
    size, at = x * y * z, 0
    while at < len(body):
        if len(body) - at < _BLOCK.size:
            raise UpstreamBroken("the response ends in the middle of a block")
        i, j, k, length = _BLOCK.unpack_from(body, at)
        at += _BLOCK.size
        box = Box(i * x, (i + 1) * x, j * y, (j + 1) * y, k * z, (k + 1) * z)
        if length != size or len(body) - at < size or intersection(box, within) != box:
            raise UpstreamBroken(
                f"expected blocks of {size} bytes within {tuple(within)}, not {length} at {i}, {j}, {k}"
            )
        yield box, np.frombuffer(body, np.uint8, size, at).reshape(z, y, x)
        at += size


def _check_info(response: HttpResponse) -> UpstreamFailure | None:
    """Return what is wrong with the response to a request for info: a 400 means no such node or instance."""
    return UnknownToken(response.summary) if response.status == 400 else status_failure(response)


def _check_voxels(response: HttpResponse) -> UpstreamFailure | None:
    """Return what is wrong with the response to a request for voxels."""
    return RawRefused(response.summary) if response.status == 400 else status_failure(response, UpstreamBroken)


def _instance(location: Location, token: str) -> str:
    """Return the name of the instance at a location."""
    return location.path(token, "").rpartition("/")[2]


def _volume(channel: str | None, infos: list[Mapping[str, Any]], address: str) -> Volume[DvidScale]:
    """Return the volume of an instance and its coarser levels.

    :param infos: the info of the instance, and of each coarser level of a grayscale.
    """
    if not infos:
        raise unexpected("an instance", infos)
    base = json_object("Base", infos[0].get("Base"))
    kind = string("TypeName", base.get("TypeName"), "uint8blk", "labelmap", "labelarray", "labelblk")
    labels = kind != "uint8blk"
    scales = _label_scales(channel, infos[0]) if labels else _grayscale_scales(channel, infos)
    version = pyramids.version([address, base.get("DataUUID"), kind])
    return Volume(labels, "uint64" if labels else "uint8", [VolumeChannel("", 0)], scales, version, writable=labels)


def _label_scales(channel: str | None, info: Mapping[str, Any]) -> list[tuple[VoxelSize, DvidScale]]:
    """Return the scales of a label instance, each of which halves x, y and z."""
    extended = json_object("Extended", info.get("Extended"))
    deepest = integer("MaxDownresLevel", extended.get("MaxDownresLevel", 0), 0, _LEVELS - 1)
    first, last = _extents(info)
    scales: list[tuple[VoxelSize, DvidScale]] = []
    for n in range(deepest + 1):
        start = (first[0] >> n, first[1] >> n, first[2] >> n)
        end = ((last[0] >> n) + 1, (last[1] >> n) + 1, (last[2] >> n) + 1)
        a, b, c = (edge * 2**n for edge in fraction_triple("VoxelSize", extended.get("VoxelSize")))
        scales.append(((a, b, c), DvidScale(channel, "", n, True, False, Grid(start, end, _block(extended)))))
    return scales


def _grayscale_scales(channel: str | None, infos: list[Mapping[str, Any]]) -> list[tuple[VoxelSize, DvidScale]]:
    """Return the scales of a grayscale: one for each instance.

    The voxel size that a coarser instance reports is often a copy of the finest one. So its voxels are taken as larger
    by the power of two by which its extents are smaller.
    """
    edges = fraction_triple("VoxelSize", json_object("Extended", infos[0].get("Extended")).get("VoxelSize"))
    finest: Triple | None = None
    scales: list[tuple[VoxelSize, DvidScale]] = []
    for n, info in enumerate(infos):
        extended = json_object("Extended", info.get("Extended"))
        first, last = _extents(info)
        grid = Grid(first, (last[0] + 1, last[1] + 1, last[2] + 1), _block(extended))
        size = pyramids.grid_size(grid)
        finest = finest or size
        steps = [Fraction(2) ** max(0, round(log2(a / b))) for a, b in zip(finest, size, strict=True)]
        a, b, c = (edge * step for edge, step in zip(edges, steps, strict=True))
        by_blocks = bool(string("GridStore", extended.get("GridStore") or "", max_length=1000))
        scales.append(((a, b, c), DvidScale(channel, f"_{n}" if n else "", n, False, by_blocks, grid)))
    return scales


def _extents(info: Mapping[str, Any]) -> tuple[Triple, Triple]:
    """Return the first and the last point (x, y, z) of an instance, both inclusive."""
    for name in ("Extents", "Extended"):
        extents = info.get(name)
        if isinstance(extents, dict) and extents.get("MinPoint") is not None:
            first = integer_triple("MinPoint", extents.get("MinPoint"), -checks.MAX_EXTENT)
            last = integer_triple("MaxPoint", extents.get("MaxPoint"), -checks.MAX_EXTENT)
            if all(a <= b for a, b in zip(first, last, strict=True)):
                return first, last
    raise unexpected("MinPoint and MaxPoint of an instance that has voxels", info.get("Extents"))


def _block(extended: Mapping[str, Any]) -> Triple:
    return integer_triple("BlockSize", extended.get("BlockSize"), 1, 256)


def _build(settings: UpstreamSettings, context: UpstreamContext) -> Dvid:
    return Dvid(context.locations(settings), context.run_in_thread)


KIND = Kind(name="dvid", options={"channels": CHANNELS}, url_per_channel=True, build=_build)
