"""Answers: headers, validators, and the one table from failures to HTTP.

Viewers decide most of it. CATMAID's WebGL layers stall for seconds, and never ask again, when the answer to a tile is
no picture. So what lies outside is a black tile, and an upstream's failure is a picture too, with a status that
programs see, and ``no-store``, so that no cache keeps it. ``Access-Control-Allow-Origin`` must be on every answer: a
copy without it in a browser's cache breaks the next request that needs it.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from math import ceil
from time import gmtime, strftime
from urllib.parse import quote

from twisted.web.http import stringToDatetime
from twisted.web.server import Request

from ocpproxy.cache.entries import Undescribed
from ocpproxy.cache.lookup import EncodedTile, Result
from ocpproxy.cache.tiles import TileAnswer
from ocpproxy.imagery import png
from ocpproxy.model.address import BadAddress
from ocpproxy.model.chunks import AnyCuboid
from ocpproxy.model.dataset import CannotDisplay
from ocpproxy.store.keys import NotIndexable
from ocpproxy.upstream.base import UnknownToken, UpstreamFailure, UpstreamRefused, UpstreamSlow

COMMON = {
    b"access-control-allow-origin": b"*",
    b"access-control-expose-headers": b"ETag, Last-Modified, Content-Length, Content-Encoding, Content-Range, "
    b"Accept-Ranges, Cache-Status, Retry-After, X-Request-Id, Server-Timing, "
    b"X-Dataset-Version, X-Cuboid, X-Fetched, X-Upstream",
    b"cache-status": b"ocpproxy",
    b"cross-origin-resource-policy": b"cross-origin",
    b"x-content-type-options": b"nosniff",
}
"""Headers of every answer."""
ALLOWED = b"GET, HEAD, OPTIONS"
_REFUSED_GZIP = re.compile(rb";\s*q=0(?:\.0*)?\s*(?:;|$)")
NO_DESCRIPTOR = "this gateway has no descriptor left; try again"
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}

CACHE_STATUS = {
    Result.HIT_MEMORY: b"ocpproxy; hit; detail=memory",
    Result.HIT_DISK: b"ocpproxy; hit",
    Result.MISS: b"ocpproxy; fwd=miss; stored",
    Result.COLLAPSED: b"ocpproxy; fwd=miss; collapsed",
    Result.BLANK: b"ocpproxy; detail=out-of-bounds",
    Result.STALE: b"ocpproxy; hit; detail=stale",
    Result.PLACEHOLDER: b"ocpproxy; fwd=miss; detail=placeholder",
}
"""The ``Cache-Status`` of a tile (RFC 9211)."""
_NOT_KEPT = (Result.STALE, Result.PLACEHOLDER)
"""What stands for a tile that cannot be had now."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One complete answer."""

    code: int
    body: bytes | memoryview
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    has_length: bool = True
    """False for the answer to a HEAD whose body's length is unknown."""

    def send(self, request: Request) -> None:
        """Write the answer, unless the client has left."""
        if request.channel is None:
            return
        request.setResponseCode(self.code)
        for name, value in self.headers.items():
            request.setHeader(name, value)
        if self.code not in (204, 304):
            if self.has_length:
                request.setHeader(b"content-length", b"%d" % len(self.body))
            request.write(self.body)
        request.finish()

    def as_private(self) -> Reply:
        """Return the answer as no shared cache keeps it."""
        control = private(self.headers.get(b"cache-control", b""))
        return replace(self, headers={**self.headers, b"cache-control": control})


class NotAllowed(Exception):
    """Somebody asks for a dataset that they may not see."""


def private(cache_control: bytes) -> bytes:
    """Return a ``Cache-Control`` by which no shared cache keeps an answer."""
    return b", ".join([b"private", *(one for one in cache_control.split(b", ") if one and one != b"public")])


def text(code: int, sentence: str, **headers: str) -> Reply:
    """Return one sentence as plain text that no cache keeps."""
    all_headers = {
        b"content-type": b"text/plain; charset=utf-8",
        b"cache-control": b"no-store",
        **{name.replace("_", "-").encode(): value.encode() for name, value in headers.items()},
    }
    return Reply(code, sentence.encode("utf-8", "replace") + b"\n", all_headers)


def document(code: int, value: object) -> Reply:
    """Return a JSON document."""
    return json_reply(code, json_parts(value))


def json_parts(value: object) -> Iterator[str]:
    """Yield the text of a JSON document in small parts, each made when it is asked for."""
    return json.JSONEncoder(indent=1).iterencode(value)


