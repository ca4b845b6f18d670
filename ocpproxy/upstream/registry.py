"""Where each token's voxels come from: the registry of upstreams, and what is put round one.

`UPSTREAMS` has a line for each kind in `config.UPSTREAM_KINDS`: how one is made of what the configuration says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.config import Fault, Settings, UpstreamSettings
from ocpproxy.upstream.base import Upstream
from ocpproxy.upstream.boss import PUBLIC, Boss
from ocpproxy.upstream.catmaid import Catmaid, Tiling
from ocpproxy.upstream.demo import DemoTissue
from ocpproxy.upstream.dvid import Dvid
from ocpproxy.upstream.http import HostClient, HttpClient
from ocpproxy.upstream.locations import Location, places, public
from ocpproxy.upstream.ocp import OpenConnectome
from ocpproxy.upstream.precomputed import Precomputed
from ocpproxy.upstream.renumbered import renumbered
from ocpproxy.upstream.tensorstore.reader import INSTALL, TensorStoreReader, TensorStoreReaders, installed
from ocpproxy.upstream.tensorstore.volumes import ShardedScales, TensorStoreUpstream


@dataclass(frozen=True)
class UpstreamContext:
    """What upstreams are made of."""

    http: HttpClient
    run_in_thread: RunInThread
    reactor: Any
    readers: TensorStoreReaders

    def fetcher(self, said: UpstreamSettings, url: str) -> HostClient:
        """Polite GETs at an address."""
        headers = {"Authorization": said.authorization} if said.authorization else {}
        return HostClient(self.http, url, said.timeout, said.connections, said.retries, headers)

    def sites(self, said: UpstreamSettings) -> dict[str | None, Location]:
        """The address of each channel."""
        fetcher = partial(self.fetcher, said)
        return {
            name: Location(url if said.credentials else public(url), fetcher)
            for name, url in places(said.url, said.channels).items()
        }

    def reader(self, said: UpstreamSettings) -> TensorStoreReader:
        """TensorStore."""
        return self.readers.reader(
            said.timeout,
            said.connections,
            said.retries,
            said.max_cutout,
            credentials=said.credentials,
            authorization=said.authorization,
            black=said.missing == "black",
        )


def _ocp(said: UpstreamSettings, doors: UpstreamContext) -> Upstream:
    return OpenConnectome(doors.fetcher(said, said.url[0][1].rstrip("/")), doors.run_in_thread, said.format)


def _demo(said: UpstreamSettings, doors: UpstreamContext) -> Upstream:
    return DemoTissue(doors.run_in_thread)


def _precomputed(said: UpstreamSettings, doors: UpstreamContext) -> Upstream:
    sites, black = doors.sites(said), said.missing == "black"
    shards = ShardedScales(doors.reader(said), sites)
    return Precomputed(sites, doors.run_in_thread, doors.reactor, said.missing_status, shards, black=black)


def _volume(said: UpstreamSettings, doors: UpstreamContext) -> Upstream:
    kinds = ("precomputed", "zarr", "n5") if said.type == "volume" else (said.type,)
    return TensorStoreUpstream(doors.sites(said), doors.reader(said), kinds)


def _boss(said: UpstreamSettings, doors: UpstreamContext) -> Upstream:
    def bucket(address: str) -> Precomputed:
        sites: dict[str | None, Location] = {address: Location(public(address), partial(doors.fetcher, unknown))}
        shards = ShardedScales(doors.reader(unknown), sites)
        return Precomputed(sites, doors.run_in_thread, doors.reactor, said.missing_status, shards)

    unknown = replace(said, authorization=None)  # it is not for buckets
    known = replace(said, authorization=said.authorization or PUBLIC)
    site = Location(said.url[0][1].replace("bossdb://", "https://api.bossdb.io/"), partial(doors.fetcher, known))
    return Boss(site, said.channels, bucket, doors.run_in_thread, doors.reactor)


def _dvid(said: UpstreamSettings, doors: UpstreamContext) -> Upstream:
    return Dvid(doors.sites(said), doors.run_in_thread)


def _catmaid(said: UpstreamSettings, doors: UpstreamContext) -> Upstream:
    width, *height = said.tile_size
    x, y, z = said.dimension
    size = (width, height[0] if height else width)
    tiling = Tiling(said.tile_source_type, size, said.file_extension, (x, y, z), said.resolution, said.zoom_levels)
    site = doors.sites(said)[None]
    return Catmaid(site, tiling, doors.run_in_thread, doors.reactor, said.missing_status, black=said.missing == "black")


UPSTREAMS: dict[str, Callable[[UpstreamSettings, UpstreamContext], Upstream]] = {
    "ocp": _ocp,
    "demo": _demo,
    "precomputed": _precomputed,
    "boss": _boss,
    "catmaid": _catmaid,
    "dvid": _dvid,
    "volume": _volume,
    "n5": _volume,
    "zarr": _volume,
}
"""The registry: a line for each kind."""


def make_upstream(said: UpstreamSettings, doors: UpstreamContext) -> Upstream:
    """The upstream that this describes."""
    return renumbered(UPSTREAMS[said.type](said, doors), said.z_shift, dict(said.levels))


def lacking(settings: Settings) -> list[Fault]:
    """What the configuration needs and this installation does not have."""
    said = {"upstream": settings.upstream, **{f"dataset {t}": d.upstream for t, d in settings.datasets.items()}}
    return [
        Fault(section, "type", upstream.type, f"a type that is installed; this one needs: {INSTALL}")
        for section, upstream in said.items()
        if upstream.type in ("volume", "n5", "zarr") and not installed()
    ]
