"""N5, Zarr, OME-Zarr and sharded precomputed volumes, read by TensorStore: ``pip install 'ocpproxy[tensorstore]'``.

What a volume is like is read by us (`ocpproxy.upstream.documents`), by polite HTTP where it is at a web server; its
voxels are read by TensorStore, with its own connections and retries, in a process of its own
(`ocpproxy.upstream.tensorstore.reader`). A chunk that is not there is background, as these formats say, or an error
where the operator wants to know.
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
from ocpproxy.upstream.documents.checks import mapping, word
from ocpproxy.upstream.documents.multiscale import Array
from ocpproxy.upstream.documents.precomputed_info import PrecomputedScale
from ocpproxy.upstream.documents.pyramids import Volume, assembled
from ocpproxy.upstream.fetch import DOCUMENT_LIMIT, fetch_document
from ocpproxy.upstream.kind import CHANNELS, CREDENTIALS, MISSING, Kind, UpstreamContext
from ocpproxy.upstream.locations import Location, for_each_channel
from ocpproxy.upstream.tensorstore.reader import INSTALL, TensorStoreReader, installed
from ocpproxy.upstream.tensorstore.sharded import ShardedScales


class TensorStoreUpstream(VoxelsOnly):
    """Volumes that TensorStore reads: the channels of each token.

    :param sites: the address of each channel.
    :param kinds: what may be there: ``precomputed``, ``zarr``, ``n5``.
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
        places = " ".join(f"{name or ''}:{site.address}" for name, site in sites.items())
        self.origin = f"{'/'.join(kinds)} {places}"

    async def describe(self, token: str) -> str:
        """As `Upstream.describe`: the documents of each channel's volume."""

        async def told(channel: str | None) -> str:
            site, refused = self._sites[channel], list[UpstreamRefused]()

            async def look(name: str) -> str | None:
                if not self._reader.is_web(site.address):
                    found = await self._reader.document(site.for_token(token), name)
                    with checks.reading(name):
                        return None if found is None else checks.text(found)
                try:
                    return await fetch_document(site.client, site.path(token, name))
                except UnknownToken:
                    return None
                except UpstreamRefused as error:  # what a bucket says of what is not there, if it may not be listed
                    refused.append(error)
                    return None

            with checks.reading(f"the volume of {token}"):
                found = await multiscale.gathered(look, self._kinds)
            if found is None and refused:
                raise refused[0]
            if found is None:
                raise UnknownToken(f"there is no {' or '.join(self._kinds)} at {site.address}")
            return json.dumps(found)

        return json.dumps(await for_each_channel(self._sites, told))

    def dataset(self, token: str, description: str) -> Dataset:
        """As `Upstream.dataset`."""
        with checks.reading(f"the volume of {token}"):
            told = mapping("the volumes", checks.parsed(description))
            volumes: dict[str | None, Volume[Any]] = {}
            for name, site in self._sites.items():
                text = word("a volume", told.get(name or ""), most=64 * DOCUMENT_LIMIT)
                found = {
                    key: word(key, value, most=DOCUMENT_LIMIT)
                    for key, value in mapping("documents", checks.parsed(text)).items()
                }
                if "info" in found:
                    volumes[name] = precomputed_info.parsed(name, found["info"], site.for_token(token))
                else:
                    volumes[name] = multiscale.parsed(name, found, site.for_token(token))
            return assembled(token, volumes)

    async def cutout(self, cutout: Cutout) -> Voxels:
        """As `Upstream.cutout`."""
        number, scales = cutout.dataset.upstream_data[cutout.channel.name]
        scale: PrecomputedScale | Array | None = scales[cutout.level]
        token = cutout.dataset.upstream_token
        if scale is None:
            return np.zeros(cutout.box.shape, cutout.channel.dtype)
        if isinstance(scale, PrecomputedScale):
            voxels = await self._shards.scale(token, scale, cutout.box)
            return voxels if voxels.ndim == 3 else np.ascontiguousarray(voxels[..., number])
        array, address = scale, self._sites[scale.place].for_token(token)

        async def read(box: Box) -> Voxels:
            spans = {"x": range(box.x0, box.x1), "y": range(box.y0, box.y1), "z": range(box.z0, box.z1)}
            index = [spans.get(letter, {"c": number, "t": cutout.time}.get(letter, 0)) for letter in array.axes]
            left = [letter for letter in array.axes if letter in "xyz"]
            order = [left.index(letter) for letter in "zyx" if letter in left]
            voxels: Voxels = await self._reader.box(address, array.driver, array.path, {}, index, order)
            return voxels if "z" in left else voxels.reshape((1, *voxels.shape))

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
