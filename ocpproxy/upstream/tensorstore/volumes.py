"""N5, Zarr, OME-Zarr and sharded precomputed volumes: ``pip install 'ocpproxy[tensorstore]'``.

The gateway reads and checks the documents of a volume (`ocpproxy.upstream.documents`), with its own HTTP client where
they are at a web server. TensorStore reads the voxels, with its own connections and retries, in a process of its own
(`ocpproxy.upstream.tensorstore.reader`). A missing chunk is background, as these formats define it, or an error if the
operator wants that.
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
from ocpproxy.upstream.base import UnknownToken, UpstreamRefused, VoxelsOnly
from ocpproxy.upstream.chunks import read_clipped
from ocpproxy.upstream.documents import checks, multiscale, precomputed_info
from ocpproxy.upstream.documents.arrays import ArrayScale
from ocpproxy.upstream.documents.checks import json_object, string
from ocpproxy.upstream.documents.precomputed_info import PrecomputedScale
from ocpproxy.upstream.documents.pyramids import Volume, build_dataset
from ocpproxy.upstream.fetch import DOCUMENT_LIMIT, fetch_document
from ocpproxy.upstream.kind import CHANNELS, CREDENTIALS, MISSING, Kind, UpstreamContext
from ocpproxy.upstream.locations import Location, for_each_channel
from ocpproxy.upstream.tensorstore.reader import INSTALL, TensorStoreReader, installed
from ocpproxy.upstream.tensorstore.sharded import ShardedScales, box_ranges

_MAX_DOCUMENTS = 64 * DOCUMENT_LIMIT
"""Characters of all documents of a volume, as JSON."""


class TensorStoreUpstream(VoxelsOnly):
    """Volumes whose voxels TensorStore reads.

    :param sites: the address of the volume of each channel.
    :param kinds: the kinds of volumes that are looked for there: ``precomputed``, ``zarr``, ``n5``.
    """

    def __init__(
        self,
        sites: Mapping[str | None, Location],
        reader: TensorStoreReader,
        kinds: Sequence[str] = ("precomputed", "zarr", "n5"),
    ) -> None:
        self._sites = sites
        self._reader = reader
        self._kinds = kinds
        self._shards = ShardedScales(reader, sites)
        addresses = " ".join(f"{name or ''}:{site.address}" for name, site in sites.items())
        self.origin = f"{'/'.join(kinds)} {addresses}"

    async def describe(self, token: str) -> str:
        """As `Upstream.describe`: the documents of each channel's volume."""
        return json.dumps(await for_each_channel(self._sites, lambda channel: self._fetch_documents(token, channel)))

    async def _fetch_documents(self, token: str, channel: str | None) -> str:
        """Return the documents of a volume by their paths, as JSON."""
        site, refused = self._sites[channel], list[UpstreamRefused]()

        async def read(name: str) -> str | None:
            try:
                return await self._fetch_document(token, site, name)
            except UpstreamRefused as error:
                if not self._reader.is_web(site.address):
                    raise
                # A bucket that must not be listed refuses what does not exist.
                refused.append(error)
                return None

        with checks.parsing(f"the volume of {token}"):
            documents = await multiscale.fetch_documents(read, self._kinds)
        if documents is None and refused:
            raise refused[0]
        if documents is None:
            raise UnknownToken(f"there is no {' or '.join(self._kinds)} at {site.address}")
        return json.dumps(documents)

    async def _fetch_document(self, token: str, site: Location, name: str) -> str | None:
        """Return the text of a document, or None if there is none."""
        if self._reader.is_web(site.address):
            try:
                return await fetch_document(site.client, site.path(token, name))
            except UnknownToken:
                return None
        body = await self._reader.document(site.for_token(token), name)
        with checks.parsing(name):
            return None if body is None else checks.decode_text(body)

    def dataset(self, token: str, description: str) -> Dataset:
        """As `Upstream.dataset`."""
        with checks.parsing(f"the volume of {token}"):
            described = json_object("the volumes", checks.parse_json(description))
            volumes: dict[str | None, Volume[Any]] = {}
            for name, site in self._sites.items():
                text = string("a volume", described.get(name or ""), max_length=_MAX_DOCUMENTS)
                documents = {
                    key: string(key, value, max_length=DOCUMENT_LIMIT)
                    for key, value in json_object("documents", checks.parse_json(text)).items()
                }
                if "info" in documents:
                    volumes[name] = precomputed_info.parse_info(name, documents["info"], site.for_token(token))
                else:
                    volumes[name] = multiscale.parse_volume(name, documents, site.for_token(token))
            return build_dataset(token, volumes)

    async def cutout(self, cutout: Cutout) -> Voxels:
        """As `Upstream.cutout`."""
        number, scales = cutout.dataset.upstream_data[cutout.channel.name]
        scale: PrecomputedScale | ArrayScale | None = scales[cutout.level]
        token = cutout.dataset.upstream_token
        if scale is None:
            return np.zeros(cutout.box.shape, cutout.channel.dtype)
        if isinstance(scale, PrecomputedScale):
            voxels = await self._shards.scale(token, scale, cutout.box)
            return voxels if voxels.ndim == 3 else np.ascontiguousarray(voxels[..., number])
        return await self._read_array(token, scale, cutout, number)

    async def _read_array(self, token: str, array: ArrayScale, cutout: Cutout, number: int) -> Voxels:
        """Return the voxels of a cutout, axes (z, y, x).

        :param number: the index of the channel along the axis c.
        """
        address = self._sites[array.channel].for_token(token)
        remaining = [axis for axis in array.axes if axis in "xyz"]
        order = [remaining.index(axis) for axis in "zyx" if axis in remaining]

        async def read(inner: Box) -> Voxels:
            along: dict[str, range | int] = {**box_ranges(inner), "c": number, "t": cutout.time}
            index = [along.get(axis, 0) for axis in array.axes]
            voxels = await self._reader.box(address, {"driver": array.driver}, index, order, array.path)
            return voxels if "z" in remaining else voxels.reshape((1, *voxels.shape))

        return await read_clipped(cutout.box, array.grid, cutout.channel.dtype, read)


def _build(formats: Sequence[str], settings: UpstreamSettings, context: UpstreamContext) -> TensorStoreUpstream:
    return TensorStoreUpstream(context.locations(settings), context.tensorstore(settings), formats)


def _kind(name: str, *formats: str) -> Kind:
    return Kind(
        name=name,
        options={"channels": CHANNELS, "missing": MISSING, "credentials": CREDENTIALS},
        schemes=(*BUCKET_SCHEMES, "file"),
        url_per_channel=True,
        not_installed=lambda: None if installed() else INSTALL,
        build=partial(_build, formats),
    )


ANY_KIND = _kind("volume", "precomputed", "zarr", "n5")
N5_KIND = _kind("n5", "n5")
ZARR_KIND = _kind("zarr", "zarr")
