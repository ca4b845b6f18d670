"""Canaries inside the data: CATMAID loads one tile of each mirror to see whether it works.

The middle of a volume may be background, as in a brain that is curved. So a few slices of the coarsest level are looked
at, the middle one first, until one shows something. The pixel closest to the middle is taken. It is kept for as long as
the dataset is described as it is; who asks meanwhile gets the middle of the volume.

Anybody can ask for a canary. So one dataset is searched at a time, one of its channels stands for all, and the search
comes after everything that viewers want.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from weakref import WeakKeyDictionary

import numpy as np
from cachetools import TTLCache
from PIL import Image
from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime

from ocpproxy.cache.entries import CatalogueEntry, Undescribed
from ocpproxy.cache.lookup import Result
from ocpproxy.cache.tiles import TileCache
from ocpproxy.concurrency.shield import shield
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.concurrency.work import Lane, working_for
from ocpproxy.log import Logger
from ocpproxy.model.address import TileAddress
from ocpproxy.model.dataset import TILE, CannotDisplay, Plane, Triple, Z
from ocpproxy.store.keys import NotIndexable
from ocpproxy.upstream.base import UpstreamFailure
from ocpproxy.web.catmaid.stacks import StackInfo

_PARTS = (0.5, 0.25, 0.75)
"""The slices that are looked at, as parts of the volume."""
_MOST_TILES = 4
"""Tiles of the coarsest level: one with more is not looked at, for that would take much of the upstream."""
_ASK_AGAIN_AFTER = 60.0
"""Seconds after an upstream has failed."""
_MOST_DATASETS = 10_000
_AROUND = 2
"""Pixels on each side of the one that is found which show something too."""


class NoPictureNow(Exception):
    """A placeholder stands for a tile, so nothing can be seen of it."""


class Canaries:
    """Looks for the places, and keeps them."""

    _log = Logger()

    def __init__(self, cache: TileCache, run_in_thread: RunInThread, clock: IReactorTime) -> None:
        self._cache = cache
        self._run_in_thread = run_in_thread
        self._clock = clock
        self._found: WeakKeyDictionary[CatalogueEntry, Triple | None] = WeakKeyDictionary()
        """In voxels of level 0; None while it is looked for, and where all that was seen is background."""
        self._failed: TTLCache[str, bool] = TTLCache(_MOST_DATASETS, _ASK_AGAIN_AFTER, clock.seconds)
        self._one = DeferredLock()

    async def find(self, entry: CatalogueEntry, infos: Sequence[StackInfo], patience: float) -> list[StackInfo]:
        """Return the stacks of a dataset with canaries inside the data, if one is found in so many seconds."""
        if infos and entry not in self._found and entry.dataset.token not in self._failed:
            self._found[entry] = None
            with working_for("", Lane.PREFETCH):
                looking = shield(self._look(entry, infos[0]))
            await looking.addTimeout(patience, self._clock, lambda *_: None)
        return self.known(entry, infos)

    def known(self, entry: CatalogueEntry, infos: Sequence[StackInfo]) -> list[StackInfo]:
        """Return the stacks of a dataset with canaries inside the data, if one has been found."""
        place = self._found.get(entry)
        return list(infos) if place is None else [_with(entry, info, place) for info in infos]

    async def _look(self, entry: CatalogueEntry, info: StackInfo) -> None:
        await self._one.acquire()
        try:
            self._found[entry] = await self._search(entry, info)
        except Exception as error:
            del self._found[entry]
            self._failed[entry.dataset.token] = True
            if isinstance(error, (NoPictureNow, UpstreamFailure, Undescribed, CannotDisplay, NotIndexable)):
                self._log.debug("no canary for {token}: {reason}", token=entry.dataset.token, reason=str(error))
            else:
                self._log.failure("while looking for a place inside {token}", token=entry.dataset.token)
        finally:
            self._one.release()

    async def _search(self, entry: CatalogueEntry, info: StackInfo) -> Triple | None:
        """Return a voxel of level 0 that shows something; None where no voxel that is looked at does."""
        dataset = entry.dataset
        base = replace(info.base, plane=Plane.XY)
        stack = entry.stack(base)
        number = max(dataset.levels)
        level, finest = dataset.levels[number], dataset.levels[0]
        columns, rows = stack.tiles(level)
        if columns * rows > _MOST_TILES:
            return None
        middle = (level.size[0] / 2, level.size[1] / 2)
        tiles = [(row, col) for row in range(rows) for col in range(columns)]
        tiles.sort(key=lambda tile: _distance(tile, middle))
        for part in _PARTS:
            z = finest.offset[Z] + int(finest.size[Z] * part)
            for row, col in tiles:
                address = TileAddress(base, stack.slice_at(level, z), row, col, number)
                answer = await self._cache.tile(await self._cache.locate(address))
                if answer.result is Result.PLACEHOLDER:
                    raise NoPictureNow("a placeholder stands for its tile")
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
    """Return the pixel closest to `middle` that, with those around it, shows something; None where none does.

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


def _with(entry: CatalogueEntry, info: StackInfo, place: Triple) -> StackInfo:
    """Return a stack with its canary at a voxel: x and y from the volume's start, z absolute."""
    finest = entry.dataset.levels[0]
    z = place[Z] - finest.offset[Z]
    inside = (place[0], place[1], z)
    columns, rows, through = info.base.plane.axes
    pixels = [
        int((inside[axis] + 0.5) * float(finest.voxel[axis]) / info.resolution[n])
        for n, axis in enumerate((columns, rows))
    ]
    return replace(info, canary=(pixels[0], pixels[1], inside[through] + finest.offset[through]))
