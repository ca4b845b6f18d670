"""How the text of one option becomes its value.

Each reader takes the text and the directory that relative paths are relative to, and returns the value. It raises
`BadValue` with what it expected.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Callable
from fractions import Fraction
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ocpproxy.config.addresses import UnusableAddress, parse_address
from ocpproxy.config.settings import AdminAddress, IndexUrl
from ocpproxy.model.dataset import NAME

MIB = 2**20
LONGEST_SOCKET = 107
"""Bytes of the path of a unix socket."""


class BadValue(ValueError):
    """The text is no value of the option. The message says what was expected."""


# -- numbers and words


def integer(least: int, most: int) -> Callable[[str, Path], int]:
    """Return a reader of whole numbers from `least` to `most`."""

    def read(text: str, _: Path) -> int:
        if not re.fullmatch(r"-?\d{1,15}", text) or not least <= int(text) <= most:
            raise BadValue(f"a whole number from {least} to {most}")
        return int(text)

    return read


def integer_choice(*numbers: int) -> Callable[[str, Path], int]:
    """Return a reader of one of these numbers."""

    def read(text: str, _: Path) -> int:
        if text not in map(str, numbers):
            raise BadValue("one of " + ", ".join(map(str, numbers)))
        return int(text)

    return read


def number(least: float, most: float, unit: str) -> Callable[[str, Path], float]:
    """Return a reader of decimal numbers from `least` to `most`."""

    def read(text: str, _: Path) -> float:
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) or not least <= float(text) <= most:
            raise BadValue(f"{unit} from {least:g} to {most:g}")
        return float(text)

    return read


def numbers(
    counts: tuple[int, ...], expected: str, *, fractions: bool = False, most: int = 2**28
) -> Callable[[str, Path], Any]:
    """Return a reader of several positive numbers with commas between them, in parentheses or not.

    :param counts: how many numbers there may be.
    :param fractions: read decimal numbers as exact fractions, not whole numbers.
    """

    def read(text: str, _: Path) -> tuple[Any, ...]:
        inner = text.strip().removeprefix("(").removesuffix(")")
        parts = [part.strip() for part in re.split(r"[,x]", inner)] if inner else []
        form = r"\d{1,9}(\.\d{1,9})?" if fractions else r"\d{1,9}"
        if len(parts) not in counts or not all(re.fullmatch(form, p) and 0 < float(p) <= most for p in parts):
            raise BadValue(expected)
        return tuple(Fraction(part) if fractions else int(part) for part in parts)

    return read


def choice(*words: str) -> Callable[[str, Path], str]:
    """Return a reader of one of these words."""

    def read(text: str, _: Path) -> str:
        if text not in words:
            raise BadValue("one of " + ", ".join(words))
        return text

    return read


def switch(text: str, _: Path) -> bool:
    """Read on or off."""
    if text.lower() not in configparser.ConfigParser.BOOLEAN_STATES:
        raise BadValue("on or off")
    return configparser.ConfigParser.BOOLEAN_STATES[text.lower()]


def name(what: str) -> Callable[[str, Path], str | None]:
    """Return a reader of the name of a token or channel; an empty text is None."""

    def read(text: str, _: Path) -> str | None:
        if text and not re.fullmatch(NAME, text, re.ASCII):
            raise BadValue(f"the name of a {what}")
        return text or None

    return read


def kind_name(text: str, _: Path) -> str:
    """Read the name of a kind of upstream, which `reading` has looked up already."""
    return text


# -- sizes and times


def access_log(text: str, directory: Path) -> bool | Path:
    """Read where the access log is: True for the daemon's own log, False for nowhere, or a file."""
    if text in ("on", "off"):
        return text == "on"
    if "/" not in text and not text.endswith(".log"):
        raise BadValue("on, off, or the path of a file")
    return path(text, directory)


