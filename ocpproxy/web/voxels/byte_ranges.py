"""One range of bytes of an answer (RFC 9110, 14)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from twisted.web.http import stringToDatetime

_RANGE = re.compile(rb"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)


class NotSatisfiable(ValueError):
    """No byte of the answer is in the range."""


def read(values: Sequence[bytes] | None, length: int) -> tuple[int, int] | None:
    """Return the first byte of a range, and the one after its last; None where the whole answer is wanted.

    That is also the case for several ranges, and for what is no range: a server need not know them.

    :param values: of the header ``Range``.
    :param length: bytes of the whole answer.
    :raises NotSatisfiable: the range is behind its end.
    """
    found = _RANGE.fullmatch(values[0].strip()) if values is not None and len(values) == 1 else None
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        if int(found[2]) == 0 or not length:
            raise NotSatisfiable
        return max(0, length - int(found[2])), length
    first = int(found[1])
    end = int(found[2]) + 1 if found[2] else length
    if found[2] and end <= first:
        return None  # not valid, so it is ignored
    if first >= length:
        raise NotSatisfiable
    return first, min(end, length)


def is_current(if_range: Sequence[bytes] | None, etag: str, modified: float) -> bool:
    """Return whether a range still fits what the client has: whether ``If-Range`` is missing, or matches strongly."""
    if if_range is None:
        return True
    value = if_range[0].strip()
    if value.startswith((b'"', b"W/")):
        return value == etag.encode()
    try:
        return bool(int(stringToDatetime(value)) == int(modified))
    except (ValueError, IndexError, KeyError, OverflowError):
        return False
