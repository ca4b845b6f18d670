"""Where each token's voxels come from: the registry of upstreams, and what is put round one.

`UPSTREAMS` has a line for each kind in `config.UPSTREAM_KINDS`: how one is made of what the configuration says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ocpproxy.concurrency.threads import InThread
from ocpproxy.config import Fault, Settings, UpstreamSettings
from ocpproxy.upstream.base import Upstream
from ocpproxy.upstream.boss import PUBLIC, Boss
from ocpproxy.upstream.catmaid import Catmaid, Tiling
from ocpproxy.upstream.demo import DemoTissue
from ocpproxy.upstream.dvid import Dvid
from ocpproxy.upstream.http import Fetcher, Http
from ocpproxy.upstream.locations import Site, places, public
from ocpproxy.upstream.ocp import OpenConnectome
from ocpproxy.upstream.precomputed import Precomputed
from ocpproxy.upstream.renumbered import renumbered
from ocpproxy.upstream.tensorstore.reader import INSTALL, Reader, Readers, installed
from ocpproxy.upstream.tensorstore.volumes import Shards, VolumeStore


@dataclass(frozen=True)
class Doors:
    """What upstreams are made of."""

    http: Http
    in_thread: InThread
    reactor: Any
    readers: Readers

    def fetcher(self, said: UpstreamSettings, url: str) -> Fetcher:
        """Polite GETs at an address."""
        headers = {"Authorization": said.authorization} if said.authorization else {}
        return Fetcher(self.http, url, said.timeout, said.connections, said.retries, headers)

    def sites(self, said: UpstreamSettings) -> dict[str | None, Site]:
        """The address of each channel."""
        fetcher = partial(self.fetcher, said)
        return {
            name: Site(url if said.credentials else public(url), fetcher)
            for name, url in places(said.url, said.channels).items()
        }

    def reader(self, said: UpstreamSettings) -> Reader:
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


def _ocp(said: UpstreamSettings, doors: Doors) -> Upstream:
    return OpenConnectome(doors.fetcher(said, said.url[0][1].rstrip("/")), doors.in_thread, said.format)


def _demo(said: UpstreamSettings, doors: Doors) -> Upstream:
    return DemoTissue(doors.in_thread)


def _precomputed(said: UpstreamSettings, doors: Doors) -> Upstream:
    sites, black = doors.sites(said), said.missing == "black"
    shards = Shards(doors.reader(said), sites)
    return Precomputed(sites, doors.in_thread, doors.reactor, said.missing_status, shards, black=black)


def _volume(said: UpstreamSettings, doors: Doors) -> Upstream:
    kinds = ("precomputed", "zarr", "n5") if said.type == "volume" else (said.type,)
    return VolumeStore(doors.sites(said), doors.reader(said), kinds)


def _boss(said: UpstreamSettings, doors: Doors) -> Upstream:
    def bucket(address: str) -> Precomputed:
        sites: dict[str | None, Site] = {address: Site(public(address), partial(doors.fetcher, unknown))}
        shards = Shards(doors.reader(unknown), sites)
        return Precomputed(sites, doors.in_thread, doors.reactor, said.missing_status, shards)

    unknown = replace(said, authorization=None)  # it is not for buckets
    known = replace(said, authorization=said.authorization or PUBLIC)
    site = Site(said.url[0][1].replace("bossdb://", "https://api.bossdb.io/"), partial(doors.fetcher, known))
    return Boss(site, said.channels, bucket, doors.in_thread, doors.reactor)


def _dvid(said: UpstreamSettings, doors: Doors) -> Upstream:
    return Dvid(doors.sites(said), doors.in_thread)


def _catmaid(said: UpstreamSettings, doors: Doors) -> Upstream:
    width, *height = said.tile_size
    x, y, z = said.dimension
    size = (width, height[0] if height else width)
    tiling = Tiling(said.tile_source_type, size, said.file_extension, (x, y, z), said.resolution, said.zoom_levels)
    site = doors.sites(said)[None]
    return Catmaid(site, tiling, doors.in_thread, doors.reactor, said.missing_status, black=said.missing == "black")


UPSTREAMS: dict[str, Callable[[UpstreamSettings, Doors], Upstream]] = {
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


def make_upstream(said: UpstreamSettings, doors: Doors) -> Upstream:
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
