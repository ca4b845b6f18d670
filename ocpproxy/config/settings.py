"""Settings: a whole configuration as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from ocpproxy.model.display import DisplaySettings


@dataclass(frozen=True, slots=True)
class IndexUrl:
    """The address of the index database: MySQL, or the SQLite file `path`."""

    mysql: bool
    path: str = ""
    host: str = ""
    port: int = 3306
    user: str = ""
    password: str = ""
    database: str = ""
    unix_socket: str = ""
    tls: tuple[tuple[str, str], ...] = ()
    """(option of PyMySQL, file) for an encrypted connection; the certificate of the server is checked."""
    tls_identity: bool = True
    """Whether the certificate must be for the host."""

    def __repr__(self) -> str:  # never the password
        return f"<index {'mysql ' + self.database if self.mysql else 'sqlite ' + self.path}>"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """``[server]``: sockets and answers."""

    listen: tuple[str, ...]
    workers: int
    placeholder: str
    """What viewers get instead of a tile whose upstream fails: ``none``, ``upscaled`` or ``blank``."""
    error_body: str
    max_age: int
    access_log: bool | Path
    """Whether answers are logged in the daemon's log, or the file that they are logged in."""
    log: str
    """The form of the daemon's log: ``text`` or ``json``."""
    patience: float
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    public_url: str
    mirrors: tuple[str, ...]
    """The addresses of other gateways with the same datasets."""
    auth_header: str
    """The header in which a trusted front names the groups of a visitor; empty for none."""
    link_secret: str | None = field(repr=False)
    """What signed links are signed with; None where there are none."""
    connections: int | None
    """Clients' connections at most; None for as many as descriptors allow."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """``[cache]``: sizes in bytes, times in seconds, shares of `size`."""

    directory: Path
    size: int
    memory: int
    voxels: int
    reclaim_above: float
    reclaim_to: float
    reclaim_interval: float
    max_tiles: int
    keep_free: tuple[float, int]
    """What stays free on the disk: a share of it, and bytes; one of them is 0."""
    lookahead: bool
    """Whether cuboids are fetched before viewers ask for them."""


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """``[index]``: the database, and how long a lease holds without being renewed (seconds)."""

    url: IndexUrl
    lease: float


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """Where the admin endpoint listens: the socket file `path`, or `host` and `port`."""

    path: str = ""
    mode: int = 0o660
    """The permissions of the file."""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"tcp:{self.port}:interface={self.host}"


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """``[admin]``: where the commands reach the daemon, and what they have to show there."""

    listen: AdminAddress | None
    token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """``[upstream]``, and what a ``[dataset]`` changes of it. Times in seconds, `max_cutout` in bytes."""

    type: str
    mode: str
    """``normal``, or ``cache-only`` where the upstream is not asked."""
    url: tuple[tuple[str | None, str], ...]
    """(channel, address); the channel is None for addresses of all channels. Several of one channel are its homes."""
    authorization: str | None = field(repr=False)
    timeout: float
    connections: int
    retries: int
    info_max_age: float
    max_age: float | None
    """Seconds after which tiles are fetched again; infinity for never; None to decide by channel."""
    max_cutout: int
    z_shift: int
    levels: tuple[tuple[int, int], ...]
    """(our level, the upstream's level)."""
    redirect_hosts: tuple[str, ...]
    """Other hosts that redirects may lead to."""
    options: Mapping[str, Any]
    """The options of this kind of upstream."""

    @property
    def cache_only(self) -> bool:
        """True if the upstream is not asked."""
        return self.mode == "cache-only"

    def homes(self) -> list[UpstreamSettings]:
        """Return the settings of each home of the volume, which share the time that there is."""
        addresses: dict[str | None, list[str]] = {}
        for channel, address in self.url:
            addresses.setdefault(channel, []).append(address)
        count = max(map(len, addresses.values()), default=1)
        return [
            replace(
                self,
                url=tuple((channel, found[min(n, len(found) - 1)]) for channel, found in addresses.items()),
                timeout=self.timeout / count,
            )
            for n in range(count)
        ]


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """``[dataset TOKEN]``: its upstream, and how it is shown."""

    upstream: UpstreamSettings
    token: str | None
    """The upstream's name of the token, where it is another."""
    display: DisplaySettings
    quota: int
    """Bytes of tiles at most; 0 for no bound of its own."""
    pin: tuple[int, int | None] | None
    """The first and the last level that are never evicted; the last is None for the coarsest. None for no levels."""
    allow: frozenset[str] = frozenset()
    """The groups that may see it; empty for everybody."""


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """What settings were read from."""

    text: str
    directory: Path
    """The directory that relative paths are relative to."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole configuration."""

    server: ServerSettings
    cache: CacheSettings
    index: IndexSettings
    admin: AdminSettings
    upstream: UpstreamSettings
    datasets: Mapping[str, DatasetSettings]
    any_token: bool
    """True if `upstream` is asked for tokens that have no section of their own."""
    source: ConfigSource = field(compare=False)

    def with_datasets_of(self, other: Settings) -> Settings:
        """Return these settings with the upstreams and datasets of others."""
        return replace(self, upstream=other.upstream, datasets=other.datasets, any_token=other.any_token)

    @property
    def quotas(self) -> dict[str, int]:
        """The bytes that tokens with a quota may take."""
        return {token: dataset.quota for token, dataset in self.datasets.items() if dataset.quota}
