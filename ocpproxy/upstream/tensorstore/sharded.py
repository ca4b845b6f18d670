"""Scales of precomputed volumes that are stored in shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ocpproxy.model.dataset import Box
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamBroken
from ocpproxy.upstream.chunks import Grid, clipped, pasted
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
        return await read_within(
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


async def read_within(box: Box, grid: Grid, dtype: str, read: Callable[[Box], Any]) -> Voxels:
    """What `read` gives for the part of a box that is within a grid, the rest 0."""
    inner = clipped(box, grid)
    if inner is None:
        return np.zeros(box.shape, dtype)
    voxels: Voxels = await read(inner)
    if voxels.dtype != np.dtype(dtype):
        raise UpstreamBroken(f"expected voxels of {dtype}, not {voxels.dtype}")
    return voxels if inner == box else pasted(box, [(inner, voxels)], dtype)
