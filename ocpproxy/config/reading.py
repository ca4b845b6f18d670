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
    ConfigSource,
    DatasetSettings,
    IndexSettings,
    ServerSettings,
    Settings,
    UpstreamSettings,
)
from ocpproxy.model.stack import DisplaySettings

UPSTREAM_KINDS = ("ocp", "demo", "precomputed", "boss", "dvid", "catmaid", "volume", "n5", "zarr")
"""What ``type`` may say; `ocpproxy.upstream.registry` has an upstream for each."""
_CHUNKED = ("precomputed", "volume", "n5", "zarr")
_PLACED = (*_CHUNKED, "boss", "dvid", "catmaid")
"""Those that must be told where a token's volume is."""
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
    kinds: tuple[str, ...] = UPSTREAM_KINDS
    """The upstreams that have it."""
    secret: bool = False
    """It comes from the environment, and is not shown."""


_UPSTREAM = {
    "type": Option(values.choice(*UPSTREAM_KINDS), "ocp"),
    "url": Option(values.addresses, "http://openconnecto.me/ocp"),
    "authorization": Option(values.authorization, "", secret=True),
    "timeout": Option(values.number(0.1, 600, "seconds"), "30"),
    "connections": Option(values.whole(1, 256), "8"),
    "retries": Option(values.whole(0, 10), "2"),
    "format": Option(values.choice("npz", "blosc"), "npz", kinds=("ocp",)),
    "info_max_age": Option(values.number(1, 10**8, "seconds"), "3600"),
    "max_age": Option(values.max_age, "auto"),
    "max_cutout": Option(values.cutout, "16"),
    "channels": Option(values.channels, "", kinds=(*_CHUNKED, "boss", "dvid")),
    "z_shift": Option(values.shift, "0"),
    "levels": Option(values.levels, ""),
    "missing": Option(values.choice("black", "error"), "black", kinds=(*_CHUNKED, "catmaid")),
    "missing_status": Option(values.statuses, "404", kinds=("precomputed", "catmaid")),
    "credentials": Option(values.switch, "off", kinds=("volume", "n5", "zarr")),
    "tile_source_type": Option(values.number_of(1, 2, 4, 5, 7, 8, 9), "1", kinds=("catmaid",)),
    "tile_size": Option(
        values.numbers((1, 2), "WIDTH, HEIGHT in pixels, at most 8192", most=8192), "512", kinds=("catmaid",)
    ),
    "file_extension": Option(values.extension, "jpg", kinds=("catmaid",)),
    "dimension": Option(values.numbers((0, 3), "voxels along x, y, z"), "", kinds=("catmaid",)),
    "resolution": Option(
        values.numbers((3,), "edges of a voxel along x, y, z", fractions=True), "1, 1, 1", kinds=("catmaid",)
    ),
    "zoom_levels": Option(values.whole(1, 16), "1", kinds=("catmaid",)),
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
        raise BadConfiguration([Fault("-", "file", _without_lines(error), "sections of key = value lines")]) from None
    faults: list[Fault] = []

    def section(name: str, options: dict[str, Option], inherited: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(parser[name]) if parser.has_section(name) else {}
        for key in given.keys() - options.keys():
            near = difflib.get_close_matches(key, options, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            shown = "(not shown)" if _SECRET.search(key) else given[key]
            faults.append(Fault(name, key, shown, "no such option" + hint))
        found: dict[str, Any] = {}
        for key, option in options.items():
            if key not in given and key in inherited:
                found[key] = inherited[key]
                continue
            raw = given.get(key, option.default)
            try:
                if option.secret and re.sub(r"\$\{\w+\}", "", raw).rstrip() not in _NO_SECRETS:
                    raise values.Bad("a line such as Token ${NAME} or Bearer ${NAME}: secrets are in the environment")
                found[key] = option.read(_from_environment(raw, environ), here)
            except values.Bad as bad:
                shown = "(not shown)" if option.secret or (key == "url" and "@" in raw) else raw
                faults.append(Fault(name, key, shown, str(bad)))
        if "type" in found:
            faults.extend(_not_of_this_kind(name, found["type"], given, options))
            for key, option in options.items():
                if key not in given and found["type"] not in option.kinds:  # not even inherited
                    found[key] = option.read(option.default, here)
        return found

    read_ = {name: section(name, options, {}) for name, options in OPTIONS.items()}
    datasets: dict[str, dict[str, Any]] = {}
    upstream_url = parser["upstream"].get("url", "") if parser.has_section("upstream") else ""
    faults.extend(_misplaced("upstream", read_["upstream"], None, upstream_url))
    for name in parser.sections():
        kind, _, token = name.partition(" ")
        if name in OPTIONS:
            continue
        if kind == "dataset" and re.fullmatch(r"\w[\w-]{0,63}", token.strip(), re.ASCII):
            if token.strip() in datasets:
                faults.append(Fault(name, "-", "", "one section for each token"))
            said = datasets[token.strip()] = section(name, DATASET_OPTIONS, read_["upstream"])
            own = said.get("type") == read_["upstream"].get("type") or "url" in parser[name]
            faults.extend(_misplaced(name, said, own, parser[name].get("url", "")))
            if "authorization" not in parser[name] and _hosts(said) - _hosts(read_["upstream"]):
                said["authorization"] = None  # that of [upstream] is for its own host
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
        look = DisplaySettings(
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
        parser.has_section("upstream") or not datasets,
        ConfigSource(text, here),
    )


_SECRET = re.compile(r"auth|token|pass|secret|key|cred", re.IGNORECASE)
"""Names of options that somebody may have meant for a secret."""
_NO_SECRETS = ("", "Token", "Bearer", "Basic", "Token public")
"""What an authorization may say beside names of the environment."""


def _not_of_this_kind(section: str, kind: str, given: Mapping[str, str], options: dict[str, Option]) -> list[Fault]:
    return [
        Fault(section, key, "(not shown)" if option.secret else given[key], f"no such option for type = {kind}")
        for key, option in options.items()
        if key in given and given[key] != option.default and kind not in option.kinds
    ]


def _without_lines(error: configparser.Error) -> str:
    """What is wrong with a file that cannot be parsed; its lines may hold secrets."""
    numbers = [number for number, _ in getattr(error, "errors", ())] or [getattr(error, "lineno", None)]
    said = error.message.partition("\n")[0] if isinstance(error, configparser.DuplicateOptionError) else ""
    said = said or (error.message if isinstance(error, configparser.DuplicateSectionError) else "")
    return said or f"line {', '.join(map(str, numbers))}"


def _hosts(said: Mapping[str, Any]) -> set[str]:
    """Scheme and host of each address."""
    found = (re.sub("^bossdb://", "https://api.bossdb.io/", address) for _, address in said.get("url", ()))
    return {"/".join(address.split("/")[:3]) for address in found}


def _misplaced(section: str, said: Mapping[str, Any], placed: bool | None, raw: str) -> list[Fault]:
    """What is wrong with where a dataset is.

    :param placed: whether it is told; None where it need not be.
    :param raw: the addresses as they are in the file.
    """
    kind = said.get("type")
    found = []

    def wrong(expected: str) -> None:
        found.append(Fault(section, "url", raw.strip(), expected))

    if kind in _PLACED and placed is False:
        wrong("the address of the volume")
    for name, address in said.get("url", ()):
        scheme = address.partition(":")[0]
        wanted = {"boss": ("http", "https", "bossdb"), "ocp": ("http", "https")}.get(
            kind or "", ("http", "https", "s3", "gs", *(("file",) if kind in _CHUNKED[1:] else ()))
        )
        if kind != "demo" and scheme not in wanted:
            wrong(f"an address of type {kind}: {', '.join(wanted)}")
        elif name is not None and kind not in (*_CHUNKED, "dvid"):
            wrong(f"one address for all channels of type {kind}")
        elif kind == "ocp" and "{" in address:
            wrong("an address without {token} and {channel}: the servers of type ocp know their tokens")
        elif "{channel}" in address and kind not in (*_CHUNKED, "dvid"):
            wrong(f"an address without {{channel}}, which type {kind} has no use for")
        elif "{channel}" in address and name is None and not said.get("channels"):
            found.append(Fault(section, "channels", "", "the names that {channel} in url stands for"))
    if said.get("authorization") and len(_hosts(said)) > 1:
        found.append(Fault(section, "authorization", "(not shown)", "one host for all channels, to which it is sent"))
    serves = placed is not None or any("{token}" in address for _, address in said.get("url", ()))
    if kind == "catmaid" and serves and not said.get("dimension", True):
        found.append(Fault(section, "dimension", "", "voxels along x, y, z: a tile server does not tell"))
    return found


def _from_environment(text: str, environ: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in environ:
            raise values.Bad(f"the environment variable {found[1]} to be set")
        return environ[found[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)
