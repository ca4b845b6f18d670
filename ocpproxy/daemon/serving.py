"""The HTTP server of a gateway, made of its parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocpproxy.cache.fetch_times import FetchReport, FetchTimes
from ocpproxy.cache.lookup import TileLookup
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.config import Settings
from ocpproxy.daemon.log_output import LogOutput
from ocpproxy.daemon.storage import Storage
from ocpproxy.index.jobs import JobRows
from ocpproxy.jobs.space import SpaceReport
from ocpproxy.metrics import Metrics
from ocpproxy.web.access import Access
from ocpproxy.web.access_log import COMBINED, JSON_LINES, AccessLog
from ocpproxy.web.answer_record import AnswerRecord
from ocpproxy.web.catmaid.canaries import Canaries
from ocpproxy.web.catmaid.projects import CatmaidProjects
from ocpproxy.web.connections import Connections, most_connections
from ocpproxy.web.front import Front
from ocpproxy.web.health import GatewayState, Health
from ocpproxy.web.hot_path import HotPath, KnownTiles
from ocpproxy.web.log_file import LogFile
from ocpproxy.web.open_requests import OpenRequests
from ocpproxy.web.pages.figures import StateSources
from ocpproxy.web.pages.live_state import LiveState
from ocpproxy.web.pages.site_pages import PageParts, SitePages
from ocpproxy.web.route_cache import RouteCache
from ocpproxy.web.signed_links import SignedLinks
from ocpproxy.web.site import GatewaySite, SiteParts
from ocpproxy.web.tiles import TilePolicy, TileSources, TokenResource
from ocpproxy.web.tree import Root, RootParts
from ocpproxy.web.voxels.neuroglancer import ClientFiles
from ocpproxy.web.voxels.resource import VoxelSources


@dataclass(frozen=True)
class ServedParts:
    """What is served."""

    storage: Storage
    sources: TileSources
    lookup: TileLookup
    times: FetchTimes
    space: SpaceReport
    rows: JobRows
    run_in_thread: RunInThread
    metrics: Metrics
    all_metrics: Callable[[], Awaitable[bytes]] | None
    """Returns the metrics of all processes; None where there is one."""
    all_fetches: Callable[[], Awaitable[FetchReport]] | None
    """Returns how long the fetches of all processes took; None where there is one."""


@dataclass(frozen=True)
class Serving:
    """The server, and the pages that are open on it."""

    site: GatewaySite
    live: LiveState


def make_serving(settings: Settings, reactor: Any, parts: ServedParts, access_log: AccessLog | None) -> Serving:
    """Return the HTTP server with its resource tree."""
    server, sources, metrics = settings.server, parts.sources, parts.metrics
    catalogue, access = sources.catalogue, sources.access
    open_requests = OpenRequests(reactor, server.patience)
    routes = RouteCache()
    policy = TilePolicy(server.max_age, errors_as_text=server.error_body == "text")
    voxels = VoxelSources(sources.cache, parts.run_in_thread, routes, access, sources.now, server.max_age)
    neuroglancer = ClientFiles.installed()
    live = _live_state(parts, access, reactor)
    canaries = Canaries(sources.cache, parts.run_in_thread, reactor)
    catmaid = CatmaidProjects(catalogue, access, canaries, server.mirrors, reactor)
    pages = SitePages(
        PageParts(
            catalogue, catmaid, _fetches(parts), live, access, reactor, parts.run_in_thread, neuroglancer.are_installed
        )
    )
    root = Root(
        RootParts(
            pages,
            Health(_state(parts), open_requests),
            catmaid,
            TokenResource(sources, routes, policy),
            voxels,
            neuroglancer,
        )
    )
    front = Front(server.trusted_proxies, server.public_url, server.auth_header.encode())
    record = AnswerRecord(metrics, access_log)
    known = KnownTiles(routes, parts.lookup, sources.lookahead.note)
    hot_path = HotPath(known, record, front, sources.now, server.max_age)
    links = SignedLinks(server.link_secret, sources.now)
    connections = Connections(most_connections(server.connections), reactor)
    return Serving(
        GatewaySite(root, SiteParts(hot_path, open_requests, record, front, connections, links), reactor), live
    )


def _own_metrics(metrics: Metrics) -> Callable[[], Awaitable[bytes]]:
    async def text() -> bytes:
        return metrics.text()

    return text


def _fetches(parts: ServedParts) -> Callable[[], Awaitable[FetchReport]]:
    async def report() -> FetchReport:
        return parts.times.report()

    return parts.all_fetches or report


def _state(parts: ServedParts) -> GatewayState:
    storage = parts.storage
    return GatewayState(
        index_available=lambda: storage.database.available,
        check_writable=lambda: storage.files.run(storage.store.files.check_writable),
        metrics=parts.all_metrics or _own_metrics(parts.metrics),
    )


def _live_state(parts: ServedParts, access: Access, reactor: Any) -> LiveState:
    sources = StateSources(
        metrics=parts.all_metrics or _own_metrics(parts.metrics),
        usage=lambda: parts.space.usage("token"),
        jobs=parts.rows.load_all,
        fetches=_fetches(parts),
        now=parts.sources.now,
    )
    return LiveState(sources, access, reactor)


def make_access_log(where: bool | Path, log: LogOutput | None, reactor: Any) -> AccessLog | None:
    """Return the access log; as JSON among other such lines, else in the format of log tools."""
    if not where:
        return None
    if isinstance(where, Path):
        return AccessLog(LogFile(where).write, reactor)
    output = log or LogOutput(None, as_json=False)
    return AccessLog(output.write_lines, reactor, form=JSON_LINES if output.as_json else COMBINED)
