"""neuroglancer's precomputed volumes over HTTP: where most of the Open Connectome volumes live today.

``{url}/info`` is JSON: the type of the voxels, and for each scale its size, offset, resolution, chunks and encoding. A
chunk is one object, ``{url}/{key}/{x0}-{x1}_{y0}-{y1}_{z0}-{z1}``, named by the voxels that it holds, with the offset,
and ends where the volume does. One that is not there is background (neuroglancer,
src/datasource/precomputed/volume.rst).

============================  =====================================================================================
raw                           little endian, (channel, z, y, x) in C order
jpeg, png                     a picture of any shape whose pixels, row after row, are the voxels in that order
compressed_segmentation       see `ocpproxy.upstream.codecs.segmentation`
============================  =====================================================================================

Scales become levels as `ocpproxy.upstream.documents.pyramids` says. Those in shards are read by TensorStore
(`ocpproxy.upstream.tensorstore.volumes`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Protocol

import numpy as np
from twisted.internet.interfaces import IReactorTime

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.config import UpstreamSettings
from ocpproxy.model.dataset import Box, Cutout, Dataset
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamBroken, UpstreamFailure, VoxelsOnly
from ocpproxy.upstream.chunks import Chunks
from ocpproxy.upstream.codecs import content_encoding, images, segmentation
from ocpproxy.upstream.documents import checks
from ocpproxy.upstream.documents.checks import json_object, string
from ocpproxy.upstream.documents.precomputed_info import MAX_INFO, PrecomputedScale, parse_info
from ocpproxy.upstream.documents.pyramids import build_dataset
from ocpproxy.upstream.http import HttpResponse, status_failure
from ocpproxy.upstream.kind import CHANNELS, MISSING, MISSING_STATUS, Kind, UpstreamContext
from ocpproxy.upstream.locations import Location, for_each_channel
from ocpproxy.upstream.tensorstore.sharded import ShardedScales

_ENCODINGS = ("raw", "jpeg", "png", "compressed_segmentation")


class ShardReader(Protocol):
    """Reads what is in shards."""

    async def scale(self, token: str, scale: PrecomputedScale, box: Box) -> Voxels:
        """The voxels of a box, axes (z, y, x, component)."""


class Precomputed(VoxelsOnly):
    """Precomputed volumes: the channels of each token.

    :param sites: the address of each channel.
    :param missing: statuses that say that a chunk is not there.
    :param black: what is not there is background; otherwise it is a fault of the upstream.
    :param sharded: reads scales in shards.
    """

    def __init__(
        self,
        sites: Mapping[str | None, Location],
        run_in_thread: RunInThread,
        clock: IReactorTime,
        missing: Collection[int],
        sharded: ShardReader,
        *,
        black: bool = True,
    ) -> None:
        self._sites = sites
        self._in_thread = run_in_thread
        self._missing = frozenset(missing)
        self._black = black
        self._sharded = sharded
        self._chunks: Chunks[tuple[str, PrecomputedScale]] = Chunks(self._chunk, clock)
        self.origin = "precomputed " + " ".join(f"{name or ''}:{site.address}" for name, site in sites.items())

    async def describe(self, token: str) -> str:
        """As `Upstream.describe`: the info document of each channel."""

        return json.dumps(await for_each_channel(self._sites, lambda name: self.info(token, name)))

    async def info(self, token: str, name: str | None) -> str:
        """The info document of one channel."""
        site = self._sites[name]
        answer = await site.client.get(site.path(token, "info"), MAX_INFO, status_failure)
        with checks.parsing(f"the info of {token}"):
            return checks.decode_text(content_encoding.decode_content(answer.body, answer.encoding, MAX_INFO))

    def dataset(self, token: str, description: str) -> Dataset:
        """As `Upstream.dataset`."""
        with checks.parsing(f"the info of {token}"):
            told = json_object("the infos", checks.parse_json(description))
            volumes = {
                name: parse_info(
                    name, string("an info", told.get(name or ""), max_length=MAX_INFO), site.for_token(token)
                )
                for name, site in self._sites.items()
            }
            return build_dataset(token, volumes)

    async def cutout(self, cutout: Cutout) -> Voxels:
        """As `Upstream.cutout`."""
        component, scales = cutout.dataset.upstream_data[cutout.channel.name]
        scale: PrecomputedScale | None = scales[cutout.level]
        if scale is None:
            return np.zeros(cutout.box.shape, cutout.channel.dtype)
        voxels = await self.scale(cutout.dataset.upstream_token, scale, cutout.box)
        return voxels if voxels.ndim == 3 else np.ascontiguousarray(voxels[..., component])

    async def scale(self, token: str, scale: PrecomputedScale, box: Box) -> Voxels:
        """The voxels of a box, axes (z, y, x), or (z, y, x, component) where a voxel may have several values."""
        if scale.sharded:
            return await self._sharded.scale(token, scale, box)
        if scale.encoding not in _ENCODINGS:
            raise UpstreamBroken(f"expected chunks in {', '.join(_ENCODINGS)}, not {scale.encoding[:40]!r}")
        return await self._chunks.box((token, scale), box, scale.grid, scale.dtype)

    async def _chunk(self, place: tuple[str, PrecomputedScale], box: Box) -> Voxels | None:
        token, scale = place
        site = self._sites[scale.channel]
        nbytes = scale.nbytes(box)
        answer = await site.client.get(
            site.path(token, scale.chunk_path(box)), 2 * content_encoding.max_encoded_size(nbytes), self._judged
        )
        if answer.status != 200:
            return None
        if scale.encoding == "raw" and not answer.encoding:  # there is nothing to decode
            return _decoded(answer, scale, box, nbytes)
        voxels: Voxels = await self._in_thread(_decoded, answer, scale, box, nbytes)
        return voxels

    def _judged(self, answer: HttpResponse) -> UpstreamFailure | None:
        if answer.status in self._missing:
            return None if self._black else UpstreamBroken(f"a chunk is missing: {answer.summary}")
        return status_failure(answer, UpstreamBroken)


def _decoded(answer: HttpResponse, scale: PrecomputedScale, box: Box, nbytes: int) -> Voxels:
    """The voxels of a chunk, axes (z, y, x), with several components (z, y, x, component)."""
    z, y, x = box.shape
    dtype = np.dtype(scale.dtype).newbyteorder("<")
    raw = scale.encoding == "raw"
    body = content_encoding.decode_content(
        answer.body, answer.encoding, nbytes if raw else 2 * content_encoding.max_encoded_size(nbytes)
    )
    if raw:
        if len(body) != nbytes:
            raise UpstreamBroken(f"expected {nbytes} bytes of voxels, not {len(body)}")
        array = np.frombuffer(body, dtype).reshape(scale.components, z, y, x)
    elif scale.encoding == "compressed_segmentation":
        if scale.components != 1 or scale.dtype not in ("uint32", "uint64"):
            raise UpstreamBroken("compressed segmentation is of one component of 32 or 64 bits")
        return segmentation.decode(body, scale.dtype, box.shape, scale.block)
    else:
        samples = images.decode(body, None, z * y * x, scale.components)
        if samples.dtype != dtype:
            raise UpstreamBroken(f"expected a picture of {scale.dtype}, not of {samples.dtype}")
        array = samples.reshape(z, y, x, scale.components).transpose(3, 0, 1, 2)
    return array[0] if scale.components == 1 else np.moveaxis(array, 0, -1)


def _build(settings: UpstreamSettings, context: UpstreamContext) -> Precomputed:
    locations = context.locations(settings)
    sharded = ShardedScales(context.tensorstore(settings), locations)
    missing, black = settings.options["missing_status"], settings.options["missing"] == "black"
    return Precomputed(locations, context.run_in_thread, context.reactor, missing, sharded, black=black)


KIND = Kind(
    name="precomputed",
    options={"channels": CHANNELS, "missing": MISSING, "missing_status": MISSING_STATUS},
    url_per_channel=True,
    build=_build,
)
