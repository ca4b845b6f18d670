"""The target of a request, as clients and fronts write it, and which requests are refused for what they say.

A target is a path with a query. It may also be a whole address (RFC 9112, 3.2.2), whose host then counts instead of the
header ``Host``. Several slashes in a row are one.
"""

from __future__ import annotations

import re

from twisted.web.http_headers import Headers

from ocpproxy.web.front import HOST

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_SLASHES = re.compile(rb"//+")


class RefusedRequest(ValueError):
    """The request cannot be answered. The message is one sentence that is safe to show to clients."""


def read(target: bytes, version: bytes, headers: Headers) -> bytes:
    """Return a target as a path that begins with one slash, with its query; ``*`` stays.

    The host of a whole address replaces the header.

    :raises RefusedRequest: for another target, and for a ``Host`` that is missing, repeated or invalid.
    """
    hosts = headers.getRawHeaders(b"host", [])
    if len(hosts) > 1 or (not hosts and version == b"HTTP/1.1"):
        raise RefusedRequest(f"expected one header Host, not {len(hosts)}")
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        hosts, target = [absolute[1].rpartition(b"@")[2]], absolute[2]
        target = target if target.startswith(b"/") else b"/" + target
        headers.setRawHeaders(b"host", hosts)
    if hosts and not HOST.fullmatch(hosts[0]):
        raise RefusedRequest("expected a name or an address in the header Host")
    if target == b"*":
        return target
    if not target.startswith(b"/"):
        raise RefusedRequest("expected a path that begins with a slash")
    path, mark, query = target.partition(b"?")
    return _SLASHES.sub(b"/", path) + mark + query


def wants_close(headers: Headers) -> bool:
    """Return whether the client wants the connection closed: ``close`` in any place of ``Connection`` (RFC 9110)."""
    fields = headers.getRawHeaders(b"connection", [])
    return any(option.strip().lower() == b"close" for field in fields for option in field.split(b","))
