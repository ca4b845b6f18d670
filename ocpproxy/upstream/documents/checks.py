"""Typed, bounded access to the values of a JSON document that is not trusted.

Each check takes the name of a value, for messages, and the value. It returns the value with its type, or raises
`Unexpected` with what was expected. `parsing` turns that into `NotUnderstood`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

from ocpproxy.model.dataset import NAME, Triple
from ocpproxy.model.voxels import VOXEL_TYPES
from ocpproxy.upstream.base import NotUnderstood

MAX_EXTENT = 2**28
"""Voxels along one axis."""
MAX_LEVELS = 32
DTYPES = tuple(VOXEL_TYPES)
"""Types of voxels that can be drawn."""
CHANNEL_NAME = re.compile(NAME, re.ASCII)
"""Names of channels that can be part of a tile's address."""
_MAX_DEPTH = 64
"""Objects and lists within one another in a document."""
_NESTING = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
"""Strings, and what begins and ends an object or a list."""
_SURROGATES = re.compile("[\ud800-\udfff]")


class Unexpected(ValueError):
    """A value of a document is not what was expected. The message says what was."""


def unexpected(expected: str, value: object) -> Unexpected:
    """Return the error for a value that is not what was expected."""
    return Unexpected(f"expected {expected}, not {str(value)[:60]!r}")


@contextmanager
def parsing(name: str) -> Iterator[None]:
    """Convert `Unexpected` in the block.

    :param name: the document, for the message.
    :raises NotUnderstood: for `Unexpected`.
    """
    try:
        yield
    except Unexpected as error:
        raise NotUnderstood(f"{name}: {error}") from None


def decode_text(body: bytes) -> str:
    """Return a document as text.

    :raises Unexpected: it is not UTF-8.
    """
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise unexpected("text in UTF-8", body[:60]) from None


def parse_json(document: str) -> Any:
    """Return the value of a JSON document.

    It may have NaN and infinities in it, which are not JSON, for other programs write and read them; the checks of
    numbers refuse them where they count. A byte order mark is skipped.

    :raises Unexpected: it is not JSON, or too deep.
    """
    depth = 0
    for token in _NESTING.finditer(document):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > _MAX_DEPTH:
            raise Unexpected(f"expected JSON that is at most {_MAX_DEPTH} levels deep")
    try:
        return json.loads(document.removeprefix("\ufeff"))
    except ValueError as error:
        raise Unexpected(f"expected JSON: {error}") from None


def json_object(name: str, value: object) -> Mapping[str, Any]:
    """Return the value as an object."""
    if not isinstance(value, dict):
        raise unexpected(f"an object for {name}", value)
    return value


def json_array(name: str, value: object, length: int | None = None, max_length: int = MAX_LEVELS) -> list[Any]:
    """Return the value as a list of exactly `length` items, or of at most `max_length`."""
    if not isinstance(value, list) or (length is not None and len(value) != length) or len(value) > max_length:
        size = f"at most {max_length}" if length is None else str(length)
        raise unexpected(f"a list of {size} items for {name}", value)
    return value


def integer(name: str, value: object, minimum: int, maximum: int) -> int:
    """Return the value as an integer; a float without a fraction is one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise unexpected(f"an integer from {minimum} to {maximum} for {name}", value)
    return value


def integer_triple(name: str, value: object, minimum: int = 0, maximum: int = MAX_EXTENT) -> Triple:
    """Return the value as a list of three integers, one for each axis."""
    a, b, c = (integer(name, item, minimum, maximum) for item in json_array(name, value, 3))
    return (a, b, c)


def fraction(name: str, value: object) -> Fraction:
    """Return the value as a positive number.

    It is exactly the decimal number of the document, so that tiles do not depend on the rounding of floats.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 1e-12 < value < 1e12:
        raise unexpected(f"a positive number for {name}", value)
    return Fraction(str(value))


def fraction_triple(name: str, value: object) -> tuple[Fraction, Fraction, Fraction]:
    """Return the value as a list of three positive numbers, one for each axis."""
    a, b, c = (fraction(name, item) for item in json_array(name, value, 3))
    return (a, b, c)


def string(name: str, value: object, *choices: str, max_length: int = 1000) -> str:
    """Return the value as a string: one of the choices, or any of at most `max_length` characters if there are none."""
    if not isinstance(value, str) or len(value) > max_length or _SURROGATES.search(value):
        raise unexpected(f"{' or '.join(choices) or 'a string'} for {name}", value)
    if choices and value not in choices:
        raise unexpected(f"{' or '.join(choices)} for {name}", value)
    return value
