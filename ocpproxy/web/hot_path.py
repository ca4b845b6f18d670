"""The hot path: a hit that is answered within the HTTP channel.

``twisted.web`` spends a tenth of a millisecond on a request before any resource sees it, and half as much again on
passing the answer through the transport's buffers. A viewer's request for a stored tile does not need that: it is a
plain GET in one segment, and its target has a route (`route_cache`). The channel checks each request for the following,
and answers it by one ``sendmsg`` on the socket if it passes. **Any other request goes the ordinary way**, unchanged:

=========================================  ===================================================================
what is checked                            what goes the ordinary way
=========================================  ===================================================================
the connection (`site.HotChannel`)         a request in progress, or an incomplete one; bytes of an earlier answer
                                           that are not sent yet; TLS; a gateway that is stopping
the request line (`HotPath.answer`)        other methods and versions; a target without a route
the header block (`_read_headers`)         anything with a body, ``Connection: close``, unusual characters or size
the tile (`cache.lookup`)                  a tile that is not stored, or that has to be read from the disk
=========================================  ===================================================================

Both ways give the same answer, because each part of it has one source. Status and common headers are `answers.COMMON`
and Twisted's own two; the headers of a tile are `answers.tile_headers`; `answers.Conditions` decides whether the client
has the tile; `channel.header_lines` writes headers. Only ``Date`` and ``Cache-Status`` may differ.
That both ways send the same bytes is tested with thousands of valid, odd and malformed requests.

What the socket does not take at once is left to the transport. Until the transport has sent it, requests of this
connection go the ordinary way, which keeps the order, and waits for slow readers (`ocpproxy.web.channel`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from socket import MSG_MORE
from time import perf_counter
from typing import Any, NamedTuple

from twisted.web.http import RESPONSES, datetimeToString
from twisted.web.http_headers import Headers
from twisted.web.server import version

from ocpproxy.cache.lookup import CHUNK_TYPE, EncodedTile, Found, Result, TileLookup
from ocpproxy.cache.tiles import max_age
from ocpproxy.model.stack import Stack, Tile
from ocpproxy.store.files import OpenTile
from ocpproxy.web import answers, request_ids
from ocpproxy.web.access import allows
from ocpproxy.web.access_log import Answered, agent_fields
from ocpproxy.web.answer_record import AnswerRecord
from ocpproxy.web.answers import Conditions
from ocpproxy.web.channel import header_lines
from ocpproxy.web.front import FORWARDING, HOST, Front, Peer, read_groups
from ocpproxy.web.route_cache import Route, RouteCache

Now = Callable[[], float]
LONGEST_REQUEST = 8192
"""Bytes; Twisted takes twice as many."""
_HEADER = rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\x20-\x7e\t]*)\r\n"
_BLOCK = re.compile(rb"(?:" + re.sub(rb"\((?!\?)", rb"(?:", _HEADER) + rb"){0,100}\r\n")
"""Field lines as everybody sends them (RFC 9112, 5): ASCII, no folding, no more than Twisted takes."""
_FIELD = re.compile(_HEADER)
_ORDINARY = {b"content-length", b"transfer-encoding", b"expect", b"range"}
_LOGGED = {b"referer", b"user-agent", request_ids.HEADER}
_MOST_BLOCKS = 512
_LONGEST_BLOCK = 2048
"""Bytes; a longer header block is read each time, and so is one with many conditions: anybody can make them up."""
_MOST_TAGS = 16
_NO_GROUPS: frozenset[str] = frozenset()
_MOST_TILES = 10_000
"""Tiles whose headers are remembered."""


def _lines(headers: Mapping[bytes, bytes]) -> bytes:
    return header_lines(Headers({name: [value] for name, value in headers.items()}))


def _tile_lines(etag: str, modified: float, age: int, is_private: bool) -> bytes:
    headers = answers.tile_headers(etag, modified, age)
    if is_private:
        headers[b"cache-control"] = answers.private(headers[b"cache-control"])
    return _lines(headers)


_CHUNK_LINES = [_lines(answers.chunk_headers(gzipped=gzipped)) for gzipped in (False, True)]
"""The headers that chunks have beside those of tiles, plain and compressed."""


class HeaderBlock(NamedTuple):
    """What the header of a request says."""

    conditions: Conditions
    client: str | None
    """The client that a front names."""
    agent: bytes
    """What the access log has of the page and the program that ask."""
    request_id: bytes | None
    """The id that the client has sent."""
    groups: frozenset[str] = frozenset()
    """The groups that a front names."""
    accepts_gzip: bool = False


def _read_headers(block: bytes, front: Front) -> HeaderBlock | None:
    """Return what a header block says, or None when the request has to go the ordinary way."""
    if not _BLOCK.fullmatch(block):
        return None
    matches: list[bytes] = []
    since: list[bytes] = []
    hosts: list[bytes] = []
    encodings: list[bytes] = []
    forwarded: dict[bytes, list[bytes]] = {}
    groups: list[bytes] = []
    others: dict[bytes, bytes] = {}
    for name, value in _FIELD.findall(block):
        name, value = name.lower(), value.strip(b" \t")
        if name in _ORDINARY or (name == b"connection" and value.lower() != b"keep-alive"):
            return None
        if name == b"if-none-match":
            matches.append(value)
        elif name == b"if-modified-since":
            since.append(value)
        elif name == b"host":
            hosts.append(value)
        elif name in _LOGGED:
            others.setdefault(name, value)
        elif name == b"accept-encoding":
            encodings.append(value)
        elif name == front.auth_header:
            groups.append(value)
        elif name in FORWARDING:
            forwarded.setdefault(name, []).append(value)
    if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
        return None
    return HeaderBlock(
        Conditions.of(matches or None, since or None),
        front.forwarded_client(forwarded),
        agent_fields(others.get(b"referer"), others.get(b"user-agent")),
        request_ids.own_id(others.get(request_ids.HEADER)),
        read_groups(groups),
        answers.accepts_gzip(encodings),
    )


class HotAnswer(NamedTuple):
    """A complete answer."""

    head: tuple[bytes, ...]
    body: bytes | memoryview
    file: OpenTile | None
    """The open file that the body is a view of."""

    def send(self, socket: Any) -> int:
        """Send what the socket takes, and return the number of bytes."""
        sent = 0
        try:
            if self.file is None or not self.body:
                return int(socket.sendmsg((*self.head, self.body)))
            sent = socket.sendmsg(self.head, (), MSG_MORE)
            if sent == sum(map(len, self.head)):
                sent += os.sendfile(socket.fileno(), self.file.fd, 0, len(self.body))
        except OSError:
            pass  # the socket is full, or closed: the transport will find out which
        return sent


class KnownTiles(NamedTuple):
    """What the hot path knows of tiles."""

    routes: RouteCache
    lookup: TileLookup
    note: Callable[[str, Stack, Tile], None]
    """Takes each client, and the tile that it gets: `LookAhead.note`."""


class HotPath:
    """The answers to requests that have a route to a stored tile.

    :param record: records each answer.
    :param now: returns the seconds since 1970.
    :param longest_age: seconds that a viewer may keep a tile.
    """

    def __init__(self, tiles: KnownTiles, record: AnswerRecord, front: Front, now: Now, longest_age: int) -> None:
        self._routes, self._lookup, self._note = tiles
        self._count = record.count
        self._log = record.log
        self._front = front
        self._now = now
        self._longest_age = longest_age
        self._tile_headers = lru_cache(_MOST_TILES)(_tile_lines)
        self._provenance: dict[tuple[str, float], bytes] = {}
        self._blocks: dict[bytes, HeaderBlock | None] = {}
        self._openings: dict[tuple[int, Result], bytes] = {}
        self._second = 0

    def answer(self, request: bytes, peer: Peer) -> HotAnswer | None:
        """Return the answer to a request that is complete and has no body; None when it goes the ordinary way."""
        began = perf_counter()
        line, _, block = request.partition(b"\r\n")
        if not (line.startswith(b"GET ") and line.endswith(b" HTTP/1.1")):
            return None
        try:
            header = self._blocks[block]
        except KeyError:
            header = self._read_block(block)
        if header is None:
            return None
        target, now = line[4:-9], self._now()
        route = self._routes.find(target, now)
        if route is None:
            return None
        if route.is_private and not allows(route.entry.source, header.groups if peer.trusted else _NO_GROUPS):
            return None
        try:
            found = self._lookup.find_now(route.tile, lend=True)
        except BlockingIOError:
            return None
        if found is None:
            return None
        try:
            if found.tile.gzipped and not header.accepts_gzip:
                if found.tile.file is not None:
                    found.tile.file.close()
                return None
            client = header.client if peer.trusted and header.client else peer.host
            if isinstance(route.stack, Stack):
                self._note(client, route.stack, route.tile)
            answer = self._make(route, found, header, client, now)
            self._count(found.result.value, perf_counter() - began)
            return answer
        except BaseException:
            if found.tile.file is not None:
                found.tile.file.close()
            raise

    def _make(self, route: Route, found: Found, header: HeaderBlock, client: str, now: float) -> HotAnswer:
        """Log and return the answer with a tile."""
        tile, result, _ = found
        request_id = header.request_id or request_ids.new_id()
        headers = b"%b%b%bX-Request-Id: %b\r\n" % (
            self._tile_headers(
                tile.etag, tile.modified, max_age(route.expires, now, self._longest_age), route.is_private
            ),
            _CHUNK_LINES[tile.gzipped] if tile.content_type is CHUNK_TYPE else b"",
            self._provenance.get((tile.etag, tile.modified)) or self._make_provenance(route, tile),
            request_id,
        )
        cached = header.conditions.has(tile)
        status, size = (304, 0) if cached else (200, len(tile.picture))
        if self._log is not None:
            cache = answers.cache_status(result)
            line, agent = route.logged, header.agent
            self._log.add(Answered(client, line, status, size, cache, result.value, agent, request_id))
        if cached:
            return HotAnswer((self._opening(304, result), headers, b"\r\n"), b"", tile.file)
        content = b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n" % (tile.content_type, size)
        return HotAnswer((self._opening(200, result), headers, content), tile.picture, tile.file)

    def _make_provenance(self, route: Route, tile: EncodedTile) -> bytes:
        """Return the lines that tell where a tile comes from, and remember them."""
        if len(self._provenance) >= _MOST_TILES:
            self._provenance.clear()
        lines = b"" if route.cuboid is None else _lines(answers.provenance_headers(route.cuboid, tile))
        self._provenance[tile.etag, tile.modified] = lines
        return lines

    def _read_block(self, block: bytes) -> HeaderBlock | None:
        """Read a header block, and remember what it says: a viewer sends the same block with each request."""
        header = _read_headers(block, self._front)
        if len(block) > _LONGEST_BLOCK:
            return header
        if header is not None and (header.request_id or len(header.conditions.tags or ()) > _MOST_TAGS):
            return header  # no other request has such a block
        if len(self._blocks) >= _MOST_BLOCKS:
            self._blocks.clear()
        self._blocks[block] = header
        return header

    def _opening(self, code: int, result: Result) -> bytes:
        """Return the status line and the headers that are the same for all tiles within a second."""
        second = int(self._now())
        if second != self._second:
            self._openings.clear()
            self._second = second
        opening = self._openings.get((code, result))
        if opening is None:
            common = {**answers.COMMON, b"cache-status": answers.cache_status(result)}
            from_twisted = {b"server": version, b"date": datetimeToString(second)}
            status = b"HTTP/1.1 %d %b\r\n" % (code, RESPONSES[code])
            opening = self._openings[code, result] = status + _lines({**common, **from_twisted})
        return opening
