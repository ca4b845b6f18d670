"""A cuboid's voxels become its tiles: what somebody waits for first, and what is made is stored while the rest is made.

The awaited tiles are rendered in a lane of their own, each as soon as somebody asks for it, and answered from memory.
The others are begun when those have been answered, and a few at a time: sending answers needs the processor too.

A cuboid with all its pictures takes ten megabytes, so nothing of it may be left to the garbage collector, which comes
when it likes: a `CuboidRenderer` is in a cycle with its flight for the time of its ``with`` block only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred, DeferredQueue

from ocpproxy.cache.lookup import Result, TileAnswer, ready
from ocpproxy.concurrency.single_flight import Flight
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.imagery.drawing import draw
from ocpproxy.model.stack import Cuboid, Tile
from ocpproxy.model.voxels import Voxels

Pictures = list[tuple[Tile, bytes]]

_AHEAD_AT_ONCE = 4
"""Tiles that nobody waits for, made by one thread at a time: two milliseconds' work."""
_GONE = object()


def _draw(cuboid: Cuboid, voxels: Sequence[Voxels | None], left: dict[Tile, None], some: Sequence[Tile]) -> Pictures:
    """The pictures of those of the tiles that are still left, which they are not any more. (In a thread.)"""
    return [(tile, draw(cuboid, voxels, tile)) for tile in some if left.pop(tile, _GONE) is not _GONE]


class CuboidRenderer:
    """The making of all tiles of one cuboid, within an ``async with`` block.

    :param voxels: of each channel that is shown, axes (z, y, x).
    :param render: makes in a thread what somebody waits for.
    :param ahead: makes in a thread what nobody waits for yet.
    :param seconds: the time.
    """

    def __init__(
        self,
        flight: Flight[Cuboid, Tile, TileAnswer],
        voxels: Sequence[Voxels | None],
        render: RunInThread,
        ahead: RunInThread,
        seconds: Callable[[], float],
    ) -> None:
        self._flight = flight
        self._voxels = voxels
        self._render = render
        self._ahead = ahead
        self._seconds = seconds
        self._left = dict.fromkeys(flight.key.tiles())
        self._missing = len(self._left)  # threads take from what is left at any time
        self._made: DeferredQueue[Any] = DeferredQueue()  # Pictures, or a Failure
        self._work: set[Deferred[Any]] = set()

    async def __aenter__(self) -> None:
        """Begin."""
        self._flight.on_item_wanted(self._asked)
        self._go_on()

    async def __aexit__(self, *_: object) -> None:
        """End, whether or not all is made."""
        self._flight.on_item_wanted(None)
        self._left.clear()
        for one in list(self._work):
            one.cancel()

    async def pictures(self) -> AsyncIterator[Pictures]:
        """All pictures, as many at a time as have been made while the last ones were looked after."""
        while self._missing > 0:
            some: Pictures = await self._made.get()
            while self._made.pending:
                some = some + await self._made.get()
            if some:
                self._missing -= len(some)
                yield some

    def _asked(self, tile: Tile) -> None:
        if tile in self._left:
            self._begin(self._render, [tile])

    def _go_on(self) -> None:
        if self._left and not self._work:
            self._begin(self._ahead, list(islice(self._left, _AHEAD_AT_ONCE)))

    def _begin(self, lane: RunInThread, some: list[Tile]) -> None:
        making: Deferred[Any] = lane(_draw, self._flight.key, self._voxels, self._left, some)
        self._work.add(making)
        making.addCallback(self._deliver).addErrback(self._made.put).addCallback(self._ended, making)

    def _deliver(self, pictures: Pictures) -> None:
        for tile, picture in pictures:
            self._flight.deliver(tile, TileAnswer(ready(tile, picture, self._seconds()), Result.MISS))
        self._made.put(pictures)

    def _ended(self, _: object, making: Deferred[Any]) -> None:
        self._work.discard(making)
        self._go_on()
