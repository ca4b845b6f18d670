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

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Protocol
from weakref import WeakKeyDictionary

from cachetools import LRUCache, TTLCache
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from ocpproxy.cache.entries import CatalogueEntry, DatasetSource, Trouble, Undescribed, make_entry
from ocpproxy.cache.questions import Questions
from ocpproxy.concurrency.single_flight import Flight, SingleFlight
from ocpproxy.index.descriptions import Description
from ocpproxy.log import Logger
from ocpproxy.model.dataset import Dataset
from ocpproxy.upstream.base import (
    UnknownToken,
    UpstreamBroken,
    UpstreamFailure,
    UpstreamRefused,
)

_ASK_AGAIN_AFTER = 60.0
"""Seconds after a failure that does not pass by itself: somebody may have mended it."""
_PATIENCE = 1.0
"""Seconds that a request waits for a new description when there is an old one."""
_RETRY_EVERY = 30.0
"""Seconds between questions to an upstream that does not describe a token."""
_MOST_TOKENS = 10_000


class DescriptionStore(Protocol):
    """Where descriptions are kept between starts."""

    async def load(self, token: str, origin: str) -> Description | None:
        """Return the description, or None."""

    async def save(self, dataset: Dataset, origin: str, description: Description) -> None:
        """Keep the description."""


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
        self._described_by: WeakKeyDictionary[Dataset, DatasetSource] = WeakKeyDictionary()
        self._entries: LRUCache[str, CatalogueEntry] = LRUCache(_MOST_TOKENS)
        self._lasting: TTLCache[str, UpstreamFailure] = TTLCache(_MOST_TOKENS, _ASK_AGAIN_AFTER, clock.seconds)
        self._troubles: dict[str | None, Trouble] = {}
        """By token; under None that of all tokens without a section of their own."""
        self._questions = _questions_for(default, clock)
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

    def source_of(self, dataset: Dataset) -> DatasetSource:
        """Return the source that has described a dataset, which alone understands its `upstream_data`.

        :raises UnknownToken: when no source is configured for its token.
        """
        return self._described_by.get(dataset) or self.source(dataset.token)

    def set_sources(self, sources: Mapping[str, DatasetSource], default: DatasetSource | None) -> set[str]:
        """Use other sources from now on; return the tokens whose source is another one.

        What is known of these is forgotten. Who has begun to fetch something goes on with the source that it has.
        """
        before, default_before = self._sources, self._default
        self._sources, self._default = sources, default
        if default is not default_before:
            self._questions = _questions_for(default, self._clock)
        known = {*self._entries, *self._lasting, *before, *sources}
        known |= {token for token in self._troubles if token is not None}
        known |= {*self._describing.flying_keys()}
        changed = {one for one in known if before.get(one, default_before) is not sources.get(one, default)}
        for token in changed:
            entry = self._entries.pop(token, None)
            if entry is not None:
                entry.refresh_at = 0
            self._lasting.pop(token, None)
            self._troubles.pop(token, None)
        if default is not default_before:
            self._troubles.pop(None, None)
        self._describing.detach(changed.__contains__)
        return changed

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

    async def entries(self, tokens: Iterable[str], patience: float) -> list[CatalogueEntry]:
        """Return the entries of those tokens that are described within so many seconds."""
        asked = [Deferred.fromCoroutine(self.entry(token)) for token in tokens]
        for deferred in asked:
            deferred.addTimeout(patience, self._clock)
        results = await DeferredList(asked, consumeErrors=True)
        return [entry for success, entry in results if success and isinstance(entry, CatalogueEntry)]

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
            flight.deliver(token, self._replace(token, kept))
            return
        earlier = kept or self._entries.get(token)
        try:
            entry = await self._ask_upstream(token, source)
        except CancelledError:
            raise
        except UpstreamFailure as error:
            if not self._is_used(token, source):
                raise
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
        """Log what a new description leaves out, and that a token is described again.

        One of a source that is not used any more says nothing of the token.
        """
        if not self._is_used(token, entry.source):
            return
        if self._troubles.pop(token if token in self._sources else None, None) is not None:
            self._log.info("{token} is described again", token=token)
        if earlier is None or earlier.dataset.notes != entry.dataset.notes:
            for note in entry.dataset.notes:
                self._log.warn("{token}: {note}", token=token, note=note)

    def _is_used(self, token: str, source: DatasetSource) -> bool:
        """Return whether this is still the source of a token: it may have been replaced meanwhile."""
        return self._sources.get(token, self._default) is source

    def _replace(self, token: str, entry: CatalogueEntry) -> CatalogueEntry:
        """Put the entry into the catalogue. An equal one is kept, with its stacks, and gets the new times.

        An entry of a source that is not used any more is only for those who wait for it.
        """
        if not self._is_used(token, entry.source):
            entry.refresh_at = 0  # so that no route is remembered
            return entry
        old = self._entries.get(token)
        if old is not None and old.is_like(entry):
            old.read_at, old.refresh_at, old.epoch_ends = entry.read_at, entry.refresh_at, entry.epoch_ends
            entry = old
        elif old is not None:
            old.refresh_at = 0
        self._entries[token] = entry
        return entry

    def _postpone(self, entry: CatalogueEntry) -> None:
        """Keep an entry for a while longer: the upstream does not answer. One that was replaced is not revived."""
        if not entry.refresh_at:
            return
        entry.refresh_at = self._now() + _RETRY_EVERY
        entry.epoch_ends = max(entry.epoch_ends, entry.refresh_at)

    async def _load(self, token: str, source: DatasetSource) -> CatalogueEntry | None:
        """Return the entry that is kept in the index, or None."""
        kept = await self._descriptions.load(token, source.origin())
        if kept is None:
            return None
        try:
            return self._make_entry(source, source.dataset(token, kept.text), kept.read_at)
        except UpstreamBroken as error:
            self._log.warn("the index has a bad description of {token}: {reason}", token=token, reason=str(error))
            return None

    def _make_entry(self, source: DatasetSource, dataset: Dataset, read_at: float) -> CatalogueEntry:
        self._described_by[dataset] = source
        return make_entry(source, dataset, read_at)

    async def _ask_upstream(self, token: str, source: DatasetSource) -> CatalogueEntry:
        questions = None if token in self._sources else self._questions
        async with questions.place() if questions is not None else nullcontext():
            text = await source.upstream.describe(source.alias_of or token)
        entry = self._make_entry(source, source.dataset(token, text), self._now())
        saving = Deferred.fromCoroutine(
            self._descriptions.save(entry.dataset, source.origin(), Description(text, entry.read_at))
        )
        saving.addErrback(lambda failure: self._log.failure("saving the description of {token}", failure, token=token))
        return entry


def _questions_for(default: DatasetSource | None, clock: IReactorTime) -> Questions | None:
    return None if default is None else Questions(max(1, default.flights // 8), clock)
