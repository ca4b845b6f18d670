"""The reader of ``ocp.ini``: its text becomes `Settings`.

`read` checks the whole file before it refuses it: `BadConfiguration` lists every fault with its section, key and value,
and with what was expected. So an administrator has to mend a file only once. ``${NAME}`` in any value is replaced by
the environment variable, so a password need not be in the file. A relative path is relative to the file.
"""

from __future__ import annotations

import configparser
import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ocpproxy.config import upstreams, values
from ocpproxy.config.faults import NOT_SHOWN, BadConfiguration, Fault
from ocpproxy.config.options import (
    ADMIN,
    CACHE,
    DISPLAY,
    INDEX,
    SERVER,
    STORED,
    UPSTREAM,
    VISITORS,
    Option,
    UpstreamKind,
)
from ocpproxy.config.settings import (
    AdminSettings,
    CacheSettings,
    ConfigSource,
    DatasetSettings,
    IndexSettings,
    ServerSettings,
    Settings,
)
from ocpproxy.config.upstreams import Kinds
from ocpproxy.model.dataset import NAME
from ocpproxy.model.display import DisplaySettings

_SINGLE = {"server": SERVER, "cache": CACHE, "index": INDEX, "admin": ADMIN}
"""The sections that are there once and have fixed options."""
_LETTERS = "a TOKEN has up to 64 of the letters a to z, A to Z, 0 to 9, _ and -, and does not begin with -"
_DEMO_CACHE_MIB = 4096
_LOOKS_SECRET = re.compile(r"auth|token|pass|secret|key|cred|link|hmac|sign|^pw", re.IGNORECASE)
"""Names of options that somebody may have meant for a secret."""
_NO_SECRETS = ("", "Token", "Bearer", "Basic", "Token public")
"""What an authorization may consist of beside names of the environment."""


def read(path: Path, kinds: Kinds) -> Settings:
    """Return the settings of a file.

    :param kinds: the kinds of upstream that there are.
    :raises BadConfiguration: with all that is wrong in it, or when it cannot be read at all.
    """
    return parse(_text(path), path.absolute().parent, os.environ, kinds)


def read_admin(path: Path | None, environ: Mapping[str, str]) -> AdminSettings:
    """Return where a daemon is asked: the ``[admin]`` section of a file alone, whatever is wrong with the others.

    :param path: None for a daemon without a file.
    :raises BadConfiguration: with all that is wrong in the section, or when the file cannot be read at all.
    """
    text, directory = _demo(environ) if path is None else (_text(path), path.absolute().parent)
    reader = _Reader(text, directory, environ, {})
    admin = reader.admin()
    if reader.faults:
        raise BadConfiguration(reader.faults)
    return AdminSettings(**admin)


def demo(environ: Mapping[str, str], kinds: Kinds) -> Settings:
    """Return the settings of a daemon without a file: the demo volume, with all it keeps in the user's cache."""
    return parse(*_demo(environ), environ, kinds)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        fault = Fault("-", "--config", str(path), problem=f"the file cannot be read: {reason}")
        raise BadConfiguration([fault]) from None


