"""One whole gateway: what it is made of, and the order in which its services start and stop.

`make_gateway` opens nothing: twistd forks before anything is started, and threads, sockets and connections do not
survive a fork. All of that begins with `startService`. The services start from the bottom and stop from the top, each
after the one above it has stopped: no new connections, then the requests that are open, the flights, the evictor, the
store, the leases, the database, the threads.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from twisted.application.service import IService
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpoint

from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.cache.derived import DerivedTiles
from ocpproxy.cache.eviction import Evictor
from ocpproxy.cache.fetch_times import FetchReport, FetchTimes
from ocpproxy.cache.fetches import CuboidFetches, FetchContext
from ocpproxy.cache.lookahead import AheadContext, LookAhead
from ocpproxy.cache.lookup import TileLookup
from ocpproxy.cache.placeholders import Placeholders
from ocpproxy.cache.quotas import Quotas
from ocpproxy.cache.rendering import RenderThreads
from ocpproxy.cache.shared_cutouts import SharedCutouts
from ocpproxy.cache.tiles import TileCache
from ocpproxy.concurrency.threads import Priority
from ocpproxy.config import BadConfiguration, Fault, Settings, UpstreamSettings
from ocpproxy.daemon.admin import AdminServer, AdminSocket, AdoptedSocket
from ocpproxy.daemon.log_output import LogOutput
from ocpproxy.daemon.reloading import LiveDatasets
from ocpproxy.daemon.services import (
    BackgroundTask,
    LagProbe,
    ListeningPorts,
    OrderedServices,
    ShortSwitchInterval,
    endpoint,
)
from ocpproxy.daemon.serving import ServedParts, make_access_log, make_serving
from ocpproxy.daemon.storage import Storage, open_storage
from ocpproxy.daemon.upstreams import make_catalogue, make_sources, open_upstreams
from ocpproxy.index.descriptions import Descriptions
from ocpproxy.index.jobs import JobRows
from ocpproxy.jobs.flushing import Flushing
from ocpproxy.jobs.pinning import PinContext, Pinning
from ocpproxy.jobs.plan import Estimator
from ocpproxy.jobs.run import RunContext
from ocpproxy.jobs.runner import JobParts, JobRunner
from ocpproxy.jobs.service import Jobs
from ocpproxy.jobs.space import SpaceReport
from ocpproxy.metrics import Metrics
from ocpproxy.store.flushing.cleaning import Cleaning
from ocpproxy.web.access import Access
from ocpproxy.web.admin import AdminParts, AdminSite
from ocpproxy.web.site import GatewaySite
from ocpproxy.web.tiles import TileSources
from ocpproxy.web.tracing import TraceParts, Tracer

_CONNECT_WITHIN = 10
"""Seconds."""


async def _no_file() -> dict[str, Any]:
    raise BadConfiguration([Fault("-", "--config", "", "a file that the daemon was started with")])


@dataclass(frozen=True)
class GatewayProcess:
    """The process of a gateway: which one it is among those that serve the same sockets, and what it has."""

    number: int = 0
    of: int = 1
    sockets: Sequence[int] = ()
    """Descriptors of listening sockets to adopt, where the process does not open its own."""
    admin: int | None = None
    """The descriptor of the admin endpoint's socket to adopt, where the process does not open its own."""
    all_metrics: Callable[[], Awaitable[bytes]] | None = None
    """Returns the metrics of all processes."""
    all_fetches: Callable[[], Awaitable[FetchReport]] | None = None
    """Returns how long the fetches of all processes took."""
    log: LogOutput | None = None
    """Where the log goes; None where that is not ours."""
    reload: Callable[[], Awaitable[dict[str, Any]]] = _no_file
    """Reads the configuration again (`reloading.LiveConfiguration.reload`)."""


ALONE = GatewayProcess()
"""The only process."""


@dataclass(frozen=True)
class Gateway:
    """The parts of one gateway, not started."""

    storage: Storage
    catalogue: Catalogue
    fetches: CuboidFetches
    evictor: Evictor
    times: FetchTimes
    site: GatewaySite
    services: OrderedServices
    reload: Callable[[Settings], None]
    """Uses the upstreams and datasets of other settings from now on."""


