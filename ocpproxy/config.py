"""``ocp.ini`` read into frozen settings: every option name, default and limit is in this room.

`read` looks at the whole file before it says no: `BadConfiguration` carries every fault, each with section, key,
value and what was expected, so that an administrator mends a file once. ``${NAME}`` in any value is taken from the
environment (a password need not be in the file); a relative path is relative to the file.
"""

from __future__ import annotations

import configparser
import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

MIB = 2**20
UPSTREAM_KINDS = ("ocp", "demo")
"""What ``type`` may say; `ocpproxy.service` has an upstream for each."""
DEMO_CACHE_MIB = 4096
"""Size of the cache when no configuration file says another."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a configuration file."""

    section: str
    key: str
    value: str
    expected: str

    def __str__(self) -> str:
        return f"[{self.section}] {self.key} = {self.value!r}: expected {self.expected}"


class BadConfiguration(ValueError):
    """The file cannot be used; `faults` tells everything that is wrong with it."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


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
    """``[upstream]``, and what a ``[dataset]`` changes of it."""

    type: str
    url: str
    timeout: float
    connections: int
    retries: int
    format: str
    info_max_age: float


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """``[dataset TOKEN]``: an upstream of its own, and how it is shown."""

    upstream: UpstreamSettings
    channel: str | None


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole configuration."""

    server: ServerSettings
    cache: CacheSettings
    index: IndexSettings
    upstream: UpstreamSettings
    datasets: Mapping[str, DatasetSettings]


class _Bad(ValueError):
    """What was expected of a value."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: how it is read, and its default as it would stand in the file."""

    read: Callable[[str, Path], Any]
    default: str


def _whole(least: int, most: int) -> Callable[[str, Path], int]:
    def read(text: str, _: Path) -> int:
        if not re.fullmatch(r"-?\d{1,15}", text) or not least <= int(text) <= most:
            raise _Bad(f"a whole number from {least} to {most}")
        return int(text)

    return read


def _number(least: float, most: float, unit: str) -> Callable[[str, Path], float]:
    def read(text: str, _: Path) -> float:
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) or not least <= float(text) <= most:
            raise _Bad(f"{unit} from {least:g} to {most:g}")
        return float(text)

    return read


def _choice(*words: str) -> Callable[[str, Path], str]:
    def read(text: str, _: Path) -> str:
        if text not in words:
            raise _Bad("one of " + ", ".join(words))
        return text

    return read


def _switch(text: str, _: Path) -> bool:
    if text.lower() not in configparser.ConfigParser.BOOLEAN_STATES:
        raise _Bad("on or off")
    return configparser.ConfigParser.BOOLEAN_STATES[text.lower()]


def _bytes(text: str, _: Path) -> int:
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*(MiB|GiB|TiB)?", text)
    if not found:
        raise _Bad("a number of MiB, or one with the suffix MiB, GiB or TiB")
    return int(float(found[1]) * MIB * {"MiB": 1, "GiB": 1024, "TiB": 1024**2}[found[2] or "MiB"])


def _size(text: str, here: Path) -> int:
    size = _bytes(text, here)
    if size < MIB:
        raise _Bad("at least 1 MiB")
    return size


def _path(text: str, here: Path) -> Path:
    if not text or "\0" in text:
        raise _Bad("the path of a directory")
    return here / Path(text).expanduser()


def _endpoints(text: str, _: Path) -> tuple[str, ...]:
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    known = r"(tcp6?:\d{1,5}|unix:|(ssl|tls):|systemd:).*|haproxy:.+"
    if not lines or not all(re.fullmatch(known, line) for line in lines):
        raise _Bad("Twisted endpoint strings, one a line, such as tcp:8080:interface=127.0.0.1 or unix:/run/x.sock")
    return lines


def _workers(text: str, _: Path) -> int:
    if text != "1":
        raise _Bad("1: this version serves from one process (several daemons may share one cache and index)")
    return 1


def _http_url(text: str, _: Path) -> str:
    try:
        url = urlsplit(text)
        fine = url.scheme in ("http", "https") and url.hostname and not url.query and not url.fragment
        fine = fine and not url.username and (url.port is None or url.port > 0)
    except ValueError:
        fine = False
    if not fine or re.search(r"[\s\x00-\x1f\x7f-\uffff]", text):
        raise _Bad("an http:// or https:// address without a query or user name")
    return text.rstrip("/")


def _index_url(text: str, here: Path) -> IndexUrl:
    expected = _Bad("sqlite:///PATH or mysql://user:password@host:3306/database")
    try:
        url = urlsplit(text)
        port = url.port or 3306
    except ValueError:
        raise expected from None
    path = unquote(url.path)
    if url.scheme == "sqlite" and not url.netloc and len(path) > 1:
        return IndexUrl(mysql=False, path=str(here / path[1:]))
    query = dict(pair.partition("=")[::2] for pair in url.query.split("&") if pair)
    if url.scheme != "mysql" or not re.fullmatch(r"/[\w$-]{1,64}", path, re.ASCII) or query.keys() - {"unix_socket"}:
        raise expected
    return IndexUrl(
        mysql=True,
        host=url.hostname or "localhost",
        port=port,
        user=unquote(url.username or ""),
        password=unquote(url.password or ""),
        database=path[1:],
        unix_socket=unquote(query.get("unix_socket", "")),
    )


def _channel(text: str, _: Path) -> str | None:
    if text and not re.fullmatch(r"\w[\w-]{0,63}", text, re.ASCII):
        raise _Bad("the name of a channel")
    return text or None


