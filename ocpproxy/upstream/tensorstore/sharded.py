"""Scales of precomputed volumes that are stored in shards."""

from __future__ import annotations

from collections.abc import Mapping

from ocpproxy.model.dataset import Box
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.chunks import read_clipped
from ocpproxy.upstream.documents.precomputed_info import PrecomputedScale
from ocpproxy.upstream.locations import Location
from ocpproxy.upstream.tensorstore.reader import TensorStoreReader


class ShardedScales:
    """Scales of precomputed volumes that are in shards: see `ocpproxy.upstream.precomputed`."""

    def __init__(self, reader: TensorStoreReader, sites: Mapping[str | None, Location]) -> None:
        self._reader = reader
        self._sites = sites

    async def scale(self, token: str, scale: PrecomputedScale, box: Box) -> Voxels:
        """The voxels of a box, axes (z, y, x, component)."""
        address = self._sites[scale.place].for_token(token)
        return await read_clipped(
            box,
            scale.grid,
            scale.dtype,
            lambda b: self._reader.box(
                address,
                "neuroglancer_precomputed",
                "",
                {"scale_index": scale.number},
                (range(b.x0, b.x1), range(b.y0, b.y1), range(b.z0, b.z1), range(scale.components)),
                (2, 1, 0, 3),
            ),
        )
