"""What is known of each token: which upstream has it, and its dataset.

A dataset is asked for once and kept: in memory, and in the index for the next start. After `max_age` it is asked for
again, in the background: nobody waits for that, and while the upstream does not answer the old one stays good. A token
that the upstream does not know is not asked for again for a minute.

Tiles of voxels that may change are made anew from time to time: time is cut into *epochs*, and the epoch is part of a
stack's version, so with a new one the old tiles are not found any more and age out. It begins with asking the upstream
what it has; while that does not answer, the epoch before goes on, for old tiles are better than none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from math import inf, isfinite
from typing import Protocol

from cachetools import LRUCache, TTLCache
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ocpproxy.concurrency.single_flight import Flight, SingleFlight
from ocpproxy.index.descriptions import Description
from ocpproxy.model.address import ImageBase
from ocpproxy.model.dataset import Channel, Dataset
from ocpproxy.model.display import DEFAULT_DISPLAY, DisplaySettings
from ocpproxy.model.stack import MAX_CUTOUT, Stack
from ocpproxy.upstream.base import UnknownToken, Upstream, UpstreamBroken, UpstreamFailure, UpstreamRefused

_UNKNOWN_FOR = 60.0
_PATIENCE = 1.0
"""Seconds that a request waits for an upstream to say what is new, when something is known of old."""
_WRITABLE_FOR = 3600.0
"""Seconds that tiles of voxels are good for that the upstream calls writable."""
_RETRY_EVERY = 30.0
"""Seconds between questions to an upstream that does not say anything new of a token."""
_MOST_TOKENS = 10_000
_MOST_STACKS = 1000


class DescriptionStore(Protocol):
    """Where descriptions are kept between starts."""

    async def load(self, token: str, origin: str) -> Description | None:
        """The description, if it is there."""

    async def save(self, dataset: Dataset, origin: str, description: Description) -> None:
        """Keep it."""


@dataclass(frozen=True)
class DatasetSource:
    """Where a token's voxels come from, and how they are shown."""

    upstream: Upstream
    info_max_age: float
    """Seconds that what it says of a token is good for."""
    flights: int
    """Cuboids that are fetched, rendered and stored at a time; the others wait for their turn."""
    patience: float
    """Seconds that a flight waits for its turn, or for another process's fetch."""
    called: str | None = None
    """The token by which the upstream knows it, where that is another."""
    display: DisplaySettings = DEFAULT_DISPLAY
    max_cutout: int = MAX_CUTOUT
    """Bytes of voxels that one cuboid may take."""
    max_age: float | None = None
    """Seconds after which tiles are made anew, infinity for never; None for what each channel makes right."""

    def lifetime(self, channels: Iterable[Channel]) -> float:
        """Seconds after which tiles that show these channels are made anew."""
        if self.max_age is not None:
            return self.max_age
        return _WRITABLE_FOR if any(channel.writable for channel in channels) else inf

    def origin(self) -> str:
        """What descriptions from here are kept under: at most 255 characters."""
        said = f"{self.upstream.origin} {self.called}" if self.called else self.upstream.origin
        return said if len(said) <= 255 else f"{said[:200]} {sha256(said.encode()).hexdigest()[:32]}"

    def dataset(self, token: str, description: str) -> Dataset:
        """As `Upstream.dataset`, under our name."""
        there = self.called or token
        return replace(self.upstream.dataset(there, description), token=token, alias_of=there)


@dataclass(eq=False)
class CatalogueEntry:
    """One token."""

    source: DatasetSource
    dataset: Dataset
    read_at: float
    ask_again: float
    """When the upstream is to be asked again; 0 when something else is known by now."""
    epoch: int = 0
    """Of tiles that are made anew from time to time; 0 when there are none such."""
    expires: float = inf
    """When the epoch ends."""
    stacks: LRUCache[ImageBase, Stack] = field(default_factory=lambda: LRUCache(_MOST_STACKS))

    def stack(self, base: ImageBase) -> Stack:
        """The stack of an image base.

        :raises CannotDisplay:
        """
        stack = self.stacks.get(base)
        if stack is None:
            display, most = self.source.display, self.source.max_cutout
            stack = self.stacks[base] = Stack.build(self.dataset, base, display, most, self._epoch_of)
        return stack

    def _epoch_of(self, channels: Sequence[Channel]) -> int:
        return self.epoch if isfinite(self.source.lifetime(channels)) else 0

    def until(self, stack: Stack) -> float | None:
        """When tiles of the stack are made anew, if ever."""
        return self.expires if stack.epoch else None


