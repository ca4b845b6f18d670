"""Look-ahead: what a viewer will want in a moment is fetched before it is asked for.

Who flies through slices, in any plane and direction, wants the next slab, and whoever zooms wants the next level. The
requests of viewers, hits too, are followed (`tracks`). When a viewer will reach the end of a slab within the time that
a cuboid takes, the cuboids in view of the next slab are fetched, in a lane behind everything that somebody waits for.
When the viewer turns, they are given up, unless their voxels are arriving already. For a viewer who goes to and fro
nothing is fetched far beyond where it used to turn. Where space is short, only tiles go that were not used for a while:
a small cache is no place for what nobody may want.

Requests are only noted when they are answered, for a hit has no time to lose. They are looked at a moment later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from cachetools import LRUCache, TTLCache
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from ocpproxy.cache.eviction import Evictor
from ocpproxy.cache.fetches import CuboidFetches
from ocpproxy.cache.tracks import Track
from ocpproxy.concurrency.work import Lane, working_for
from ocpproxy.metrics import Metrics
from ocpproxy.model.dataset import TILE, CannotDisplay
from ocpproxy.model.stack import Cuboid, Stack, Tile
from ocpproxy.store.space.usage import Usage

_LOOK_AFTER = 0.02
"""Seconds after a request until it is looked at, with those that have come meanwhile."""
_MOST_NOTED = 64
"""Requests that are looked at each time: a flight has three, and thousands of hits a second are not worth following."""
_MOST_VIEWERS = 1000
_TRACKS = 8
"""Viewers of one stack that have the same address."""
_MOST_OF_A_VIEWER = 64
"""Cuboids that are being fetched ahead for one client."""
_MOST = 256
"""Cuboids that are being fetched ahead at all."""
_RENDERING = 0.1
"""Seconds from the voxels to the tiles."""
_LATE, _EARLY, _MOST_LEAD = 1.1, 0.995, 2.5
"""What a cuboid that comes late, or in time, does to how early the next ones are begun."""
_FARTHEST = 512
"""Slices ahead."""
_UNUSED = 4096
"""Cuboids fetched ahead that nobody has wanted yet; of the next one the oldest counts as wasted."""
_SPARED = 600.0
"""Seconds since the last use of a tile in which it is not evicted for what is fetched ahead."""
_WASTED_AFTER = 60.0
"""Seconds after which such a cuboid counts as wasted."""


@dataclass(eq=False)
class _Ahead:
    """A cuboid that is fetched ahead for a track."""

    client: str
    fetch: Deferred[Any]
    in_time: bool
    """True if it was begun as early as it should be."""
    used: bool = False
    """True when somebody asked for it meanwhile."""


@dataclass(frozen=True)
class AheadContext:
    """Dependencies of look-ahead."""

    fetches: CuboidFetches
    space: Evictor
    clock: IReactorTime
    now: Callable[[], float]
    """Returns the seconds since 1970."""


class LookAhead(Service):
    """What is fetched ahead of all viewers of one gateway."""

    def __init__(self, context: AheadContext, metrics: Metrics, *, enabled: bool) -> None:
        self._fetches = context.fetches
        self._space = context.space
        self._clock = context.clock
        self._now = context.now
        self._counted = metrics.lookahead
        self._enabled = enabled
        self._noted: list[tuple[str, Stack, Tile, float]] = []
        self._last_client = ""
        self._last_tile: Tile | None = None
        self._timer: IDelayedCall | None = None
        self._tracks: LRUCache[tuple[str, str, int], list[Track]] = LRUCache(_MOST_VIEWERS)
        self._flying: dict[Track, dict[Cuboid, _Ahead]] = {}
        self._unused: dict[Cuboid, tuple[float, Track]] = {}
        """Cuboids that were fetched ahead, when, and for whom."""
        self._stored: TTLCache[Cuboid, None] = TTLCache(_UNUSED, _WASTED_AFTER, context.clock.seconds)
        """Cuboids that were looked at a moment ago: they are stored, or there was no space."""

    def stopService(self) -> None:
        """Give up everything."""
        super().stopService()
        self._enabled = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for track in list(self._flying):
            self._give_up(track)

    def note(self, client: str, stack: Stack, tile: Tile) -> None:
        """Note that a client has asked for a tile."""
        if not self._enabled or (tile is self._last_tile and client == self._last_client):
            return  # who asks for the same tile again has not moved
        if len(self._noted) < _MOST_NOTED:
            self._last_client, self._last_tile = client, tile
            self._noted.append((client, stack, tile, self._clock.seconds()))
            if self._timer is None:
                self._timer = self._clock.callLater(_LOOK_AFTER, self._look)

    def _look(self) -> None:
        self._timer = None
        noted, self._noted = self._noted, []
        self._last_tile = None
        now = self._clock.seconds()
        moved: dict[Track, str] = {}
        for client, stack, tile, at in noted:
            self._note_use(stack, tile)
            track = self._track(client, stack, tile, at)
            step, finer = track.step, track.finer
            if track.saw(tile, at):
                moved[track] = client
                if track.step * step < 0 or track.finer * finer < 0 or not (track.flies or track.zooms):
                    track.lead = 1.0
                    self._give_up(track)
        for track, client in moved.items():
            self._fetch_ahead(track, client)
        self._forget_unused(now)

    def _track(self, client: str, stack: Stack, tile: Tile, now: float) -> Track:
        """Return the track that a request belongs to."""
        key = (client, stack.name, tile.time)
        tracks = self._tracks.setdefault(key, [])
        near = [track for track in tracks if track.is_near(tile)]
        if near:
            track = min(near, key=lambda one: (abs(one.level - tile.level), abs(one.slice - tile.slice)))
            tracks.remove(track)
        else:
            for other in tracks:  # the viewer has jumped; somebody else's cuboids are begun again with the next step
                self._give_up(other)
            track = Track(stack, tile, now, tracks[-1] if tracks else None)
        track.stack = stack  # another one of the same name may have another upstream, after a reload
        tracks.append(track)
        if len(tracks) > _TRACKS:
            self._give_up(tracks.pop(0))
        return track

    # -- fetching

    def _fetch_ahead(self, track: Track, client: str) -> None:
        try:
            for cuboid, in_time in self._wanted(track):
                flying = self._flying.setdefault(track, {})  # what ends at once is gone from it already
                known = cuboid in flying or cuboid in self._stored or self._fetches.is_flying(cuboid)
                if known or self._is_full(client):
                    continue
                with working_for(client, Lane.LOOKAHEAD):
                    fetch = Deferred.fromCoroutine(self._fill(cuboid))
                flying[cuboid] = _Ahead(client, fetch, in_time)
                fetch.addBoth(partial(self._fetched, track, cuboid))
        except CannotDisplay:
            pass  # a level whose tiles need more voxels than a cuboid may have
        if not self._flying.get(track):
            self._flying.pop(track, None)

    async def _fill(self, cuboid: Cuboid) -> bool:
        """Fetch a cuboid if there is space for it; return whether anything was fetched."""
        if self._fetches.is_resting(cuboid.stack.dataset):
            return False  # nothing would come, and space would have been made in vain
        count = len(cuboid.tiles())
        wanted = Usage(count, count * TILE * TILE)
        async with self._space.hold_space(wanted, self._now() - _SPARED) as enough:
            return enough and await self._fetches.fill(cuboid)

    def _is_full(self, client: str) -> bool:
        of_client = sum(ahead.client == client for flying in self._flying.values() for ahead in flying.values())
        return of_client >= _MOST_OF_A_VIEWER or sum(map(len, self._flying.values())) >= _MOST

    def _wanted(self, track: Track) -> Iterator[tuple[Cuboid, bool]]:
        """Yield the cuboids that the viewer will want within the time that a cuboid takes, and whether that is early.

        When cuboids come late though they were begun early, the next ones are begun earlier.
        """
        if track.zooms:
            for cuboid in self._next_level(track):
                yield cuboid, False
        if not track.flies:
            return
        seconds = self._fetches.expected_seconds(track.stack.dataset) + _RENDERING
        slices = min(int(track.pace * seconds * track.lead) + abs(track.step), _FARTHEST)
        slices = min(slices, track.expected or slices)
        level = track.stack.dataset.levels[track.level]
        through = track.stack.plane.axes[2]
        first, end = level.offset[through], level.end[through]
        for row, col in sorted(track.view):
            at = track.slice
            while first <= at < end and abs(at - track.slice) <= slices:
                cuboid = track.stack.cuboid(Tile(track.stack.name, track.time, track.level, at, row, col))
                if at != track.slice:  # the viewer itself asks for the slab that it is in
                    yield cuboid, abs(at - track.slice) >= slices - abs(track.step)
                begin, after = cuboid.slices
                at = after if track.step > 0 else begin - 1

    def _next_level(self, track: Track) -> Iterator[Cuboid]:
        number, stack = track.level - track.finer, track.stack
        for row, col in sorted(track.view_at_next_level()):
            level, slice_ = stack.dataset.levels[number], track.slice_at(number)
            columns, rows = stack.tiles(level)
            through = stack.plane.axes[2]
            inside = level.offset[through] <= slice_ < level.end[through]
            if inside and 0 <= row < rows and 0 <= col < columns:
                yield stack.cuboid(Tile(stack.name, track.time, number, slice_, row, col))

    def _fetched(self, track: Track, cuboid: Cuboid, outcome: object) -> None:
        flying = self._flying.get(track, {})
        ahead = flying.pop(cuboid, None)
        if ahead is None:
            return
        if not flying:
            del self._flying[track]
        if not isinstance(outcome, Failure):
            self._stored[cuboid] = None
        if ahead.used:
            self._count("used")
        elif isinstance(outcome, Failure):
            self._count("failed")  # whoever wants it will learn why
        elif outcome:
            self._unused[cuboid] = (self._clock.seconds(), track)
            if len(self._unused) > _UNUSED:
                del self._unused[next(iter(self._unused))]
                self._count("wasted")

    def _give_up(self, track: Track) -> None:
        """Drop what is being fetched for a viewer who has turned."""
        for ahead in list(self._flying.pop(track, {}).values()):
            self._count("used" if ahead.used else "given_up")
            ahead.fetch.cancel()

    # -- whether it was worth it

    def _count(self, result: str) -> None:
        self._counted.labels(result).inc()

    def _note_use(self, stack: Stack, tile: Tile) -> None:
        if not (self._unused or self._flying):
            return
        try:
            cuboid = stack.cuboid(tile)
        except CannotDisplay:  # whoever asked for it learns that
            return
        unused = self._unused.pop(cuboid, None)
        if unused is not None:
            self._count("used")
            unused[1].lead = max(1.0, unused[1].lead * _EARLY)
        for track, flying in self._flying.items():
            ahead = flying.get(cuboid)
            if ahead is not None and not ahead.used:
                ahead.used = True
                if ahead.in_time:
                    track.lead = min(_MOST_LEAD, track.lead * _LATE)

    def _forget_unused(self, now: float) -> None:
        for cuboid, (since, _) in list(self._unused.items()):
            if now - since < _WASTED_AFTER:
                break
            del self._unused[cuboid]
            self._count("wasted")
