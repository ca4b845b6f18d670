"""Misses: a cuboid is fetched once, however many viewers and processes ask for its tiles.

The first miss starts the flight of the cuboid; later ones join it. The flight

1. takes the cuboid's lease, so that no other process fetches it too. While another process has it, the flight looks for
   the files that that one stores. Without the index there are no leases, and the flight goes on without one;
2. waits for a slot among the flights of this upstream, which bounds the memory that voxels take; clients take slots in
   turn, and the queue has an end;
3. looks again, for somebody may just have stored the tiles;
4. asks the upstream for the voxels;
5. renders, and delivers from memory, the tiles that somebody waits for, then the others; stores them meanwhile;
6. releases the lease.

Between the last byte of the voxels and the answer to a waiter there is only unpacking and one render. Everything that
other processes can see of a flight is there before its lease is released: so a process that gets the lease and looks
again need not fetch. A failure reaches everyone who waits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast
from weakref import WeakKeyDictionary

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from ocpproxy.cache import chunks
from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.cache.colourings import Colourings
from ocpproxy.cache.course import Course
from ocpproxy.cache.entries import DatasetSource
from ocpproxy.cache.fetch_times import FetchTimes
from ocpproxy.cache.lookup import EncodedTile, Found, Result, TileLookup
from ocpproxy.cache.rendering import CuboidFlight, CuboidRenderer, RenderThreads
from ocpproxy.cache.shared_cutouts import SharedCutouts
from ocpproxy.concurrency import generation
from ocpproxy.concurrency.fairness import FairSemaphore, TooManyWaiting
from ocpproxy.concurrency.single_flight import SingleFlight
from ocpproxy.concurrency.work import Claim, Lane
from ocpproxy.index.database import DatabaseUnavailable, OutcomeUnknown
from ocpproxy.index.leases import LeaseHolder
from ocpproxy.log import Logger
from ocpproxy.metrics import Metrics
from ocpproxy.model.chunks import AnyCuboid
from ocpproxy.model.dataset import Cutout, Dataset
from ocpproxy.model.stack import Cuboid, Tile
from ocpproxy.store.flushing.flush import Flush
from ocpproxy.store.provenance import Provenance
from ocpproxy.store.tile_store import Pictures
from ocpproxy.upstream import trail
from ocpproxy.upstream.base import OutOfRange, Picture, UnknownToken, Upstream, UpstreamBusy, UpstreamFailure
from ocpproxy.upstream.breaker import UpstreamResting

_POLL_INTERVALS = (0.01, 0.05)
"""Seconds between two looks for the files of another process: at first, and at most."""
_RETRY_LEASE_EVERY = 0.25
_MOST_WAITING = 4096
"""Flights that wait for the slots of one upstream; an eighth of them for one client."""
_RETRY_AFTER = 5.0
"""Seconds after which a client who was turned away may ask again."""


class KnownFlushes(Protocol):
    """What this process knows of flushes (`store.flushing.flushes`)."""

    looked: float
    """When it looked last, in seconds since 1970: what is asked for now counts as made then."""
    generation: int
    """The number of flushes that it has seen."""

    def forgets(self, tile: Tile, made: float) -> bool:
        """Return whether a tile that was made at that time must not be kept."""


class TileWriter(Protocol):
    """A store, as fetches see it."""

    @property
    def flushes(self) -> KnownFlushes:
        """The flushes of the store."""

    async def store(self, pictures: Pictures, origin: Provenance) -> int:
        """Store the tiles of this origin that there is space for; return how many are new."""

    async def sizes(self, tiles: Sequence[Tile]) -> Mapping[Tile, int]:
        """Return the bytes of those tiles that are stored."""

    async def keep_validators(self, tile: Tile, validators: Mapping[str, str]) -> None:
        """Keep an upstream's validators with a stored tile."""

    async def read_with_validators(self, tile: Tile) -> tuple[bytes, Mapping[str, str]] | None:
        """Return a tile and its validators; None when either is missing."""


