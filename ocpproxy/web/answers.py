"""What an answer is made of: headers, validators, and the one table from failures to HTTP.

Viewers decide most of it. CATMAID's WebGL layers stall for seconds, and never ask again, when a tile's answer is no
picture; so what is outside is a black tile, and an upstream's failure is a picture too, with a status that programs see
and ``no-store``, so that no cache keeps it. ``Access-Control-Allow-Origin`` must be on every answer: a copy without
it in a browser's cache breaks the next request that needs it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from math import ceil

from twisted.web.http import stringToDatetime
from twisted.web.server import Request

from ocpproxy.cache.lookup import EncodedTile, Result, TileAnswer
from ocpproxy.imagery import pictures, png
from ocpproxy.model.address import BadAddress
from ocpproxy.model.dataset import CannotDisplay
from ocpproxy.store.keys import NotIndexable
from ocpproxy.upstream.base import UnknownToken, UpstreamFailure, UpstreamRefused, UpstreamSlow

COMMON = {
    b"access-control-allow-origin": b"*",
    b"access-control-expose-headers": b"ETag, Cache-Status, Retry-After",
    b"cache-status": b"ocpproxy",
    b"x-content-type-options": b"nosniff",
}
"""On every answer."""
ALLOWED = b"GET, HEAD, OPTIONS"

_STATUS = {
    Result.HIT_MEMORY: b"ocpproxy; hit; detail=memory",
    Result.HIT_DISK: b"ocpproxy; hit",
    Result.MISS: b"ocpproxy; fwd=miss; stored",
    Result.COLLAPSED: b"ocpproxy; fwd=miss; collapsed",
    Result.BLANK: b"ocpproxy; detail=out-of-bounds",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """One complete answer."""

    code: int
    body: bytes
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    sized: bool = True
    """Whether the body is what its length is to be told of."""

    def send(self, request: Request) -> None:
        """Write it, unless the client has left."""
        if request.channel is None:
            return
        request.setResponseCode(self.code)
        for name, value in self.headers.items():
            request.setHeader(name, value)
        if self.code not in (204, 304):
            if self.sized:
                request.setHeader(b"content-length", b"%d" % len(self.body))
            request.write(self.body)
        request.finish()


def text(code: int, sentence: str, **headers: str) -> Reply:
    """One sentence as plain text, not to be kept by anyone."""
    said = {
        b"content-type": b"text/plain; charset=utf-8",
        b"cache-control": b"no-store",
        **{name.replace("_", "-").encode(): value.encode() for name, value in headers.items()},
    }
    return Reply(code, sentence.encode("utf-8", "replace") + b"\n", said)


def document(code: int, value: object) -> Reply:
    """JSON that is made anew each time."""
    body = json.dumps(value, indent=1).encode()
    return Reply(code, body, {b"content-type": b"application/json", b"cache-control": b"no-cache"})


def page(html: str) -> Reply:
    """A page for people."""
    headers = {
        b"content-type": b"text/html; charset=utf-8",
        b"cache-control": b"no-cache",
        b"content-security-policy": b"default-src 'none'; style-src 'unsafe-inline'; img-src 'self'",
    }
    return Reply(200, html.encode(), headers)


def preflight() -> Reply:
    """What may be asked for from a page of another origin."""
    return Reply(
        204,
        b"",
        {
            b"allow": ALLOWED,
            b"access-control-allow-methods": ALLOWED,
            b"access-control-allow-headers": b"Authorization, If-None-Match, If-Modified-Since, Range",
            b"access-control-max-age": b"86400",
        },
    )


def cache_status(result: Result) -> bytes:
    """``Cache-Status`` of a tile (RFC 9211)."""
    return _STATUS[result]


def validators(etag: str, modified: float, max_age: int) -> dict[bytes, bytes]:
    """What a tile's answer says of it, whether or not it carries the picture."""
    return {
        b"etag": etag.encode(),
        b"cache-control": b"public, max-age=%d" % max_age,
        b"last-modified": formatdate(modified, usegmt=True).encode(),
    }


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a client says that it has already (RFC 9110, 13.1).

    If-None-Match (weak comparison) is asked first; only without it If-Modified-Since counts.
    """

    tags: frozenset[bytes] | None = None
    since: int | None = None

    @classmethod
    def of(cls, if_none_match: Sequence[bytes] | None, if_modified_since: Sequence[bytes] | None) -> Conditions:
        """The conditions in the values of these headers, None where there is no such header."""
        if if_none_match is not None:
            said = b",".join(if_none_match).split(b",")
            return cls(tags=frozenset(tag.strip().removeprefix(b"W/") for tag in said))
        if if_modified_since is not None:
            try:
                return cls(since=int(stringToDatetime(if_modified_since[0])))
            except (ValueError, IndexError, KeyError, OverflowError):
                pass
        return _NONE

    def has(self, ready: EncodedTile) -> bool:
        """Whether the client has the tile."""
        if self.tags is not None:
            return ready.etag.encode() in self.tags or b"*" in self.tags
        return self.since is not None and int(ready.modified) <= self.since


_NONE = Conditions()


def tile(request: Request, answer: TileAnswer, max_age: int) -> Reply:
    """A tile, or that the client has it already."""
    ready, asked = answer.ready, request.requestHeaders.getRawHeaders
    headers = {**validators(ready.etag, ready.modified, max_age), b"cache-status": cache_status(answer.result)}
    if Conditions.of(asked(b"if-none-match"), asked(b"if-modified-since")).has(ready):
        return Reply(304, b"", headers)
    return Reply(200, bytes(ready.picture), {**headers, b"content-type": pictures.content_type(ready.picture)})


def not_here() -> Reply:
    """HEAD of a tile that would have to be fetched: it would be a picture, and that is all that is known."""
    return Reply(
        200,
        b"",
        {
            b"content-type": b"image/png",
            b"cache-control": b"no-store",
            b"cache-status": b"ocpproxy; fwd=miss; detail=not-fetched-for-head",
        },
        sized=False,
    )


def failed(error: Exception, token: str, *, as_text: bool) -> Reply | None:
    """The answer to a failure, or None for one that nobody has foreseen.

    :param as_text: an upstream's failure is told in words instead of a picture (``[server] error_body``).
    """
    if isinstance(error, (BadAddress, CannotDisplay, NotIndexable)):
        return text(404, str(error), cache_status="ocpproxy; detail=not-found")
    if isinstance(error, UnknownToken):
        return text(404, f"unknown token {token}", cache_status="ocpproxy; detail=unknown-token")
    if isinstance(error, UpstreamRefused):
        return text(403, f"the upstream does not let this gateway read {token}", cache_status="ocpproxy; fwd=miss")
    if isinstance(error, UpstreamFailure):
        code = 504 if isinstance(error, UpstreamSlow) else 503
        said = f"the upstream of {token} is {error.outcome}; try again"
        return picture_or_text(code, said, error.outcome, ceil(error.retry_after or 1), as_text=as_text)
    return None


def picture_or_text(code: int, sentence: str, detail: str, retry_after: int, *, as_text: bool) -> Reply:
    """A failure that may be over soon."""
    headers = {
        b"content-type": b"text/plain; charset=utf-8" if as_text else b"image/png",
        b"cache-control": b"no-store",
        b"retry-after": b"%d" % retry_after,
        b"cache-status": b"ocpproxy; fwd=miss; detail=" + detail.replace(" ", "-").encode(),
    }
    return Reply(code, sentence.encode() + b"\n" if as_text else png.blank(clear=False), headers)