def json_reply(code: int, parts: Iterable[str]) -> Reply:
    """Return a JSON document that consists of these parts."""
    return Reply(code, "".join(parts).encode(), {b"content-type": b"application/json", b"cache-control": b"no-cache"})


def preflight() -> Reply:
    """Return what a page of another origin may ask for."""
    return Reply(
        204,
        b"",
        {
            b"allow": ALLOWED,
            b"access-control-allow-methods": ALLOWED,
            b"access-control-allow-headers": b"Authorization, If-None-Match, If-Modified-Since, If-Range, Range",
            b"access-control-max-age": b"86400",
        },
    )


# -- tiles and chunks


def accepts_gzip(values: Sequence[bytes]) -> bool:
    """Return whether a client accepts gzip, by the values of its ``Accept-Encoding``."""
    accepted = False
    for item in b",".join(values).lower().split(b","):
        name = item.partition(b";")[0].strip()
        if name in (b"gzip", b"x-gzip"):
            return not _REFUSED_GZIP.search(item)
        accepted |= name == b"*" and not _REFUSED_GZIP.search(item)
    return accepted


def cache_status(result: Result) -> bytes:
    """Return the ``Cache-Status`` of a tile (RFC 9211)."""
    return CACHE_STATUS[result]


def tile_headers(etag: str, modified: float, max_age: int) -> dict[bytes, bytes]:
    """Return the headers of a tile, with the picture or without it."""
    return {
        b"etag": etag.encode(),
        b"cache-control": b"public, max-age=%d" % max_age,
        b"last-modified": formatdate(modified, usegmt=True).encode(),
    }


def chunk_headers(*, gzipped: bool) -> dict[bytes, bytes]:
    """Return the headers that chunks have beside those of tiles."""
    headers = {b"accept-ranges": b"bytes", b"vary": b"Accept-Encoding"}
    if gzipped:
        headers[b"content-encoding"] = b"gzip"
    return headers


def found_headers(answer: TileAnswer) -> dict[bytes, bytes]:
    """Return the headers that describe where a tile or a chunk was found, and what that took."""
    headers = {b"cache-status": cache_status(answer.result)}
    if answer.cuboid is not None:
        headers |= provenance_headers(answer.cuboid, answer.tile)
    if answer.timing is not None:
        parts = (f"{name};dur={seconds * 1000:.1f}" for name, seconds in answer.timing._asdict().items())
        headers[b"server-timing"] = ", ".join(parts).encode()
    if answer.result in _NOT_KEPT:
        headers[b"cache-control"] = b"no-store"
    return headers