_UPSTREAM = {
    "type": Option(_choice(*UPSTREAM_KINDS), "ocp"),
    "url": Option(_http_url, "http://openconnecto.me/ocp"),
    "timeout": Option(_number(0.1, 600, "seconds"), "30"),
    "connections": Option(_whole(1, 256), "8"),
    "retries": Option(_whole(0, 10), "2"),
    "format": Option(_choice("npz"), "npz"),
    "info_max_age": Option(_number(1, 10**8, "seconds"), "3600"),
}
OPTIONS: dict[str, dict[str, Option]] = {
    "server": {
        "listen": Option(_endpoints, "tcp:8080:interface=127.0.0.1"),
        "workers": Option(_workers, "1"),
        "error_body": Option(_choice("png", "text"), "png"),
        "max_age": Option(_whole(0, 10**9), "86400"),
        "access_log": Option(_switch, "on"),
        "patience": Option(_number(0, 300, "seconds"), "10"),
    },
    "cache": {
        "directory": Option(_path, "/var/cache/ocpproxy"),
        "size": Option(_size, "1000000"),
        "memory": Option(_bytes, "256"),
        "reclaim_above": Option(_number(0.01, 1, "a share of size"), "0.95"),
        "reclaim_to": Option(_number(0, 1, "a share of size"), "0.90"),
        "reclaim_interval": Option(_number(0.1, 86400, "seconds"), "30"),
        "max_tiles": Option(_whole(0, 10**12), "0"),
    },
    "index": {
        "url": Option(_index_url, "sqlite:////var/lib/ocpproxy/index.sqlite"),
        "lease": Option(_number(1, 600, "seconds"), "10"),
    },
    "upstream": _UPSTREAM,
}
"""Every option of every section but ``[dataset]``."""
DATASET_OPTIONS = {**_UPSTREAM, "channel": Option(_channel, "")}
"""The options of ``[dataset TOKEN]``; an upstream's option that is not given there is that of ``[upstream]``."""


def read(path: Path) -> Settings:
    """Read the file.

    :raises BadConfiguration: with all that is wrong in it, or when it cannot be read at all.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise BadConfiguration([Fault("-", "--config", str(path), f"a file that can be read ({reason})")]) from None
    return parse(text, path.absolute().parent, os.environ)


def embedded(environ: Mapping[str, str]) -> Settings:
    """The settings of a daemon without a configuration file: the demo volume, everything under the user's cache."""
    base = Path(environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/tmp")) / ".cache") / "ocpproxy"  # noqa: S108
    text = (
        f"[cache]\ndirectory = .\nsize = {DEMO_CACHE_MIB}\n"
        "[index]\nurl = sqlite:///index.sqlite\n[upstream]\ntype = demo\n"
    )
    return parse(text, base, environ)


def parse(text: str, here: Path, environ: Mapping[str, str]) -> Settings:
    """Read the text of a configuration whose relative paths are relative to `here`.

    :raises BadConfiguration: with all that is wrong in it.
    """
    parser = configparser.ConfigParser(
        interpolation=None, inline_comment_prefixes=(";",), default_section="\0none", empty_lines_in_values=False
    )
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise BadConfiguration([Fault("-", "file", error.message, "sections of key = value lines")]) from None
    faults: list[Fault] = []

    def section(name: str, options: dict[str, Option], inherited: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(parser[name]) if parser.has_section(name) else {}
        for key in given.keys() - options.keys():
            near = difflib.get_close_matches(key, options, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            faults.append(Fault(name, key, given[key], "no such option" + hint))
        values: dict[str, Any] = {}
        for key, option in options.items():
            if key not in given and key in inherited:
                values[key] = inherited[key]
                continue
            raw = given.get(key, option.default)
            try:
                values[key] = option.read(_from_environment(raw, environ), here)
            except _Bad as bad:
                shown = "(not shown)" if key == "url" and "@" in raw else raw
                faults.append(Fault(name, key, shown, str(bad)))
        return values

    read_ = {name: section(name, options, {}) for name, options in OPTIONS.items()}
    datasets: dict[str, dict[str, Any]] = {}
    for name in parser.sections():
        kind, _, token = name.partition(" ")
        if name in OPTIONS:
            continue
        if kind == "dataset" and re.fullmatch(r"\w[\w-]{0,63}", token.strip(), re.ASCII):
            datasets[token.strip()] = section(name, DATASET_OPTIONS, read_["upstream"])
        else:
            faults.append(Fault(name, "-", "", "one of [" + "], [".join(OPTIONS) + "], [dataset TOKEN]"))
    cache = read_["cache"]
    if {"reclaim_to", "reclaim_above"} <= cache.keys() and cache["reclaim_to"] > cache["reclaim_above"]:
        faults.append(Fault("cache", "reclaim_to", f"{cache['reclaim_to']:g}", "no more than reclaim_above"))
    if faults:
        raise BadConfiguration(faults)

    def dataset(values: dict[str, Any]) -> DatasetSettings:
        channel = values.pop("channel")
        return DatasetSettings(UpstreamSettings(**values), channel)

    return Settings(
        ServerSettings(**read_["server"]),
        CacheSettings(**cache),
        IndexSettings(**read_["index"]),
        UpstreamSettings(**read_["upstream"]),
        {token: dataset(values) for token, values in datasets.items()},
    )


def _from_environment(text: str, environ: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in environ:
            raise _Bad(f"the environment variable {found[1]} to be set")
        return environ[found[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)
