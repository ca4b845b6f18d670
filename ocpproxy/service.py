"""The parts list: what ``twistd ocpproxy`` is made of.

`makeService` puts values into doors, doors into deeds, deeds into faces, and stacks them. It opens nothing: twistd
forks after it, and threads, sockets and connections do not survive a fork; all of that begins with `startService`.
The services start from the bottom and stop from the top, each after the one above it has stopped: no new connections,
then the answers that are open, then the flights, the reclaimer, the store's account, the leases, the database.
"""

from __future__ import annotations

import os
import signal
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from types import FrameType
from typing import Any

from treq.client import HTTPClient
from twisted.application.service import IService, MultiService, Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python import usage
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.server import Site

from ocpproxy import config, leases
from ocpproxy.cache import TileCache
from ocpproxy.catalogue import Catalogue, Source
from ocpproxy.config import BadConfiguration, Fault, Settings, UpstreamSettings
from ocpproxy.cutouts import Cutouts
from ocpproxy.database import Database, open_database
from ocpproxy.descriptions import Descriptions
from ocpproxy.hits import Hits
from ocpproxy.leases import Leases
from ocpproxy.metrics import Metrics
from ocpproxy.pool import InThread, Lane, Pool
from ocpproxy.reclaim import Limits, Reclaimer
from ocpproxy.retouching import Retouching
from ocpproxy.stack import PLAIN, Look
from ocpproxy.store import TileStore
from ocpproxy.store.mend import Mender, Report, keep_mended
from ocpproxy.upstream import Measured, Upstream, demo
from ocpproxy.upstream.http import Fetcher, Http
from ocpproxy.upstream.ocp import OpenConnectome
from ocpproxy.web import GatewaySite, OpenAnswers
from ocpproxy.web.hot import HotPath
from ocpproxy.web.pages import Pages, Root, State
from ocpproxy.web.tiles import TokenResource

_FILE_THREADS = 4
_LAG_EVERY = 0.1
_CLOSE_WITHIN = 1.0


class Options(usage.Options):
    """The command line of ``twistd ocpproxy``."""

    synopsis = "[options]"
    longdesc = (
        "Answers tile requests of CATMAID and other viewers from a local cache, and fetches what is missing from the "
        "services that hold the volumes. Without --config it serves a built-in demo volume on "
        "http://127.0.0.1:8080/ and keeps its cache under ~/.cache/ocpproxy."
    )
    optParameters = [["config", "c", None, "The configuration file; etc/ocp.ini explains every option."]]  # noqa: RUF012

    def postOptions(self) -> None:
        """Read the configuration; refuse to start with everything that is wrong in it."""
        try:
            self["settings"] = load(self["config"])
        except BadConfiguration as bad:
            raise usage.UsageError(f"the configuration cannot be used:\n{bad}") from None


def load(path: str | None) -> Settings:
    """The settings of a file, or those of a daemon without one.

    :raises BadConfiguration: with everything that is wrong.
    """
    if path is None:
        return config.embedded(os.environ)
    from twisted.internet import reactor

    settings = config.read(Path(path))
    faults = []
    for line in settings.server.listen:
        try:
            serverFromString(reactor, line)
        except Exception as error:  # endpoint parsers raise what they like
            faults.append(Fault("server", "listen", line, f"an endpoint string that Twisted understands ({error})"))
    if faults:
        raise BadConfiguration(faults)
    return settings


class InTurn(MultiService):
    """Services that start from the first to the last, and stop from the last to the first, each waited for."""

    _log = Logger()

    def stopService(self) -> Deferred[None]:
        """Stop them; one that fails does not keep the others from stopping."""
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for service in reversed(list(self)):
            try:
                await maybeDeferred(service.stopService)
            except Exception:
                self._log.failure("while stopping {service}", service=service)


class Listening(Service):
    """The sockets."""

    _log = Logger()

    def __init__(self, reactor: Any, endpoints: Sequence[str], site: Site) -> None:
        self._reactor = reactor
        self._endpoints = endpoints
        self._site = site
        self._ports: list[IListeningPort] = []

    def privilegedStartService(self) -> None:
        """Listen, while a port below 1024 may still be opened.

        :raises CannotListenError: the daemon does not start without one of its sockets.
        """
        for line in self._endpoints:
            opening = serverFromString(self._reactor, line).listen(self._site)
            opening.addCallbacks(self._opened, lambda failure: failure.raiseException())
            failed: list[Any] = []
            opening.addErrback(failed.append)
            if failed:
                failed[0].raiseException()

    def _opened(self, port: IListeningPort) -> None:
        self._ports.append(port)
        host = port.getHost()
        where = f"http://{host.host}:{host.port}/" if isinstance(host, (IPv4Address, IPv6Address)) else str(host)
        self._log.info("ocpproxy answers at {where}", where=where)

    def stopService(self) -> Deferred[Any]:
        """Take no more connections."""
        super().stopService()
        return gatherResults([maybeDeferred(port.stopListening) for port in self._ports])


class Background(Service):
    """A coroutine that runs as long as the service does."""

    _log = Logger()

    def __init__(self, work: Any) -> None:
        self._work = work
        self._running: Deferred[None] | None = None

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._running = Deferred.fromCoroutine(self._work())
        self._running.addErrback(lambda failure: failure.trap(CancelledError) and None)
        self._running.addErrback(lambda failure: self._log.failure("in the background", failure))

    def stopService(self) -> Deferred[None] | None:
        """Cancel it, and wait for its end."""
        super().stopService()
        if self._running is not None:
            self._running.cancel()
        return self._running