def provenance_headers(cuboid: AnyCuboid, encoded: EncodedTile) -> dict[bytes, bytes]:
    """Return the headers that tell where a tile comes from.

    ``X-Upstream`` is the name of an upstream, which is public, and not its address. It is missing where that is not
    known: the file system keeps no attributes, or the tile is older than this header.
    """
    headers = {
        b"x-dataset-version": cuboid.stack.version.encode(),
        b"x-cuboid": quote(cuboid.name, safe="/~").encode(),
        b"x-fetched": strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(encoded.modified)).encode(),
    }
    home = encoded.read_home()
    if home:
        headers[b"x-upstream"] = home.encode()
    return headers


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a client has already (RFC 9110, 13.1).

    If-None-Match (weak comparison) comes first; only without it If-Modified-Since counts.
    """

    tags: frozenset[bytes] | None = None
    since: int | None = None

    @classmethod
    def of(cls, if_none_match: Sequence[bytes] | None, if_modified_since: Sequence[bytes] | None) -> Conditions:
        """Return the conditions in the values of these headers; None where a header is missing."""
        if if_none_match is not None:
            tags = b",".join(if_none_match).split(b",")
            return cls(tags=frozenset(tag.strip().removeprefix(b"W/") for tag in tags))
        if if_modified_since is not None:
            try:
                return cls(since=int(stringToDatetime(if_modified_since[0])))
            except (ValueError, IndexError, KeyError, OverflowError):
                pass
        return _NONE

    def has(self, tile: EncodedTile) -> bool:
        """Return whether the client has the tile."""
        if self.tags is not None:
            return tile.etag.encode() in self.tags or b"*" in self.tags
        return self.since is not None and int(tile.modified) <= self.since


_NONE = Conditions()


def tile(request: Request, answer: TileAnswer, max_age: int) -> Reply:
    """Return a tile, or 304 when the client has it."""
    encoded, values = answer.tile, request.requestHeaders.getRawHeaders
    headers = {**tile_headers(encoded.etag, encoded.modified, max_age), **found_headers(answer)}
    if Conditions.of(values(b"if-none-match"), values(b"if-modified-since")).has(encoded):
        return Reply(304, b"", headers)
    return Reply(200, bytes(encoded.picture), {**headers, b"content-type": encoded.content_type})


def head_of_unfetched(content_type: bytes = b"image/png") -> Reply:
    """Return the answer to HEAD of a tile or chunk that would have to be fetched: little is known of it."""
    return Reply(
        200,
        b"",
        {
            b"content-type": content_type,
            b"cache-control": b"no-store",
            b"cache-status": b"ocpproxy; fwd=miss; detail=not-fetched-for-head",
        },
        has_length=False,
    )


# -- failures


def has_no_descriptor(error: Exception) -> bool:
    """Return whether an error says that the process cannot open another file."""
    return isinstance(error, OSError) and error.errno in _NO_DESCRIPTORS


def failure(error: Exception, token: str, *, as_text: bool) -> Reply | None:
    """Return the answer to a failure, or None for an error that is a fault of the gateway.

    :param as_text: answer an upstream's failure with a sentence instead of a picture (``[server] error_body``).
    """
    if isinstance(error, (BadAddress, CannotDisplay, NotIndexable)):
        return text(404, str(error), cache_status="ocpproxy; detail=not-found")
    if isinstance(error, NotAllowed):
        return not_allowed(token, as_text=as_text)
    if isinstance(error, Undescribed):
        return _undescribed(error, token, as_text=as_text)
    if isinstance(error, UnknownToken):
        return text(404, f"unknown token {token}", cache_status="ocpproxy; detail=unknown-token")
    if isinstance(error, UpstreamRefused):
        return text(403, f"the upstream does not let this gateway read {token}", cache_status="ocpproxy; fwd=miss")
    if has_no_descriptor(error):
        return picture_or_text(503, NO_DESCRIPTOR, "busy", 1, as_text=as_text)
    if isinstance(error, UpstreamFailure):
        sentence = f"the upstream of {token} is {error.outcome}; try again"
        return _passing(error, sentence, as_text=as_text)
    return None


def _undescribed(error: Undescribed, token: str, *, as_text: bool) -> Reply:
    """Return the answer for a token that cannot be described: what kind of fault it is, and no address.

    What does not pass by itself is a sentence also for a viewer, with a status after which nobody tries again.
    """
    failure = error.failure
    if isinstance(failure, UnknownToken) and not error.configured:
        return text(404, f"unknown token {token}", cache_status="ocpproxy; detail=unknown-token")
    sentence = f"{token} cannot be shown: {failure.explanation}"
    if not failure.lasting:
        return _passing(failure, f"{sentence}; try again", as_text=as_text)
    code = 404 if isinstance(failure, UnknownToken) else 403 if isinstance(failure, UpstreamRefused) else 502
    return text(code, sentence, cache_status=f"ocpproxy; fwd=miss; detail={failure.outcome}")


def _passing(failure: UpstreamFailure, sentence: str, *, as_text: bool) -> Reply:
    """Return the answer to a failure of an upstream that may be over soon."""
    code = 504 if isinstance(failure, UpstreamSlow) else 503
    return picture_or_text(code, sentence, failure.outcome, ceil(failure.retry_after or 1), as_text=as_text)


def not_allowed(token: str, *, as_text: bool) -> Reply:
    """Return the answer to somebody who may not see a dataset."""
    headers = {
        b"content-type": b"text/plain; charset=utf-8" if as_text else b"image/png",
        b"cache-control": b"no-store",
        b"cache-status": b"ocpproxy; detail=not-allowed",
    }
    sentence = f"{token} is for some groups only, and you are in none of them, or have not logged in\n"
    return Reply(403, sentence.encode() if as_text else png.blank(clear=False), headers)


def picture_or_text(code: int, sentence: str, detail: str, retry_after: int, *, as_text: bool) -> Reply:
    """Return the answer to a failure that may be over soon."""
    headers = {
        b"content-type": b"text/plain; charset=utf-8" if as_text else b"image/png",
        b"cache-control": b"no-store",
        b"retry-after": b"%d" % retry_after,
        b"cache-status": b"ocpproxy; fwd=miss; detail=" + detail.replace(" ", "-").encode(),
    }
    return Reply(code, sentence.encode() + b"\n" if as_text else png.blank(clear=False), headers)
