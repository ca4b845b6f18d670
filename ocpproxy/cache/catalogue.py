"""What is known of each token: its upstream, its dataset, and for how long that is good.

A dataset is described once and kept: in memory, and in the index for the next start. After `info_max_age` it is
described again, in the background: nobody waits for that, and while the upstream does not answer the old description
stays good. A failure that does not pass by itself is remembered for a minute. Why a token is not described is kept, for
viewers and pages (`Undescribed`, `Trouble`), and logged once for each change. Anybody can make up tokens that have no
section of their own. So few of these are asked for at a time, in turns of the clients, and only while somebody waits.

Tiles of voxels that may change are fetched again from time to time. Time is cut into *epochs*, and the epoch is part of
a stack's version: in a new epoch the old tiles are not found any more, and age out. An epoch begins by describing the
dataset. While the upstream does not answer the epoch before goes on, for old tiles are better than none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from hashlib import sha256
from math import inf, isfinite
from typing import Protocol

from cachetools import LRUCache, TTLCache
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from ocpproxy.cache.questions import Questions
from ocpproxy.concurrency.single_flight import Flight, SingleFlight
from ocpproxy.index.descriptions import Description
from ocpproxy.log import Logger
from ocpproxy.model.address import ImageBase
from ocpproxy.model.dataset import Channel, Dataset
from ocpproxy.model.display import DEFAULT_DISPLAY, DisplaySettings
from ocpproxy.model.stack import MAX_CUTOUT, Stack
from ocpproxy.upstream.base import (
    UnknownToken,
    Upstream,
    UpstreamBroken,
    UpstreamFailure,
    UpstreamRefused,
)
from ocpproxy.upstream.breaker import Breakers, BreakerState

_ASK_AGAIN_AFTER = 60.0
"""Seconds after a failure that does not pass by itself: somebody may have mended it."""
_PATIENCE = 1.0
"""Seconds that a request waits for a new description when there is an old one."""
_WRITABLE_FOR = 3600.0
"""Seconds that tiles are good for whose voxels the upstream calls writable."""
_RETRY_EVERY = 30.0
"""Seconds between questions to an upstream that does not describe a token."""
_MOST_TOKENS = 10_000
_MOST_STACKS = 1000


class DescriptionStore(Protocol):
    """Where descriptions are kept between starts."""

    async def load(self, token: str, origin: str) -> Description | None:
        """Return the description, or None."""

    async def save(self, dataset: Dataset, origin: str, description: Description) -> None:
        """Keep the description."""


@dataclass(frozen=True)
class DatasetSource:
    """Where a token's voxels come from, and how they are shown."""

    upstream: Upstream
    info_max_age: float
    """Seconds that a description is good for."""
    flights: int
    """Cuboids that are fetched, rendered and stored at a time."""
    patience: float
    """Seconds that a flight waits for its slot, or for another process's fetch."""
    alias_of: str | None = None
    """The upstream's token, where it is another."""
    display: DisplaySettings = DEFAULT_DISPLAY
    max_cutout: int = MAX_CUTOUT
    """Bytes of voxels that one cuboid may take."""
    max_age: float | None = None
    """Seconds after which tiles are fetched again, infinity for never; None to decide by channel."""
    breakers: tuple[Breakers, ...] = ()
    """Those of the homes of the upstream."""
    homes: tuple[tuple[str, str], ...] = ()
    """The name of each home (`upstream.breaker.GuardedUpstream.home`), and its address."""
    is_asked: bool = True
    """False where the upstream is not asked for anything."""

    def is_resting(self, token: str) -> bool:
        """Return whether no home of the upstream is asked for voxels of a token now."""
        resting = bool(self.breakers) and all(one.state(token) is not BreakerState.CLOSED for one in self.breakers)
        return resting or not self.is_asked

    def lifetime(self, channels: Iterable[Channel]) -> float:
        """Return the seconds after which tiles that show these channels are fetched again."""
        if self.max_age is not None:
            return self.max_age
        return _WRITABLE_FOR if any(channel.writable for channel in channels) else inf

    def origin(self) -> str:
        """Return what descriptions from here are stored under, at most 255 characters."""
        origin = f"{self.upstream.origin} {self.alias_of}" if self.alias_of else self.upstream.origin
        return origin if len(origin) <= 255 else f"{origin[:200]} {sha256(origin.encode()).hexdigest()[:32]}"

    def dataset(self, token: str, description: str) -> Dataset:
        """Return the dataset of a description, under our token.

        :raises UpstreamBroken: when the description makes no sense.
        """
        upstream_token = self.alias_of or token
        return replace(self.upstream.dataset(upstream_token, description), token=token, alias_of=upstream_token)