def make_gateway(
    settings: Settings,
    reactor: Any,
    metrics: Metrics,
    process: GatewayProcess = ALONE,
    now: Callable[[], float] = time.time,
) -> Gateway:
    """Return a whole gateway, not started.

    :param reactor: its ``seconds`` measure how long something takes (`ocpproxy.daemon.services.measure_monotonic`).
    :param now: returns the seconds since 1970.
    """
    settings = _share(settings, process.of)
    storage = open_storage(settings, reactor, metrics)
    upstreams = open_upstreams(settings, reactor)
    renders = upstreams.threads
    tokens = make_sources(settings, upstreams.context, metrics)
    tokens.watch(metrics)
    catalogue = make_catalogue(tokens, Descriptions(storage.database, reactor), reactor, now)
    live = LiveDatasets(settings, tokens, catalogue, storage.store, upstreams.context)
    lookup = TileLookup(storage.store, settings.cache.memory)
    threads = RenderThreads(renders.at(Priority.URGENT), renders.at(Priority.AHEAD))
    times = FetchTimes(now)
    context = FetchContext(catalogue, SharedCutouts(reactor, settings.cache.voxels), threads, reactor, metrics, times)
    fetches = CuboidFetches(lookup, storage.store, storage.leases, context)
    storage.store.flushes.when_flushed(lookup.forget)
    storage.store.flushes.when_flushed(fetches.detach)
    metrics.waiters.set_function(lambda: fetches.waiters)
    metrics.flights.set_function(lambda: len(fetches))
    metrics.renders_queued.set_function(renders.queued)
    metrics.cache_limit.set_function(lambda: storage.store.capacity.limits.size)

    placeholders = Placeholders(settings.server.placeholder, lookup, threads.urgent, now)
    cache = TileCache(catalogue, lookup, fetches, placeholders, now)
    evictor = Evictor(storage.store, storage.leases, settings.cache.reclaim_interval, reactor, metrics)
    ahead = AheadContext(fetches, evictor, reactor, now)
    lookahead = LookAhead(ahead, metrics, enabled=settings.cache.lookahead)
    derived, access = DerivedTiles(cache, threads.urgent), Access(catalogue)
    sources = TileSources(catalogue, cache, derived, lookahead, access, now, reactor)
    run = RunContext(fetches, storage.store, evictor, reactor, now)
    estimator = Estimator(storage.store, storage.files.run, reactor, live.quotas)
    rows, space = JobRows(storage.database, reactor), SpaceReport(storage.store, live.quotas)
    served = ServedParts(
        storage, sources, lookup, times, space, rows, threads.urgent, metrics, process.all_metrics, process.all_fetches
    )
    access_log = make_access_log(settings.server.access_log, process.log, reactor)
    serving = make_serving(settings, reactor, served, access_log)
    site = serving.site
    job_parts = JobParts(rows, storage.leases, catalogue, estimator, fetches, run, metrics)
    runner = JobRunner(job_parts, reactor)
    jobs = Jobs(job_parts, runner)
    tracer = Tracer(TraceParts(catalogue, cache, lookup, fetches, storage.store, storage.leases, now))
    pinning = Pinning(storage.store, PinContext(catalogue.entry, jobs.estimate, live.quotas, now))
    flushing = Flushing(storage.store, catalogue.entry, now)
    admin = AdminParts(jobs, flushing, space, pinning, tracer, process.reload)
    services = OrderedServices()
    for service in (
        ShortSwitchInterval(),
        renders,
        *storage.services(),
        *([] if access_log is None else [access_log]),
        LagProbe(reactor, metrics.loop_lag),
        BackgroundTask(lambda: storage.fsck.run(reactor, sweep=process.number == 0)),
        BackgroundTask(Cleaning(storage.store, storage.leases, reactor).run),
        *upstreams.services(),
        catalogue,
        evictor,
        Quotas(storage.store, storage.leases, live.quotas, reactor, metrics),
        fetches,
        lookahead,
        *_admin_services(settings, process, runner, admin, reactor),
        site.open_requests,
        serving.live,
        ListeningPorts(_endpoints(settings, reactor, process.sockets), site),
    ):
        service.setServiceParent(services)

    def reload(other: Settings) -> None:
        live.use(_share(settings.with_datasets_of(other), process.of), metrics)

    return Gateway(storage, catalogue, fetches, evictor, times, site, services, reload)


def _share(settings: Settings, of: int) -> Settings:
    """Return the settings of one process among `of`: what is bounded for the whole daemon is divided."""
    if of == 1:
        return settings

    def fewer(upstream: UpstreamSettings) -> UpstreamSettings:
        return replace(upstream, connections=max(1, upstream.connections // of))

    return replace(
        settings,
        cache=replace(settings.cache, memory=settings.cache.memory // of, voxels=settings.cache.voxels // of),
        upstream=fewer(settings.upstream),
        datasets={token: replace(d, upstream=fewer(d.upstream)) for token, d in settings.datasets.items()},
    )


def _admin_services(
    settings: Settings, process: GatewayProcess, runner: JobRunner, parts: AdminParts, reactor: Any
) -> list[IService]:
    """Return the jobs and the admin endpoint, which the first process has."""
    if process.number:
        return []
    address = settings.admin.listen
    opened = AdoptedSocket(process.admin) if process.of > 1 else AdminSocket(address)
    token = None if address is None or address.path else settings.admin.token
    return [runner, opened, AdminServer(opened, AdminSite(parts, token, reactor), reactor)]


def _endpoints(settings: Settings, reactor: Any, sockets: Sequence[int]) -> list[IStreamServerEndpoint]:
    adopted: list[IStreamServerEndpoint] = []
    for descriptor in sockets:
        with socket.socket(fileno=os.dup(descriptor)) as duplicate:
            adopted.append(AdoptedStreamServerEndpoint(reactor, descriptor, duplicate.family))
    return adopted or [endpoint(reactor, line) for line in settings.server.listen]
