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
    """A reader of the scales of precomputed volumes that are in shards, for `ocpproxy.upstream.precomputed`."""

    def __init__(self, reader: TensorStoreReader, locations: Mapping[str | None, Location]) -> None:
        self._reader = reader
        self._locations = locations

    async def scale(self, token: str, scale: PrecomputedScale, box: Box) -> Voxels:
        """Return the voxels of a box, axes (z, y, x, component).

        :raises UpstreamFailure: TensorStore cannot read them.
        """
        address = self._locations[scale.channel].for_token(token)
        spec = {"driver": "neuroglancer_precomputed", "scale_index": scale.number}

        async def read(inner: Box) -> Voxels:
            index = (*box_ranges(inner).values(), range(scale.components))
            return await self._reader.box(address, spec, index, (2, 1, 0, 3))

        return await read_clipped(box, scale.grid, scale.dtype, read)


def box_ranges(box: Box) -> dict[str, range]:
    """Return the coordinates of a box along x, y and z, in this order."""
    return {"x": range(box.x0, box.x1), "y": range(box.y0, box.y1), "z": range(box.z0, box.z1)}
