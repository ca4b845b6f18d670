"""Somebody else's tile server, after CATMAID's tile sources.

====  ===================================================================  ===========================
type  path behind the address                                              name
====  ===================================================================  ===========================
1, 9  ``{z}/{row}_{col}_{zoom}.{ext}``                                     file-based, FlixServer
2     ``?x=&y=&width=&height=&row=&col=&scale=&z=``                        query
4     ``{z}/{zoom}/{row}_{col}.{ext}``                                     zoom directories
5     ``{zoom}/{z}/{row}/{col}.{ext}``                                     directories
7     ``largeDataTileSource/{width}/{height}/{zoom}/{z}/{row}/{col}.{ext}``  Render
8     ``xy/{zoom}/{col}_{row}_{z}``                                        DVID imagetile
====  ===================================================================  ===========================

A tile server tells nothing of what it has, so the operator does. Zoom levels halve x and y.

A tile of 512 x 512 that is a JPEG or a PNG is handed on as it is (`Catmaid.picture`), with what its server said to
tell its version by, so that it can be asked for again and not be sent again. Tiles of another size, and all other
planes, are made of its pixels.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
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
from ocpproxy.upstream.base import Picture, UpstreamBroken, UpstreamFailure
from ocpproxy.upstream.chunks import Chunks, Grid
from ocpproxy.upstream.codecs import content_encoding, images
from ocpproxy.upstream.documents import pyramids
from ocpproxy.upstream.http import HttpResponse, status_failure
from ocpproxy.upstream.kind import MISSING, MISSING_STATUS, Kind, UpstreamContext
from ocpproxy.upstream.locations import Location

_SLACK = 2**16
"""Bytes that a file may have beside its pixels."""
_CONDITIONS = {"If-None-Match": "etag", "If-Modified-Since": "last-modified"}
"""Headers of a request, and those of an answer that they repeat."""
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
    """What the operator says of a tile server."""

    type: int
    size: tuple[int, int]
    """Columns and rows of a tile."""
    extension: str
    dimension: Triple
    """Voxels along x, y, z."""
    resolution: Sequence[Fraction]
    """Edges of a voxel along x, y, z."""
    levels: int

    def level(self, number: int) -> Level:
        """A zoom level."""
        step = 2**number
        (x, y, z), (a, b, c) = self.dimension, self.resolution
        return Level((-(-x // step), -(-y // step), z), (0, 0, 0), (*self.size, 1), (a * step, b * step, c))

    def path(self, level: int, z: int, row: int, col: int) -> str:
        """A tile's, behind the address."""
        width, height = self.size
        scale = f"{1 / 2**level:.17g}"
        corner = {"x": col * width, "y": row * height, "width": width, "height": height}
        named = {"level": level, "z": z, "row": row, "col": col, "scale": scale, "ext": self.extension}
        return _PATHS[self.type].format(**corner, **named)


