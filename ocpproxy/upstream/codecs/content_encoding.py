"""Bodies as they are stored: ``Content-Encoding``, undone with a bound.

A bucket sends an object as it was stored, whatever was asked for: ``gzip`` and ``br`` are common for volumes. What
comes out is bounded while it comes out, so that a bomb costs no more than what was expected.
"""

from __future__ import annotations

import zlib

from ocpproxy.upstream.base import UpstreamBroken

_GZIP = 16 + zlib.MAX_WBITS
_MEMBERS = 64


def longest(nbytes: int) -> int:
    """Bytes that a stored body of so many bytes can have: what cannot be shrunk grows a little."""
    return nbytes + nbytes // 1000 + 4096


def restored(body: bytes, encoding: str, limit: int) -> bytes:
    """The body as it was before it was encoded.

    :param encoding: a value of ``Content-Encoding``.
    :param limit: bytes that it may have.
    :raises UpstreamBroken: unknown, damaged, cut short, or longer than that.
    """
    names = [name for name in (part.strip().lower() for part in encoding.split(",")) if name not in ("", "identity")]
    if len(names) > 2:
        raise UpstreamBroken(f"expected at most two content encodings, not {encoding[:60]!r}")
    for place, name in reversed(list(enumerate(names))):
        bound = longest(limit) if place else limit
        if name in ("gzip", "x-gzip"):
            body = inflated(body, bound, _GZIP)
        elif name == "deflate":
            body = inflated(body, bound, zlib.MAX_WBITS)
        elif name == "br":
            body = _brotli(body, bound)
        else:
            raise UpstreamBroken(f"expected the content encoding gzip, deflate or br, not {name[:20]!r}")
    if len(body) > limit:
        raise UpstreamBroken(f"the answer has {len(body)} bytes, expected at most {limit}")
    return body


def inflated(body: bytes, limit: int, wbits: int = zlib.MAX_WBITS) -> bytes:
    """What zlib has deflated; gzip files may have several members.

    :raises UpstreamBroken: damaged, cut short, or longer than `limit`.
    """
    parts: list[bytes] = []
    left, rest = limit + 1, body
    while rest or not parts:
        if len(parts) >= _MEMBERS:
            raise UpstreamBroken(f"the stored body has more than {_MEMBERS} parts")
        inflater = zlib.decompressobj(wbits)
        try:
            part = inflater.decompress(rest, left)
        except zlib.error as error:
            raise UpstreamBroken(f"the stored body is damaged: {error}") from None
        parts.append(part)
        left -= len(part)
        if left <= 0:
            raise UpstreamBroken(f"it inflates to more than the {limit} bytes that were expected")
        if not inflater.eof:
            raise UpstreamBroken("the stored body is cut short")
        rest = inflater.unused_data
        if rest and wbits != _GZIP:
            raise UpstreamBroken("the stored body has something behind its end")
    return b"".join(parts) if len(parts) > 1 else parts[0]


def _brotli(body: bytes, limit: int) -> bytes:
    import brotli

    reader = brotli.Decompressor()
    parts: list[bytes] = []
    length, given = 0, body
    try:
        while not reader.is_finished() and length <= limit:
            part = reader.process(given, output_buffer_limit=limit + 1 - length)
            if not part and not given:
                raise UpstreamBroken("the stored body is cut short")
            parts.append(part)
            length += len(part)
            given = b""
    except brotli.error as error:
        raise UpstreamBroken(f"the stored body is damaged: {error}") from None
    if length > limit:
        raise UpstreamBroken(f"it inflates to more than the {limit} bytes that were expected")
    return b"".join(parts)