class CleanExit(Service):
    """Makes TERM end the daemon with exit code 0.

    twistd stops on TERM too, but then kills itself with the same signal, which a supervisor sees as a death.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._stopping = False

    def startService(self) -> None:
        """Take TERM over, once the reactor has set its own handlers."""
        super().startService()
        self._reactor.callWhenRunning(signal.signal, signal.SIGTERM, self._term)

    def _term(self, number: int, frame: FrameType | None) -> None:
        if not self._stopping:  # another TERM does not stop it any faster
            self._stopping = True
            self._reactor.callFromThread(self._reactor.stop)


class LagProbe(Service):
    """Samples how late the event loop is."""

    def __init__(self, reactor: Any, metrics: Metrics) -> None:
        self._reactor = reactor
        self._metrics = metrics
        self._due = 0.0
        self._loop = LoopingCall(self._sample)

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._due = self._reactor.seconds() + _LAG_EVERY
        self._timer = self._reactor.callLater(_LAG_EVERY, self._sample)

    def stopService(self) -> None:
        """End."""
        super().stopService()
        self._timer.cancel()

    def _sample(self) -> None:
        now = self._reactor.seconds()
        self._metrics.loop_lag.observe(max(0.0, now - self._due))
        self._due = now + _LAG_EVERY
        self._timer = self._reactor.callLater(_LAG_EVERY, self._sample)


class Connections(Service):
    """The idle connections to upstreams."""

    def __init__(self, pool: HTTPConnectionPool, reactor: Any) -> None:
        self._pool = pool
        self._reactor = reactor

    def stopService(self) -> Deferred[None]:
        """Close them."""
        super().stopService()
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed.addTimeout(_CLOSE_WITHIN, self._reactor, lambda *_: None)  # a TLS peer may never say good-bye


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


def make_upstream(settings: UpstreamSettings, tokens: Sequence[str], http: Http, in_thread: InThread) -> Upstream:
    """The registry of upstreams: one line for each kind in `config.UPSTREAM_KINDS`."""
    if settings.type == "demo":
        return demo.DemoTissue(in_thread, tokens)
    fetcher = Fetcher(http, settings.url, settings.timeout, settings.connections, settings.retries)
    return OpenConnectome(fetcher, in_thread, settings.format)


def make_catalogue(
    settings: Settings, reactor: Any, http: Http, in_thread: InThread, database: Database, metrics: Metrics
) -> Catalogue:
    """Every token's upstream."""

    def source(said: UpstreamSettings, token: str, called: str | None = None, look: Look = PLAIN) -> Source:
        upstream = Measured(make_upstream(said, [called or token], http, in_thread), metrics)
        return Source(upstream, said.info_max_age, 2 * said.connections, said.timeout, called, look, said.max_cutout)

    named = {token: source(said.upstream, token, said.token, said.look) for token, said in settings.datasets.items()}
    otherwise = source(settings.upstream, demo.TOKEN)
    if settings.upstream.type == "demo":
        named.setdefault(demo.TOKEN, otherwise)
    return Catalogue(named, otherwise, Descriptions(database, reactor), reactor)


def make_gateway(settings: Settings, reactor: Any) -> InTurn:
    """The whole daemon, not started."""
    metrics = Metrics()
    cores = os.cpu_count() or 1
    renders = Pool(reactor, cores, "renders")
    kept = keeping(settings, reactor, metrics)

    connections = HTTPConnectionPool(reactor)
    connections.maxPersistentPerHost = max(
        said.connections for said in (settings.upstream, *(d.upstream for d in settings.datasets.values()))
    )
    connections.retryAutomatically = False
    http = Http(HTTPClient(Agent(reactor, connectTimeout=10, pool=connections)), reactor, SystemRandom())
    catalogue = make_catalogue(settings, reactor, http, renders.run, kept.database, metrics)

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
    root = make_root(settings, reactor, kept, catalogue, cache, renders.lane(Lane.AWAITED), metrics, open_answers)
    site = GatewaySite(root, hot_path, open_answers, reactor, access_log=settings.server.access_log)
    gateway = InTurn()
    for part in (
        renders,
        *kept.services(),
        LagProbe(reactor, metrics),
        Background(lambda: keep_mended(kept.mender, kept.store, kept.database, reactor)),
        Connections(connections, reactor),
        reclaimer,
        cache,
        open_answers,
        Listening(reactor, settings.server.listen, site),
    ):
        part.setServiceParent(gateway)
    return gateway


def make_root(
    settings: Settings,
    reactor: Any,
    kept: Keeping,
    catalogue: Catalogue,
    cache: TileCache,
    in_thread: InThread,
    metrics: Metrics,
    open_answers: OpenAnswers,
) -> Root:
    """The tree of resources."""
    from prometheus_client.twisted import MetricsResource

    state = State(
        usage=lambda: (kept.store.usage.tiles, kept.store.usage.bytes),
        size=settings.cache.size,
        index_up=lambda: kept.database.up,
        writable=lambda: kept.files.run(kept.store.files.writable),
    )
    tokens = TokenResource(
        cache,
        Retouching(catalogue, cache, in_thread),
        catalogue,
        metrics,
        max_age=settings.server.max_age,
        error_text=settings.server.error_body == "text",
    )
    return Root(Pages(catalogue, state, open_answers, reactor), MetricsResource(metrics.registry), tokens)


def makeService(options: Options) -> IService:
    """What twistd runs."""
    from twisted.internet import reactor

    gateway = make_gateway(options["settings"], reactor)
    CleanExit(reactor).setServiceParent(gateway)
    return gateway