class Catalogue:
    """All tokens.

    :param sources: the upstreams of tokens that have one of their own.
    :param otherwise: the upstream of all others; None where there are no others.
    """

    _log = Logger()

    def __init__(
        self,
        sources: Mapping[str, DatasetSource],
        otherwise: DatasetSource | None,
        shelf: DescriptionStore,
        clock: IReactorTime,
    ) -> None:
        self._sources = sources
        self._otherwise = otherwise
        self._shelf = shelf
        self._clock = clock
        self._known: LRUCache[str, CatalogueEntry] = LRUCache(_MOST_TOKENS)
        self._unknown: TTLCache[str, UpstreamFailure] = TTLCache(_MOST_TOKENS, _UNKNOWN_FOR, clock.seconds)
        self._asking: SingleFlight[str, str, CatalogueEntry] = SingleFlight(self._ask, clock)

    def tokens(self) -> list[str]:
        """The tokens that are configured or have been asked for, in order."""
        return sorted({*self._sources, *self._known})

    def source(self, token: str) -> DatasetSource:
        """Where the token's voxels come from.

        :raises UnknownToken: from nowhere.
        """
        source = self._sources.get(token, self._otherwise)
        if source is None:
            raise UnknownToken(f"there is no section [dataset {token}], and no upstream for tokens that have none")
        return source

    def at_hand(self, token: str) -> CatalogueEntry | None:
        """What is known without asking anybody."""
        known: CatalogueEntry | None = self._known.get(token)
        if known is not None and self._clock.seconds() > min(known.ask_again, known.expires):
            known.ask_again = self._clock.seconds() + _RETRY_EVERY
            self.refresh(token)
        return known

    async def known(self, token: str) -> CatalogueEntry:
        """What is known of the token.

        :raises UnknownToken: there is none such.
        :raises UpstreamFailure: nothing is known and the upstream does not say.
        """
        known = self.at_hand(token)
        if known is not None:
            return known
        unknown = self._unknown.get(token)
        if unknown is not None:
            raise unknown.with_traceback(None)
        return await self._asking.join(token, token)

    async def renewed(self, token: str, known: CatalogueEntry) -> CatalogueEntry:
        """What is known of the token now, for a tile that may have grown old.

        Where an epoch has ended the upstream is asked, and waited for a moment; if it does not say, the epoch goes on.
        """
        if self._clock.seconds() < known.expires:
            return known
        try:
            return await self._asking.join(token, token).addTimeout(_PATIENCE, self._clock)
        except (DeferredTimeout, UpstreamFailure):
            self._put_off(known)
            return known

    def refresh(self, token: str) -> None:
        """Ask again, in the background; what is known stays until there is an answer."""
        if not self._asking.is_flying(token):
            self._asking.join(token, token).addErrback(
                lambda failure: self._log.debug("{token}: {reason}", token=token, reason=failure.getErrorMessage())
            )

    async def _ask(self, flight: Flight[str, str, CatalogueEntry]) -> None:
        token = flight.key
        flight.progress.report()
        source = self.source(token)
        kept = None
        if token not in self._known:
            kept = await self._kept(token, source)
            if kept is not None and self._clock.seconds() < min(kept.ask_again, kept.expires):
                self._known[token] = kept
                flight.deliver(token, kept)
                return
        try:
            known = await self._ask_upstream(token, source)
        except CancelledError:
            raise
        except (UnknownToken, UpstreamRefused) as error:
            self._unknown[token] = error
            raise
        except UpstreamFailure as error:
            before = kept or self._known.get(token)
            if before is None:
                raise
            self._log.warn("{token} is served as it was known before: {reason}", token=token, reason=str(error))
            self._put_off(before)
            known = before
        old = self._known.get(token)
        if old is not None and old.epoch == known.epoch and repr(old.dataset) == repr(known.dataset):
            old.read_at, old.ask_again, old.expires = known.read_at, known.ask_again, known.expires
            known = old  # nothing new: keep the stacks
        elif old is not None:
            old.ask_again = 0
        self._known[token] = known
        flight.deliver(token, known)

    def _put_off(self, known: CatalogueEntry) -> None:
        """The upstream says nothing: what is known is good for a while longer."""
        known.ask_again = self._clock.seconds() + _RETRY_EVERY
        known.expires = max(known.expires, known.ask_again)

    async def _kept(self, token: str, source: DatasetSource) -> CatalogueEntry | None:
        kept = await self._shelf.load(token, source.origin())
        if kept is None:
            return None
        try:
            return self._made(source, source.dataset(token, kept.text), kept.read_at)
        except UpstreamBroken as error:
            self._log.warn("what the index says of {token} makes no sense: {reason}", token=token, reason=str(error))
            return None

    def _made(self, source: DatasetSource, dataset: Dataset, read_at: float) -> CatalogueEntry:
        lifetime, ask_again = source.lifetime(dataset.channels), read_at + source.info_max_age
        if not isfinite(lifetime):
            return CatalogueEntry(source, dataset, read_at, ask_again)
        # That in which the upstream was asked, so that all processes, and the next start, agree on it.
        epoch = int(read_at // lifetime) + 1
        return CatalogueEntry(source, dataset, read_at, ask_again, epoch, epoch * lifetime)

    async def _ask_upstream(self, token: str, source: DatasetSource) -> CatalogueEntry:
        text = await source.upstream.describe(source.called or token)
        now = self._clock.seconds()
        known = self._made(source, source.dataset(token, text), now)
        saving = Deferred.fromCoroutine(
            self._shelf.save(known.dataset, source.origin(), Description(text, known.read_at))
        )
        saving.addErrback(
            lambda failure: self._log.failure("open_storage what is known of {token}", failure, token=token)
        )
        return known

    async def stop(self) -> None:
        """Ask nobody any more."""
        await self._asking.stop()
