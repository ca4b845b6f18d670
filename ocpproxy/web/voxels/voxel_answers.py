"""Answers to readers of voxels: chunks with ranges and compression, documents, folders, and failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from math import ceil
from urllib.parse import quote

from ocpproxy.cache.entries import Undescribed
from ocpproxy.cache.lookup import CHUNK_TYPE, EncodedTile
from ocpproxy.cache.tiles import TileAnswer
from ocpproxy.formats.chunk_file import BadChunk
from ocpproxy.formats.location import FormatDocument
from ocpproxy.model.address import BadAddress
from ocpproxy.model.dataset import CannotDisplay
from ocpproxy.store.keys import NotIndexable
from ocpproxy.upstream.base import UnknownToken, UpstreamFailure, UpstreamSlow
from ocpproxy.web import answers
from ocpproxy.web.answers import Conditions, NotAllowed, Reply
from ocpproxy.web.request import GatewayRequest
from ocpproxy.web.voxels import byte_ranges
from ocpproxy.web.voxels.byte_ranges import NotSatisfiable

_DOCUMENT_AGE = 60
"""Seconds that a document counts as current."""
_SMALL = 1024
"""Bytes of a document that is not worth compressing."""
_RETRY_AFTER = 5
_LASTING = 60
"""Seconds after which what does not get better by itself may be tried again."""


def chunk(request: GatewayRequest, answer: TileAnswer, max_age: int) -> Reply:
    """Return a chunk, a range of it, or 304 when the client has it."""
    values, encoded = request.requestHeaders.getRawHeaders, answer.tile
    headers = {
        **answers.tile_headers(encoded.etag, encoded.modified, max_age),
        **answers.chunk_headers(gzipped=encoded.gzipped),
        **answers.found_headers(answer),
    }
    if Conditions.of(values(b"if-none-match"), values(b"if-modified-since")).has(encoded):
        return Reply(304, b"", headers)
    headers[b"content-type"] = encoded.content_type
    body = encoded.picture
    if request.method != b"GET" or not byte_ranges.is_current(values(b"if-range"), encoded.etag, encoded.modified):
        return Reply(200, body, headers)
    try:
        found = byte_ranges.read(values(b"range"), len(body))
    except NotSatisfiable:
        reply = answers.text(416, "no byte of the chunk is in this range")
        return Reply(416, reply.body, {**reply.headers, b"content-range": b"bytes */%d" % len(body)})
    if found is None:
        return Reply(200, body, headers)
    first, end = found
    headers[b"content-range"] = b"bytes %d-%d/%d" % (first, end - 1, len(body))
    return Reply(206, body[first:end], headers)


def head_of_unfetched(length: int | None) -> Reply:
    """Return the answer to HEAD of a chunk that would have to be fetched.

    :param length: bytes of its body, where that is known.
    """
    reply = answers.head_of_unfetched(CHUNK_TYPE)
    if length is None:
        return reply
    return replace(reply, headers={**reply.headers, b"accept-ranges": b"bytes", b"content-length": b"%d" % length})


def document(request: GatewayRequest, found: FormatDocument, modified: float) -> Reply:
    """Return a document of metadata, or 304 when the client has it."""
    values = request.requestHeaders.getRawHeaders
    zipped = len(found.body) >= _SMALL and answers.accepts_gzip(values(b"accept-encoding") or [])
    body = found.zipped if zipped else found.body
    encoded = EncodedTile(body, f'"{found.digest}{"-gzip" if zipped else ""}"', modified, gzipped=zipped)
    headers = {**answers.tile_headers(encoded.etag, modified, _DOCUMENT_AGE), b"vary": b"Accept-Encoding"}
    if Conditions.of(values(b"if-none-match"), None).has(encoded):
        return Reply(304, b"", headers)
    headers[b"content-type"] = b"application/json"
    if zipped:
        headers[b"content-encoding"] = b"gzip"
    return Reply(200, body, headers)


def folder_elsewhere(name: str) -> Reply:
    """Return where a folder is whose address lacks the slash at its end.

    :param name: the last segment of the address.
    """
    reply = answers.text(302, "a folder ends with a slash")
    return Reply(302, reply.body, {**reply.headers, b"location": quote(name, safe="@").encode() + b"/"})


def folder(names: Sequence[str]) -> Reply:
    """Return what is in a folder, as servers of files list it."""
    lines = "".join(f'<li><a href="{escape(name)}">{escape(name)}</a></li>\n' for name in names)
    html = f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Index</title>\n<ul>\n{lines}</ul>\n'
    headers = {
        b"content-type": b"text/html; charset=utf-8",
        b"cache-control": b"no-cache",
        b"content-security-policy": b"default-src 'none'",
    }
    return Reply(200, html.encode(), headers)


def failure(error: Exception) -> Reply | None:
    """Return the answer to a failure, or None for an error that is a fault of the gateway."""
    if isinstance(error, NotIndexable):
        return answers.text(503, str(error), retry_after=str(_LASTING))
    if isinstance(error, (BadAddress, CannotDisplay)):
        return answers.text(404, str(error), cache_status="ocpproxy; detail=not-found")
    if isinstance(error, NotAllowed):
        return answers.not_allowed("the dataset", as_text=True)
    if isinstance(error, Undescribed):
        if isinstance(error.failure, UnknownToken) and not error.configured:
            return answers.text(404, "unknown token", cache_status="ocpproxy; detail=unknown-token")
        return _failed(error.failure, f"the dataset cannot be read: {error.failure.explanation}")
    if isinstance(error, UpstreamFailure):
        return _failed(error, f"the upstream is {error.outcome}; try again")
    if isinstance(error, BadChunk):
        return answers.text(503, "the chunk is damaged at the upstream", retry_after=str(_LASTING))
    if answers.has_no_descriptor(error):
        return answers.text(503, answers.NO_DESCRIPTOR, retry_after="1")
    return None


def _failed(error: UpstreamFailure, sentence: str) -> Reply:
    wait = ceil(error.retry_after or (_LASTING if error.lasting else _RETRY_AFTER))
    detail = error.outcome.replace(" ", "-")
    code = 504 if isinstance(error, UpstreamSlow) else 503
    return answers.text(code, sentence, retry_after=str(wait), cache_status=f"ocpproxy; fwd=miss; detail={detail}")