class Undescribed(Exception):
    """A token has no description, so that nothing of it can be shown.

    :param configured: whether the token has a section of its own.
    """

    def __init__(self, token: str, failure: UpstreamFailure, *, configured: bool) -> None:
        super().__init__(f"{token}: {failure.fault}: {failure}")
        self.failure = failure
        self.configured = configured


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an upstream does not describe a token."""

    failure: UpstreamFailure
    since: float
    """Seconds since 1970."""


@dataclass(eq=False)
class CatalogueEntry:
    """One token."""

    source: DatasetSource
    dataset: Dataset
    read_at: float
    """When the upstream described the dataset; seconds since 1970, like all times here."""
    refresh_at: float
    """When the dataset is to be described again; 0 once another entry has replaced this one."""
    epoch: int = 0
    """The epoch of tiles that are fetched again from time to time; 0 when there are none such."""
    epoch_ends: float = inf
    stacks: LRUCache[ImageBase, Stack] = field(default_factory=lambda: LRUCache(_MOST_STACKS))

    def stack(self, base: ImageBase) -> Stack:
        """Return the stack of an image base.

        :raises CannotDisplay: there is no such channel, or it cannot be drawn this way.
        """
        stack = self.stacks.get(base)
        if stack is None:
            display, most = self.source.display, self.source.max_cutout
            stack = self.stacks[base] = Stack.build(self.dataset, base, display, most, self._epoch_of)
        return stack

    def _epoch_of(self, channels: Sequence[Channel]) -> int:
        return self.epoch if isfinite(self.source.lifetime(channels)) else 0

    def expires(self, stack: Stack) -> float | None:
        """Return when tiles of the stack are fetched again, None for never."""
        return self.epoch_ends if stack.epoch else None

    def is_like(self, other: CatalogueEntry) -> bool:
        """Return whether both describe the same dataset in the same epoch."""
        return self.epoch == other.epoch and repr(self.dataset) == repr(other.dataset)


class Catalogue(Service):
    """All tokens.

    :param sources: the sources of tokens that have their own.
    :param default: the source of all other tokens; None where there are no others.
    :param now: returns the seconds since 1970; `clock` only measures how long something takes.
    """

    _log = Logger()

    def __init__(
        self,
        sources: Mapping[str, DatasetSource],
        default: DatasetSource | None,
        descriptions: DescriptionStore,
        clock: IReactorTime,
        now: Callable[[], float],
    ) -> None:
        self._sources = sources
        self._default = default
        self._descriptions = descriptions
        self._clock = clock
        self._now = now
        self._entries: LRUCache[str, CatalogueEntry] = LRUCache(_MOST_TOKENS)
        self._lasting: TTLCache[str, UpstreamFailure] = TTLCache(_MOST_TOKENS, _ASK_AGAIN_AFTER, clock.seconds)
        self._troubles: dict[str | None, Trouble] = {}
        """By token; under None that of all tokens without a section of their own."""
        self._questions = None if default is None else Questions(max(1, default.flights // 8), clock)
        self._describing: SingleFlight[str, str, CatalogueEntry] = SingleFlight(self._describe, clock)

    def stopService(self) -> Deferred[None]:
        """Cancel what is being asked."""
        super().stopService()
        return Deferred.fromCoroutine(self._describing.stop())

    def tokens(self) -> list[str]:
        """Return the tokens that are configured or have been asked for, in order."""
        return sorted({*self._sources, *self._entries})

    def source(self, token: str) -> DatasetSource:
        """Return where the token's voxels come from.

        :raises UnknownToken: when no source is configured for it.
        """
        source = self._sources.get(token, self._default)
        if source is None:
            raise UnknownToken(f"there is no section [dataset {token}], and no upstream for tokens that have none")
        return source

    def trouble(self, token: str) -> Trouble | None:
        """Return why the token, which has a section of its own, is not described; None where it is, or nobody asked."""
        return self._troubles.get(token)

    def entry_now(self, token: str) -> CatalogueEntry | None:
        """Return the entry that is in memory, or None. An old one is refreshed in the background."""
        entry: CatalogueEntry | None = self._entries.get(token)
        if entry is not None and self._now() > min(entry.refresh_at, entry.epoch_ends):
            entry.refresh_at = self._now() + _RETRY_EVERY
            self.refresh(token)
        return entry

    async def entry(self, token: str) -> CatalogueEntry:
        """Return the entry of the token.

        :raises Undescribed: there is no entry yet, and the upstream does not describe the token.
        """
        entry = self.entry_now(token)
        if entry is not None:
            return entry
        failure = self._lasting.get(token)
        if failure is None:
            try:
                return await self._describing.join(token, token)
            except UpstreamFailure as error:
                failure = error
        raise Undescribed(token, failure, configured=token in self._sources) from None

    async def current_entry(self, token: str, entry: CatalogueEntry) -> CatalogueEntry:
        """Return the entry in the current epoch.

        Where the epoch of `entry` has ended, the upstream is asked, and waited for a moment. If it does not answer,
        the epoch goes on.
        """
        if self._now() < entry.epoch_ends:
            return entry
        try:
            return await self._describing.join(token, token).addTimeout(_PATIENCE, self._clock)
        except (DeferredTimeout, UpstreamFailure):
            self._postpone(entry)
            return entry

    def refresh(self, token: str) -> None:
        """Describe the dataset again, in the background. The entry stays until there is an answer."""
        if not self._describing.is_flying(token):
            self._describing.join(token, token).addErrback(
                lambda failure: self._log.debug("{token}: {reason}", token=token, reason=failure.getErrorMessage())
            )

    # -- describing

    async def _describe(self, flight: Flight[str, str, CatalogueEntry]) -> None:
        token = flight.key
        if token in self._sources:
            flight.progress.report()  # a description that was configured is worth finishing, whoever leaves
        source = self.source(token)
        kept = None if token in self._entries else await self._load(token, source)
        if kept is not None and self._now() < min(kept.refresh_at, kept.epoch_ends):
            self._note_success(token, kept, None)
            self._entries[token] = kept
            flight.deliver(token, kept)
            return
        earlier = kept or self._entries.get(token)
        try:
            entry = await self._ask_upstream(token, source)
        except CancelledError:
            raise
        except UpstreamFailure as error:
            gone = isinstance(error, (UnknownToken, UpstreamRefused))
            self._note_failure(token, source, error, None if gone else earlier)
            if earlier is None or gone:
                if error.lasting:
                    self._lasting[token] = error
                raise
            self._postpone(earlier)
            entry = earlier
        else:
            self._note_success(token, entry, earlier)
        flight.deliver(token, self._replace(token, entry))

    def _note_failure(
        self, token: str, source: DatasetSource, failure: UpstreamFailure, earlier: CatalogueEntry | None
    ) -> None:
        """Keep why a token is not described, and log it if that is new.

        Anybody can ask for tokens without a section, so all of them have one state.
        """
        key, now = token if token in self._sources else None, self._now()
        if key is None and isinstance(failure, UnknownToken):
            return
        known = self._troubles.get(key)
        # A server's words may differ each time, and those for a token without a section name the token.
        same = known is not None and type(known.failure) is type(failure)
        if same and known is not None and (key is None or known.failure.public == failure.public):
            return
        if known is not None and key is None and now - known.since < _ASK_AGAIN_AFTER:
            return
        self._troubles[key] = Trouble(failure, now)
        self._log.warn(
            "{token} is not described{meanwhile}: {fault}: {reason} ({address})",
            token=token,
            meanwhile="" if earlier is None else ", and shown by its earlier description",
            fault=failure.fault,
            reason=str(failure),
            address=source.upstream.origin,
        )

    def _note_success(self, token: str, entry: CatalogueEntry, earlier: CatalogueEntry | None) -> None:
        """Log what a new description leaves out, and that a token is described again."""
        if self._troubles.pop(token if token in self._sources else None, None) is not None:
            self._log.info("{token} is described again", token=token)
        if earlier is None or earlier.dataset.notes != entry.dataset.notes:
            for note in entry.dataset.notes:
                self._log.warn("{token}: {note}", token=token, note=note)

    def _replace(self, token: str, entry: CatalogueEntry) -> CatalogueEntry:
        """Put the entry into the catalogue. An equal one is kept, with its stacks, and gets the new times."""
        old = self._entries.get(token)
        if old is not None and old.is_like(entry):
            old.read_at, old.refresh_at, old.epoch_ends = entry.read_at, entry.refresh_at, entry.epoch_ends
            entry = old
        elif old is not None:
            old.refresh_at = 0
        self._entries[token] = entry
        return entry

    def _postpone(self, entry: CatalogueEntry) -> None:
        """Keep an entry for a while longer: the upstream does not answer."""
        entry.refresh_at = self._now() + _RETRY_EVERY
        entry.epoch_ends = max(entry.epoch_ends, entry.refresh_at)

    async def _load(self, token: str, source: DatasetSource) -> CatalogueEntry | None:
        """Return the entry that is kept in the index, or None."""
        kept = await self._descriptions.load(token, source.origin())
        if kept is None:
            return None
        try:
            return make_entry(source, source.dataset(token, kept.text), kept.read_at)
        except UpstreamBroken as error:
            self._log.warn("the index has a bad description of {token}: {reason}", token=token, reason=str(error))
            return None

    async def _ask_upstream(self, token: str, source: DatasetSource) -> CatalogueEntry:
        questions = None if token in self._sources else self._questions
        async with questions.place() if questions is not None else nullcontext():
            text = await source.upstream.describe(source.alias_of or token)
        entry = make_entry(source, source.dataset(token, text), self._now())
        saving = Deferred.fromCoroutine(
            self._descriptions.save(entry.dataset, source.origin(), Description(text, entry.read_at))
        )
        saving.addErrback(lambda failure: self._log.failure("saving the description of {token}", failure, token=token))
        return entry


def make_entry(source: DatasetSource, dataset: Dataset, read_at: float) -> CatalogueEntry:
    """Return the entry of a dataset that was described at `read_at`."""
    lifetime, refresh_at = source.lifetime(dataset.channels), read_at + source.info_max_age
    if not isfinite(lifetime):
        return CatalogueEntry(source, dataset, read_at, refresh_at)
    # Derived from `read_at`, so that all processes, and the next start, agree.
    epoch = int(read_at // lifetime) + 1
    return CatalogueEntry(source, dataset, read_at, refresh_at, epoch, epoch * lifetime)
