"""The run of one job: its cuboids are brought into the cache, and it is checked that they are there.

Some cuboids are fetched side by side, in the lane that comes last. Each goes through the same fetches as a viewer's
miss (`cache.fetches`), so a cuboid that somebody else is fetching is not fetched again, and one whose tiles are all
stored costs a few `stat`. What fails is noted and left behind; one bad cuboid does not hold up the others.

A run makes space for itself by evicting what has not been used since the job began, and stops when there is no such
tile any more. Tiles that it finds stored count as used now. When the last cuboid is done all of them are looked at
again, and what was evicted or could not be stored is fetched once more. A job is *done* only when everything is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import islice
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from ocpproxy.concurrency.gather import gather
from ocpproxy.concurrency.work import Lane, working_for
from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.index.jobs import Failure
from ocpproxy.jobs.plan import Plan
from ocpproxy.jobs.progress import JobProgress, Outcome
from ocpproxy.model.stack import Cuboid, Tile
from ocpproxy.store.space.usage import Usage
from ocpproxy.upstream.base import UpstreamBusy, UpstreamFailure, UpstreamSlow
from ocpproxy.upstream.breaker import NotAsked, UpstreamResting

_FEW_FAILURES = 20
"""Failures that never stop a job."""
_IN_A_ROW = 5
"""Failures in a row after which a job waits for a while: the upstream seems to be down."""
_LONGEST_PAUSE = 30.0
_LONGEST_REST = 600.0
"""Seconds that a cuboid waits for an upstream that is left alone."""
_PAUSES = (3.0, 15.0)
"""Seconds before a cuboid is asked for again whose upstream was busy or slow."""
_LOOK_AGAIN = 0.5
"""Seconds between two looks for space."""
_CHECKS = 3
"""How often what is missing at the end is fetched again."""
_CHECKED_AT_A_TIME = 64
"""Cuboids whose tiles are looked at in one go at the end."""
_LARGE_TILE = 512 * 512
"""Bytes of a tile, for which space is made; more when a larger one has been seen."""
_INERTIA = 0.9
"""The share of earlier cuboids in the rate."""


class Stopped(Exception):
    """The job stops, and can be resumed. The message says why, for people."""


class Fills(Protocol):
    """The fetches, as a run sees them."""

    async def fill(self, cuboid: Cuboid) -> bool:
        """Fetch a cuboid unless it is stored, and return when its tiles are."""


class Tiles(Protocol):
    """The store, as a run sees it."""

    async def sizes(self, tiles: Sequence[Tile]) -> dict[Tile, int]:
        """Return the bytes of those tiles that are stored."""

    def note_use(self, tile: Tile) -> None:
        """Note that a tile is used now."""


class Space(Protocol):
    """The evictor, as a run sees it."""

    def hold_space(self, wanted: Usage, unused_since: float) -> AbstractAsyncContextManager[bool]:
        """Keep space for the time of a block, made of what was not used since then; yield whether there is any."""


@dataclass(frozen=True)
class RunContext:
    """Dependencies of runs."""

    fetches: Fills
    store: Tiles
    space: Space
    clock: IReactorTime
    now: Callable[[], float]
    """Returns the seconds since 1970."""


class Run:
    """The run of one job in this process.

    :param width: cuboids side by side.
    """

    def __init__(self, name: str, plan: Plan, progress: JobProgress, width: int, context: RunContext) -> None:
        self.plan = plan
        self.progress = progress
        self.outcome = Outcome()
        self._name = name
        self._width = width
        self._context = context
        self._clock = context.clock
        self._next_begin = 0.0
        self._failed_in_a_row = 0
        self._stopped: Stopped | None = None
        self._failures: set[str] = set()
        """The names of cuboids that have failed."""
        self._open: set[int] = set()
        self._ended: list[int] = []
        self._last_end = self._clock.seconds()
        self._tile_bytes = _LARGE_TILE

    async def run(self, failed: Iterable[str]) -> None:
        """Bring everything into the cache.

        :param failed: the names of cuboids that have failed already.
        :raises Stopped: a limit was reached.
        """
        self._failures = set(failed)
        with working_for(self._name, Lane.PREFETCH):
            self.progress.checking = False
            await self._fetch_all(self.plan.cuboids(self.progress.position), self._end)
            self.progress.checking = True
            for _ in range(_CHECKS):
                missing = await self._missing()
                if not missing:
                    self.progress.checking = False
                    return
                self.progress.done -= len(missing)
                await self._fetch_all(((-1, cuboid) for cuboid in missing), lambda _: None)
            for cuboid in await self._missing():
                self._note_failure(cuboid, "not stored", "it was evicted again")
            self.progress.checking = False

    # -- side by side

    async def _fetch_all(self, cuboids: Iterator[tuple[int, Cuboid]], end: Callable[[int], None]) -> None:
        await gather([self._work(cuboids, end) for _ in range(self._width)])
        if self._stopped is not None:
            raise self._stopped

    async def _work(self, cuboids: Iterator[tuple[int, Cuboid]], end: Callable[[int], None]) -> None:
        """Bring one cuboid after another. When one reaches a limit, the others that are on their way are finished."""
        while self._stopped is None and (found := next(cuboids, None)) is not None:
            number, cuboid = found
            self._open.add(number)
            try:
                await self._bring(cuboid)
            except Stopped as stopped:
                self._stopped = self._stopped or stopped
                return
            self.progress.done += 1
            end(number)

    def _end(self, number: int) -> None:
        """Note that a cuboid is done: the position is the first one that is not."""
        self._open.discard(number)
        heappush(self._ended, number)
        first_open = min(self._open, default=self.progress.cuboids)
        while self._ended and self._ended[0] < first_open:
            self.progress.position = heappop(self._ended) + 1

    async def _bring(self, cuboid: Cuboid) -> None:
        progress, tiles = self.progress, cuboid.tiles()
        stored = await self._context.store.sizes(tiles)
        for tile in stored:  # else they might be what goes for the others
            self._context.store.note_use(tile)
        if len(stored) == len(tiles):
            progress.cached += 1
            return
        self._check_limits()
        await self._wait_for_turn()
        try:
            sizes = await self._fill_patiently(cuboid, len(tiles) - len(stored))
            if len(sizes) < len(tiles):
                raise _NotStored(f"{len(tiles) - len(sizes)} of its {len(tiles)} tiles could not be stored")
        except (UpstreamFailure, _NotStored) as failure:
            await self._failed(cuboid, failure)
            return
        self._failed_in_a_row = 0
        progress.fetched += 1
        new = sum(size for tile, size in sizes.items() if tile not in stored)
        progress.bytes += new
        self._tile_bytes = max(self._tile_bytes, *sizes.values())
        self._measure()

    async def _fill_patiently(self, cuboid: Cuboid, missing: int) -> dict[Tile, int]:
        """Fetch a cuboid; when the upstream is busy or slow, for viewers come first, try again a while later."""
        for pause in _PAUSES:
            try:
                return await self._fill_when_asked(cuboid, missing)
            except (UpstreamBusy, UpstreamSlow) as failure:
                await deferLater(self._clock, min(max(pause, failure.retry_after or 0), _LONGEST_PAUSE))
        return await self._fill_when_asked(cuboid, missing)

    async def _fill_when_asked(self, cuboid: Cuboid, missing: int) -> dict[Tile, int]:
        """Fetch a cuboid; while its upstream is left alone, wait: that says nothing about this cuboid."""
        until = self._clock.seconds() + _LONGEST_REST
        while True:
            try:
                return await self._fill(cuboid, missing)
            except NotAsked as failure:
                raise Stopped(str(failure)) from None
            except UpstreamResting as failure:
                if self._clock.seconds() > until:
                    raise
                await deferLater(self._clock, max(failure.retry_after or 0, _LOOK_AGAIN))
                self._check_limits()

    async def _fill(self, cuboid: Cuboid, missing: int) -> dict[Tile, int]:
        """Fetch a cuboid into space that is there for it; return the bytes of its tiles that are stored."""
        context, wanted = self._context, Usage(missing, missing * self._tile_bytes)
        while True:
            try:
                async with context.space.hold_space(wanted, self.progress.began) as enough:
                    if not enough:
                        raise Stopped("the cache is full of what was used since the job began")
                    await context.fetches.fill(cuboid)
                    return await context.store.sizes(cuboid.tiles())
            except DatabaseUnavailable:  # nobody can tell what may be evicted
                await deferLater(self._clock, _LOOK_AGAIN)

    def _measure(self) -> None:
        now = self._clock.seconds()
        rate = 1 / max(now - self._last_end, 1e-3)
        self._last_end = now
        # Cuboids end in bursts, so the mean is taken of the seconds and not of the rates.
        before = self.progress.rate or rate
        self.progress.rate = 1 / (_INERTIA / before + (1 - _INERTIA) / rate)

    # -- limits

    def _check_limits(self) -> None:
        """Stop when a limit of the job is reached."""
        spec, progress = self.plan.spec, self.progress
        if progress.deadline and self._context.now() >= progress.deadline:
            raise Stopped(f"it is {spec.until}")
        stored = progress.bytes - progress.bytes_before
        if spec.max_bytes is not None and stored >= spec.max_bytes:
            raise Stopped(f"{stored} bytes have been stored, and {spec.max_bytes} were allowed")
        failed, done = progress.failed - progress.failed_before, progress.done - progress.done_before
        if failed >= _FEW_FAILURES and failed > spec.fail_budget * max(done, 1):
            raise Stopped(f"{failed} of {done} cuboids failed, and {spec.fail_budget:.1%} were allowed")

    async def _wait_for_turn(self) -> None:
        """Wait until the rate allows another cuboid."""
        rate = self.plan.spec.rate
        if rate:
            now = self._clock.seconds()
            self._next_begin = max(now, self._next_begin + 1 / rate)
            if self._next_begin > now:
                await deferLater(self._clock, self._next_begin - now)

    async def _failed(self, cuboid: Cuboid, failure: Exception) -> None:
        self._note_failure(cuboid, getattr(failure, "fault", "not stored"), str(failure))
        self._failed_in_a_row += 1
        excess = self._failed_in_a_row - _IN_A_ROW
        if excess >= 0:
            await deferLater(self._clock, min(2.0 ** min(excess, 8), _LONGEST_PAUSE))

    def _note_failure(self, cuboid: Cuboid, fault: str, reason: str) -> None:
        name = cuboid.name
        if name not in self._failures:
            self._failures.add(name)
            self.progress.failed += 1
        self.outcome.mended.pop(name, None)
        self.outcome.failures[name] = Failure(name, f"{fault}: {reason}", self._context.now())

    # -- the check

    async def _missing(self) -> list[Cuboid]:
        """Return the cuboids of which a tile is not there, and that have not failed; what is there has not failed."""
        missing: list[Cuboid] = []
        cuboids = self.plan.cuboids()
        while some := [cuboid for _, cuboid in islice(cuboids, _CHECKED_AT_A_TIME)]:
            stored = await self._context.store.sizes([tile for cuboid in some for tile in cuboid.tiles()])
            for cuboid in some:
                complete = all(tile in stored for tile in cuboid.tiles())
                if complete and self._failures and cuboid.name in self._failures:
                    self._failures.discard(cuboid.name)
                    self.progress.failed -= 1
                    self.outcome.failures.pop(cuboid.name, None)
                    self.outcome.mended[cuboid.name] = None
                elif not complete and cuboid.name not in self._failures:
                    missing.append(cuboid)
        return missing


class _NotStored(Exception):
    """The tiles of a cuboid are not stored, though it was fetched."""
