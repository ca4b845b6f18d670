"""Another tile server, of one of CATMAID's tile source types.

====  ===================================================================  ===========================
type  path below the address                                               name
====  ===================================================================  ===========================
1, 9  ``{z}/{row}_{col}_{zoom}.{ext}``                                     file-based, FlixServer
2     ``?x=&y=&width=&height=&row=&col=&scale=&z=``                        query
4     ``{z}/{zoom}/{row}_{col}.{ext}``                                     zoom directories
5     ``{zoom}/{z}/{row}/{col}.{ext}``                                     directories
7     ``largeDataTileSource/{width}/{height}/{zoom}/{z}/{row}/{col}.{ext}``  Render
8     ``xy/{zoom}/{col}_{row}_{z}``                                        DVID imagetile
====  ===================================================================  ===========================

A tile server does not describe its stack, so the operator does. Zoom levels halve x and y.

A JPEG or PNG tile of 512 x 512 pixels is passed on unchanged (`Catmaid.picture`). The ``ETag`` and ``Last-Modified`` of
its response are stored with it, so that the server need not send an unchanged tile again. Tiles of another size, and
tiles of other planes, are drawn from its pixels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from twisted.internet.interfaces import IReactorTime

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.config import UpstreamSettings, values
from ocpproxy.config.options import Option
from ocpproxy.imagery import pictures, png
from ocpproxy.model.dataset import TILE, Box, Channel, Cutout, Dataset, Level, Triple
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import NoNativeChunks, Picture, UpstreamBroken, UpstreamFailure
from ocpproxy.upstream.chunks import Chunks, MissingChunks, log_all_missing
from ocpproxy.upstream.codecs import content_encoding, images
from ocpproxy.upstream.documents import pyramids
from ocpproxy.upstream.grid import Grid
from ocpproxy.upstream.http import HttpResponse
from ocpproxy.upstream.kind import MISSING, MISSING_STATUS, Kind, UpstreamContext, missing_chunks
from ocpproxy.upstream.locations import Location

_SLACK = 2**16
"""Bytes that a file may have in addition to its pixels."""
_CONDITIONS = {"If-None-Match": "etag", "If-Modified-Since": "last-modified"}
"""Request headers, and the response header whose value each repeats."""
_PATHS = {
    1: "{z}/{row}_{col}_{level}.{ext}",
    2: "?x={x}&y={y}&width={width}&height={height}&row={row}&col={col}&scale={scale}&z={z}",
    4: "{z}/{level}/{row}_{col}.{ext}",
    5: "{level}/{z}/{row}/{col}.{ext}",
    7: "largeDataTileSource/{width}/{height}/{level}/{z}/{row}/{col}.{ext}",
    8: "xy/{level}/{col}_{row}_{z}",
    9: "{z}/{row}_{col}_{level}.{ext}",
}


@dataclass(frozen=True, slots=True)
class Tiling:
    """The tiles of a stack, as the operator describes them."""

    type: int
    size: tuple[int, int]
    """Width and height of a tile in pixels."""
    extension: str
    dimension: Triple
    """Voxels along x, y, z."""
    resolution: Sequence[Fraction]
    """Edges of a voxel along x, y, z."""
    levels: int

    def level(self, number: int) -> Level:
        """Return the level of a zoom level."""
        step = 2**number
        (x, y, z), (a, b, c) = self.dimension, self.resolution
        return Level((-(-x // step), -(-y // step), z), (0, 0, 0), (*self.size, 1), (a * step, b * step, c))

    def path(self, level: int, z: int, row: int, col: int) -> str:
        """Return the path of a tile, relative to the address of the stack."""
        width, height = self.size
        scale = f"{1 / 2**level:.17g}"
        corner = {"x": col * width, "y": row * height, "width": width, "height": height}
        names = {"level": level, "z": z, "row": row, "col": col, "scale": scale, "ext": self.extension}
        return _PATHS[self.type].format(**corner, **names)


class Catmaid(NoNativeChunks):
    """One stack of a tile server."""

    def __init__(
        self,
        location: Location,
        tiling: Tiling,
        missing: MissingChunks,
        run_in_thread: RunInThread,
        clock: IReactorTime,
    ) -> None:
        self._location = location
        self._tiling = tiling
        self._levels = {n: tiling.level(n) for n in range(tiling.levels)}
        self._missing = missing
        self._in_thread = run_in_thread
        self._chunks: Chunks[tuple[str, int]] = Chunks(
            self._chunk, clock, lambda volume: log_all_missing(volume[0], location, f"zoom level {volume[1]}")
        )
        self.origin = f"catmaid {location.address}"

    async def describe(self, token: str) -> str:
        """Return a constant: the description is in the configuration, and the server has none."""
        return json.dumps({"told by": "the configuration"})

    def dataset(self, token: str, description: str) -> Dataset:
        """Return a dataset; see `Upstream.dataset`."""
        tiling = [self._location.for_token(token), self._tiling.type, self._tiling.size, self._tiling.extension]
        missing = [sorted(self._missing.statuses), self._missing.black]
        channel = Channel("image", "image", "uint8", version=pyramids.version([*tiling, *missing]))
        return Dataset(token, self._levels, (channel,), "image")

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Return voxels; see `Upstream.cutout`."""
        level = self._levels[cutout.level]
        grid = Grid(level.offset, level.end, level.cube)
        return await self._chunks.box((cutout.dataset.upstream_token, cutout.level), cutout.box, grid, "uint8")

    async def picture(self, cutout: Cutout, known: Picture | None) -> Picture | None:
        """Return the server's own tile where its tiles are as large as ours; see `Upstream.picture`."""
        box = cutout.box
        if self._tiling.size != (TILE, TILE) or box.x0 % TILE or box.y0 % TILE:
            return None
        conditions = {name: known.validators[name] for name in _CONDITIONS if known and known.validators.get(name)}
        response = await self._get(cutout.dataset.upstream_token, cutout.level, box, conditions)
        if response.status == 304 and known is not None:
            return known
        if response.status != 200:
            return Picture(png.blank(clear=False), {})
        headers = response.headers
        validators = {name: headers[header] for name, header in _CONDITIONS.items() if header in headers}

        def decode() -> Picture:
            body = content_encoding.decode_content(response.body, response.encoding, self._longest())
            if not pictures.is_tile(body):
                body = png.grey(_pixels(body, self._tiling.size, box)[0])
            return Picture(body, validators)

        picture: Picture = await self._in_thread(decode)
        return picture

    async def _chunk(self, volume: tuple[str, int], box: Box) -> Voxels | None:
        token, level = volume
        response = await self._get(token, level, box, {})
        if response.status != 200:
            return None

        def decode() -> Voxels:
            body = content_encoding.decode_content(response.body, response.encoding, self._longest())
            return _pixels(body, self._tiling.size, box)

        voxels: Voxels = await self._in_thread(decode)
        return voxels

    def _longest(self) -> int:
        """Return the largest size of a tile's file in bytes."""
        width, height = self._tiling.size
        return 4 * width * height + _SLACK

    async def _get(self, token: str, level: int, box: Box, conditions: dict[str, str]) -> HttpResponse:
        """Return the response to a request for a tile.

        :param conditions: request headers under which the server may respond with 304.
        """
        width, height = self._tiling.size
        tile = self._tiling.path(level, box.z0, box.y0 // height, box.x0 // width)
        path = self._location.path(token, "" if self._tiling.type == 2 else tile)
        if self._tiling.type == 2:
            path += ("/" if self._location.ends_with_slash and path else "") + tile

        def check(response: HttpResponse) -> UpstreamFailure | None:
            return None if response.status == 304 and conditions else self._missing.check(response)

        return await self._location.client.get(path, self._longest(), check, conditions)


def _pixels(body: bytes, size: tuple[int, int], box: Box) -> Voxels:
    """Return the pixels of a tile that lie in the box, axes (z, y, x).

    A tile at the edge of the volume may end there, or one pixel before where the server rounds sizes down; missing
    pixels are 0.

    :raises UpstreamBroken: when the tile has another size.
    """
    _, rows, columns = box.shape
    width, height = images.size(body)
    if not (columns - 1 <= width <= size[0] and rows - 1 <= height <= size[1]):
        raise UpstreamBroken(f"expected a tile of {size[0]} x {size[1]} pixels, not {width} x {height}")
    samples = images.decode(body, (width, height), width * height, 0)[:rows, :columns, 0]
    pixels = np.zeros(box.shape, np.uint8)
    pixels[0, : samples.shape[0], : samples.shape[1]] = samples if samples.dtype == np.uint8 else samples >> 8
    return pixels


def _build(settings: UpstreamSettings, context: UpstreamContext) -> Catmaid:
    options = settings.options
    width, *height = options["tile_size"]
    tiling = Tiling(
        options["tile_source_type"],
        (width, height[0] if height else width),
        options["file_extension"],
        options["dimension"],
        options["resolution"],
        options["zoom_levels"],
    )
    location = context.locations(settings)[None]
    return Catmaid(location, tiling, missing_chunks(settings), context.run_in_thread, context.reactor)


KIND = Kind(
    name="catmaid",
    options={
        "missing": MISSING,
        "missing_status": MISSING_STATUS,
        "tile_source_type": Option(values.integer_choice(*_PATHS), "1"),
        "tile_size": Option(values.numbers((1, 2), "WIDTH, HEIGHT in pixels, at most 8192", most=8192), str(TILE)),
        "file_extension": Option(values.extension, "jpg"),
        "dimension": Option(values.numbers((0, 3), "voxels along x, y, z"), ""),
        "resolution": Option(values.numbers((3,), "edges of a voxel along x, y, z", fractions=True), "1, 1, 1"),
        "zoom_levels": Option(values.integer(1, 16), "1"),
    },
    required={"dimension": "voxels along x, y, z, which a tile server does not report"},
    build=_build,
)
