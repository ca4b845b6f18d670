"""neuroglancer's precomputed volumes over HTTP: the format of most Open Connectome volumes today.

``{url}/info`` is JSON: the type of the voxels, and for each scale its size, offset, resolution, chunks and encoding. A
chunk is one object, ``{url}/{key}/{x0}-{x1}_{y0}-{y1}_{z0}-{z1}``. The name gives the coordinates of its voxels, offset
included; the last chunk along an axis ends where the volume ends. A missing chunk is background (neuroglancer,
src/datasource/precomputed/volume.rst).

`ocpproxy.upstream.codecs.precomputed_chunk` reads chunks. They are also served as they are (`Upstream.chunk`).

CloudVolume compresses the chunks that it writes to a disk, and adds ``.gz`` or ``.br`` to their names. Where a chunk is
not there, those names are tried, but not in the stores of Amazon and Google, where it does not do that.

`ocpproxy.upstream.documents.pyramids` makes levels of the scales. TensorStore reads the scales that are stored in
shards (`ocpproxy.upstream.tensorstore.sharded`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np
from twisted.internet.interfaces import IReactorTime

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.config import UpstreamSettings
from ocpproxy.config.options import BUCKET_SCHEMES
from ocpproxy.model.chunks import MOST_CHUNKS, NativeChunks
from ocpproxy.model.dataset import Box, Channel, Cutout, Dataset
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamFailure, UpstreamRefused, VoxelsOnly
from ocpproxy.upstream.chunks import Chunks, MissingChunks, SharedObjects, log_all_missing
from ocpproxy.upstream.codecs import content_encoding, precomputed_chunk
from ocpproxy.upstream.documents import channels, checks
from ocpproxy.upstream.documents.checks import json_object
from ocpproxy.upstream.documents.precomputed_info import DOCUMENT, PrecomputedScale, check_kind, parse_info
from ocpproxy.upstream.documents.pyramids import Volume, as_channel, build_dataset
from ocpproxy.upstream.fetch import fetch_document
from ocpproxy.upstream.http import HttpResponse
from ocpproxy.upstream.kind import CHANNELS, MISSING, MISSING_STATUS, Kind, UpstreamContext, missing_chunks
from ocpproxy.upstream.locations import Location, describe_channels, list_addresses
from ocpproxy.upstream.tensorstore.sharded import ShardedScales

_LARGEST_NATIVE = 3 * 2**20
"""Bytes of the voxels of a chunk that is served as it is."""
T = TypeVar("T")
_COMPRESSED = {".gz": "gzip", ".br": "br"}
"""What may follow the name of a chunk that is stored compressed, and its content encoding."""


class ShardReader(Protocol):
    """A reader of scales that are stored in shards."""

    async def scale(self, token: str, scale: PrecomputedScale, box: Box) -> Voxels:
        """Return the voxels of a box, axes (z, y, x, component)."""


class Precomputed(VoxelsOnly):
    """Precomputed volumes: the channels of each token.

    :param locations: the location of each channel.
    :param sharded: reads scales that are stored in shards.
    """

    def __init__(
        self,
        locations: Mapping[str | None, Location],
        sharded: ShardReader,
        missing: MissingChunks,
        run_in_thread: RunInThread,
        clock: IReactorTime,
    ) -> None:
        self._locations = locations
        self._sharded = sharded
        self._missing = missing
        self._in_thread = run_in_thread
        self._chunks: Chunks[tuple[str, PrecomputedScale]] = Chunks(
            self._chunk, clock, lambda volume: log_all_missing(volume[0], locations[volume[1].channel], volume[1].key)
        )
        self._objects = SharedObjects(self._fetch_chunk, clock)
        self.origin = f"precomputed {list_addresses(locations)}"

    async def describe(self, token: str) -> str:
        """Return the info documents of all channels; see `Upstream.describe`."""
        return await describe_channels(self._locations, lambda name: self.info(token, name))

    async def info(self, token: str, name: str | None) -> str:
        """Return the info document of one channel."""
        location = self._locations[name]
        text = await fetch_document(location.client, location.path(token, DOCUMENT))
        with checks.parsing(f"the info of {name or token}"):
            check_kind(json_object("the info", checks.parse_json(text)))
        return text

    def dataset(self, token: str, description: str) -> Dataset:
        """Return a dataset; see `Upstream.dataset`."""

        def parse(name: str | None, text: str) -> Volume[PrecomputedScale]:
            return parse_info(name, text, self._locations[name].for_token(token))

        with checks.parsing(f"the info of {token}"):
            return build_dataset(token, channels.parse_volumes(description, self._locations, parse))

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Return voxels; see `Upstream.cutout`."""
        component, scales = cutout.dataset.upstream_data[cutout.channel.name]
        scale: PrecomputedScale | None = scales[cutout.level]
        if scale is None:
            return np.zeros(cutout.box.shape, cutout.channel.dtype)
        return await self.scale_cutout(cutout, scale, component)

    async def scale_cutout(self, cutout: Cutout, scale: PrecomputedScale, component: int) -> Voxels:
        """Return the voxels of a cutout from its scale."""
        voxels = await self.scale(cutout.dataset.upstream_token, scale, cutout.box)
        if voxels.ndim > 3:
            voxels = np.ascontiguousarray(voxels[..., component])
        return as_channel(voxels, cutout.channel)

    async def scale(self, token: str, scale: PrecomputedScale, box: Box) -> Voxels:
        """Return the voxels of a box: axes (z, y, x), or (z, y, x, component) where a voxel may have several values."""
        if scale.sharding is not None or self._locations[scale.channel].in_bucket:
            return await self._sharded.scale(token, scale, box)
        return await self._chunks.box((token, scale), box, scale.grid, scale.dtype)

    def native_chunks(self, dataset: Dataset, channel: Channel, level: int) -> NativeChunks | None:
        """Return the chunks of a scale that stores each as an object; see `Upstream.native_chunks`."""
        _, scales = dataset.upstream_data[channel.name]
        scale: PrecomputedScale | None = scales[level]
        if scale is None or scale.sharding is not None or self._locations[scale.channel].in_bucket:
            return None
        shape, grid = dataset.levels[level], scale.grid
        same = (grid.offset, grid.end, scale.dtype, scale.components) == (shape.offset, shape.end, channel.dtype, 1)
        x, y, z = grid.chunk
        counts = [-(-size // step) for size, step in zip(shape.size, grid.chunk, strict=True)]
        if not same or scale.nbytes(Box(0, x, 0, y, 0, z)) > _LARGEST_NATIVE or max(counts) > MOST_CHUNKS:
            return None
        return NativeChunks(grid.chunk, scale.encoding, scale.block)

    async def chunk(self, cutout: Cutout) -> bytes:
        """Return the body of a chunk; see `Upstream.chunk`."""
        _, scales = cutout.dataset.upstream_data[cutout.channel.name]
        scale: PrecomputedScale = scales[cutout.level]
        body = await self._read((cutout.dataset.upstream_token, scale), cutout.box, _checked)
        return b"" if body is None else body

    async def _chunk(self, volume: tuple[str, PrecomputedScale], box: Box) -> Voxels | None:
        return await self._read(volume, box, _decode)

    async def _read(
        self, volume: tuple[str, PrecomputedScale], box: Box, make: Callable[[HttpResponse, PrecomputedScale, Box], T]
    ) -> T | None:
        """Return what is made of the object of a chunk, or None where it is missing."""
        response = await self._objects.get(volume, box)
        if response is None:
            return None
        _, scale = volume
        try:
            if scale.encoding == "raw" and not response.encoding:  # a thread costs more than it saves
                made = make(response, scale, box)
            else:
                made = await self._in_thread(make, response, scale, box)
        except UpstreamFailure:
            self._objects.refuse(volume, box)
            raise
        self._objects.keep(volume, box, response)
        return made

    async def _fetch_chunk(self, volume: tuple[str, PrecomputedScale], box: Box) -> HttpResponse | None:
        """Return the object of a chunk, or None when it is missing under all its names."""
        token, scale = volume
        location = self._locations[scale.channel]
        limit, path = _longest_chunk(scale.nbytes(box)), location.path(token, scale.chunk_path(box))
        response = await location.client.get(path, limit, self._check)
        if response.status == 200:
            return response
        for ending, encoding in _COMPRESSED.items() if location.may_have_other_names else ():
            try:
                other = await location.client.get(path + ending, limit, self._check)
            except UpstreamRefused:
                continue  # a server may refuse what is not there
            if other.status == 200:
                return replace(other, headers={"content-encoding": encoding, **other.headers})
        failure = self._missing.check(response)
        if failure is not None:
            raise failure
        return None

    def _check(self, response: HttpResponse) -> UpstreamFailure | None:
        """Return what is wrong with a response; that the object is missing under one name is not."""
        return None if response.status in self._missing.statuses else self._missing.check(response)


def _longest_chunk(nbytes: int) -> int:
    """Return the largest size of a chunk as it is stored: encoded, it may be larger than the bytes of its voxels."""
    return 2 * content_encoding.max_encoded_size(nbytes)


def _body(response: HttpResponse, scale: PrecomputedScale, box: Box) -> bytes:
    """Return the body of a chunk without its content encoding."""
    nbytes = scale.nbytes(box)
    most = nbytes if scale.encoding == "raw" else _longest_chunk(nbytes)
    return content_encoding.decode_content(response.body, response.encoding, most)


def _decode(response: HttpResponse, scale: PrecomputedScale, box: Box) -> Voxels:
    """Return the voxels of a chunk; see `precomputed_chunk.decode`."""
    return precomputed_chunk.decode(_body(response, scale, box), scale.form, box.shape)


def _checked(response: HttpResponse, scale: PrecomputedScale, box: Box) -> bytes:
    """Return the body of a chunk that can be decoded.

    :raises UpstreamBroken: it cannot.
    """
    body = _body(response, scale, box)
    precomputed_chunk.check(body, scale.form, box.shape)
    return body


def make_precomputed(settings: UpstreamSettings, context: UpstreamContext) -> Precomputed:
    """Return the upstream of these settings."""
    locations = context.locations(settings)
    sharded = ShardedScales(context.tensorstore(settings), locations)
    return Precomputed(locations, sharded, missing_chunks(settings), context.run_in_thread, context.reactor)


KIND = Kind(
    name="precomputed",
    options={"channels": CHANNELS, "missing": MISSING, "missing_status": MISSING_STATUS},
    schemes=(*BUCKET_SCHEMES, "file"),
    url_per_channel=True,
    build=make_precomputed,
)
