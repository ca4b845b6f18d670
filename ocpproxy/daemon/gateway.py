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

from ocpproxy.cache.catalogue import Catalogue, Shelf, Source
from ocpproxy.cache.derived import Retouching
from ocpproxy.cache.eviction import Limits, Reclaimer
from ocpproxy.cache.lookup import Hits
from ocpproxy.cache.shared_cutouts import Cutouts
from ocpproxy.cache.tiles import TileCache
from ocpproxy.concurrency.threads import InThread, Lane, Pool
from ocpproxy.config import Settings, UpstreamSettings
from ocpproxy.daemon.services import Background, Connections, InTurn, LagProbe, Listening, QuickTurns
from ocpproxy.index import leases
from ocpproxy.index.database import Database, open_database
from ocpproxy.index.descriptions import Descriptions
from ocpproxy.index.leases import Leases
from ocpproxy.metrics import Metrics
from ocpproxy.model.stack import PLAIN, Look
from ocpproxy.store.fsck import Mender, Report, keep_mended
from ocpproxy.store.tile_store import TileStore
from ocpproxy.upstream.base import Measured
from ocpproxy.upstream.demo import TOKEN
from ocpproxy.upstream.http import Http
from ocpproxy.upstream.registry import Doors, make_upstream
from ocpproxy.upstream.tensorstore.reader import Readers
from ocpproxy.web.hot_path import HotPath
from ocpproxy.web.pages import Pages, Root, State
from ocpproxy.web.site import GatewaySite, OpenAnswers
from ocpproxy.web.tiles import TokenResource

_FILE_THREADS = 4


@dataclass(frozen=True)
class Post:
    """The place of a process among those that serve the same sockets."""

    number: int = 0
    of: int = 1
    sockets: Sequence[int] = ()
    """Descriptors of listening sockets to adopt, where the process does not open its own."""
    told: Callable[[], Awaitable[bytes]] | None = None
    """The metrics of all of them."""


ALONE = Post()
_ANY_TOKEN = ("ocp",)
"""Those that tell themselves which tokens there are."""


@dataclass(frozen=True)
class Keeping:
    """The half of the gateway that keeps tiles: what the daemon and ``ocpproxy fsck`` have in common."""

    files: Pool
    database: Database
    leases: Leases
    store: TileStore
    mender: Mender

    def services(self) -> list[IService]:
        """From the bottom to the top."""
        return [self.files, self.database, self.leases, self.store]


def keeping(settings: Settings, reactor: Any, metrics: Metrics, report: Report | None = None) -> Keeping:
    """The store of these settings and what it stands on."""
    owner = f"{socket.gethostname()[:40]}-{uuid.uuid4().hex[:16]}"
    files = Pool(reactor, _FILE_THREADS, "files")
    database = open_database(settings.index.url, reactor, lambda up: metrics.index_up.set(up))
    store = TileStore(settings.cache.directory, database, reactor, files.run, owner, metrics)

    async def forget(dead: str) -> None:
        await database.run(leases.forget, dead)

    return Keeping(
        files,
        database,
        Leases(database, owner, settings.index.lease, reactor),
        store,
        Mender(store, database, files.run, forget, metrics, report),
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


def make_gateway(settings: Settings, reactor: Any, metrics: Metrics, post: Post = ALONE) -> InTurn:
    """A whole gateway, not started."""
    settings = _share(settings, post.of)
    cores = os.cpu_count() or 1
    renders = Pool(reactor, cores, "renders")
    kept = keeping(settings, reactor, metrics)

    connections = HTTPConnectionPool(reactor)
    connections.maxPersistentPerHost = max(
        said.connections for said in (settings.upstream, *(d.upstream for d in settings.datasets.values()))
    )
    connections.retryAutomatically = False
    http = Http(Agent(reactor, connectTimeout=10, pool=connections), reactor, SystemRandom())
    readers = Readers(reactor)
    doors = Doors(http, renders.run, reactor, readers)
    catalogue = make_catalogue(settings, doors, Descriptions(kept.database, reactor), metrics)

    limits = Limits(
        settings.cache.size, settings.cache.max_tiles, settings.cache.reclaim_above, settings.cache.reclaim_to
    )
    reclaimer = Reclaimer(kept.store, kept.leases, limits, settings.cache.reclaim_interval, reactor, metrics)
    hits = Hits(kept.store, reactor, settings.cache.memory)
    cache = TileCache(
        catalogue,
        hits,
        kept.store,
        kept.leases,
        reclaimer,
        Cutouts(reactor, settings.cache.voxels),
        renders.lane(Lane.AWAITED),
        renders.lane(Lane.AHEAD),
        reactor,
    )
    metrics.waiters.set_function(lambda: cache.fetches.waiters)
    metrics.flights.set_function(lambda: len(cache.fetches))
    metrics.renders_queued.set_function(renders.queued)

    open_answers = OpenAnswers(reactor, settings.server.patience)
    hot_path = HotPath(hits, reactor, metrics, settings.server.max_age)
    root = make_root(settings, reactor, kept, catalogue, cache, renders.lane(Lane.AWAITED), metrics, open_answers, post)
    site = GatewaySite(root, hot_path, open_answers, reactor, access_log=settings.server.access_log)
    gateway = InTurn()
    for part in (
        QuickTurns(),
        renders,
        *kept.services(),
        LagProbe(reactor, metrics),
        Background(lambda: keep_mended(kept.mender, kept.store, kept.database, reactor, sweeps=post.number == 0)),
        Connections(connections, reactor),
        readers,
        reclaimer,
        cache,
        open_answers,
        Listening(_endpoints(settings, reactor, post.sockets), site),
    ):
        part.setServiceParent(gateway)
    return gateway


def make_catalogue(settings: Settings, doors: Doors, shelf: Shelf, metrics: Metrics) -> Catalogue:
    """Every token's source."""

    def source(said: UpstreamSettings, called: str | None = None, look: Look = PLAIN) -> Source:
        upstream = Measured(make_upstream(said, doors), metrics)
        flights = 2 * said.connections
        return Source(upstream, said.info_max_age, flights, said.timeout, called, look, said.max_cutout, said.max_age)

    named = {token: source(said.upstream, said.token, said.look) for token, said in settings.datasets.items()}
    rest = settings.upstream
    if rest.type == "demo":
        named.setdefault(TOKEN, source(rest))
    many = settings.others and (rest.type in _ANY_TOKEN or all("{token}" in address for _, address in rest.url))
    return Catalogue(named, source(rest) if many and rest.type != "demo" else None, shelf, doors.reactor)


def make_root(
    settings: Settings,
    reactor: Any,
    kept: Keeping,
    catalogue: Catalogue,
    cache: TileCache,
    in_thread: InThread,
    metrics: Metrics,
    open_answers: OpenAnswers,
    post: Post,
) -> Root:
    """The tree of resources."""

    async def told() -> bytes:
        return metrics.text() if post.told is None else await post.told()

    state = State(
        usage=lambda: (kept.store.usage.tiles, kept.store.usage.bytes),
        size=settings.cache.size,
        index_up=lambda: kept.database.up,
        writable=lambda: kept.files.run(kept.store.files.writable),
        metrics=told,
    )
    tokens = TokenResource(
        cache,
        Retouching(catalogue, cache, in_thread),
        catalogue,
        metrics,
        reactor,
        max_age=settings.server.max_age,
        error_text=settings.server.error_body == "text",
    )
    return Root(Pages(catalogue, state, open_answers, reactor), tokens)