@dataclass(frozen=True)
class FetchContext:
    """Dependencies of fetches."""

    catalogue: Catalogue
    cutouts: SharedCutouts
    threads: RenderThreads
    clock: IReactorTime
    metrics: Metrics
    times: FetchTimes


class CuboidFetches(Service):
    """The fetches of cuboids that are in progress."""

    _log = Logger()

    def __init__(self, lookup: TileLookup, store: TileWriter, leases: LeaseHolder, context: FetchContext) -> None:
        self._lookup = lookup
        self._store = store
        self._leases = leases
        self._catalogue = context.catalogue
        self._cutouts = context.cutouts
        self._threads = context.threads
        self._clock = context.clock
        self._metrics = context.metrics
        self._times = context.times
        self._slots: WeakKeyDictionary[DatasetSource, FairSemaphore] = WeakKeyDictionary()
        self._colourings = Colourings(context.clock)
        self._flights: SingleFlight[AnyCuboid, Tile | None, Found | None] = SingleFlight(
            self._fly, context.clock, forget=(UpstreamResting,)
        )

    def stopService(self) -> Deferred[None]:
        """Cancel flights that have received nothing yet, and finish the others."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._flights.stop()
        await self._cutouts.stop()

    def detach(self, flush: Flush) -> None:
        """Let nobody else join the flights whose tiles belong to a flush: they answer their waiters and store nothing.

        Who asks for such a tile from now on gets a new flight, for voxels that are read again.
        """
        self._flights.detach(lambda cuboid: any(map(flush.part.has, cuboid.tiles())))

    def is_flying(self, cuboid: AnyCuboid) -> bool:
        """Return whether the cuboid is being fetched."""
        return self._flights.is_flying(cuboid)

    async def fetch(self, cuboid: AnyCuboid, tile: Tile) -> Found:
        """Return a tile of the cuboid, by a new flight or the one that is in progress.

        :raises UpstreamFailure: the upstream did not give the voxels.
        """
        shared = self._flights.is_flying(cuboid)
        joined = self._flights.join(cuboid, tile)
        rendered_ahead = shared and joined.called
        found = cast(Found, await joined)
        if rendered_ahead and not self._store.flushes.forgets(tile, found.tile.modified):
            self._lookup.remember(tile, found.tile)  # when it was delivered nobody waited for it
        return Found(found.tile, Result.COLLAPSED, found.timing) if shared else found

    async def fill(self, cuboid: AnyCuboid) -> bool:
        """Fetch the cuboid unless it is stored, and return when all its tiles are that there is space for.

        Return whether anything was missing.

        :raises UpstreamFailure: the upstream did not give the voxels.
        """
        if not self._flights.is_flying(cuboid) and await self._is_stored(cuboid):
            return False
        await self._flights.join(cuboid, None)
        return True

    async def _is_stored(self, cuboid: AnyCuboid) -> bool:
        tiles = cuboid.tiles()
        return len(await self._store.sizes(tiles)) == len(tiles)

    def expected_seconds(self, dataset: Dataset) -> float:
        """Return how long the upstream of a dataset takes for a cuboid, as `FetchTimes.expected`."""
        return self._times.expected(self._catalogue.source_of(dataset))

    def is_resting(self, dataset: Dataset) -> bool:
        """Return whether the upstream of a dataset is not asked for voxels now."""
        return self._catalogue.source_of(dataset).is_resting(dataset.token)

    def slots_of(self, dataset: Dataset) -> tuple[int, int, int]:
        """Return how many slots of the upstream of a dataset are taken, how many there are, and how many wait."""
        source = self._catalogue.source_of(dataset)
        slots = self._slots.get(source)
        return (0, source.flights, 0) if slots is None else (slots.taken, slots.limit, len(slots))

    @property
    def waiters(self) -> int:
        """How many requests wait for a tile."""
        return self._flights.waiters

    def __len__(self) -> int:
        return len(self._flights)

    # -- a flight

    async def _fly(self, flight: CuboidFlight) -> None:
        source = self._catalogue.source_of(flight.key.stack.dataset)
        began = self._clock.seconds()
        try:
            async with AsyncExitStack() as held:
                lease, slot = self._lease(flight, source.patience), self._slot(flight, source)
                # What is done ahead may wait long for a slot: nobody else is to wait for its lease meanwhile.
                interactive = flight.work.lane is Lane.INTERACTIVE
                for one in (lease, slot) if interactive else (slot, lease):
                    await held.enter_async_context(one)
                await self._deliver_stored(flight)
                if flight.waiting_items():
                    with generation.as_current(self._store.flushes.generation):
                        await self._fetch(flight, source, began)
        except UpstreamFailure as failure:
            if not isinstance(failure, UpstreamResting):
                self._times.note(flight.key, self._clock.seconds() - began, failure.outcome)
            self._log.warn(
                "{cuboid}: {outcome}: {reason}", cuboid=flight.key.name, outcome=failure.outcome, reason=str(failure)
            )
            raise

    async def _fetch(self, flight: CuboidFlight, source: DatasetSource, began: float) -> None:
        cuboid, upstream = flight.key, source.upstream
        course = Course(Provenance(self._store.flushes.looked), began, self._clock.seconds())
        if await self._fetch_ready_made(flight, upstream, course):
            self._finish(flight, course)
            return
        try:
            fetched = await self._cutouts.fetch(upstream, cuboid.cutouts())
        except (OutOfRange, UnknownToken):
            self._catalogue.refresh(cuboid.stack.dataset.token)  # its description is out of date
            raise
        flight.progress.report()
        course.answered = self._clock.seconds()
        homes = dict.fromkeys(one.home for one in fetched if one is not None)
        course.origin = course.origin._replace(home=",".join(homes))
        self._times.note_answer(source, course.answered - course.asked)
        voxels = [None if one is None else one.voxels for one in fetched]
        renderer = CuboidRenderer(flight, voxels, self._threads, partial(self._deliver, flight, course))
        stored = not isinstance(cuboid, Cuboid) or self._colourings.is_stored(cuboid.stack)
        async with renderer:
            async for pictures in renderer.pictures():
                if stored:
                    await self._store.store(pictures, course.origin)
        self._finish(flight, course)

    def _finish(self, flight: CuboidFlight, course: Course) -> None:
        """Note that all tiles are stored that there is space for."""
        now = self._clock.seconds()
        for stage, seconds in course.stages(now).items():
            self._metrics.miss_seconds.labels(stage).observe(seconds)
        self._times.note(flight.key, now - course.began)
        flight.deliver(None, None)

    async def _fetch_ready_made(self, flight: CuboidFlight, upstream: Upstream, course: Course) -> bool:
        """Deliver and store the cuboid's only tile or chunk as the upstream has it; return False when it has none."""
        cuboid = flight.key
        if isinstance(cuboid, Cuboid):
            cutout = cuboid.picture_cutout()
            return cutout is not None and await self._fetch_picture(flight, upstream, cutout, course)
        cutout = cuboid.native_cutout()
        if cutout is None:
            return False
        (tile,) = cuboid.tiles()
        with trail.recorded() as asked:
            body = await upstream.chunk(cutout)
        self._answered(flight, course, asked)
        content: bytes = await self._threads.urgent(chunks.native, cuboid, body, tile)
        self._deliver(flight, course, tile, content)
        await self._store.store([(tile, content)], course.origin)
        return True

    def _answered(self, flight: CuboidFlight, course: Course, asked: trail.Trail) -> None:
        """Note that something ready-made has arrived, and from which home."""
        flight.progress.report()
        course.answered = self._clock.seconds()
        course.origin = course.origin._replace(home=",".join(asked.homes))

    async def _fetch_picture(self, flight: CuboidFlight, upstream: Upstream, cutout: Cutout, course: Course) -> bool:
        """Deliver and store the cuboid's only tile as the upstream draws it; return False when it does not."""
        (tile,) = flight.key.tiles()
        earlier = None
        for stack in flight.key.stack.earlier_epochs():
            stored = await self._store.read_with_validators(tile._replace(stack=stack.name))
            if stored is not None:
                earlier = Picture(*stored)
                break
        with trail.recorded() as asked:
            picture = await upstream.picture(cutout, earlier)
        if picture is None:
            return False
        self._answered(flight, course, asked)
        self._deliver(flight, course, tile, picture.body)
        if await self._store.store([(tile, picture.body)], course.origin) and picture.validators:
            await self._store.keep_validators(tile, picture.validators)
        return True

    def _deliver(self, flight: CuboidFlight, course: Course, tile: Tile, picture: bytes) -> None:
        """Deliver a tile; one that somebody waits for, and that was not flushed meanwhile, stays in memory."""
        (made, home), now = course.origin, self._clock.seconds()
        course.rendered = now if course.rendered is None else course.rendered
        encoded = EncodedTile.of(tile, picture, made, home)
        if flight.is_waited_for(tile) and not self._store.flushes.forgets(tile, made):
            self._lookup.remember(tile, encoded)
        flight.deliver(tile, Found(encoded, Result.MISS, course.timing(now)))

    async def _deliver_stored(self, flight: CuboidFlight, result: Result = Result.HIT_DISK) -> None:
        """Deliver the tiles that are stored by now."""
        for tile in flight.waiting_items():
            if tile is None:
                if await self._is_stored(flight.key):
                    flight.deliver(None, None)
                continue
            found = await self._lookup.find(tile)
            if found is not None:
                flight.deliver(tile, Found(found.tile, result))

    @asynccontextmanager
    async def _slot(self, flight: CuboidFlight, source: DatasetSource) -> AsyncIterator[None]:
        """Hold one of the slots of an upstream for the time of a block."""
        slots = self._slots.get(source)
        if slots is None:
            kept = source.flights // 2 + 1
            slots = self._slots[source] = FairSemaphore(source.flights, self._clock, most=_MOST_WAITING, kept=kept)
        waiting = slots.acquire()
        if flight.work.lane is not Lane.PREFETCH:  # a job waits until the viewers have gone
            waiting.addTimeout(source.patience, self._clock, _too_busy)
        try:
            claim = await waiting
        except TooManyWaiting as error:
            raise UpstreamBusy(f"no slot for another cuboid: {error}", _RETRY_AFTER) from None
        try:
            yield
        finally:
            slots.release(claim)

    # -- the lease

    @asynccontextmanager
    async def _lease(self, flight: CuboidFlight, patience: float) -> AsyncIterator[None]:
        """Hold the cuboid's lease for the time of a block.

        The block runs without it when the index is unavailable, or when another process has stored the tiles.
        """
        name = flight.key.name
        ours = await self._acquire_or_wait(name, flight, patience)
        try:
            yield
        finally:
            if ours:
                await self._leases.release(name)

    async def _acquire_or_wait(self, name: str, flight: CuboidFlight, patience: float) -> bool:
        """Return whether the lease is ours."""
        pause, longest = _POLL_INTERVALS
        began = asked = self._clock.seconds()
        try:
            if await self._leases.acquire(name):
                return True
            while flight.waiting_items() and self._clock.seconds() - began < patience:
                await deferLater(self._clock, pause)
                pause = min(pause * 1.5, longest)
                await self._deliver_stored(flight, Result.COLLAPSED)
                if flight.waiting_items() and self._clock.seconds() - asked >= _RETRY_LEASE_EVERY:
                    asked = self._clock.seconds()
                    if await self._acquire_again(name):
                        return True
        except DatabaseUnavailable as error:
            self._log.debug("{cuboid} is fetched without a lease: {reason}", cuboid=name, reason=str(error))
        return False

    async def _acquire_again(self, name: str) -> bool:
        """Return whether a lease that another process had is ours; as long as nobody can tell, it is the other's."""
        try:
            return await self._leases.acquire(name)
        except OutcomeUnknown:
            return False


def _too_busy(_: object, patience: float) -> Claim:
    raise UpstreamBusy(f"no slot for another cuboid within {patience:g} s", _RETRY_AFTER)
