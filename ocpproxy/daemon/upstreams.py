"""The half of a gateway that asks upstreams: what the daemon and ``ocpproxy describe`` have in common."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from random import SystemRandom
from typing import Any

from twisted.application.service import IService
from twisted.web.client import Agent, HTTPConnectionPool

from ocpproxy.cache.catalogue import Catalogue, DescriptionStore
from ocpproxy.cache.entries import DatasetSource
from ocpproxy.concurrency.threads import LanedThreadPool
from ocpproxy.config import Settings, UpstreamSettings
from ocpproxy.config.upstreams import serves_any_token
from ocpproxy.daemon.services import IdleConnections
from ocpproxy.metrics import Metrics
from ocpproxy.model.display import DEFAULT_DISPLAY, DisplaySettings
from ocpproxy.upstream.base import InstrumentedUpstream, Upstream
from ocpproxy.upstream.breaker import Breakers, GuardedUpstream
from ocpproxy.upstream.endpoints import ReusedEndpoints
from ocpproxy.upstream.http import HttpClient
from ocpproxy.upstream.kind import UpstreamContext
from ocpproxy.upstream.plain_treq import make_treq
from ocpproxy.upstream.registry import KINDS, build_upstream
from ocpproxy.upstream.tensorstore.reader import TensorStoreReaders

_FILE_THREADS = 4
_CONNECT_WITHIN = 10
"""Seconds."""
_OTHERS = "other tokens"
"""Stands for all tokens that have no section of their own."""


@dataclass(frozen=True)
class Upstreams:
    """What upstreams need."""

    threads: LanedThreadPool
    """Threads that decode and render."""
    files: LanedThreadPool
    """Threads that wait for disks."""
    connections: IdleConnections
    context: UpstreamContext

    def services(self) -> list[IService]:
        """Return the services, beside the threads, in the order in which they start."""
        return [self.files, self.connections, self.context.readers]


def open_upstreams(settings: Settings, reactor: Any) -> Upstreams:
    """Return what the upstreams of these settings need, not started."""
    threads = LanedThreadPool(reactor, os.cpu_count() or 1, "renders")
    pool = _connection_pool(settings, reactor)
    agent = Agent.usingEndpointFactory(reactor, ReusedEndpoints(reactor, _CONNECT_WITHIN), pool)
    http = HttpClient(make_treq(agent), reactor, SystemRandom())
    files = LanedThreadPool(reactor, _FILE_THREADS, "upstreams' files")
    context = UpstreamContext(http, threads.run, files.run, reactor, TensorStoreReaders(reactor))
    return Upstreams(threads, files, IdleConnections(pool, reactor), context)


@dataclass(frozen=True)
class Sources:
    """The source of each token, and of all that have none of their own."""

    tokens: Mapping[str, DatasetSource]
    default: DatasetSource | None
    """None where there are no others."""

    def watch(self, metrics: Metrics) -> None:
        """Let the metrics show the breakers of these sources, and of no others."""
        metrics.breaker.clear()
        named = [*self.tokens.items(), *([] if self.default is None else [(_OTHERS, self.default)])]
        for name, source in named:
            for number, breakers in enumerate(source.breakers, 1):
                metrics.breaker.labels(name, str(number)).set_function(breakers.state)


def make_sources(settings: Settings, context: UpstreamContext, metrics: Metrics) -> Sources:
    """Return the sources of all tokens."""

    def source(
        name: str,
        upstream: UpstreamSettings,
        alias_of: str | None = None,
        display: DisplaySettings = DEFAULT_DISPLAY,
        allowed: frozenset[str] = frozenset(),
    ) -> DatasetSource:
        breakers: list[Breakers] = []
        homes: list[tuple[str, str]] = []

        def guard(home: Upstream, number: int) -> GuardedUpstream:
            own = Breakers(f"home {number + 1}" if number else name, context.reactor)
            breakers.append(own)
            public = home_name(upstream.type, home.origin)
            homes.append((public, home.origin))
            return GuardedUpstream(InstrumentedUpstream(home, metrics), own, public)

        return DatasetSource(
            build_upstream(upstream, context, guard),
            upstream.info_max_age,
            2 * upstream.connections,
            upstream.timeout,
            alias_of,
            display,
            upstream.max_cutout,
            upstream.max_age,
            tuple(breakers),
            tuple(homes),
            allowed,
            not upstream.cache_only,
        )

    sources = {token: source(token, d.upstream, d.token, d.display, d.allow) for token, d in settings.datasets.items()}
    default, kind = settings.upstream, KINDS[settings.upstream.type]
    for token in kind.fixed_tokens:
        sources.setdefault(token, source(token, default))
    any_token = settings.any_token and not kind.fixed_tokens and serves_any_token(kind, default.url)
    return Sources(sources, source(_OTHERS, default) if any_token else None)


def make_catalogue(
    sources: Sources, descriptions: DescriptionStore, reactor: Any, now: Callable[[], float] = time.time
) -> Catalogue:
    """Return the catalogue of these sources."""
    return Catalogue(sources.tokens, sources.default, descriptions, reactor, now)


def home_name(kind: str, origin: str) -> str:
    """Return what viewers may see of an upstream: its kind, and a digest of its address."""
    return f"{kind}-{sha256(origin.encode()).hexdigest()[:8]}"


def _connection_pool(settings: Settings, reactor: Any) -> HTTPConnectionPool:
    pool = HTTPConnectionPool(reactor)
    upstreams = (settings.upstream, *(dataset.upstream for dataset in settings.datasets.values()))
    pool.maxPersistentPerHost = max(upstream.connections for upstream in upstreams)
    pool.retryAutomatically = False
    return pool
