"""``Content-Encoding``, decoded with a bound on the size.

A bucket sends an object as it was stored, whatever the request accepts; ``gzip`` and ``br`` are common for volumes.
The bound is applied while the body is decompressed, so a decompression bomb costs no more than the expected size.
"""

from __future__ import annotations

import zlib

from ocpproxy.upstream.base import UpstreamBroken

_GZIP = 16 + zlib.MAX_WBITS
_MAX_ENCODINGS = 2
_MAX_MEMBERS = 64
"""Members of a gzip file."""


def max_encoded_size(nbytes: int) -> int:
    """Return the largest size in bytes of an encoded body of `nbytes`: what cannot be compressed grows a little."""
    return nbytes + nbytes // 1000 + 4096


def decode_content(body: bytes, encoding: str, limit: int) -> bytes:
    """Return the body without its content encodings.

    :param encoding: the value of the header ``Content-Encoding``; empty for none.
    :param limit: the largest size in bytes of the decoded body.
    :raises UpstreamBroken: the encoding is unknown, or the body is damaged, cut short or larger than `limit`.
    """
    names = [name for name in (part.strip().lower() for part in encoding.split(",")) if name not in ("", "identity")]
    if len(names) > _MAX_ENCODINGS:
        raise UpstreamBroken(f"expected at most {_MAX_ENCODINGS} content encodings, not {encoding[:60]!r}")
    for position, name in reversed(list(enumerate(names))):
        bound = max_encoded_size(limit) if position else limit
        if name in ("gzip", "x-gzip"):
            body = inflate(body, bound, _GZIP)
        elif name == "deflate":
            body = inflate(body, bound, zlib.MAX_WBITS)
        elif name == "br":
            body = _decompress_brotli(body, bound)
        else:
            raise UpstreamBroken(f"expected the content encoding gzip, deflate or br, not {name[:20]!r}")
    if len(body) > limit:
        raise _too_large(limit)
    return body


def _too_large(limit: int) -> UpstreamBroken:
    return UpstreamBroken(f"expected a body of at most {limit} bytes, and it has more")


def inflate(body: bytes, limit: int, wbits: int = zlib.MAX_WBITS) -> bytes:
    """Return the content of a zlib stream, or of a gzip file, which may have several members.

    :param limit: the largest size in bytes of the content.
    :param wbits: as for `zlib.decompress`.
    :raises UpstreamBroken: the body is damaged, cut short, or its content is larger than `limit`.
    """
    parts: list[bytes] = []
    allowed, remaining = limit + 1, body
    while remaining or not parts:
        if len(parts) >= _MAX_MEMBERS:
            raise UpstreamBroken(f"expected a gzip body of at most {_MAX_MEMBERS} members, and it has more")
        decompressor = zlib.decompressobj(wbits)
        try:
            part = decompressor.decompress(remaining, allowed)
        except zlib.error as error:
            raise UpstreamBroken(f"the compressed body is damaged: {error}") from None
        parts.append(part)
        allowed -= len(part)
        if allowed <= 0:
            raise _too_large(limit)
        if not decompressor.eof:
            raise UpstreamBroken("the compressed body is cut short")
        remaining = decompressor.unused_data
        if remaining and wbits != _GZIP:
            raise UpstreamBroken("the compressed body has something after its end")
    return b"".join(parts) if len(parts) > 1 else parts[0]


def _decompress_brotli(body: bytes, limit: int) -> bytes:
    import brotli

    decompressor = brotli.Decompressor()
    parts: list[bytes] = []
    length, remaining = 0, body
    try:
        while not decompressor.is_finished() and length <= limit:
            part = decompressor.process(remaining, output_buffer_limit=limit + 1 - length)
            if not part and not remaining:
                raise UpstreamBroken("the compressed body is cut short")
            parts.append(part)
            length += len(part)
            remaining = b""
    except brotli.error as error:
        raise UpstreamBroken(f"the compressed body is damaged: {error}") from None
    if length > limit:
        raise _too_large(limit)
    return b"".join(parts)
