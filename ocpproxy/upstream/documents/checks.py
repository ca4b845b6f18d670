"""What upstreams say of volumes: JSON of which nothing is trusted.

==============  ============================================================
`ocpinfo`       the info of Open Connectome, in three generations
`multiscale`    N5, Zarr, OME-Zarr
`pyramids`      scales become levels, volumes become channels
==============  ============================================================

What they have in common is here. Each reader takes what a value is called and the value, and returns it checked, or
raises `Unexpected` with what was expected. `reading` turns that into `UpstreamBroken`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

from ocpproxy.model.dataset import Triple
from ocpproxy.upstream.base import UpstreamBroken

LARGEST = 2**28
"""Voxels along one axis that are believed."""
LEVELS = 32
"""Levels that are believed."""
DTYPES = ("uint8", "uint16", "uint32", "uint64", "float32")
NAME = re.compile(r"\w[\w-]{0,63}", re.ASCII)
"""A channel that an address can name."""


class Unexpected(ValueError):
    """What was expected in the document."""


def unexpected(expected: str, value: object) -> Unexpected:
    """To be raised: this was expected, and not this value."""
    return Unexpected(f"expected {expected}, not {str(value)[:60]!r}")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """A block that reads a document.

    :raises UpstreamBroken: for what is `Unexpected` in it.
    """
    try:
        yield
    except Unexpected as bad:
        raise UpstreamBroken(f"{what}: {bad}") from None


def text(body: bytes) -> str:
    """A document as it came.

    :raises Unexpected: when it is no UTF-8.
    """
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise unexpected("text in UTF-8", body[:60]) from None


def parsed(document: str) -> Any:
    """The value that JSON says.

    :raises Unexpected: when it is no JSON, or says what is no number.
    """

    def constant(word: str) -> float:
        raise unexpected("numbers", word)

    try:
        return json.loads(document, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, Unexpected):
            raise
        raise Unexpected(f"no JSON: {error}") from None


def mapping(what: str, value: object) -> Mapping[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise unexpected(f"an object for {what}", value)
    return value


def items(what: str, value: object, count: int | None = None, most: int = LEVELS) -> list[Any]:
    """A list of so many, or of at most so many."""
    if not isinstance(value, list) or (count is not None and len(value) != count) or len(value) > most:
        raise unexpected(f"a list{f' of at most {most}' if count is None else f' of {count}'} for {what}", value)
    return value


def whole(what: str, value: object, least: int, most: int) -> int:
    """A whole number."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise unexpected(f"a whole number from {least} to {most} for {what}", value)
    return value


def triple(what: str, value: object, least: int = 0, most: int = LARGEST) -> Triple:
    """A whole number for each axis."""
    a, b, c = (whole(what, v, least, most) for v in items(what, value, 3))
    return (a, b, c)


def ratio(what: str, value: object) -> Fraction:
    """A positive number, exactly as it was written, so that tiles do not depend on the noise of floats."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 1e-12 < value < 1e12:
        raise unexpected(f"a positive number for {what}", value)
    return Fraction(str(value))


def ratios(what: str, value: object) -> tuple[Fraction, Fraction, Fraction]:
    """A positive number for each axis."""
    a, b, c = (ratio(what, v) for v in items(what, value, 3))
    return (a, b, c)


def word(what: str, value: object, *words: str, most: int = 1000) -> str:
    """One of these words, or any text of at most so many characters where none are given."""
    fine = isinstance(value, str) and len(value) <= most and not re.search("[\ud800-\udfff]", value)
    if not isinstance(value, str) or not fine or (words and value not in words):
        raise unexpected(f"{' or '.join(words) or 'a text'} for {what}", value)
    return value
