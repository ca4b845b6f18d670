"""How the values of options are read: each reader knows what it expects, and says so."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ocpproxy.config.settings import IndexUrl

MIB = 2**20


class Bad(ValueError):
    """What was expected of a value."""


def whole(least: int, most: int) -> Callable[[str, Path], int]:
    """A whole number."""

    def read(text: str, _: Path) -> int:
        if not re.fullmatch(r"-?\d{1,15}", text) or not least <= int(text) <= most:
            raise Bad(f"a whole number from {least} to {most}")
        return int(text)

    return read


def number(least: float, most: float, unit: str) -> Callable[[str, Path], float]:
    """A number with a fraction, if need be."""

    def read(text: str, _: Path) -> float:
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) or not least <= float(text) <= most:
            raise Bad(f"{unit} from {least:g} to {most:g}")
        return float(text)

    return read


def choice(*words: str) -> Callable[[str, Path], str]:
    """One of these words."""

    def read(text: str, _: Path) -> str:
        if text not in words:
            raise Bad("one of " + ", ".join(words))
        return text

    return read


def switch(text: str, _: Path) -> bool:
    """On or off."""
    if text.lower() not in configparser.ConfigParser.BOOLEAN_STATES:
        raise Bad("on or off")
    return configparser.ConfigParser.BOOLEAN_STATES[text.lower()]


def mebibytes(text: str, _: Path) -> int:
    """A size in MiB, or with a suffix, as bytes."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*(MiB|GiB|TiB)?", text)
    if not found:
        raise Bad("a number of MiB, or one with the suffix MiB, GiB or TiB")
    return int(float(found[1]) * MIB * {"MiB": 1, "GiB": 1024, "TiB": 1024**2}[found[2] or "MiB"])


def size(text: str, here: Path) -> int:
    """The size of the cache, as bytes."""
    found = mebibytes(text, here)
    if found < MIB:
        raise Bad("at least 1 MiB")
    return found


def cutout(text: str, here: Path) -> int:
    """The size of a cutout, as bytes."""
    found = mebibytes(text, here)
    if not MIB <= found <= 1024 * MIB:
        raise Bad("1 MiB to 1024 MiB")
    return found


def path(text: str, here: Path) -> Path:
    """A path, relative to the file."""
    if not text or "\0" in text:
        raise Bad("the path of a directory")
    return here / Path(text).expanduser()


def endpoints(text: str, _: Path) -> tuple[str, ...]:
    """Twisted endpoint strings, one a line."""
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    known = r"(tcp6?:\d{1,5}|unix:|(ssl|tls):|systemd:).*|haproxy:.+"
    if not lines or not all(re.fullmatch(known, line) for line in lines):
        raise Bad("Twisted endpoint strings, one a line, such as tcp:8080:interface=127.0.0.1 or unix:/run/x.sock")
    return lines


def workers(text: str, _: Path) -> int:
    """How many processes."""
    if text == "auto":
        return os.cpu_count() or 1
    if not re.fullmatch(r"\d{1,3}", text) or not 1 <= int(text) <= 256:
        raise Bad("auto, for one a core, or a whole number from 1 to 256")
    return int(text)


def http_url(text: str, _: Path) -> str:
    """The address of a web service."""
    try:
        url = urlsplit(text)
        fine = url.scheme in ("http", "https") and url.hostname and not url.query and not url.fragment
        fine = fine and not url.username and (url.port is None or url.port > 0)
    except ValueError:
        fine = False
    if not fine or re.search(r"[\s\x00-\x1f\x7f-\uffff]", text):
        raise Bad("an http:// or https:// address without a query or user name")
    return text.rstrip("/")


def index_url(text: str, here: Path) -> IndexUrl:
    """The address of the index database."""
    expected = Bad("sqlite:///PATH or mysql://user:password@host:3306/database")
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


_NAME = r"\w[\w-]{0,63}"


def name(what: str) -> Callable[[str, Path], str | None]:
    """The name of a token or a channel, or None."""

    def read(text: str, _: Path) -> str | None:
        if text and not re.fullmatch(_NAME, text, re.ASCII):
            raise Bad(f"the name of a {what}")
        return text or None

    return read


def windows(text: str, _: Path) -> tuple[tuple[str | None, tuple[int, int]], ...]:
    """Windows by channel; None is for all that are not named."""
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        said = re.fullmatch(rf"(?:({_NAME}):)?\s*(\d{{1,10}})\s*[,\s-]\s*(\d{{1,10}})", line, re.ASCII)
        if not said or int(said[3]) <= int(said[2]):
            raise Bad("LOW,HIGH for all channels, or CHANNEL: LOW,HIGH, one a line, with LOW below HIGH")
        found.append((said[1], (int(said[2]), int(said[3]))))
    if len({channel for channel, _ in found}) != len(found):
        raise Bad("one window for each channel")
    return tuple(found)
