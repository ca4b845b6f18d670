"""Canaries inside the data: CATMAID loads one tile of each mirror to see whether it works.

The middle of a volume may be background, as in a brain that is curved. So slices of the coarsest level are looked at,
the middle one first, until a voxel is found that is not, close to the middle. The result is kept for as long as the
dataset is described as it is; who asks meanwhile gets the middle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from io import BytesIO
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image
from twisted.internet.interfaces import IReactorTime

from ocpproxy.cache.entries import CatalogueEntry, Undescribed
from ocpproxy.cache.lookup import Result
from ocpproxy.cache.tiles import TileCache
from ocpproxy.concurrency.gather import gather
from ocpproxy.concurrency.shield import shield
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.log import Logger
from ocpproxy.model.address import ChannelName, ImageBase, TileAddress
from ocpproxy.model.dataset import TILE, CannotDisplay, Plane, Triple, Z
from ocpproxy.upstream.base import UpstreamFailure
from ocpproxy.web.catmaid.stacks import StackInfo

_PARTS = (0.5, 0.375, 0.625, 0.25, 0.75)
"""The slices that are looked at, as parts of the volume."""
_MOST_TILES = 4
"""Tiles of a slice that are looked at."""
_MOST_CHANNELS = 16
"""Channels of a dataset that are looked at; the others get the place of the first one."""
_AROUND = 2
"""Pixels around the one that is found which are no background either."""


class Canaries:
    """The places, in voxels of level 0."""

    _log = Logger()

    def __init__(self, cache: TileCache, run_in_thread: RunInThread, clock: IReactorTime) -> None:
        self._cache = cache
        self._run_in_thread = run_in_thread
        self._clock = clock
        self._found: WeakKeyDictionary[CatalogueEntry, dict[str, Triple | None]] = WeakKeyDictionary()
        """By channel; None while it is looked for, and where all that was seen is background."""

    async def placed(self, entry: CatalogueEntry, infos: Iterable[StackInfo], patience: float) -> list[StackInfo]:
        """Return the stacks with canaries inside the data, as far as these are found in so many seconds."""
        infos = list(infos)
        names = dict.fromkeys(info.base.channels[0].name for info in infos)
        found = self._found.setdefault(entry, {})
        missing = [name for name in list(names)[:_MOST_CHANNELS] if name not in found]
        if missing:
            found.update(dict.fromkeys(missing))
            looking = shield(gather([self._look(entry, name) for name in missing]))
            await looking.addTimeout(patience, self._clock, lambda *_: [])
        first = next((place for place in found.values() if place is not None), None)
        return [_with(entry, info, found.get(info.base.channels[0].name) or first) for info in infos]

    async def _look(self, entry: CatalogueEntry, name: str) -> None:
        try:
            self._found[entry][name] = await self._search(entry, name)
        except (UpstreamFailure, Undescribed, CannotDisplay) as error:
            self._found[entry].pop(name, None)  # the next one who asks looks again
            self._log.debug("no canary for {token}: {reason}", token=entry.dataset.token, reason=str(error))
        except Exception:
            self._log.failure("while looking for a place inside {token}", token=entry.dataset.token)

    async def _search(self, entry: CatalogueEntry, name: str) -> Triple | None:
        """Return a voxel of level 0 that is no background."""
        dataset = entry.dataset
        base = ImageBase(dataset.token, Plane.XY, (ChannelName(name),))
        stack = entry.stack(base)
        number = max(dataset.levels)
        level, finest = dataset.levels[number], dataset.levels[0]
        columns, rows = stack.tiles(level)
        middle = (level.size[0] / 2, level.size[1] / 2)
        tiles = [(row, col) for row in range(rows) for col in range(columns)]
        tiles.sort(key=lambda tile: _distance(tile, middle))
        for part in _PARTS:
            z = finest.offset[Z] + int(finest.size[Z] * part)
            for row, col in tiles[:_MOST_TILES]:
                address = TileAddress(base, stack.slice_at(level, z), row, col, number)
                answer = await self._cache.tile(await self._cache.locate(address))
                if answer.result in (Result.BLANK, Result.PLACEHOLDER):
                    continue
                inside = (middle[0] - col * TILE, middle[1] - row * TILE)
                found = await self._run_in_thread(bright_pixel, bytes(answer.tile.picture), inside)
                if found is not None:
                    ratio = [float(level.voxel[axis] / finest.voxel[axis]) for axis in (0, 1)]
                    x = int((col * TILE + found[0] + 0.5) * ratio[0])
                    y = int((row * TILE + found[1] + 0.5) * ratio[1])
                    return (min(x, finest.size[0] - 1), min(y, finest.size[1] - 1), z)
        return None


def _distance(tile: tuple[int, int], middle: tuple[float, float]) -> float:
    row, col = tile
    return max(abs((col + 0.5) * TILE - middle[0]), abs((row + 0.5) * TILE - middle[1]))


def bright_pixel(picture: bytes, middle: tuple[float, float]) -> tuple[int, int] | None:
    """Return the pixel closest to `middle` that is no background, nor are those around it; None where all is.

    :param picture: a PNG of a tile.
    :param middle: column and row, which may be outside.
    """
    with Image.open(BytesIO(picture)) as image:
        pixels = np.asarray(image.convert("RGBA"))
    seen = (pixels[..., :3].max(axis=2) > 0) & (pixels[..., 3] > 0)
    solid = seen.copy()
    for axis in (0, 1):
        for step in range(-_AROUND, _AROUND + 1):
            solid &= np.roll(seen, step, axis)
    solid[:_AROUND], solid[-_AROUND:] = False, False
    solid[:, :_AROUND], solid[:, -_AROUND:] = False, False
    rows, columns = np.nonzero(solid)
    if not rows.size:
        return None
    nearest = np.hypot(columns - middle[0], rows - middle[1]).argmin()
    return int(columns[nearest]), int(rows[nearest])


def _with(entry: CatalogueEntry, info: StackInfo, place: Triple | None) -> StackInfo:
    """Return a stack with its canary at a voxel: x and y from the volume's start, z absolute."""
    if place is None:
        return info
    finest = entry.dataset.levels[0]
    z = place[Z] - finest.offset[Z]
    inside = (place[0], place[1], z)
    columns, rows, through = info.base.plane.axes
    pixels = [
        int((inside[axis] + 0.5) * float(finest.voxel[axis]) / info.resolution[n])
        for n, axis in enumerate((columns, rows))
    ]
    return replace(info, canary=(pixels[0], pixels[1], inside[through] + finest.offset[through]))
