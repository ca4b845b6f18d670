"""The tile cache: the story of a request.

A **hit** is here already (`ocpproxy.cache.lookup`).

A **miss** belongs to a cuboid. Whoever misses first starts its flight, everyone else boards it. The flight takes the
cuboid's lease, so that no other process fetches it too (another's lease: wait for the files it will store); looks
again, for somebody may just have finished; asks the upstream for the voxels; renders, and answers, the slices that
somebody waits for, then the others; stores meanwhile what is made; gives the lease back. A failure reaches everyone who
waits. Without the index there are no leases, and a flight goes on without one. Between the last byte of the voxels and
the answer to whoever waits there is nothing but unpacking and one render.

Everything that other processes could see of a flight is there before its lease is given back: that is why a process
that gets the lease and looks again need not fetch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ocpproxy.cache.catalogue import Catalogue, CatalogueEntry, DatasetSource
from ocpproxy.cache.lookup import EncodedTile, Result, TileAnswer, TileLookup, ready
from ocpproxy.cache.rendering import CuboidRenderer
from ocpproxy.cache.shared_cutouts import SharedCutouts
from ocpproxy.concurrency.single_flight import Flight, SingleFlight
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.imagery import png
from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.index.leases import Lease
from ocpproxy.model.address import TileAddress
from ocpproxy.model.dataset import Cutout
from ocpproxy.model.stack import Cuboid, Stack, Tile
from ocpproxy.store.rows import Usage
from ocpproxy.upstream.base import (
    OutOfRange,
    Picture,
    UnknownToken,
    Upstream,
    UpstreamBusy,
    UpstreamFailure,
    UpstreamRefused,
)

_LOOK_EVERY = (0.01, 0.05)
"""Seconds between looks for another process's files: first, and at most."""
_ASK_LEASE_EVERY = 0.25


class TileWriter(Protocol):
    """Where tiles are kept."""

    async def write(self, pictures: list[tuple[Tile, bytes]]) -> int:
        """TileWriter tiles; how many were new."""

    async def mark(self, tile: Tile, said: Mapping[str, str]) -> None:
        """Keep with a tile what its upstream said of its version."""

    async def marked(self, tile: Tile) -> tuple[bytes, Mapping[str, str]] | None:
        """A tile with what was kept with it; None when it is not here, or nothing was."""


class Capacity(Protocol):
    """Capacity for storing."""

    def room(self, wanted: Usage) -> AbstractAsyncContextManager[int]:
        """Keeps so many bytes free for the time of a block."""