def _demo(environ: Mapping[str, str]) -> tuple[str, Path]:
    """Return what a daemon without a file has for one, and the directory that it is in."""
    base = Path(environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/tmp")) / ".cache") / "ocpproxy"  # noqa: S108
    socket = "unix:admin.sock" if len(os.fsencode(base / "admin.sock")) <= values.LONGEST_SOCKET else ""
    text = (
        f"[cache]\ndirectory = .\nsize = {_DEMO_CACHE_MIB}\n"
        "[index]\nurl = sqlite:///index.sqlite\n[upstream]\ntype = demo\n"
        f"[admin]\nlisten = {socket}\n"
    )
    return text, base


def parse(text: str, directory: Path, environ: Mapping[str, str], kinds: Kinds) -> Settings:
    """Return the settings of a text whose relative paths are relative to `directory`.

    :raises BadConfiguration: with all that is wrong in it.
    """
    reader = _Reader(text, directory, environ, kinds)
    settings = reader.settings()
    if settings is None or reader.faults:
        raise BadConfiguration(reader.faults)
    return settings


class _Reader:
    """The reader of one text; `faults` collects what is wrong with it."""

    def __init__(self, text: str, directory: Path, environ: Mapping[str, str], kinds: Kinds) -> None:
        self.faults: list[Fault] = []
        self._source = ConfigSource(text, directory)
        self._environ = environ
        self._kinds = kinds
        self._sections = _sections(text)

    def admin(self) -> dict[str, Any]:
        """Return the values of ``[admin]``."""
        found = self._read_options("admin", ADMIN)
        self.faults += _faults_of_admin(found)
        return found

    def settings(self) -> Settings | None:
        """Return the settings, or None when there are faults."""
        single = {name: self._read_options(name, options) for name, options in _SINGLE.items()}
        self.faults += _faults_of_cache(single["cache"])
        self.faults += _faults_of_server(single["server"])
        self.faults += _faults_of_admin(single["admin"])
        upstream = self._read_upstream("upstream", {}, {})
        datasets = self._read_datasets(upstream)
        self.faults += _faults_of_visitors(single["server"], datasets)
        if self.faults:
            return None
        return Settings(
            ServerSettings(**single["server"]),
            CacheSettings(**single["cache"]),
            IndexSettings(**single["index"]),
            AdminSettings(**single["admin"]),
            upstreams.make_settings(upstream, self._kinds[upstream["type"]]),
            {token: self._dataset_settings(found) for token, found in datasets.items()},
            "upstream" in self._sections or not datasets,
            self._source,
        )

    def _read_datasets(self, upstream: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the values of each ``[dataset TOKEN]`` by its token."""
        datasets: dict[str, dict[str, Any]] = {}
        for section in self._sections:
            if section in _SINGLE or section == "upstream":
                continue
            kind, _, token = section.partition(" ")
            token = token.strip()
            if kind != "dataset" or not re.fullmatch(NAME, token, re.ASCII):
                expected = "one of [" + "], [".join((*_SINGLE, "upstream")) + f"], [dataset TOKEN]; {_LETTERS}"
                self.faults.append(Fault(section, "-", "", expected))
            elif token in datasets:
                self.faults.append(Fault(section, "-", "", problem="another section is for the same token"))
            else:
                datasets[token] = self._read_upstream(section, upstream, {**DISPLAY, **STORED, **VISITORS})
        return datasets

    def _dataset_settings(self, found: dict[str, Any]) -> DatasetSettings:
        display = DisplaySettings(
            channel=found["channel"],
            full_slices=found["slice_coordinate"] == "full",
            native=found["aspect"] == "native",
            windows=found["window"],
            gain=found["gain"],
            opaque=found["opaque"],
            red=found["probability"] == "red",
            broken=found["broken"],
            as_tiles="tiles" in found["serve"],
            as_chunks="chunks" in found["serve"],
        )
        upstream = upstreams.make_settings(found, self._kinds[found["type"]])
        return DatasetSettings(upstream, found["token"], display, found["quota"], found["pin"], found["allow"])

    # -- one section

    def _read_upstream(self, section: str, inherited: Mapping[str, Any], more: Mapping[str, Option]) -> dict[str, Any]:
        """Return the values of a section that has an upstream.

        :param inherited: the values of ``[upstream]``, good for what the section does not mention.
        :param more: options of the section beside those of its upstream.
        """
        written = self._sections.get(section, {})
        name = type_ = written.get("type", inherited.get("type", UPSTREAM["type"].default))
        kind = None
        try:
            name = self._expand(type_)
            kind = self._kinds.get(name)
            if kind is None:
                self.faults.append(Fault(section, "type", type_, "one of " + ", ".join(self._kinds)))
        except values.BadValue:
            pass  # reading the option itself adds this fault
        except Exception as error:  # whatever the code of another distribution may raise
            self.faults.append(Fault(section, "type", type_, problem=f"the type cannot be loaded: {error}"))
        if kind is None:
            found = self._read_options(section, {**upstreams.all_options(self._kinds), **more}, inherited)
            unknown = UpstreamKind(name=name, url_per_channel=True)
            self.faults += upstreams.faults(section, unknown, found, written, inherits_url=True)
            return {}
        options = {**UPSTREAM, **kind.options, **more}
        same_kind = inherited.get("type") == name
        if inherited and not same_kind:  # another kind may read an option of the same name in another way
            parent_options = {**UPSTREAM, **self._kinds[inherited["type"]].options}
            shared = {key: value for key, value in inherited.items() if parent_options.get(key) is options.get(key)}
        else:
            shared = dict(inherited)
        found = self._read_options(section, options, shared)
        if "authorization" not in written and upstreams.hosts(found) - upstreams.hosts(inherited or found):
            found["authorization"] = None  # that of [upstream] is for its own host
        self.faults += upstreams.faults(section, kind, found, written, inherits_url=same_kind)
        return found

    def _read_options(
        self, section: str, options: Mapping[str, Option], inherited: Mapping[str, Any] = {}
    ) -> dict[str, Any]:
        """Return the values of a section's options; those with faults are not in it."""
        written = self._sections.get(section, {})
        self.faults += self._unknown(section, written, options)
        found: dict[str, Any] = {}
        for key, option in options.items():
            if key not in written and key in inherited:
                found[key] = inherited[key]
                continue
            text = written.get(key, option.default)
            try:
                if option.secret and re.sub(r"\$\{\w+\}", "", text).rstrip() not in _NO_SECRETS:
                    expected = "a line such as Token ${NAME} or Bearer ${NAME}: secrets are in the environment"
                    raise values.BadValue(expected)
                expanded = self._expand(text, in_address=key == "url")
                found[key] = option.read(expanded, self._source.directory)
            except values.BadValue as bad:
                self.faults.append(Fault(section, key, _shown(key, text, option), str(bad)))
        return found

    def _unknown(self, section: str, written: Mapping[str, str], options: Mapping[str, Option]) -> Iterator[Fault]:
        """Yield a fault for each option that the section cannot have."""
        elsewhere = upstreams.all_options(self._kinds) if "type" in options else {}
        for key in written.keys() - options.keys():
            if key in elsewhere:
                if written[key] != elsewhere[key].default:  # etc/ocp.ini shows every option with its default
                    kind = written.get("type", "")
                    problem = f"{f'type {kind}' if kind else 'this type'} has no such option"
                    yield Fault(section, key, _shown(key, written[key], elsewhere[key]), problem=problem)
                continue
            near = difflib.get_close_matches(key, options, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            meant = options[near[0]] if near and options[near[0]].secret else None
            yield Fault(section, key, _shown(key, written[key], meant), problem="there is no such option" + hint)

    def _expand(self, text: str, *, in_address: bool = False) -> str:
        """Return the text with ``${NAME}`` replaced by variables of the environment.

        :param in_address: quote values where they are parts of an address, so that they have any letters.
        """

        def value(found: re.Match[str]) -> str:
            if found[1] not in self._environ:
                raise values.BadValue(f"the environment variable {found[1]} to be set")
            safe = _safe_letters(text[: found.start()], text[found.end() :]) if in_address else None
            plain = self._environ[found[1]]
            return plain if safe is None else quote(plain, safe=safe)

        return re.sub(r"\$\{(\w+)\}", value, text)


def _safe_letters(before: str, after: str) -> str | None:
    """Return the letters that are not quoted in this place of an address; None where nothing is.

    A user, a password and a query have any letters; a slash in a path stays one. A host is put in as it is, and so is
    the beginning of an address, or a whole one.
    """
    _, scheme, rest = before.rpartition("\n")[2].rpartition("://")
    if not scheme:
        return None
    if "?" in rest or "#" in rest:
        return ""
    if "/" in rest:
        return "/"
    return "" if re.match(r"[^/?#\s]*@", after) else None


def _shown(key: str, text: str, option: Option | None = None) -> str:
    """Return what a fault shows of a value: nothing of one that may hold a secret.

    :param option: None where there is no such option, so that only its name can tell.
    """
    secret = _LOOKS_SECRET.search(key) if option is None else option.secret
    is_address = key == "url" or "://" in text
    if secret or (is_address and re.search("[@?#;]", text)):
        return NOT_SHOWN
    shown, semicolon, _ = text.partition(";")  # what follows may be meant for a comment
    return f"{shown}; {NOT_SHOWN}" if semicolon else text


def _sections(text: str) -> dict[str, dict[str, str]]:
    """Return the options of each section as they are written.

    :raises BadConfiguration: when the text is not made of sections and lines.
    """
    parser = configparser.ConfigParser(
        interpolation=None, inline_comment_prefixes=(";",), default_section="\0none", empty_lines_in_values=False
    )
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise BadConfiguration([Fault("-", "file", _where(error), "sections of key = value lines")]) from None
    return {name: dict(parser[name]) for name in parser.sections()}


def _where(error: configparser.Error) -> str:
    """Return what is wrong with a file that cannot be parsed, without its lines, which may hold secrets."""
    if isinstance(error, configparser.DuplicateOptionError):
        return error.message.partition("\n")[0]
    if isinstance(error, configparser.DuplicateSectionError):
        return error.message
    numbers = [number for number, _ in getattr(error, "errors", ())] or [getattr(error, "lineno", None)]
    return f"line {', '.join(map(str, numbers))}"


def _faults_of_cache(cache: Mapping[str, Any]) -> Iterator[Fault]:
    if {"reclaim_to", "reclaim_above"} <= cache.keys() and cache["reclaim_to"] > cache["reclaim_above"]:
        yield Fault("cache", "reclaim_to", f"{cache['reclaim_to']:g}", "no more than reclaim_above")


def _faults_of_visitors(server: Mapping[str, Any], datasets: Mapping[str, Mapping[str, Any]]) -> Iterator[Fault]:
    private = [token for token, found in datasets.items() if found.get("allow")]
    opened_by = {"auth_header", "link_secret"}
    if private and opened_by <= server.keys() and not any(server[key] for key in opened_by):
        expected = (
            f"the header in which a front names groups, or link_secret: nobody may see {private[0]}, which has allow"
        )
        yield Fault("server", "auth_header", "", expected)


def _faults_of_admin(admin: Mapping[str, Any]) -> Iterator[Fault]:
    address = admin.get("listen")
    if address is not None and not address.path and "token" in admin and admin["token"] is None:
        expected = "a token from the environment, ${NAME}: everybody on this machine can reach a tcp socket"
        yield Fault("admin", "token", "", expected)


def _faults_of_server(server: Mapping[str, Any]) -> Iterator[Fault]:
    if server.get("workers", 1) > 1:
        for line in server.get("listen", ()):
            if not re.match(r"tcp6?:|systemd:domain=INET6?:", line):
                expected = "tcp or systemd:domain=INET sockets, which several workers can share, or workers = 1"
                yield Fault("server", "listen", line, expected)
