"""DVID: the address of a channel is ``http://HOST:8000/api/node/UUID/INSTANCE``.

==============  ===================================================================================================
what there is   ``{instance}/info``: type, block, voxel size, first and last point (inclusive)
grayscale       ``raw/0_1_2/{dx}_{dy}_{dz}/{x}_{y}_{z}``: (z, y, x) in C order, no header. Coarser levels are instances
                of their own: ``NAME_1``, ``NAME_2``, ...
labelmap        the same with ``?scale=S&compression=gzip``, uint64; each scale halves x, y and z
where raw is    ``subvolblocks/{dx}_{dy}_{dz}/{x}_{y}_{z}?compression=uncompressed``, aligned to blocks: for each that
refused         is there, int32 x, y, z of the block, int32 n, and n bytes
==============  ===================================================================================================

A grayscale that keeps its blocks elsewhere (a GridStore) refuses raw. Errors are text in a 400. What is outside is
zeros. (DVID, datatype/imageblk, datatype/labelmap.) Tiles of an imagetile instance come by `ocpproxy.upstream.catmaid`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import log2
from typing import Any

import numpy as np

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.config import UpstreamSettings
from ocpproxy.model.dataset import Box, Cutout, Dataset, Triple
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UnknownToken, UpstreamBroken, UpstreamFailure, VoxelsOnly
from ocpproxy.upstream.chunks import Grid, clipped, pasted
from ocpproxy.upstream.codecs import content_encoding
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
from ocpproxy.upstream.documents.pyramids import Volume, VolumeChannel, build_dataset
from ocpproxy.upstream.http import HttpResponse, status_failure
from ocpproxy.upstream.kind import CHANNELS, Kind, UpstreamContext
from ocpproxy.upstream.locations import Location, for_each_channel

_LONGEST = 2 * 2**20
_LEVELS = 16
_MOST_BYTES = 128 * 2**20
"""Bytes of blocks in one answer."""
_GZIP = 31
_BLOCK = struct.Struct("<iiii")


class RawRefused(UpstreamBroken):
    """The instance does not answer what it was asked for; a grayscale may answer otherwise."""


@dataclass(frozen=True, slots=True)
class DvidScale:
    """One level of an instance."""

    place: str | None
    """The channel whose address it is at."""
    suffix: str
    """Behind that address."""
    number: int
    labels: bool
    blocks: bool
    """It is read by blocks."""
    grid: Grid


class Dvid(VoxelsOnly):
    """Data instances of DVID servers: the channels of each token.

    :param sites: the address of each channel.
    """

    def __init__(self, sites: Mapping[str | None, Location], run_in_thread: RunInThread) -> None:
        self._sites = sites
        self._in_thread = run_in_thread
        self._refuse_raw: set[tuple[str | None, str]] = set()
        self.origin = "dvid " + " ".join(f"{name or ''}:{site.address}" for name, site in sites.items())

    async def describe(self, token: str) -> str:
        """As `Upstream.describe`: the info of each instance, and of those that are its coarser levels."""

        async def told(channel: str | None) -> str:
            site, found = self._sites[channel], []
            for n in range(_LEVELS):
                try:
                    path = site.path(token, f"../{_last(site, token)}{f'_{n}' if n else ''}/info")
                    answer = await site.client.get(path, _LONGEST, _told)
                except UnknownToken:
                    if not n:
                        raise
                    break
                with checks.parsing(path):
                    text = checks.decode_text(content_encoding.decode_content(answer.body, answer.encoding, _LONGEST))
                    info = json_object("info", checks.parse_json(text))
                    kind = string("TypeName", json_object("Base", info.get("Base")).get("TypeName"))
                found.append(text)
                if kind == "labelmap":
                    break
            return json.dumps(found)

        return json.dumps(await for_each_channel(self._sites, told))

    def dataset(self, token: str, description: str) -> Dataset:
        """As `Upstream.dataset`."""
        with checks.parsing(f"the instances of {token}"):
            told = json_object("the instances", checks.parse_json(description))
            volumes: dict[str | None, Volume[Any]] = {}
            for name, site in self._sites.items():
                texts = checks.parse_json(
                    string("an instance", told.get(name or ""), max_length=_LEVELS * 2 * _LONGEST)
                )
                infos = [
                    json_object("info", checks.parse_json(string("info", text, max_length=_LONGEST)))
                    for text in json_array("the infos", texts)
                ]
                volumes[name] = _volume(name, infos, site.for_token(token))
            return build_dataset(token, volumes)

    async def cutout(self, cutout: Cutout) -> Voxels:
        """As `Upstream.cutout`."""
        _, scales = cutout.dataset.upstream_data[cutout.channel.name]
        scale: DvidScale | None = scales[cutout.level]
        inner = None if scale is None else clipped(cutout.box, scale.grid)
        if scale is None or inner is None:
            return np.zeros(cutout.box.shape, cutout.channel.dtype)
        token, dtype = cutout.dataset.upstream_token, cutout.channel.dtype
        if scale.blocks or (scale.place, scale.suffix) in self._refuse_raw:
            return await self._by_blocks(token, scale, cutout.box, inner)
        try:
            voxels = await self._raw(token, scale, inner, dtype)
        except RawRefused:
            if scale.labels:
                raise
            self._refuse_raw.add((scale.place, scale.suffix))
            return await self._by_blocks(token, scale, cutout.box, inner)
        return voxels if inner == cutout.box else pasted(cutout.box, [(inner, voxels)], dtype)

    def _path(self, token: str, scale: DvidScale, how: str, box: Box) -> str:
        site = self._sites[scale.place]
        z, y, x = box.shape
        return site.path(token, f"../{_last(site, token)}{scale.suffix}/{how}/{x}_{y}_{z}/{box.x0}_{box.y0}_{box.z0}")

    async def _raw(self, token: str, scale: DvidScale, box: Box, dtype: str) -> Voxels:
        path = self._path(token, scale, "raw/0_1_2", box)
        nbytes = int(np.prod(box.shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if scale.labels:
            path += f"?scale={scale.number}&compression=gzip"
        limit = content_encoding.max_encoded_size(nbytes)
        answer = await self._sites[scale.place].client.get(path, limit, _judged)

        def decoded() -> Voxels:
            body = content_encoding.decode_content(answer.body, answer.encoding, limit)
            if scale.labels:
                body = content_encoding.inflate(body, nbytes, _GZIP)
            if len(body) != nbytes:
                raise UpstreamBroken(f"expected {nbytes} bytes of voxels, not {len(body)}")
            return np.frombuffer(body, np.dtype(dtype).newbyteorder("<")).reshape(box.shape)

        voxels: Voxels = await self._in_thread(decoded)
        return voxels

    async def _by_blocks(self, token: str, scale: DvidScale, box: Box, inner: Box) -> Voxels:
        block = scale.grid.chunk
        spans = [(inner[2 * a] // block[a] * block[a], -(-inner[2 * a + 1] // block[a]) * block[a]) for a in range(3)]
        whole_ = Box(*spans[0], *spans[1], *spans[2])
        nbytes = int(np.prod(whole_.shape, dtype=np.int64))
        if nbytes > _MOST_BYTES:
            raise UpstreamBroken(f"blocks of {block} make {nbytes} bytes of a cutout, expected at most {_MOST_BYTES}")
        limit = content_encoding.max_encoded_size(
            nbytes + _BLOCK.size * (nbytes // int(np.prod(block, dtype=np.int64)))
        )
        path = self._path(token, scale, "subvolblocks", whole_) + "?compression=uncompressed"
        answer = await self._sites[scale.place].client.get(path, limit, _judged)

        def decoded() -> Voxels:
            return pasted(
                box,
                _blocks(content_encoding.decode_content(answer.body, answer.encoding, limit), block, whole_, inner),
                "u1",
            )

        voxels: Voxels = await self._in_thread(decoded)
        return voxels


def _blocks(body: bytes, block: Triple, within: Box, inner: Box) -> list[tuple[Box, Voxels]]:
    """The blocks in an answer, of those that were asked for, as far as the volume goes."""
    x, y, z = block
    size, found, at = x * y * z, [], 0
    while at < len(body):
        if len(body) - at < _BLOCK.size:
            raise UpstreamBroken("the answer ends in the middle of a block")
        i, j, k, length = _BLOCK.unpack_from(body, at)
        at += _BLOCK.size
        place = Box(i * x, (i + 1) * x, j * y, (j + 1) * y, k * z, (k + 1) * z)
        outside = any(place[n] < within[n] or place[n + 1] > within[n + 1] for n in (0, 2, 4))
        if length != size or len(body) - at < size or outside:
            raise UpstreamBroken(
                f"expected blocks of {size} bytes within {tuple(within)}, not {length} at {i}, {j}, {k}"
            )
        voxels = np.frombuffer(body, np.uint8, size, at).reshape(z, y, x)
        at += size
        if all(place[n] < inner[n + 1] and place[n + 1] > inner[n] for n in (0, 2, 4)):
            found.append((place, voxels))
    return found


def _told(answer: HttpResponse) -> UpstreamFailure | None:
    """What an answer to a question for info means: DVID says 400 where there is no such node or instance."""
    return UnknownToken(answer.summary) if answer.status == 400 else status_failure(answer)


def _judged(answer: HttpResponse) -> UpstreamFailure | None:
    return RawRefused(answer.summary) if answer.status == 400 else status_failure(answer, UpstreamBroken)


def _last(site: Location, token: str) -> str:
    """The instance that an address names."""
    return site.path(token, "").rpartition("/")[2]


def _volume(place: str | None, infos: list[Mapping[str, Any]], where: str) -> Volume[DvidScale]:
    """One instance, and those that are its coarser levels."""
    if not infos:
        raise unexpected("an instance", infos)
    base = json_object("Base", infos[0].get("Base"))
    kind = string("TypeName", base.get("TypeName"), "uint8blk", "labelmap", "labelarray", "labelblk")
    labels = kind != "uint8blk"
    scales = []
    if labels:
        extended = json_object("Extended", infos[0].get("Extended"))
        deepest = integer("MaxDownresLevel", extended.get("MaxDownresLevel", 0), 0, _LEVELS - 1)
        first, last = _extents(infos[0])
        for n in range(deepest + 1):
            low = (first[0] >> n, first[1] >> n, first[2] >> n)
            end = ((last[0] >> n) + 1, (last[1] >> n) + 1, (last[2] >> n) + 1)
            grid = Grid(low, end, _block(extended))
            a, b, c = (edge * 2**n for edge in fraction_triple("VoxelSize", extended.get("VoxelSize")))
            scales.append(((a, b, c), DvidScale(place, "", n, True, False, grid)))
    else:
        finest: Triple | None = None
        for n, info in enumerate(infos):
            extended = json_object("Extended", info.get("Extended"))
            first, last = _extents(info)
            grid = Grid(first, (last[0] + 1, last[1] + 1, last[2] + 1), _block(extended))
            size = pyramids.grid_size(grid)
            finest = finest or size
            # What a coarser instance says of its voxels is often a copy: its extents tell.
            steps = [Fraction(2) ** max(0, round(log2(a / b))) for a, b in zip(finest, size, strict=True)]
            edges = fraction_triple("VoxelSize", json_object("Extended", infos[0].get("Extended")).get("VoxelSize"))
            a, b, c = (edge * step for edge, step in zip(edges, steps, strict=True))
            elsewhere = bool(string("GridStore", extended.get("GridStore") or "", max_length=1000))
            scales.append(((a, b, c), DvidScale(place, f"_{n}" if n else "", n, False, elsewhere, grid)))
    told = [where, base.get("DataUUID"), kind]
    return Volume(
        labels,
        "uint64" if labels else "uint8",
        [VolumeChannel("", 0)],
        scales,
        pyramids.version(told),
        writable=labels,
    )


def _extents(info: Mapping[str, Any]) -> tuple[Triple, Triple]:
    """The first and the last point."""
    for name in ("Extents", "Extended"):
        said = info.get(name)
        if isinstance(said, dict) and said.get("MinPoint") is not None:
            first = integer_triple("MinPoint", said.get("MinPoint"), -checks.MAX_EXTENT)
            last = integer_triple("MaxPoint", said.get("MaxPoint"), -checks.MAX_EXTENT)
            if all(a <= b for a, b in zip(first, last, strict=True)):
                return first, last
    raise unexpected("MinPoint and MaxPoint of an instance that has voxels", info.get("Extents"))


def _block(extended: Mapping[str, Any]) -> Triple:
    return integer_triple("BlockSize", extended.get("BlockSize"), 1, 256)


def _build(settings: UpstreamSettings, context: UpstreamContext) -> Dvid:
    return Dvid(context.locations(settings), context.run_in_thread)


KIND = Kind(name="dvid", options={"channels": CHANNELS}, url_per_channel=True, build=_build)