class TileCache(Service):
    """Tiles by address.

    :param render: makes in a thread what somebody waits for.
    :param render_ahead: makes in a thread what nobody waits for yet.
    """

    _log = Logger()

    def __init__(
        self,
        catalogue: Catalogue,
        hits: TileLookup,
        store: TileWriter,
        leases: Lease,
        room: Capacity,
        cutouts: SharedCutouts,
        render: RunInThread,
        render_ahead: RunInThread,
        clock: IReactorTime,
    ) -> None:
        self._catalogue = catalogue
        self._hits = hits
        self._store = store
        self._leases = leases
        self._room = room
        self._render = render
        self._render_ahead = render_ahead
        self._clock = clock
        self._cutouts = cutouts
        self._turns: dict[DatasetSource, DeferredSemaphore] = {}
        self.fetches: SingleFlight[Cuboid, Tile, TileAnswer] = SingleFlight(self._fly, clock)

    def stopService(self) -> Deferred[None]:
        """Call off what can be called off, and finish the rest."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self.fetches.stop()
        await self._cutouts.stop()
        await self._catalogue.stop()

    # -- a request

    async def tile(self, address: TileAddress, target: bytes | None = None) -> TileAnswer:
        """The tile.

        :param target: the request's target, where it says the tile and nothing else: the next request for it is a
            matter of `TileLookup.by_target`.
        :raises CannotDisplay: there is no such channel or plane.
        :raises NotIndexable: the address is beyond what the index can hold.
        :raises UpstreamFailure: it is not here, and the upstream did not give it.
        """
        token = address.base.token
        known = self._catalogue.at_hand(token) or await self._catalogue.known(token)
        stack, tile = _find(known, address)
        if stack.epoch:
            known = await self._catalogue.renewed(token, known)
            stack, tile = _find(known, address)
        if tile is None:
            return _blank(known, stack)
        try:
            hit, sure = self._hits.at_once(tile), True
        except BlockingIOError:
            hit, sure = None, False
        until = known.until(stack)
        if target is not None:
            self._hits.teach(target, tile, known, until)
        if hit is None:
            hit = await self._missed(stack, tile, sure=sure)
        return hit if until is None or hit.until is not None else replace(hit, until=until)

    async def _missed(self, stack: Stack, tile: Tile, *, sure: bool) -> TileAnswer:
        """A tile that is not here, or of which that is not sure."""
        cuboid = stack.cuboid(tile)
        shared = self.fetches.is_flying(cuboid)
        if not (sure or shared):  # a flight in the air brings it anyway
            hit = await self._hits.find(tile)
            if hit is not None:
                return hit
            shared = self.fetches.is_flying(cuboid)
        try:
            answer = await self.fetches.join(cuboid, tile)
        except (UnknownToken, UpstreamRefused, OutOfRange):
            raise
        except UpstreamFailure as failure:
            old = await self._before(stack, tile)
            if old is None:
                raise
            self._log.warn("{tile} is served as it was before: {reason}", tile=tile, reason=str(failure))
            return old
        self._hits.remember(tile, answer.ready)
        return TileAnswer(answer.ready, Result.COLLAPSED) if shared else answer

    async def _before(self, stack: Stack, tile: Tile) -> TileAnswer | None:
        """The tile of an epoch before, which is better than none, and not to be kept by anybody."""
        for before in stack.earlier_epochs():
            old = await self._hits.find(tile._replace(stack=before.name))
            if old is not None:
                return replace(old, until=self._clock.seconds())
        return None

    async def at_hand(self, address: TileAddress) -> TileAnswer | None:
        """The tile if it is here, and None if it would have to be fetched. Never asks for more than a description.

        :raises CannotDisplay:
        :raises NotIndexable:
        :raises UpstreamFailure: nothing is known of the token.
        """
        known = await self._catalogue.known(address.base.token)
        stack, tile = _find(known, address)
        if tile is None:
            return _blank(known, stack)
        found = await self._hits.find(tile)
        return None if found is None else replace(found, until=known.until(stack))

    # -- a flight

    async def _fly(self, flight: Flight[Cuboid, Tile, TileAnswer]) -> None:
        source = self._catalogue.source(flight.key.stack.dataset.token)
        try:
            async with self._leased(flight, source.patience), self._turn(source):
                await self._look(flight)
                if flight.waiting_items():
                    await self._fetch(flight, source.upstream)
        except UpstreamFailure as failure:
            self._log.warn(
                "{cuboid}: {outcome}: {reason}", cuboid=flight.key.name, outcome=failure.outcome, reason=str(failure)
            )
            raise

    async def _fetch(self, flight: Flight[Cuboid, Tile, TileAnswer], upstream: Upstream) -> None:
        cuboid = flight.key
        drawn = cuboid.picture_cutout()
        if drawn is not None and await self._drawn(flight, upstream, drawn):
            return
        try:
            voxels = await self._cutouts.fetch(upstream, cuboid.cutouts())
        except (OutOfRange, UnknownToken):
            self._catalogue.refresh(cuboid.stack.dataset.token)  # what is known of it is out of date
            raise
        flight.progress.report()
        filling = CuboidRenderer(flight, voxels, self._render, self._render_ahead, self._clock.seconds)
        async with filling:
            async for made in filling.pictures():
                await self._keep(made)

    async def _drawn(self, flight: Flight[Cuboid, Tile, TileAnswer], upstream: Upstream, cutout: Cutout) -> bool:
        """Whether the cuboid's one tile is drawn by the upstream; then it is delivered and stored."""
        (tile,) = flight.key.tiles()
        known = None
        for before in flight.key.stack.earlier_epochs():
            old = await self._store.marked(tile._replace(stack=before.name))
            if old is not None:
                known = Picture(*old)
                break
        picture = await upstream.picture(cutout, known)
        if picture is None:
            return False
        flight.progress.report()
        flight.deliver(tile, TileAnswer(ready(tile, picture.body, self._clock.seconds()), Result.MISS))
        if await self._keep([(tile, picture.body)]) and picture.validators:
            await self._store.mark(tile, picture.validators)
        return True

    @asynccontextmanager
    async def _turn(self, source: DatasetSource) -> AsyncIterator[None]:
        """One of the places that an upstream has, so that not all of memory is voxels."""
        places = self._turns.setdefault(source, DeferredSemaphore(source.flights))
        await places.acquire().addTimeout(source.patience, self._clock, _too_busy)
        try:
            yield
        finally:
            places.release()

    @asynccontextmanager
    async def _leased(self, flight: Flight[Cuboid, Tile, TileAnswer], patience: float) -> AsyncIterator[None]:
        """The cuboid's lease; or none, when the index is away or another process has delivered meanwhile."""
        name = flight.key.name
        ours = await self._take_or_wait(name, flight, patience)
        try:
            yield
        finally:
            if ours:
                await self._leases.release(name)

    async def _take_or_wait(self, name: str, flight: Flight[Cuboid, Tile, TileAnswer], patience: float) -> bool:
        pause, longest = _LOOK_EVERY
        began = asked = self._clock.seconds()
        try:
            if await self._leases.take(name):
                return True
            while flight.waiting_items() and self._clock.seconds() - began < patience:
                await deferLater(self._clock, pause)
                pause = min(pause * 1.5, longest)
                await self._look(flight, Result.COLLAPSED)
                if flight.waiting_items() and self._clock.seconds() - asked >= _ASK_LEASE_EVERY:
                    asked = self._clock.seconds()
                    if await self._leases.take(name):
                        return True
        except DatabaseUnavailable:
            pass
        return False

    async def _look(self, flight: Flight[Cuboid, Tile, TileAnswer], result: Result = Result.HIT_DISK) -> None:
        """Deliver what is on disk by now."""
        for tile in flight.waiting_items():
            found = await self._hits.find(tile)
            if found is not None:
                flight.deliver(tile, TileAnswer(found.ready, result))

    async def _keep(self, made: list[tuple[Tile, bytes]]) -> int:
        """TileWriter what there is room for; how many are new."""
        wanted = Usage(len(made), sum(len(picture) for _, picture in made))
        async with self._room.room(wanted) as granted:
            kept = []
            for tile, picture in made:
                granted -= len(picture)
                if granted >= 0:
                    kept.append((tile, picture))
            new = await self._store.write(kept) if kept else 0
            if len(kept) < len(made):
                self._log.warn(
                    "no room in the cache: {count} of {all} tiles are not stored",
                    count=len(made) - len(kept),
                    all=len(made),
                )
        return new


def _find(known: CatalogueEntry, address: TileAddress) -> tuple[Stack, Tile | None]:
    """The stack of an address, and its tile where that lies within the volume."""
    stack = known.stack(address.base)
    return stack, stack.tile(address.time, address.level, address.slice, address.row, address.col)


def _blank(known: CatalogueEntry, stack: Stack) -> TileAnswer:
    picture = png.blank(clear=stack.is_overlay)
    return TileAnswer(EncodedTile(picture, f'"{png.fingerprint(picture)}"', known.read_at), Result.BLANK)


def _too_busy(_: object, patience: float) -> None:
    raise UpstreamBusy(f"no place for another cuboid within {patience:g} s")
