"""Settings: a whole configuration as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from ocpproxy.model.stack import DisplaySettings


@dataclass(frozen=True, slots=True)
class IndexUrl:
    """Where the index database is. `mysql` tells which of the two kinds; `path` is SQLite's file."""

    mysql: bool
    path: str = ""
    host: str = ""
    port: int = 3306
    user: str = ""
    password: str = ""
    database: str = ""
    unix_socket: str = ""

    def __repr__(self) -> str:  # never the password
        return f"<index {'mysql ' + self.database if self.mysql else 'sqlite ' + self.path}>"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """``[server]``: sockets and answers."""

    listen: tuple[str, ...]
    workers: int
    error_body: str
    max_age: int
    access_log: bool
    patience: float


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


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """``[index]``: the database, and how long a lease holds without being renewed (seconds)."""

    url: IndexUrl
    lease: float


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """``[upstream]``, and what a ``[dataset]`` changes of it. Times in seconds, `max_cutout` in bytes."""

    type: str
    url: tuple[tuple[str | None, str], ...]
    """Addresses by channel; None is for the only one."""
    authorization: str | None = field(repr=False)
    timeout: float
    connections: int
    retries: int
    format: str
    info_max_age: float
    max_age: float | None
    """Infinity for never; None for what the upstream makes right."""
    max_cutout: int
    channels: tuple[tuple[str, str], ...]
    """(name here, name there)."""
    z_shift: int
    levels: tuple[tuple[int, int], ...]
    """(level here, level there)."""
    missing: str
    missing_status: tuple[int, ...]
    credentials: bool
    tile_source_type: int
    tile_size: tuple[int, ...]
    file_extension: str
    dimension: tuple[int, ...]
    resolution: tuple[Fraction, ...]
    zoom_levels: int


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """``[dataset TOKEN]``: an upstream of its own, the token there, and how it is shown."""

    upstream: UpstreamSettings
    token: str | None
    look: DisplaySettings


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """What settings were read from: its text, and the directory that relative paths are relative to."""

    text: str
    here: Path


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole configuration."""

    server: ServerSettings
    cache: CacheSettings
    index: IndexSettings
    upstream: UpstreamSettings
    datasets: Mapping[str, DatasetSettings]
    others: bool
    """Whether `upstream` is asked for tokens that have no section: not where sections are all that the file says."""
    source: ConfigSource = field(compare=False)
