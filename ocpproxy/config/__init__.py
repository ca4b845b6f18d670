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

from ocpproxy.config import values
from ocpproxy.config.settings import (
    CacheSettings,
    DatasetSettings,
    IndexSettings,
    IndexUrl,
    ServerSettings,
    Settings,
    Source,
    UpstreamSettings,
)
from ocpproxy.stack import Look

__all__ = [
    "BadConfiguration",
    "CacheSettings",
    "DatasetSettings",
    "Fault",
    "IndexSettings",
    "IndexUrl",
    "ServerSettings",
    "Settings",
    "UpstreamSettings",
    "embedded",
    "parse",
    "read",
]

UPSTREAM_KINDS = ("ocp", "demo")
"""What ``type`` may say; `ocpproxy.gateway` has an upstream for each."""
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
class Option:
    """One option: how it is read, and its default as it would stand in the file."""

    read: Callable[[str, Path], Any]
    default: str


_UPSTREAM = {
    "type": Option(values.choice(*UPSTREAM_KINDS), "ocp"),
    "url": Option(values.http_url, "http://openconnecto.me/ocp"),
    "timeout": Option(values.number(0.1, 600, "seconds"), "30"),
    "connections": Option(values.whole(1, 256), "8"),
    "retries": Option(values.whole(0, 10), "2"),
    "format": Option(values.choice("npz", "blosc"), "npz"),
    "info_max_age": Option(values.number(1, 10**8, "seconds"), "3600"),
    "max_cutout": Option(values.cutout, "16"),
}
OPTIONS: dict[str, dict[str, Option]] = {
    "server": {
        "listen": Option(values.endpoints, "tcp:8080:interface=127.0.0.1"),
        "workers": Option(values.workers, "1"),
        "error_body": Option(values.choice("png", "text"), "png"),
        "max_age": Option(values.whole(0, 10**9), "86400"),
        "access_log": Option(values.switch, "on"),
        "patience": Option(values.number(0, 300, "seconds"), "10"),
    },
    "cache": {
        "directory": Option(values.path, "/var/cache/ocpproxy"),
        "size": Option(values.size, "1000000"),
        "memory": Option(values.mebibytes, "256"),
        "voxels": Option(values.mebibytes, "64"),
        "reclaim_above": Option(values.number(0.01, 1, "a share of size"), "0.95"),
        "reclaim_to": Option(values.number(0, 1, "a share of size"), "0.90"),
        "reclaim_interval": Option(values.number(0.1, 86400, "seconds"), "30"),
        "max_tiles": Option(values.whole(0, 10**12), "0"),
    },
    "index": {
        "url": Option(values.index_url, "sqlite:////var/lib/ocpproxy/index.sqlite"),
        "lease": Option(values.number(1, 600, "seconds"), "10"),
    },
    "upstream": _UPSTREAM,
}
"""Every option of every section but ``[dataset]``."""
DATASET_OPTIONS = {
    **_UPSTREAM,
    "token": Option(values.name("token"), ""),
    "channel": Option(values.name("channel"), ""),
    "slice_coordinate": Option(values.choice("level", "full"), "level"),
    "aspect": Option(values.choice("isotropic", "native"), "isotropic"),
    "window": Option(values.windows, ""),
    "gain": Option(values.number(0.01, 100, "a factor"), "1"),
    "opaque": Option(values.switch, "off"),
    "probability": Option(values.choice("grey", "red"), "grey"),
}
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
        found: dict[str, Any] = {}
        for key, option in options.items():
            if key not in given and key in inherited:
                found[key] = inherited[key]
                continue
            raw = given.get(key, option.default)
            try:
                found[key] = option.read(_from_environment(raw, environ), here)
            except values.Bad as bad:
                shown = "(not shown)" if key == "url" and "@" in raw else raw
                faults.append(Fault(name, key, shown, str(bad)))
        return found

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
    server = read_["server"]
    if server.get("workers", 1) > 1:
        for line in server.get("listen", ()):
            if not re.match(r"tcp6?:|systemd:domain=INET6?:", line):
                expected = "tcp or systemd:domain=INET sockets, which several workers can share, or workers = 1"
                faults.append(Fault("server", "listen", line, expected))
    if faults:
        raise BadConfiguration(faults)

    def dataset(said: dict[str, Any]) -> DatasetSettings:
        look = Look(
            channel=said["channel"],
            full_slices=said["slice_coordinate"] == "full",
            native=said["aspect"] == "native",
            windows=said["window"],
            gain=said["gain"],
            opaque=said["opaque"],
            heat=said["probability"] == "red",
        )
        upstream = UpstreamSettings(**{name: said[name] for name in _UPSTREAM})
        return DatasetSettings(upstream, said["token"], look)

    return Settings(
        ServerSettings(**server),
        CacheSettings(**cache),
        IndexSettings(**read_["index"]),
        UpstreamSettings(**read_["upstream"]),
        {token: dataset(said) for token, said in datasets.items()},
        Source(text, here),
    )


def _from_environment(text: str, environ: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in environ:
            raise values.Bad(f"the environment variable {found[1]} to be set")
        return environ[found[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)
