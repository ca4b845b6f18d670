"""Scales of precomputed volumes that are stored in shards."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ocpproxy.model.dataset import Box
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.chunks import read_clipped
from ocpproxy.upstream.documents.encodings import TENSORSTORE, Encoding
from ocpproxy.upstream.documents.precomputed_info import PrecomputedScale
from ocpproxy.upstream.documents.pyramids import grid_size
from ocpproxy.upstream.locations import Location
from ocpproxy.upstream.tensorstore.reader import ArrayPart, TensorStoreReader


class ShardedScales:
    """A reader of the scales of precomputed volumes that are in shards, for `ocpproxy.upstream.precomputed`."""

    def __init__(self, reader: TensorStoreReader, locations: Mapping[str | None, Location]) -> None:
        self._reader = reader
        self._locations = locations

    async def scale(self, token: str, scale: PrecomputedScale, box: Box) -> Voxels:
        """Return the voxels of a box, axes (z, y, x, component).

        :raises UpstreamFailure: TensorStore cannot read them.
        """
        location, encoding = self._locations[scale.channel], _encoding(scale)
        chunk_bytes = scale.nbytes(Box(0, scale.grid.chunk[0], 0, scale.grid.chunk[1], 0, scale.grid.chunk[2]))

        async def read(inner: Box) -> Voxels:
            index = (*box_ranges(inner).values(), range(scale.components))
            part = ArrayPart(
                location, token, "", "neuroglancer_precomputed", encoding, index, (2, 1, 0, 3), chunk_bytes
            )
            return await self._reader.box(part)

        return await read_clipped(box, scale.grid, scale.dtype, read)


def _encoding(scale: PrecomputedScale) -> Encoding:
    """Return the metadata of one scale: TensorStore refuses a volume for a scale that it cannot read."""
    members = {
        "key": scale.key,
        "size": grid_size(scale.grid),
        "voxel_offset": scale.grid.offset,
        "chunk_size": scale.grid.chunk,
        "resolution": scale.resolution,
        "encoding": scale.encoding,
        **({"sharding": scale.sharding} if scale.sharding is not None else {}),
    }
    if scale.encoding == "compressed_segmentation":
        members["compressed_segmentation_block_size"] = scale.block
    kind = "segmentation" if scale.encoding == "compressed_segmentation" else "image"
    volume = {"data_type": scale.dtype, "num_channels": scale.components, "type": kind}
    return Encoding(TENSORSTORE, json.dumps({"multiscale_metadata": volume, "scale_metadata": members}))


def box_ranges(box: Box) -> dict[str, range]:
    """Return the coordinates of a box along x, y and z, in this order."""
    return {"x": range(box.x0, box.x1), "y": range(box.y0, box.y1), "z": range(box.z0, box.z1)}
