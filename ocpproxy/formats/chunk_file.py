"""A chunk as it is kept: its body, and after it 32 bytes that say what it is.

The body comes first, so that it can be sent from the file as it is. What follows it::

    16 bytes   the BLAKE2b digest of the body, which is also its ETag
     4 bytes   the length of the body, little endian
     4 bytes   its CRC-32, little endian, which is quick to check
     1 byte    flags: 1 the body is compressed by gzip, 2 all voxels are the same
     7 bytes   "ocpchnk"
"""

from __future__ import annotations

import struct
import zlib
from hashlib import blake2b
from typing import NamedTuple

from ocpproxy.imagery.png import crc32, deflate

_TRAILER = struct.Struct("<16sIIB7s")
_MAGIC = b"ocpchnk"
_GZIP, _UNIFORM = 1, 2
_GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_SAMPLE = 2**14
"""Bytes of a body from which it is judged whether compressing it is worth the time."""
GZIP_LEVEL = 1
"""It costs little time, and ids need no more."""
_WORTH = 0.75
"""The share of a body that must be left of it."""


class BadChunk(ValueError):
    """The content of a file is no whole chunk."""


class ChunkBody(NamedTuple):
    """The body of a chunk."""

    body: memoryview
    """A view of the content."""
    digest: str
    """32 hex digits that identify the body."""
    gzipped: bool


def pack(body: bytes, *, uniform: bool = False, compress: bool = True) -> bytes:
    """Return the content of a chunk's file.

    :param uniform: whether all its voxels are the same.
    :param compress: compress the body where that is worth it. Electron micrographs stay as they are, so that nothing
        stands between their file and the network; ids and background take a tenth.
    """
    flags = _UNIFORM if uniform else 0
    if compress and (uniform or _is_compressible(body)):
        body = gzip(body)
        flags |= _GZIP
    digest = blake2b(body, digest_size=16).digest()
    return body + _TRAILER.pack(digest, len(body), crc32(body), flags, _MAGIC)


def _is_compressible(body: bytes) -> bool:
    middle = max(0, len(body) // 2 - _SAMPLE // 2)
    sample = body[middle : middle + _SAMPLE]
    return len(deflate(sample, GZIP_LEVEL)) < _WORTH * len(sample)


def gzip(body: bytes) -> bytes:
    """Return a body as one member of gzip (RFC 1952), without a time and a name."""
    deflated = deflate(body, GZIP_LEVEL)
    return _GZIP_HEAD + deflated[2:-4] + struct.pack("<II", crc32(body), len(body) & 0xFFFFFFFF)


def gunzip(body: bytes | memoryview, most: int) -> bytes:
    """Return what was compressed.

    :param most: the most bytes that it may have.
    :raises BadChunk: it has more, or is damaged.
    """
    inflater = zlib.decompressobj(wbits=31)
    try:
        plain = inflater.decompress(body, most + 1)  # 0 would be no bound
    except zlib.error as error:
        raise BadChunk(str(error)) from None
    if not inflater.eof or len(plain) > most:
        raise BadChunk(f"expected at most {most} bytes")
    return plain


def _trailer(content: bytes | memoryview) -> tuple[bytes, int, int]:
    """Return digest, checksum and flags.

    :raises BadChunk: the content does not end as a chunk does.
    """
    if len(content) < _TRAILER.size:
        raise BadChunk("too short")
    digest, length, checksum, flags, magic = _TRAILER.unpack_from(content, len(content) - _TRAILER.size)
    if magic != _MAGIC or length + _TRAILER.size != len(content):
        raise BadChunk("torn")
    return digest, checksum, flags


def is_whole(content: bytes | memoryview) -> bool:
    """Return whether the content ends as a chunk does, and is as long. Its body is not read."""
    try:
        _trailer(content)
    except BadChunk:
        return False
    return True


def is_undamaged(content: bytes | memoryview) -> bool:
    """Return whether the content is a chunk whose body has its checksum."""
    try:
        _, checksum, _ = _trailer(content)
    except BadChunk:
        return False
    return crc32(memoryview(content)[: -_TRAILER.size]) == checksum


def is_uniform(content: bytes | memoryview) -> bool:
    """Return whether all voxels of a chunk are known to be the same."""
    return bool(_trailer(content)[2] & _UNIFORM)


def unpack(content: bytes | memoryview) -> ChunkBody:
    """Return the body of a chunk.

    :raises BadChunk: the content is no whole chunk.
    """
    digest, _, flags = _trailer(content)
    return ChunkBody(memoryview(content)[: -_TRAILER.size], digest.hex(), bool(flags & _GZIP))
