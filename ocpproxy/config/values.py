"""How the values of options are read: each reader knows what it expects, and says so."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ocpproxy.config.settings import IndexUrl

MIB = 2**20
_NAME = r"\w[\w-]{0,63}"


class Bad(ValueError):
    """What was expected of a value."""


def whole(least: int, most: int) -> Callable[[str, Path], int]:
    """A whole number."""

    def read(text: str, _: Path) -> int:
        if not re.fullmatch(r"-?\d{1,15}", text) or not least <= int(text) <= most:
            raise Bad(f"a whole number from {least} to {most}")
        return int(text)

    return read


def number_of(*numbers: int) -> Callable[[str, Path], int]:
    """One of these numbers."""

    def read(text: str, _: Path) -> int:
        if text not in map(str, numbers):
            raise Bad("one of " + ", ".join(map(str, numbers)))
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


_PLACEHOLDERS = ("{token}", "{channel}")
_SCHEMES = ("http", "https", "s3", "gs", "bossdb", "file")


def _address(text: str) -> str:
    """An address as it is kept: without a prefix that names a format."""
    text = re.sub(r"^(precomputed|n5|zarr[23]?)://(?=[a-z0-9]+:)", "", text.strip())
    plain = text
    for placeholder in _PLACEHOLDERS:
        plain = plain.replace(placeholder, "x")
    try:
        url = urlsplit(plain)
        fine = url.scheme in _SCHEMES and bool(url.hostname or url.scheme == "file")
        fine = fine and not url.query and not url.fragment and not url.username and not url.password
        fine = fine and (url.port is None or url.port > 0) and "{" not in urlsplit(text).netloc
    except ValueError:
        fine = False
    if not fine or re.search(r"[\s\x00-\x1f\x7f-\uffff{}\\]", plain):
        raise Bad(
            "an http:// or https:// address (or s3://, gs://, bossdb://, file://) without a query or user name, in "
            "which {token} and {channel} may stand for names; or one CHANNEL: ADDRESS a line"
        )
    return text


def addresses(text: str, _: Path) -> tuple[tuple[str | None, str], ...]:
    """Addresses of web services by channel; None is for the only one."""
    found: list[tuple[str | None, str]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        said = re.fullmatch(rf"({_NAME}):\s+(\S+)", line, re.ASCII)
        found.append((said[1], _address(said[2])) if said else (None, _address(line)))
    names = {name for name, _ in found}
    if not found or len(names) != len(found) or (len(found) > 1 and None in names):
        raise Bad("one address, or one CHANNEL: ADDRESS a line")
    return tuple(found)


def channels(text: str, _: Path) -> tuple[tuple[str, str], ...]:
    """(name here, name there) of each channel."""
    found = []
    for item in filter(None, (part.strip() for part in re.split(r"[,\n]", text))):
        said = re.fullmatch(rf"({_NAME})(?::\s*([\w.-]+(?:/[\w.-]+)*))?", item, re.ASCII)
        there = (said[2] or said[1]) if said else ""
        if said is None or ".." in there.split("/"):
            raise Bad("names of channels with commas between them; NAME: NAME-THERE where the upstream has another")
        found.append((said[1], there))
    if len({name for name, _ in found}) != len(found):
        raise Bad("each channel once")
    return tuple(found)


def levels(text: str, _: Path) -> tuple[tuple[int, int], ...]:
    """(level here, level there)."""
    found = []
    for item in filter(None, (part.strip() for part in re.split(r"[,\n]", text))):
        said = re.fullmatch(r"(\d{1,2}):\s*(\d{1,2})", item)
        if not said:
            raise Bad("LEVEL: LEVEL-THERE with commas between them, the finest there is 0")
        found.append((int(said[1]), int(said[2])))
    if len({here for here, _ in found}) != len(found):
        raise Bad("each level once")
    return tuple(found)


def statuses(text: str, _: Path) -> tuple[int, ...]:
    """HTTP statuses."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(re.fullmatch(r"[1-5]\d\d", part) and part != "200" for part in parts):
        raise Bad("HTTP statuses with commas between them, such as 403, 404")
    return tuple(map(int, parts))


def shift(text: str, _: Path) -> int:
    """A number of slices, down or up."""
    if not re.fullmatch(r"[+-]?\d{1,7}", text):
        raise Bad("a whole number from -9999999 to 9999999")
    return int(text)


def max_age(text: str, _: Path) -> float | None:
    """Seconds; infinity for never, None for what the upstream makes right."""
    if text in ("auto", "never"):
        return None if text == "auto" else float("inf")
    if not re.fullmatch(r"\d{1,9}", text) or int(text) < 1:
        raise Bad("auto, never, or seconds from 1")
    return float(text)


def authorization(text: str, _: Path) -> str | None:
    """The value of an Authorization header, or None."""
    if text and (not re.fullmatch(r"[\x21-\x7e]+( [\x21-\x7e]+)*", text) or len(text) > 8000):
        raise Bad("a line such as Token ${NAME} or Bearer ${NAME}")
    return text or None


def numbers(
    count: tuple[int, ...], expected: str, *, fractions: bool = False, most: int = 2**28
) -> Callable[[str, Path], Any]:
    """So many positive numbers with commas between them, in parentheses or not."""

    def read(text: str, _: Path) -> tuple[Any, ...]:
        inner = text.strip().removeprefix("(").removesuffix(")")
        parts = [part.strip() for part in re.split(r"[,x]", inner)] if inner else []
        form = r"\d{1,9}(\.\d{1,9})?" if fractions else r"\d{1,9}"
        if len(parts) not in count or not all(re.fullmatch(form, p) and 0 < float(p) <= most for p in parts):
            raise Bad(expected)
        return tuple(Fraction(part) if fractions else int(part) for part in parts)

    return read


def extension(text: str, _: Path) -> str:
    """The extension of files."""
    if not re.fullmatch(r"[A-Za-z0-9]{1,8}", text):
        raise Bad("an extension such as jpg, without a dot")
    return text


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
