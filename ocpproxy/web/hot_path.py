"""The hot path: a hit that is answered within the HTTP channel.

``twisted.web`` spends a tenth of a millisecond on a request before any resource sees it, and half as much again on
getting the answer through the transport's buffers. A viewer's request for a tile that is here needs none of it: it is
one segment, a plain GET, and says nothing that is not known. So the channel looks first at what has come, and answers
by one ``sendmsg`` on the socket when all of this holds; **everything else goes the ordinary way**, untouched:

=========================================  ===================================================================
what is looked at                          what goes the ordinary way
=========================================  ===================================================================
the connection (`HotChannel.dataReceived`) a request in progress, or half a one; bytes of an earlier answer that
                                           are still to be sent; TLS; a gateway that is stopping
the request line (`HotPath.answer`)        other methods and versions; a target that has not been taught
the header block (`_read`)                 anything with a body, ``Connection: close``, unusual characters or size
the tile (`ocpproxy.cache.lookup`)                 not here, or not to be had without waiting for the disk
=========================================  ===================================================================

Why both ways give the same answer: there is one source for each part of it. Status and common headers are
`answers.COMMON` and Twisted's own two; what is said of a tile is `answers.validators`; whether the client has it
already is `answers.Conditions`; header lines are written by `channel.lines`. Only ``Date`` and ``Cache-Status`` may
differ. ``tests/test_hot.py`` drives both ways with thousands of odd requests and compares bytes.

What the socket does not take at once is handed to the transport, and until the transport has sent it, requests of this
connection go the ordinary way, which keeps the order, and has patience with slow readers (`ocpproxy.web.channel`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from socket import MSG_MORE
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.interfaces import IReactorTime
from twisted.web.http import RESPONSES, datetimeToString
from twisted.web.http_headers import Headers
from twisted.web.server import version

from ocpproxy.cache.lookup import Result, TileLookup
from ocpproxy.imagery import pictures
from ocpproxy.metrics import Metrics
from ocpproxy.store.files import OpenTile
from ocpproxy.web import answers
from ocpproxy.web.answers import Conditions
from ocpproxy.web.channel import PromptChannel, lines

if TYPE_CHECKING:
    from ocpproxy.web.site import GatewaySite

_LONGEST = 8192
"""Bytes of a request; Twisted takes twice as many."""
_HEADER = rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\x20-\x7e\t]*)\r\n"
_BLOCK = re.compile(rb"(?:" + re.sub(rb"\((?!\?)", rb"(?:", _HEADER) + rb"){0,100}\r\n")
"""RFC 9112, 5: field lines as everybody sends them; no folding, nothing but ASCII, no more than Twisted would take."""
_FIELD = re.compile(_HEADER)
_ENDED = re.compile(rb"[^\r\n]\r\n\r\n\Z")
_ORDINARY = {b"content-length", b"transfer-encoding", b"expect"}
_MOST_BLOCKS = 1024


def _lines(headers: Mapping[bytes, bytes]) -> bytes:
    return lines(Headers({name: [value] for name, value in headers.items()}))


def _read(block: bytes) -> Conditions | None:
    """What a header block asks for, or None when the ordinary way has to look at it."""
    if not _BLOCK.fullmatch(block):
        return None
    matches: list[bytes] = []
    since: list[bytes] = []
    for name, value in _FIELD.findall(block):
        name, value = name.lower(), value.strip(b" \t")
        if name in _ORDINARY or (name == b"connection" and value.lower() != b"keep-alive"):
            return None
        if name == b"if-none-match":
            matches.append(value)
        elif name == b"if-modified-since":
            since.append(value)
    return Conditions.of(matches or None, since or None)


class HotAnswer(NamedTuple):
    """A complete answer."""

    head: tuple[bytes, ...]
    body: bytes | memoryview
    file: OpenTile | None
    """The file that the body is a view of."""

    def send(self, socket: Any) -> int:
        """Send what the socket takes; the number of bytes."""
        sent = 0
        try:
            if self.file is None or not self.body:
                return int(socket.sendmsg((*self.head, self.body)))
            sent = socket.sendmsg(self.head, (), MSG_MORE)
            if sent == sum(map(len, self.head)):
                sent += os.sendfile(socket.fileno(), self.file.fd, 0, len(self.body))
        except OSError:
            pass  # full, or gone: the transport will find out which
        return sent


class HotPath:
    """Answers that are ready.

    :param max_age: seconds that a viewer may keep a tile.
    """

    def __init__(self, hits: TileLookup, clock: IReactorTime, metrics: Metrics, max_age: int) -> None:
        self._hits = hits
        self._clock = clock
        self._max_age = max_age
        self._told = lru_cache(10_000)(lambda etag, modified, age: _lines(answers.validators(etag, modified, age)))
        self._counters = {result: metrics.tiles.labels(result.value) for result in (Result.HIT_MEMORY, Result.HIT_DISK)}
        self._blocks: dict[bytes, Conditions | None] = {}
        self._openings: dict[tuple[int, Result], bytes] = {}
        self._second = 0

    def answer(self, request: bytes, log: Callable[..., None] | None) -> HotAnswer | None:
        """The answer to a request that is complete and has no body; None when it goes the ordinary way.

        :param log: told of the answer: method, target, status, bytes of the body, Cache-Status.
        """
        line, _, block = request.partition(b"\r\n")
        if not (line.startswith(b"GET ") and line.endswith(b" HTTP/1.1")):
            return None
        try:
            conditions = self._blocks[block]
        except KeyError:
            if len(self._blocks) >= _MOST_BLOCKS:
                self._blocks.clear()
            conditions = self._blocks[block] = _read(block)
        if conditions is None:
            return None
        target = line[4:-9]
        try:
            found = self._hits.by_target(target)
        except BlockingIOError:
            return None
        if found is None:
            return None
        ready, result = found.ready, found.result
        self._counters[result].inc()
        age = self._max_age if found.until is None else found.good_for(self._clock.seconds(), self._max_age)
        told = self._told(ready.etag, ready.modified, age)
        has_it = conditions.has(ready)
        if log is not None:
            code, size = (304, 0) if has_it else (200, len(ready.picture))
            log(b"GET", target, code, size, answers.cache_status(result))
        if has_it:
            return HotAnswer((self._opening(304, result), told, b"\r\n"), b"", ready.file)
        kind = pictures.content_type(ready.picture)
        content = b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, len(ready.picture))
        return HotAnswer((self._opening(200, result), told, content), ready.picture, ready.file)

    def _opening(self, code: int, result: Result) -> bytes:
        """The status line and the headers that are the same for all tiles within a second."""
        second = int(self._clock.seconds())
        if second != self._second:
            self._openings.clear()
            self._second = second
        found = self._openings.get((code, result))
        if found is None:
            common = {**answers.COMMON, b"cache-status": answers.cache_status(result)}
            twisteds = {b"server": version, b"date": datetimeToString(second)}
            status = b"HTTP/1.1 %d %b\r\n" % (code, RESPONSES[code])
            found = self._openings[code, result] = status + _lines({**common, **twisteds})
        return found


class HotChannel(PromptChannel):
    """The HTTP of one connection, with a hot path."""

    site: GatewaySite
    _whole = True
    """What has gone the ordinary way so far ended with a request, and no empty line more: Twisted counts those."""

    def connectionMade(self) -> None:
        """A client has come."""
        super().connectionMade()
        self._log_answer = self.site.log_answer_to(self.transport.getPeer())

    def dataReceived(self, data: bytes) -> None:
        """TileAnswer what can be answered at once; the rest is Twisted's."""
        done = 0
        if self.socket is not None:
            while self._whole and not self.requests and self._answered(data, done):
                done = data.index(b"\r\n\r\n", done) + 4
                if done == len(data):
                    self.resetTimeout()
                    return
        rest = data[done:] if done else data
        self._whole = _ENDED.search(rest) is not None
        super().dataReceived(rest)

    def _answered(self, data: bytes, start: int) -> bool:
        """Whether the request that begins there is complete, and has its answer now."""
        end = data.find(b"\r\n\r\n", start, start + _LONGEST) + 4
        if end < 4 or self.unsent() or not self.persistent or self.site.open_requests.draining:
            return False
        request = data if end - start == len(data) else data[start:end]
        answer = self.site.hot_path.answer(request, self._log_answer)
        if answer is None:
            return False
        self.leave((*answer.head, answer.body), answer.send(self.socket))
        if answer.file is not None:
            answer.file.close()
        return True
