"""N5, Zarr, OME-Zarr and sharded precomputed volumes: ``pip install 'ocpproxy[tensorstore]'``.

The gateway reads and checks the documents of a volume (`ocpproxy.upstream.documents`). TensorStore reads the voxels,
in a process of its own (`ocpproxy.upstream.tensorstore.reader`), through the gateway's HTTP client (`relay`). A missing
chunk is background, as these formats define it, or an error if the operator wants that. What turns out to be
precomputed and is not in shards is read by `ocpproxy.upstream.precomputed`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ocpproxy.config import UpstreamSettings
from ocpproxy.config.options import BUCKET_SCHEMES
from ocpproxy.model.dataset import Box, Cutout, Dataset
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream import trail
from ocpproxy.upstream.base import UnknownToken, UpstreamFailure, UpstreamRefused, VoxelsOnly
from ocpproxy.upstream.chunks import read_clipped
from ocpproxy.upstream.documents import channels, checks, multiscale
from ocpproxy.upstream.documents.arrays import ArrayScale
from ocpproxy.upstream.documents.checks import json_object, string, unexpected
from ocpproxy.upstream.documents.encodings import NUMCODECS
from ocpproxy.upstream.documents.precomputed_info import PrecomputedScale
from ocpproxy.upstream.documents.pyramids import Volume, as_channel, build_dataset
from ocpproxy.upstream.fetch import DOCUMENT_LIMIT, fetch_document
from ocpproxy.upstream.kind import (
    CHANNELS,
    CREDENTIALS,
    MISSING,
    MISSING_STATUS,
    Kind,
    UpstreamContext,
    missing_chunks,
)
from ocpproxy.upstream.locations import Location, describe_channels, list_addresses
from ocpproxy.upstream.precomputed import Precomputed
from ocpproxy.upstream.tensorstore.reader import ArrayPart, TensorStoreReader, numcodecs_installed
from ocpproxy.upstream.tensorstore.sharded import ShardedScales, box_ranges
from ocpproxy.upstream.tensorstore.shared_process import INSTALL, installed


class TensorStoreUpstream(VoxelsOnly):
    """Volumes whose voxels TensorStore reads, and precomputed ones.

    :param locations: the location of the volume of each channel.
    :param precomputed: reads what turns out to be precomputed at the same locations.
    :param kinds: the kinds of volumes that are looked for there: ``precomputed``, ``zarr``, ``n5``.
    """

    def __init__(
        self,
        locations: Mapping[str | None, Location],
        reader: TensorStoreReader,
        precomputed: Precomputed,
        kinds: Sequence[str] = ("precomputed", "zarr", "n5"),
    ) -> None:
        self._locations = locations
        self._reader = reader
        self._precomputed = precomputed
        self._kinds = kinds
        self.origin = f"{'/'.join(kinds)} {list_addresses(locations)}"

    async def describe(self, token: str) -> str:
        """As `Upstream.describe`: the documents of each channel's volume."""
        return await describe_channels(self._locations, lambda channel: self._fetch_documents(token, channel))

    async def _fetch_documents(self, token: str, channel: str | None) -> str:
        """Return the documents of a volume by their paths, as JSON."""
        location, refused = self._locations[channel], list[UpstreamFailure]()

        async def read(name: str) -> str | None:
            try:
                return await self._fetch_document(token, location, name)
            except UpstreamRefused as error:
                if location.in_bucket:
                    raise
                # A bucket that must not be listed refuses what does not exist.
                refused.append(error)
                return None

        with checks.parsing(f"the volume of {channel or token}"):
            documents = await multiscale.fetch_documents(read, self._kinds)
        if documents is None and refused:
            raise refused[0]
        if documents is None:
            kinds = " or ".join(self._kinds)
            raise UnknownToken(f"there is no {kinds} at {location.for_token(token)}", public=f"there is no {kinds}")
        return json.dumps(documents)

    async def _fetch_document(self, token: str, location: Location, name: str) -> str | None:
        """Return the text of a document, or None if there is none."""
        if not location.in_bucket:
            try:
                return await fetch_document(location.client, location.path(token, name))
            except UnknownToken:
                return None
        body = await self._reader.document(location, token, name)
        trail.note_document(f"{location.for_token(token)}/{name}", "none" if body is None else f"{len(body)} bytes")
        with checks.parsing(name):
            return None if body is None else checks.decode_text(body)

    def dataset(self, token: str, description: str) -> Dataset:
        """As `Upstream.dataset`."""

        def parse(name: str | None, text: str) -> Volume[Any]:
            documents = {
                key: string(key, value, max_length=DOCUMENT_LIMIT)
                for key, value in json_object("documents", checks.parse_json(text)).items()
            }
            volume = multiscale.parse_volume(name, documents, self._locations[name].for_token(token))
            for _, scale in volume.scales:
                if isinstance(scale, ArrayScale) and scale.encoding.reader == NUMCODECS and not numcodecs_installed():
                    raise unexpected(f"chunks that can be read without numcodecs: {INSTALL}", scale.encoding.metadata)
            return volume

        with checks.parsing(f"the volume of {token}"):
            return build_dataset(token, channels.parse_volumes(description, self._locations, parse))

    async def cutout(self, cutout: Cutout) -> Voxels:
        """As `Upstream.cutout`."""
        number, scales = cutout.dataset.upstream_data[cutout.channel.name]
        scale: PrecomputedScale | ArrayScale | None = scales[cutout.level]
        if scale is None:
            return np.zeros(cutout.box.shape, cutout.channel.dtype)
        if isinstance(scale, PrecomputedScale):
            return await self._precomputed.scale_cutout(cutout, scale, number)
        return as_channel(await self._read_array(scale, cutout, number), cutout.channel)

    async def _read_array(self, array: ArrayScale, cutout: Cutout, number: int) -> Voxels:
        """Return the voxels of a cutout as they are stored, axes (z, y, x).

        :param number: the index of the channel along the axis c.
        """
        location, token = self._locations[array.channel], cutout.dataset.upstream_token
        remaining = [axis for axis in array.axes if axis in "xyz"]
        order = [remaining.index(axis) for axis in "zyx" if axis in remaining]

        async def read(inner: Box) -> Voxels:
            along: dict[str, range | int] = {**box_ranges(inner), "c": number, "t": cutout.time}
            index = [along.get(axis, 0) for axis in array.axes]
            part = ArrayPart(location, token, array.path, array.driver, array.encoding, index, order, array.chunk_bytes)
            voxels = await self._reader.box(part)
            return voxels if "z" in remaining else voxels.reshape((1, *voxels.shape))

        return await read_clipped(cutout.box, array.grid, array.dtype, read)


def _build(formats: Sequence[str], settings: UpstreamSettings, context: UpstreamContext) -> TensorStoreUpstream:
    locations, reader = context.locations(settings), context.tensorstore(settings)
    chunked = Precomputed(
        locations, ShardedScales(reader, locations), missing_chunks(settings), context.run_in_thread, context.reactor
    )
    return TensorStoreUpstream(locations, reader, chunked, formats)


def _kind(name: str, *formats: str) -> Kind:
    return Kind(
        name=name,
        options={
            "channels": CHANNELS,
            "missing": MISSING,
            "missing_status": MISSING_STATUS,
            "credentials": CREDENTIALS,
        },
        schemes=(*BUCKET_SCHEMES, "file"),
        url_per_channel=True,
        not_installed=lambda: None if installed() else INSTALL,
        build=partial(_build, formats),
    )


ANY_KIND = _kind("volume", "precomputed", "zarr", "n5")
N5_KIND = _kind("n5", "n5")
ZARR_KIND = _kind("zarr", "zarr")
