"""A cuboid's voxels become its tiles, or its chunks: those that somebody waits for first.

The tiles that somebody waits for are rendered before all others, each as soon as somebody asks for it, and are
delivered from memory. The others are begun when those have been delivered, a few at a time: sending answers needs the
processor too. What is made is stored while the rest is made.

A cuboid with all its pictures takes ten megabytes, so nothing of it may be left to the garbage collector, which comes
late. A `CuboidRenderer` is in a cycle with its flight only within its ``async with`` block.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred, DeferredQueue

from ocpproxy.cache import chunks
from ocpproxy.cache.lookup import Found
from ocpproxy.concurrency.single_flight import Flight
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.imagery.drawing import draw
from ocpproxy.model.chunks import AnyCuboid
from ocpproxy.model.stack import Cuboid, Tile
from ocpproxy.model.voxels import Voxels
from ocpproxy.store.tile_store import Pictures

CuboidFlight = Flight[AnyCuboid, Tile | None, Found | None]
"""The flight of a cuboid. Who waits for its item None waits until all tiles are stored that there is space for."""
_AHEAD_BATCH = 4
"""Tiles that nobody waits for, rendered by one job: two milliseconds of work."""
_TAKEN = object()


@dataclass(frozen=True, slots=True)
class RenderThreads:
    """Threads in which renders run, by priority."""

    urgent: RunInThread
    """For tiles that somebody waits for."""
    ahead: RunInThread
    """For tiles that nobody waits for yet."""


def _draw(
    cuboid: AnyCuboid, voxels: Sequence[Voxels | None], left: dict[Tile, None], tiles: Sequence[Tile]
) -> Pictures:
    """Take those of the tiles that are left out of `left`, and return their pictures. (In a thread.)"""
    return [(tile, _make(cuboid, voxels, tile)) for tile in tiles if left.pop(tile, _TAKEN) is not _TAKEN]


def _make(cuboid: AnyCuboid, voxels: Sequence[Voxels | None], tile: Tile) -> bytes:
    return draw(cuboid, voxels, tile) if isinstance(cuboid, Cuboid) else chunks.encode(cuboid, voxels[0], tile)


class CuboidRenderer:
    """The rendering of all tiles of one cuboid, within an ``async with`` block.

    :param voxels: of each channel that is shown, axes (z, y, x).
    :param deliver: called with each tile and its picture as soon as it is made.
    """

    def __init__(
        self,
        flight: CuboidFlight,
        voxels: Sequence[Voxels | None],
        threads: RenderThreads,
        deliver: Callable[[Tile, bytes], None],
    ) -> None:
        self._flight = flight
        self._voxels = voxels
        self._threads = threads
        self._deliver = deliver
        self._left = dict.fromkeys(flight.key.tiles())
        self._unmade = len(self._left)  # threads take from what is left at any time
        self._made: DeferredQueue[Any] = DeferredQueue()  # Pictures, or a Failure
        self._jobs: set[Deferred[Any]] = set()

    async def __aenter__(self) -> None:
        """Start to render."""
        self._flight.on_item_wanted(self._wanted)
        self._render_ahead()

    async def __aexit__(self, *_: object) -> None:
        """Drop what is not rendered yet."""
        self._flight.on_item_wanted(None)
        self._left.clear()
        for job in list(self._jobs):
            job.cancel()

    async def pictures(self) -> AsyncIterator[Pictures]:
        """Yield all pictures, each time as many as have been made since the last time."""
        while self._unmade > 0:
            made: Pictures = await self._made.get()
            while self._made.pending:
                made = made + await self._made.get()
            if made:
                self._unmade -= len(made)
                yield made

    def _wanted(self, tile: Tile | None) -> None:
        if tile is not None and tile in self._left:
            self._start(self._threads.urgent, [tile])

    def _render_ahead(self) -> None:
        if self._left and not self._jobs:
            self._start(self._threads.ahead, list(islice(self._left, _AHEAD_BATCH)))

    def _start(self, run: RunInThread, tiles: list[Tile]) -> None:
        with self._flight.work.as_current():  # this may be called by the reactor, which works for nobody
            job: Deferred[Any] = run(_draw, self._flight.key, self._voxels, self._left, tiles)
        self._jobs.add(job)
        job.addCallback(self._finished).addErrback(self._made.put).addCallback(self._ended, job)

    def _finished(self, made: Pictures) -> None:
        for tile, picture in made:
            self._deliver(tile, picture)
        self._made.put(made)

    def _ended(self, _: object, job: Deferred[Any]) -> None:
        self._jobs.discard(job)
        self._render_ahead()