class Catmaid:
    """One stack of a tile server.

    :param missing: statuses that say that there is no such tile.
    :param black: what is not there is black; otherwise it is a fault of the upstream.
    """

    def __init__(
        self,
        site: Location,
        tiling: Tiling,
        run_in_thread: RunInThread,
        clock: IReactorTime,
        missing: Collection[int],
        *,
        black: bool = True,
    ) -> None:
        self._site = site
        self._tiling = tiling
        self._in_thread = run_in_thread
        self._missing = frozenset(missing)
        self._black = black
        self._chunks: Chunks[tuple[str, int]] = Chunks(self._chunk, clock)
        self.origin = f"catmaid {site.address}"

    async def describe(self, token: str) -> str:
        """As `Upstream.describe`: what the operator has said; the server is not asked."""
        return json.dumps({"told by": "the configuration"})

    def dataset(self, token: str, description: str) -> Dataset:
        """As `Upstream.dataset`."""
        levels = {n: self._tiling.level(n) for n in range(self._tiling.levels)}
        said = [self._site.for_token(token), self._tiling.type, self._tiling.size, self._tiling.extension]
        policy = [sorted(self._missing), self._black]
        channel = Channel("image", "image", "uint8", version=pyramids.version([*said, *policy]))
        return Dataset(token, levels, (channel,), "image")

    async def cutout(self, cutout: Cutout) -> Voxels:
        """As `Upstream.cutout`."""
        level = self._tiling.level(cutout.level)
        grid = Grid(level.offset, level.end, level.cube)
        return await self._chunks.box((cutout.dataset.upstream_token, cutout.level), cutout.box, grid, "uint8")

    async def picture(self, cutout: Cutout, known: Picture | None) -> Picture | None:
        """As `Upstream.picture`: where tiles there are as large as ours."""
        box = cutout.box
        if self._tiling.size != (TILE, TILE) or box.x0 % TILE or box.y0 % TILE:
            return None
        asked = {name: known.validators[name] for name in _CONDITIONS if known and known.validators.get(name)}
        answer = await self._get(cutout.dataset.upstream_token, cutout.level, box, asked)
        if answer.status == 304 and known is not None:
            return known
        if answer.status != 200:
            return Picture(png.blank(clear=False), {})
        said = {name: answer.headers[header] for name, header in _CONDITIONS.items() if header in answer.headers}

        def made() -> Picture:
            body = content_encoding.decode_content(answer.body, answer.encoding, self._longest())
            if not pictures.is_tile(body):
                body = png.grey(_pixels(body, self._tiling.size, box)[0])
            return Picture(body, said)

        found: Picture = await self._in_thread(made)
        return found

    async def _chunk(self, place: tuple[str, int], box: Box) -> Voxels | None:
        token, level = place
        answer = await self._get(token, level, box, {})
        if answer.status != 200:
            return None

        def decoded() -> Voxels:
            body = content_encoding.decode_content(answer.body, answer.encoding, self._longest())
            return _pixels(body, self._tiling.size, box)

        voxels: Voxels = await self._in_thread(decoded)
        return voxels

    def _longest(self) -> int:
        width, height = self._tiling.size
        return 4 * width * height + _SLACK

    async def _get(self, token: str, level: int, box: Box, asked: dict[str, str]) -> HttpResponse:
        width, height = self._tiling.size
        behind = self._tiling.path(level, box.z0, box.y0 // height, box.x0 // width)
        path = self._site.path(token, "" if self._tiling.type == 2 else behind)
        if self._tiling.type == 2:
            path += ("/" if self._site.ends_with_slash and path else "") + behind

        def judged(answer: HttpResponse) -> UpstreamFailure | None:
            if answer.status in self._missing:
                return None if self._black else UpstreamBroken(f"a tile is missing: {answer.summary}")
            if answer.status == 304 and asked:
                return None
            return status_failure(answer, UpstreamBroken)

        return await self._site.client.get(path, self._longest(), judged, asked)


def _pixels(body: bytes, size: tuple[int, int], box: Box) -> Voxels:
    """The pixels of a tile that lie within the volume, axes (z, y, x).

    Tiles at its edges may end there, or one pixel before where their server rounds sizes down; the rest is 0.
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
    location, black = context.locations(settings)[None], options["missing"] == "black"
    return Catmaid(location, tiling, context.run_in_thread, context.reactor, options["missing_status"], black=black)


KIND = Kind(
    name="catmaid",
    options={
        "missing": MISSING,
        "missing_status": MISSING_STATUS,
        "tile_source_type": Option(values.one_of(*_PATHS), "1"),
        "tile_size": Option(values.numbers((1, 2), "WIDTH, HEIGHT in pixels, at most 8192", most=8192), "512"),
        "file_extension": Option(values.extension, "jpg"),
        "dimension": Option(values.numbers((0, 3), "voxels along x, y, z"), ""),
        "resolution": Option(values.numbers((3,), "edges of a voxel along x, y, z", fractions=True), "1, 1, 1"),
        "zoom_levels": Option(values.integer(1, 16), "1"),
    },
    required={"dimension": "voxels along x, y, z: a tile server does not tell"},
    build=_build,
)
