"""The configuration, read again while the daemon serves: HUP and ``ocpproxy reload``.

Datasets and ``[upstream]`` change at once; no connection is dropped, and what is being fetched is finished by the
upstream that it was begun with. A dataset whose options are the same keeps all that is known of it. Other sections need
a restart, and are named. A file with faults changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock

from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.config import BadConfiguration, DatasetSettings, Settings
from ocpproxy.daemon.storage import pinned_levels
from ocpproxy.daemon.upstreams import Sources, make_sources
from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.log import Logger
from ocpproxy.metrics import Metrics
from ocpproxy.store.tile_store import TileStore
from ocpproxy.upstream.kind import UpstreamContext

_log = Logger()


@dataclass(frozen=True)
class Reloaded:
    """What came of reading a configuration again: tokens, and the options that need a restart."""

    new: list[str]
    changed: list[str]
    gone: list[str]
    others: bool
    """True if the upstream of tokens without a section has changed."""
    after_restart: list[str]

    @classmethod
    def between(cls, old: Settings, new: Settings) -> Reloaded:
        """Return the differences between two configurations."""
        before, after = old.datasets, new.datasets
        return cls(
            sorted(after.keys() - before.keys()),
            sorted(token for token in after.keys() & before.keys() if after[token] != before[token]),
            sorted(before.keys() - after.keys()),
            (old.upstream, old.any_token) != (new.upstream, new.any_token),
            list(_other_options(old, new)),
        )

    def __str__(self) -> str:
        named = {"new": self.new, "changed": self.changed, "gone": self.gone}
        parts = [f"{what}: {', '.join(tokens)}" for what, tokens in named.items() if tokens]
        parts += ["tokens without a section have another upstream"] if self.others else []
        parts += [f"only after a restart: {', '.join(self.after_restart)}"] if self.after_restart else []
        return "; ".join(parts) or "nothing has changed"


def _other_options(old: Settings, new: Settings) -> Iterator[str]:
    """Yield the options beside those of datasets and upstreams that differ."""
    for section in ("server", "cache", "index", "admin"):
        before, after = getattr(old, section), getattr(new, section)
        for one in fields(before):
            if getattr(before, one.name) != getattr(after, one.name):
                yield f"[{section}] {one.name}"


class LiveConfiguration:
    """The configuration of a daemon.

    :param load: reads it.
    :param started: what the daemon was started with.
    :param use: puts the upstreams and datasets of a configuration into effect.
    """

    def __init__(
        self, load: Callable[[], Settings], started: Settings, use: Callable[[Settings], Awaitable[None]]
    ) -> None:
        self._load = load
        self._started = self._current = started
        self._use = use
        self._lock = DeferredLock()

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again; return `Reloaded` as JSON.

        :raises BadConfiguration: it has faults; nothing has changed.
        """
        await self._lock.acquire()
        try:
            settings = self._load()
            reloaded = Reloaded.between(self._started.with_datasets_of(self._current), settings)
            await self._use(settings)
            self._current = settings
        except BadConfiguration as bad:
            _log.error("the configuration is not used, for it has faults:\n{faults}", faults=str(bad))
            raise
        finally:
            self._lock.release()
        _log.info("the configuration was read again: {what}", what=str(reloaded))
        return asdict(reloaded) | {"summary": str(reloaded)}

    def reload_soon(self) -> None:
        """Read the configuration again; what comes of it is logged."""
        reloading = Deferred.fromCoroutine(self.reload())
        reloading.addErrback(lambda failure: failure.trap(BadConfiguration) and None)
        reloading.addErrback(lambda failure: _log.failure("reading the configuration again", failure))


class LiveDatasets:
    """The upstreams and datasets of one gateway.

    :param settings: those that it was started with.
    """

    def __init__(
        self, settings: Settings, sources: Sources, catalogue: Catalogue, store: TileStore, context: UpstreamContext
    ) -> None:
        self._settings = settings
        self._sources = sources
        self._catalogue = catalogue
        self._store = store
        self._context = context
        self.quotas = dict(settings.quotas)
        """Bytes by token."""

    def use(self, settings: Settings, metrics: Metrics) -> None:
        """Use the upstreams and datasets of these settings from now on."""
        with self._context.http.new_limits():
            made = make_sources(settings, self._context, metrics)
        self._sources = _keep_unchanged(self._settings, self._sources, settings, made)
        self._settings = settings
        self._sources.watch(metrics)
        self._catalogue.set_sources(self._sources.tokens, self._sources.default)
        self.quotas.clear()
        self.quotas.update(settings.quotas)
        pinned = pinned_levels(settings)
        if pinned != self._store.pinned:
            self._store.pinned = pinned
            releasing = Deferred.fromCoroutine(self._store.release_unpinned())
            releasing.addErrback(lambda failure: failure.trap(DatabaseUnavailable) and None)
            releasing.addErrback(lambda failure: _log.failure("releasing what is not pinned any more", failure))


def _source_options(dataset: DatasetSettings) -> tuple[object, ...]:
    """Return the options that decide what a source is."""
    return (dataset.upstream, dataset.token, dataset.display, dataset.allow)


def _keep_unchanged(old: Settings, sources: Sources, new: Settings, made: Sources) -> Sources:
    """Return the new sources, with the old ones of tokens whose options are the same."""
    same_others = (old.upstream, old.any_token) == (new.upstream, new.any_token)

    def is_same(token: str) -> bool:
        before, after = old.datasets.get(token), new.datasets.get(token)
        if before is None or after is None:
            return before is after and same_others  # a token that its kind of upstream has of itself
        return _source_options(before) == _source_options(after)

    tokens = {
        token: sources.tokens[token] if token in sources.tokens and is_same(token) else source
        for token, source in made.tokens.items()
    }
    return Sources(tokens, sources.default if same_others else made.default)
