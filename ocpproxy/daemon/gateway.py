"""The parts list: what a gateway is made of.

`make_gateway` puts values into doors, doors into deeds, deeds into faces, and stacks them. It opens nothing: twistd
forks before anything is started, and threads, sockets and connections do not survive a fork; all of that begins with
`startService`. The services start from the bottom and stop from the top, each after the one above it has stopped: no
new connections, then the answers that are open, then the flights, the reclaimer, the store's account, the leases, the
database.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from random import SystemRandom
from typing import Any

from twisted.application.service import IService
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.web.client import Agent, HTTPConnectionPool

from ocpproxy.cache.catalogue import Catalogue, DatasetSource, DescriptionStore
from ocpproxy.cache.derived import DerivedTiles
from ocpproxy.cache.eviction import CacheLimits, Evictor
from ocpproxy.cache.lookup import TileLookup
from ocpproxy.cache.shared_cutouts import SharedCutouts
from ocpproxy.cache.tiles import TileCache
from ocpproxy.concurrency.threads import Lane, LanedThreadPool, RunInThread
from ocpproxy.config import Settings, UpstreamSettings
from ocpproxy.daemon.services import (
    BackgroundTask,
    IdleConnections,
    LagProbe,
    ListeningPorts,
    OrderedServices,
    ShortSwitchInterval,
)
from ocpproxy.index import leases
from ocpproxy.index.database import Database, open_database
from ocpproxy.index.descriptions import Descriptions
from ocpproxy.index.leases import Leases
from ocpproxy.metrics import Metrics
from ocpproxy.model.display import DEFAULT_DISPLAY, DisplaySettings
from ocpproxy.store.fsck import Fsck, Report, keep_mended
from ocpproxy.store.tile_store import TileStore
from ocpproxy.upstream.base import InstrumentedUpstream
from ocpproxy.upstream.http import HttpClient, make_treq
from ocpproxy.upstream.kind import UpstreamContext
from ocpproxy.upstream.registry import KINDS, build_upstream
from ocpproxy.upstream.tensorstore.reader import TensorStoreReaders
from ocpproxy.web.hot_path import HotPath
from ocpproxy.web.pages import GatewayState, Pages, Root
from ocpproxy.web.site import GatewaySite, OpenRequests
from ocpproxy.web.tiles import TokenResource

_FILE_THREADS = 4


@dataclass(frozen=True)
class WorkerSlot:
    """The place of a process among those that serve the same sockets."""

    number: int = 0
    of: int = 1
    sockets: Sequence[int] = ()
    """Descriptors of listening sockets to adopt, where the process does not open its own."""
    told: Callable[[], Awaitable[bytes]] | None = None
    """The metrics of all of them."""


SINGLE = WorkerSlot()


@dataclass(frozen=True)
class Storage:
    """The half of the gateway that keeps tiles: what the daemon and ``ocpproxy fsck`` have in common."""

    files: LanedThreadPool
    database: Database
    leases: Leases
    store: TileStore
    mender: Fsck

    def services(self) -> list[IService]:
        """From the bottom to the top."""
        return [self.files, self.database, self.leases, self.store]


def open_storage(settings: Settings, reactor: Any, metrics: Metrics, report: Report | None = None) -> Storage:
    """The store of these settings and what it stands on."""
    owner = f"{socket.gethostname()[:40]}-{uuid.uuid4().hex[:16]}"
    files = LanedThreadPool(reactor, _FILE_THREADS, "files")
    database = open_database(settings.index.url, reactor, lambda up: metrics.index_up.set(up))
    store = TileStore(settings.cache.directory, database, reactor, files.run, owner, metrics)

    async def forget(dead: str) -> None:
        await database.run(leases.forget, dead)

    return Storage(
        files,
        database,
        Leases(database, owner, settings.index.lease, reactor),
        store,
        Fsck(store, database, files.run, forget, metrics, report),
    )


def _share(settings: Settings, of: int) -> Settings:
    """The settings of one process among so many: what is bounded for the whole daemon is divided."""
    if of == 1:
        return settings

    def fewer(said: UpstreamSettings) -> UpstreamSettings:
        return replace(said, connections=max(1, said.connections // of))

    return replace(
        settings,
        cache=replace(settings.cache, memory=settings.cache.memory // of, voxels=settings.cache.voxels // of),
        upstream=fewer(settings.upstream),
        datasets={token: replace(said, upstream=fewer(said.upstream)) for token, said in settings.datasets.items()},
    )


def _endpoints(settings: Settings, reactor: Any, sockets: Sequence[int]) -> list[IStreamServerEndpoint]:
    found: list[IStreamServerEndpoint] = []
    for descriptor in sockets:
        with socket.socket(fileno=os.dup(descriptor)) as one:
            found.append(AdoptedStreamServerEndpoint(reactor, descriptor, one.family))
    return found or [serverFromString(reactor, line) for line in settings.server.listen]


def make_gateway(settings: Settings, reactor: Any, metrics: Metrics, post: WorkerSlot = SINGLE) -> OrderedServices:
    """A whole gateway, not started."""
    settings = _share(settings, post.of)
    cores = os.cpu_count() or 1
    renders = LanedThreadPool(reactor, cores, "renders")
    kept = open_storage(settings, reactor, metrics)

    connections = HTTPConnectionPool(reactor)
    connections.maxPersistentPerHost = max(
        said.connections for said in (settings.upstream, *(d.upstream for d in settings.datasets.values()))
    )
    connections.retryAutomatically = False
    http = HttpClient(make_treq(Agent(reactor, connectTimeout=10, pool=connections)), reactor, SystemRandom())
    readers = TensorStoreReaders(reactor)
    context = UpstreamContext(http, renders.run, reactor, readers)
    catalogue = make_catalogue(settings, context, Descriptions(kept.database, reactor), metrics)

    limits = CacheLimits(
        settings.cache.size, settings.cache.max_tiles, settings.cache.reclaim_above, settings.cache.reclaim_to
    )
    reclaimer = Evictor(kept.store, kept.leases, limits, settings.cache.reclaim_interval, reactor, metrics)
    hits = TileLookup(kept.store, reactor, settings.cache.memory)
    cache = TileCache(
        catalogue,
        hits,
        kept.store,
        kept.leases,
        reclaimer,
        SharedCutouts(reactor, settings.cache.voxels),
        renders.lane(Lane.AWAITED),
        renders.lane(Lane.AHEAD),
        reactor,
    )
    metrics.waiters.set_function(lambda: cache.fetches.waiters)
    metrics.flights.set_function(lambda: len(cache.fetches))
    metrics.renders_queued.set_function(renders.queued)

    open_requests = OpenRequests(reactor, settings.server.patience)
    hot_path = HotPath(hits, reactor, metrics, settings.server.max_age)
    root = make_root(
        settings, reactor, kept, catalogue, cache, renders.lane(Lane.AWAITED), metrics, open_requests, post
    )
    site = GatewaySite(root, hot_path, open_requests, reactor, access_log=settings.server.access_log)
    gateway = OrderedServices()
    for part in (
        ShortSwitchInterval(),
        renders,
        *kept.services(),
        LagProbe(reactor, metrics),
        BackgroundTask(lambda: keep_mended(kept.mender, kept.store, kept.database, reactor, sweeps=post.number == 0)),
        IdleConnections(connections, reactor),
        readers,
        reclaimer,
        cache,
        open_requests,
        ListeningPorts(_endpoints(settings, reactor, post.sockets), site),
    ):
        part.setServiceParent(gateway)
    return gateway


def make_catalogue(
    settings: Settings, context: UpstreamContext, shelf: DescriptionStore, metrics: Metrics
) -> Catalogue:
    """Every token's source."""

    def source(
        said: UpstreamSettings, called: str | None = None, look: DisplaySettings = DEFAULT_DISPLAY
    ) -> DatasetSource:
        upstream = InstrumentedUpstream(build_upstream(said, context), metrics)
        flights = 2 * said.connections
        return DatasetSource(
            upstream, said.info_max_age, flights, said.timeout, called, look, said.max_cutout, said.max_age
        )

    named = {token: source(d.upstream, d.token, d.display) for token, d in settings.datasets.items()}
    default, kind = settings.upstream, KINDS[settings.upstream.type]
    for token in kind.fixed_tokens:
        named.setdefault(token, source(default))
    any_token = settings.any_token and not kind.fixed_tokens
    if any_token and kind.has_address:
        any_token = all("{token}" in address for _, address in default.url)
    return Catalogue(named, source(default) if any_token else None, shelf, context.reactor)


def make_root(
    settings: Settings,
    reactor: Any,
    kept: Storage,
    catalogue: Catalogue,
    cache: TileCache,
    run_in_thread: RunInThread,
    metrics: Metrics,
    open_requests: OpenRequests,
    post: WorkerSlot,
) -> Root:
    """The tree of resources."""

    async def told() -> bytes:
        return metrics.text() if post.told is None else await post.told()

    state = GatewayState(
        usage=lambda: (kept.store.usage.tiles, kept.store.usage.bytes),
        size=settings.cache.size,
        index_up=lambda: kept.database.up,
        writable=lambda: kept.files.run(kept.store.files.writable),
        metrics=told,
    )
    tokens = TokenResource(
        cache,
        DerivedTiles(catalogue, cache, run_in_thread),
        catalogue,
        metrics,
        reactor,
        max_age=settings.server.max_age,
        error_text=settings.server.error_body == "text",
    )
    return Root(Pages(catalogue, state, open_requests, reactor), tokens)