def mebibytes(text: str, _: Path) -> int:
    """Read a size in MiB, or with a suffix, as bytes."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*(MiB|GiB|TiB)?", text)
    if not found:
        raise BadValue("a number of MiB, or one with the suffix MiB, GiB or TiB")
    return int(float(found[1]) * MIB * {"MiB": 1, "GiB": 1024, "TiB": 1024**2}[found[2] or "MiB"])


def cache_size(text: str, directory: Path) -> int:
    """Read the size of the cache, as bytes."""
    size = mebibytes(text, directory)
    if size < MIB:
        raise BadValue("at least 1 MiB")
    return size


def keep_free(text: str, directory: Path) -> tuple[float, int]:
    """Read what stays free on a file system: (share, bytes)."""
    share = re.fullmatch(r"(\d{1,2}(?:\.\d{1,3})?)\s*%", text)
    if share:
        return float(share[1]) / 100, 0
    try:
        return 0.0, mebibytes(text, directory)
    except BadValue:
        raise BadValue("a share of the disk such as 5%, or a number of MiB, or one with MiB, GiB or TiB") from None


def cutout_size(text: str, directory: Path) -> int:
    """Read the size of a cutout, as bytes."""
    size = mebibytes(text, directory)
    if not MIB <= size <= 1024 * MIB:
        raise BadValue("1 MiB to 1024 MiB")
    return size


def max_age(text: str, _: Path) -> float | None:
    """Read seconds: infinity for never, None for auto."""
    if text in ("auto", "never"):
        return None if text == "auto" else float("inf")
    if not re.fullmatch(r"\d{1,9}", text) or int(text) < 1:
        raise BadValue("auto, never, or seconds from 1")
    return float(text)


# -- the server


def path(text: str, directory: Path) -> Path:
    """Read a path, relative to `directory`."""
    if not text or "\0" in text:
        raise BadValue("the path of a directory")
    try:
        return directory / Path(text).expanduser()
    except RuntimeError:  # there is no such user
        raise BadValue("the path of a directory; ~ is the home of a user that exists") from None


def endpoints(text: str, _: Path) -> tuple[str, ...]:
    """Read Twisted endpoint strings, one a line."""
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    known = r"(tcp6?:\d{1,5}|unix:|(ssl|tls):|systemd:).*|haproxy:.+"
    if not lines or not all(re.fullmatch(known, line) for line in lines):
        raise BadValue("Twisted endpoint strings, one a line, such as tcp:8080:interface=127.0.0.1 or unix:/run/x.sock")
    return lines


def workers(text: str, _: Path) -> int:
    """Read how many processes serve."""
    if text == "auto":
        return os.cpu_count() or 1
    if not re.fullmatch(r"\d{1,3}", text) or not 1 <= int(text) <= 256:
        raise BadValue("auto, for one a core, or a whole number from 1 to 256")
    return int(text)


def networks(text: str, _: Path) -> tuple[IPv4Network | IPv6Network, ...]:
    """Read addresses and networks."""
    try:
        return tuple(ip_network(part) for part in re.split(r"[,\s]+", text) if part)
    except ValueError:
        raise BadValue("addresses or networks with commas between them, such as 127.0.0.1, 10.0.0.0/8") from None


def public_url(text: str, _: Path) -> str:
    """Read the address of this gateway, without a slash at its end; an empty text stays empty."""
    if text and not re.fullmatch(
        r"https?://([\w.-]{1,253}|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[\w.~-]+)*/?", text, re.ASCII
    ):
        raise BadValue("the address of this gateway for its clients, such as https://tiles.example.org/ocp")
    return text.rstrip("/")


def mirrors(text: str, path: Path) -> tuple[str, ...]:
    """Read the addresses of other gateways, each without a slash at its end."""
    found = tuple(public_url(part.strip(), path) for part in re.split(r"[,\n]", text) if part.strip())
    if len(set(found)) != len(found):
        raise BadValue("each address once")
    return found


def header_name(text: str, _: Path) -> str:
    """Read the name of a header (RFC 9110, 5.6.2), or an empty text."""
    if text and not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", text, re.ASCII):
        raise BadValue("the name of a header, such as X-Forwarded-Groups")
    return text.lower()


def connections(text: str, _: Path) -> int | None:
    """Read how many connections there may be; None for auto."""
    if text == "auto":
        return None
    if not re.fullmatch(r"\d{1,6}", text) or int(text) < 1:
        raise BadValue("auto, or a whole number from 1 to 999999")
    return int(text)


def index_url(text: str, directory: Path) -> IndexUrl:
    """Read the address of the index database."""
    expected = BadValue(
        "sqlite:///PATH or mysql://user:password@host:3306/database, with ?unix_socket=, ?ssl_ca=, &ssl_cert=, "
        "&ssl_key=, &ssl_verify_identity=off"
    )
    try:
        url = urlsplit(text)
        port = url.port or 3306
    except ValueError:
        raise expected from None
    where = unquote(url.path)
    if url.scheme == "sqlite" and not url.netloc and len(where) > 1:
        return IndexUrl(mysql=False, path=str(directory / where[1:]))
    query = dict(pair.partition("=")[::2] for pair in url.query.split("&") if pair)
    files = {key: unquote(query.pop(key)) for key in ("ssl_ca", "ssl_cert", "ssl_key") if query.get(key)}
    identity = query.pop("ssl_verify_identity", "on")
    if url.scheme != "mysql" or not re.fullmatch(r"/[\w$-]{1,64}", where, re.ASCII) or query.keys() - {"unix_socket"}:
        raise expected
    if identity not in ("on", "off") or (files and "ssl_ca" not in files):
        raise expected
    return IndexUrl(
        mysql=True,
        host=url.hostname or "localhost",
        port=port,
        user=unquote(url.username or ""),
        password=unquote(url.password or ""),
        database=where[1:],
        unix_socket=unquote(query.get("unix_socket", "")),
        tls=tuple((key, str(directory / name)) for key, name in files.items()),
        tls_identity=identity == "on",
    )


# -- upstreams


def _address(text: str) -> str:
    try:
        return parse_address(text).url
    except UnusableAddress as error:
        raise BadValue(str(error)) from None


def addresses(text: str, _: Path) -> tuple[tuple[str | None, str], ...]:
    """Read (channel, address) pairs; the channel is None for all channels. Several of one channel are its homes."""
    pairs: list[tuple[str | None, str]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        named = re.fullmatch(rf"({NAME}):\s+(.+)", line, re.ASCII)
        pairs.append((named[1], _address(named[2])) if named else (None, _address(line)))
    channels_ = {channel for channel, _ in pairs}
    if not pairs or len(set(pairs)) != len(pairs) or (len(channels_) > 1 and None in channels_):
        raise BadValue("an address, or CHANNEL: ADDRESS, a line; several of a channel, each once, are its homes")
    return tuple(pairs)


def channels(text: str, _: Path) -> tuple[tuple[str, str], ...]:
    """Read (our name, the upstream's name) of each channel."""
    pairs = []
    for item in filter(None, (part.strip() for part in re.split(r"[,\n]", text))):
        found = re.fullmatch(rf"({NAME})(?::\s*([\w.-]+(?:/[\w.-]+)*))?", item, re.ASCII)
        upstream_name = (found[2] or found[1]) if found else ""
        if found is None or ".." in upstream_name.split("/"):
            raise BadValue(
                "names of channels with commas between them; NAME: UPSTREAM-NAME where the upstream has another"
            )
        pairs.append((found[1], upstream_name))
    if len({ours for ours, _ in pairs}) != len(pairs):
        raise BadValue("each channel once")
    return tuple(pairs)


def level_numbers(text: str, _: Path) -> tuple[tuple[int, int], ...]:
    """Read (our number, the upstream's number) of each level."""
    pairs = []
    for item in filter(None, (part.strip() for part in re.split(r"[,\n]", text))):
        found = re.fullmatch(r"(\d{1,2}):\s*(\d{1,2})", item)
        if not found:
            raise BadValue("LEVEL: UPSTREAM-LEVEL with commas between them; the finest level of the upstream is 0")
        pairs.append((int(found[1]), int(found[2])))
    if len({ours for ours, _ in pairs}) != len(pairs):
        raise BadValue("each level once")
    return tuple(pairs)


def statuses(text: str, _: Path) -> tuple[int, ...]:
    """Read HTTP statuses."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(re.fullmatch(r"[1-5]\d\d", part) and part != "200" for part in parts):
        raise BadValue("HTTP statuses with commas between them, such as 403, 404")
    return tuple(map(int, parts))


def hosts(text: str, _: Path) -> tuple[str, ...]:
    """Read names of hosts, each with a port or without."""
    names = [part.strip().lower() for part in re.split(r"[,\s]", text) if part.strip()]
    if not all(re.fullmatch(r"([\w.-]{1,253}|\[[0-9a-f:.]+\])(:\d{1,5})?", name, re.ASCII) for name in names):
        raise BadValue("names of hosts with commas between them, such as bucket.s3.amazonaws.com")
    return tuple(names)


def slice_shift(text: str, _: Path) -> int:
    """Read a number of slices, down or up."""
    if not re.fullmatch(r"[+-]?\d{1,7}", text):
        raise BadValue("a whole number from -9999999 to 9999999")
    return int(text)


def authorization(text: str, _: Path) -> str | None:
    """Read the value of an Authorization header; an empty text is None."""
    if text and (not re.fullmatch(r"[\x21-\x7e]+( [\x21-\x7e]+)*", text) or len(text) > 8000):
        raise BadValue("a line such as Token ${NAME} or Bearer ${NAME}")
    return text or None


def admin_address(text: str, directory: Path) -> AdminAddress | None:
    """Read where the admin endpoint listens; an empty text is None."""
    if not text:
        return None
    found = re.fullmatch(r"unix:([^:]+)(?::mode=0?([0-7]{3}))?", text)
    if found:
        path = str(directory / found[1])
        if len(os.fsencode(path)) > LONGEST_SOCKET:
            raise BadValue(f"a path of at most {LONGEST_SOCKET} bytes, the most that a unix socket can have")
        return AdminAddress(path, int(found[2] or "660", 8))
    found = re.fullmatch(r"tcp:(\d{1,5})(?::interface=([0-9a-fA-F.:\\]+))?", text)
    if not found or not 0 < int(found[1]) < 65536:
        raise BadValue("unix:/run/ocpproxy/admin.sock, tcp:8081:interface=127.0.0.1, or nothing for no endpoint")
    try:
        host = ip_address((found[2] or "127.0.0.1").replace("\\", ""))
    except ValueError:
        raise BadValue("an address after interface=, such as 127.0.0.1") from None
    return AdminAddress(host=str(host), port=int(found[1]))


def secret(text: str, _: Path) -> str | None:
    """Read a secret that both sides know; an empty text is None."""
    if text and not re.fullmatch(r"[\x21-\x7e]{16,1000}", text):
        raise BadValue("16 letters or more, without spaces, from the environment: ${NAME}")
    return text or None


def extension(text: str, _: Path) -> str:
    """Read the extension of files."""
    if not re.fullmatch(r"[A-Za-z0-9]{1,8}", text):
        raise BadValue("an extension such as jpg, without a dot")
    return text


# -- how a dataset is shown
