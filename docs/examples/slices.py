"""``type = slices``: a volume that is one 8-bit grey PNG file for each z slice, ``{url}/{z}.png``, z from 0.

A kind of upstream that lives outside of ocpproxy. ``docs/extending.md`` explains it step by step.
"""

from __future__ import annotations

import numpy as np
from twisted.internet.interfaces import IReactorTime

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.config import UpstreamSettings, values
from ocpproxy.config.options import Option
from ocpproxy.model.dataset import Box, Channel, Cutout, Dataset, Level
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamBroken, VoxelsOnly
from ocpproxy.upstream.chunks import Chunks, MissingChunks
from ocpproxy.upstream.codecs import content_encoding, images
from ocpproxy.upstream.grid import Grid
from ocpproxy.upstream.http import HttpResponse
from ocpproxy.upstream.kind import Kind, UpstreamContext
from ocpproxy.upstream.locations import Location

_SLACK = 2**16
"""Bytes that a file may have in addition to its pixels."""
_MISSING = MissingChunks(frozenset({404}))
"""A slice that the server does not have is black."""


class Slices(VoxelsOnly):
    """Stacks of PNG files on a web server."""

    def __init__(self, location: Location, level: Level, run_in_thread: RunInThread, clock: IReactorTime) -> None:
        self._location = location
        self._level = level
        self._in_thread = run_in_thread
        self._chunks: Chunks[str] = Chunks(self._slice, clock)  # a chunk is a whole slice; a volume is a token
        self.origin = f"slices {location.address}"

    async def describe(self, token: str) -> str:
        """Return a constant: the description is in the configuration."""
        return "slices"

    def dataset(self, token: str, description: str) -> Dataset:
        """Return a dataset with one level and one channel; see `Upstream.dataset`."""
        channel = Channel("image", "image", "uint8", version=self._location.for_token(token))
        return Dataset(token, {0: self._level}, (channel,), "image")

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Return voxels; see `Upstream.cutout`."""
        grid = Grid(self._level.offset, self._level.end, self._level.cube)
        return await self._chunks.box(cutout.dataset.upstream_token, cutout.box, grid, "uint8")

    async def _slice(self, token: str, box: Box) -> Voxels | None:
        """Return the voxels of one slice, axes (z, y, x), or None when it is missing."""
        _, rows, columns = box.shape
        limit = rows * columns + _SLACK
        path = self._location.path(token, f"{box.z0}.png")
        response = await self._location.client.get(path, limit, _MISSING.check)
        if response.status != 200:
            return None
        voxels: Voxels = await self._in_thread(_decode, response, columns, rows, limit)
        return voxels


def _decode(response: HttpResponse, columns: int, rows: int, limit: int) -> Voxels:
    """Return the pixels of a file, axes (z, y, x)."""
    body = content_encoding.decode_content(response.body, response.encoding, limit)
    pixels = images.decode(body, (columns, rows), columns * rows, bands=1)
    if pixels.dtype != np.uint8:
        raise UpstreamBroken(f"expected a picture of 8 bits, not of {pixels.dtype}")
    return pixels.reshape(1, rows, columns)


def _build(settings: UpstreamSettings, context: UpstreamContext) -> Slices:
    x, y, z = settings.options["dimension"]
    level = Level((x, y, z), (0, 0, 0), (x, y, 1), settings.options["resolution"])
    return Slices(context.locations(settings)[None], level, context.run_in_thread, context.reactor)


KIND = Kind(
    name="slices",
    options={
        "dimension": Option(values.numbers((0, 3), "voxels along x, y, z"), ""),
        "resolution": Option(values.numbers((3,), "edges of a voxel along x, y, z", fractions=True), "1, 1, 1"),
    },
    required={"dimension": "voxels along x, y, z: PNG files do not tell how many slices there are"},
    build=_build,
)
