"""Every option of every section, with its default; `UpstreamKind` adds those of one kind of upstream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ocpproxy.config import dataset_values, values


@dataclass(frozen=True, slots=True)
class Option:
    """One option."""

    read: Callable[[str, Path], Any]
    """Returns the value of a text; the path is the directory that relative paths are relative to.

    Raises `values.BadValue` with what was expected.
    """
    default: str
    """The default as it would stand in the file."""
    secret: bool = False
    """True for a value that comes from the environment and is never shown."""


SERVER: Mapping[str, Option] = {
    "listen": Option(values.endpoints, "tcp:8080:interface=127.0.0.1"),
    "workers": Option(values.workers, "1"),
    "placeholder": Option(values.choice("none", "upscaled", "blank"), "none"),
    "error_body": Option(values.choice("png", "text"), "png"),
    "max_age": Option(values.integer(0, 10**9), "86400"),
    "access_log": Option(values.access_log, "on"),
    "log": Option(values.choice("text", "json"), "text"),
    "patience": Option(values.number(0, 300, "seconds"), "10"),
    "trusted_proxies": Option(values.networks, ""),
    "public_url": Option(values.public_url, ""),
    "mirrors": Option(values.mirrors, ""),
    "auth_header": Option(values.header_name, ""),
    "link_secret": Option(values.secret, "", secret=True),
    "connections": Option(values.connections, "auto"),
}
CACHE: Mapping[str, Option] = {
    "directory": Option(values.path, "/var/cache/ocpproxy"),
    "size": Option(values.cache_size, "1000000"),
    "memory": Option(values.mebibytes, "256"),
    "voxels": Option(values.mebibytes, "64"),
    "reclaim_above": Option(values.number(0.01, 1, "a share of size"), "0.95"),
    "reclaim_to": Option(values.number(0, 1, "a share of size"), "0.90"),
    "reclaim_interval": Option(values.number(0.1, 86400, "seconds"), "30"),
    "max_tiles": Option(values.integer(0, 10**12), "0"),
    "keep_free": Option(values.keep_free, "5%"),
    "lookahead": Option(values.switch, "on"),
}
INDEX: Mapping[str, Option] = {
    "url": Option(values.index_url, "sqlite:////var/lib/ocpproxy/index.sqlite"),
    "lease": Option(values.number(1, 600, "seconds"), "10"),
}
ADMIN: Mapping[str, Option] = {
    "listen": Option(values.admin_address, "unix:/run/ocpproxy/admin.sock"),
    "token": Option(values.secret, "", secret=True),
}
UPSTREAM: Mapping[str, Option] = {
    "type": Option(values.kind_name, "ocp"),
    "mode": Option(values.choice("normal", "cache-only"), "normal"),
    "url": Option(values.addresses, "http://openconnecto.me/ocp"),
    "authorization": Option(values.authorization, "", secret=True),
    "timeout": Option(values.number(0.1, 600, "seconds"), "30"),
    "connections": Option(values.integer(1, 256), "8"),
    "retries": Option(values.integer(0, 10), "2"),
    "info_max_age": Option(values.number(1, 10**8, "seconds"), "3600"),
    "max_age": Option(values.max_age, "auto"),
    "max_cutout": Option(values.cutout_size, "16"),
    "z_shift": Option(values.slice_shift, "0"),
    "levels": Option(values.level_numbers, ""),
    "redirect_hosts": Option(values.hosts, ""),
}
"""What every kind of upstream has."""
DISPLAY: Mapping[str, Option] = {
    "token": Option(values.name("token"), ""),
    "serve": Option(dataset_values.served, "tiles, chunks"),
    "channel": Option(values.name("channel"), ""),
    "slice_coordinate": Option(values.choice("level", "full"), "level"),
    "aspect": Option(values.choice("isotropic", "native"), "isotropic"),
    "window": Option(dataset_values.windows, ""),
    "gain": Option(values.number(0.01, 100, "a factor"), "1"),
    "opaque": Option(values.switch, "off"),
    "broken": Option(dataset_values.broken_slices, ""),
    "probability": Option(values.choice("grey", "red"), "grey"),
}
"""How a ``[dataset TOKEN]`` is shown."""
STORED: Mapping[str, Option] = {
    "quota": Option(values.mebibytes, "0"),
    "pin": Option(dataset_values.pinned_levels, ""),
}
"""What a ``[dataset TOKEN]`` may take of the cache."""
VISITORS: Mapping[str, Option] = {"allow": Option(dataset_values.groups, "")}
"""Who may see a ``[dataset TOKEN]``."""

HTTP_SCHEMES = ("http", "https")
BUCKET_SCHEMES = (*HTTP_SCHEMES, "s3", "gs")


@dataclass(frozen=True, kw_only=True)
class UpstreamKind:
    """What the configuration knows of one kind of upstream."""

    name: str
    """The value of ``type``."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Its own options, beside those of `UPSTREAM`."""
    required: Mapping[str, str] = field(default_factory=dict)
    """Options of its own that a dataset cannot do without, and what is expected of each."""
    schemes: tuple[str, ...] = BUCKET_SCHEMES
    """The schemes that its addresses may have; none where it reads no address."""
    has_address: bool = True
    """True if each dataset has an address. Otherwise a server knows its tokens."""
    url_per_channel: bool = False
    """True if channels may have addresses of their own, by name or by ``{channel}``."""
    not_installed: Callable[[], str | None] = lambda: None
    """Returns the command that installs what this kind needs, or None when it is installed."""
