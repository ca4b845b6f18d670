"""Flushes as people ask for them: a JSON object becomes a `store.flushing.flush.Flush`.

==============  =======================================================================================================
``token``       the dataset; exactly this one
``channels``    names; by default all. False colours of any channels belong to each of them
``planes``      ``xy``, ``xz``, ``yz``, ``zy``, and ``3d`` for chunks of voxels; by default all
``levels``      [first, last], both included; null for the coarsest; by default all
``times``       [first, last]; by default all
``box``         [x0, x1, y0, y1, z0, z1]: ranges of voxels of the finest level: the tiles that show one of these
``older_than``  seconds: the tiles that were made so long ago; by default whatever was made until now
==============  =======================================================================================================
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.jobs.spec import BadJob, JobSpec, read_spec
from ocpproxy.model.address import ImageBase
from ocpproxy.model.dataset import CHUNKS, CannotDisplay, Plane
from ocpproxy.model.region import Block, level_box, part
from ocpproxy.store.flushing import flush
from ocpproxy.store.flushing.flush import Flush, Walked
from ocpproxy.store.part import ALL_PLANES, Area, TilePart, area_name
from ocpproxy.store.space import accounts
from ocpproxy.store.space.usage import Usage
from ocpproxy.store.tile_store import TileStore

_KEYS = ("token", "channels", "planes", "levels", "times", "box")
"""What a flush may have beside ``older_than``."""
_OLDEST = 2.0**32
"""Seconds."""
_COUNTED = 2000
"""Files that are looked at in one go."""
Describe = Callable[[str], Awaitable[CatalogueEntry]]
"""Returns what is known of a token."""


@dataclass(frozen=True)
class FlushRequest:
    """What somebody wants to be forgotten."""

    part: TilePart
    age: float | None = None
    """Seconds: only what was made so long ago."""


@dataclass(frozen=True)
class BegunFlush:
    """A flush that is being carried out."""

    name: str
    title: str
    at: float
    """Seconds since 1970: tiles that were made by then are forgotten."""
    removed: int
    """Tiles whose files were removed."""
    silent: int
    """Processes that do not know it yet."""


class Flushing:
    """The flushes of one store, for people.

    :param describe: is asked where a flush has a box.
    :param now: returns the seconds since 1970.
    """

    def __init__(self, store: TileStore, describe: Describe, now: Callable[[], float]) -> None:
        self._store = store
        self._describe = describe
        self._now = now

    async def read(self, document: Any) -> FlushRequest:
        """Return what a JSON object asks for.

        :raises BadJob: it makes no sense.
        :raises Undescribed: it has a box, and its dataset is not described.
        """
        age = document.get("older_than") if isinstance(document, Mapping) else None
        is_number = isinstance(age, (int, float)) and not isinstance(age, bool)
        if age is not None and not (is_number and 0 <= age < _OLDEST):
            raise BadJob("older_than: expected a number of seconds")
        if isinstance(document, Mapping):
            if document.get("channels") is not None and not document["channels"]:
                raise BadJob("channels: expected a list of names")
            document = {key: value for key, value in document.items() if key != "older_than"}
        planes, document = _planes(document)
        spec = read_spec(document, _KEYS)
        if document.get("planes"):
            planes = (*(plane.value for plane in spec.planes), *planes)
        entry = None if spec.region.box is None else await self._describe(spec.token)
        return FlushRequest(make_part(spec, planes, entry), age)

    async def count(self, wanted: FlushRequest) -> Usage:
        """Return how many tiles would be forgotten, and their bytes.

        Whole levels are known from their accounts; else the files are looked at.

        :raises DatabaseUnavailable: the index does not answer.
        """
        part, now = wanted.part, self._now()
        if part.areas is None and wanted.age is None and not self._store.flushes.active:
            await self._store.pending.reconciled()
            found = await self._store.database.read(accounts.read)
            own = [one.usage for one in found if part.has_level_of(one.stack, one.time, one.level)]
            return sum(own, Usage())
        rule = Flush(now - (wanted.age or 0), part, everything=wanted.age is None)
        files = flush.walk(self._store.files.directory, rule, now)
        total = Usage()
        while (sizes := await self._store.run_in_thread(_next_sizes, files)) is not None:
            total += Usage(len(sizes), sum(sizes))
        return total

    async def begin(self, wanted: FlushRequest) -> BegunFlush:
        """Begin a flush: when this returns, its tiles are gone for all processes that know it.

        :raises OSError: it cannot be written.
        :raises TooManyFlushes: others have to be carried out first.
        """
        name, silent = await self._store.flushes.add(wanted.part, wanted.age)
        return BegunFlush(name, str(wanted.part), self._now() - (wanted.age or 0), 0, len(silent))

    async def all(self) -> list[BegunFlush]:
        """Return the flushes that are being carried out, the oldest first."""
        flushes, run = self._store.flushes, self._store.run_in_thread
        return [
            BegunFlush(
                name,
                str(one.part),
                one.at,
                await run(flushes.files.load_progress, name),
                len(await flushes.silent(name)),
            )
            for name, one in sorted(flushes.active.items())
        ]


def _next_sizes(files: Iterator[Walked]) -> list[int] | None:
    """Return the bytes of the next tiles of a walk; None at its end. (In a thread.)"""
    looked_at = list(islice(files, _COUNTED))
    return [file[1].st_size for file in looked_at if file is not None] if looked_at else None


def _planes(document: Any) -> tuple[tuple[str, ...], Any]:
    """Return the planes of a flush beside those of stacks that its document names, and the document with only those."""
    planes = document.get("planes") if isinstance(document, Mapping) else None
    if planes is None:
        return ALL_PLANES, document
    if not isinstance(planes, list) or CHUNKS not in planes:
        return (), document
    return (CHUNKS,), {**document, "planes": [plane for plane in planes if plane != CHUNKS] or None}


def make_part(spec: JobSpec, planes: tuple[str, ...], entry: CatalogueEntry | None) -> TilePart:
    """Return the tiles of a job, in these planes (`part.ALL_PLANES`).

    :param entry: what is known of the dataset; it may be None where the job has no box.
    :raises BadJob: the dataset has no such plane.
    """
    areas = _areas(spec, planes, entry) if entry is not None and spec.region.box is not None else None
    return TilePart(spec.token, spec.channels, planes, spec.levels or (0, None), spec.times, areas)


def _areas(spec: JobSpec, planes: tuple[str, ...], entry: CatalogueEntry) -> dict[tuple[str, int], Area]:
    """Return the tiles and chunks that have a voxel of a box, by name and level."""
    areas: dict[tuple[str, int], Area] = {}
    for level in entry.dataset.levels:
        for plane in planes:
            if plane == CHUNKS:
                areas |= {(area_name(plane, channel), level): area for channel, area in _chunks(spec, entry, level)}
                continue
            try:
                stack = entry.stack(ImageBase(spec.token, Plane(plane), ()))
            except CannotDisplay as error:
                raise BadJob(str(error)) from None
            found = part(stack, 0, level, spec.region)
            if isinstance(found, Block):
                areas[plane, level] = _area(found.rows, found.cols, found.slices)
    return areas


def _chunks(spec: JobSpec, entry: CatalogueEntry, level: int) -> Iterator[tuple[str, Area]]:
    """Yield the chunks of a level that have a voxel of a box, by channel."""
    box = level_box(entry.dataset, level, spec.region.box)
    if box is None:
        return
    for channel in entry.dataset.channels:
        if spec.channels and channel.name not in spec.channels:
            continue
        try:
            grid = entry.volume(channel.name).grids[level]
        except CannotDisplay:
            continue  # it has no chunks
        xs, ys, zs = grid.numbers_in(box)
        yield channel.name, _area(ys, xs, zs)


def _area(rows: range, cols: range, slices: range) -> Area:
    return Area(*((one.start, one.stop) for one in (rows, cols, slices)))
