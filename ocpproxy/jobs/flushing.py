"""Flushes as people ask for them: a JSON object becomes a `store.flush.Flush`.

==============  =======================================================================================================
``token``       the dataset; exactly this one
``channels``    names; by default all. False colours of any channels belong to each of them
``planes``      ``xy``, ``xz``, ``yz``, ``zy``; by default all
``levels``      [first, last], both included; null for the coarsest; by default all
``times``       [first, last]; by default all
``box``         [x0, x1, y0, y1, z0, z1]: ranges of voxels of the finest level: the tiles that show one of these
``older_than``  seconds: the tiles that were made so long ago; by default whatever was made until now
==============  =======================================================================================================
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import Any

from ocpproxy.cache.catalogue import CatalogueEntry
from ocpproxy.jobs.spec import BadJob, JobSpec, read_spec
from ocpproxy.model.address import ImageBase
from ocpproxy.model.dataset import CannotDisplay, Plane
from ocpproxy.model.region import Block, part
from ocpproxy.model.stack import Tile
from ocpproxy.store import accounts, flush
from ocpproxy.store.accounts import Account
from ocpproxy.store.flush import Area, Flush
from ocpproxy.store.tile_store import TileStore
from ocpproxy.store.usage import Usage

_KEYS = ("token", "channels", "planes", "levels", "times", "box", "older_than")
_NOW = 1.0
"""Seconds: a flush that is not older was asked for without an age."""
_COUNTED = 2000
"""Tiles that are counted in one go."""
Describe = Callable[[str], Awaitable[CatalogueEntry]]
"""Returns what is known of a token."""


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

    async def read(self, document: Any) -> Flush:
        """Return the flush of a JSON object.

        :raises BadJob: it is none.
        :raises Undescribed: it has a box, and its dataset is not described.
        """
        if not isinstance(document, Mapping):
            raise BadJob("expected a JSON object")
        for key in document.keys() - set(_KEYS):
            raise BadJob(f"there is no {str(key)[:40]!r}; expected " + ", ".join(_KEYS))
        age = document.get("older_than") or 0.0
        if not isinstance(age, (int, float)) or isinstance(age, bool) or not (isfinite(age) and 0 <= age < 2**32):
            raise BadJob("older_than: expected a number of seconds")
        spec = read_spec({key: value for key, value in document.items() if key != "older_than"})
        planes = spec.planes if document.get("planes") is not None else tuple(Plane)
        areas = None
        if spec.region.box is not None:
            areas = _areas(spec, planes, await self._describe(spec.token))
        levels = spec.levels or (0, None)
        return Flush(self._now() - age, spec.token, spec.channels, planes, levels, spec.times, areas)

    async def count(self, wanted: Flush) -> Usage:
        """Return how many tiles a flush covers, and their bytes.

        Whole levels are known from their accounts; else the files are looked at.

        :raises DatabaseUnavailable: the index does not answer.
        """
        if wanted.areas is None and wanted.at >= self._now() - _NOW and not self._store.flushes.active:
            await self._store.pending.reconciled()
            found = await self._store.database.read(accounts.read)
            return sum((one.usage for one in found if _has(wanted, one)), Usage())
        files = flush.walk(self._store.files.directory, wanted)
        total = Usage()
        while True:
            sizes = await self._store.run_in_thread(lambda: [status.st_size for _, status in islice(files, _COUNTED)])
            if not sizes:
                return total
            total += Usage(len(sizes), sum(sizes))

    async def begin(self, wanted: Flush) -> BegunFlush:
        """Begin a flush: when this returns, its tiles are gone for all processes that know it.

        :raises OSError: it cannot be written.
        :raises TooManyFlushes: others have to be carried out first.
        """
        name, silent = await self._store.flushes.add(wanted)
        return BegunFlush(name, title(wanted), self._store.flushes.active.get(name, wanted).at, 0, len(silent))

    async def all(self) -> list[BegunFlush]:
        """Return the flushes that are being carried out, the oldest first."""
        flushes, run = self._store.flushes, self._store.run_in_thread
        return [
            BegunFlush(
                name, title(one), one.at, await run(flushes.load_progress, name), len(await flushes.silent(name))
            )
            for name, one in sorted(flushes.active.items())
        ]


def _has(wanted: Flush, account: Account) -> bool:
    """Return whether the tiles of an account belong to a flush of whole levels."""
    known = account.stack.count("/") == 3
    return known and wanted.has(Tile(account.stack, account.time, account.level, 0, 0, 0))


def _areas(spec: JobSpec, planes: tuple[Plane, ...], entry: CatalogueEntry) -> dict[tuple[Plane, int], Area]:
    """Return the tiles that show a voxel of a box, by plane and level."""
    areas: dict[tuple[Plane, int], Area] = {}
    for plane in planes:
        try:
            stack = entry.stack(ImageBase(spec.token, plane, ()))
        except CannotDisplay as error:
            raise BadJob(str(error)) from None
        for level in entry.dataset.levels:
            found = part(stack, 0, level, spec.region)
            if isinstance(found, Block):
                spans = ((one.start, one.stop) for one in (found.rows, found.cols, found.slices))
                areas[plane, level] = Area(*spans)
    return areas


def title(wanted: Flush) -> str:
    """Return what a flush covers, for people."""
    words = [wanted.token + ("/" + ",".join(wanted.channels) if wanted.channels else "")]
    first, last = wanted.levels
    if wanted.levels != (0, None):
        words.append(f"levels {first}-{'' if last is None else last}")
    if set(wanted.planes) != set(Plane):
        words.append(",".join(plane.value for plane in wanted.planes))
    if wanted.times is not None:
        words.append("times {}-{}".format(*wanted.times))
    if wanted.areas is not None:
        words.append("a box")
    return " ".join(words)
