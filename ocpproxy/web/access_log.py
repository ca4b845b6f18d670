"""The access log: a line for each answer, in the combined format that log tools read, and a few fields more ::

    192.0.2.7 - - [30/Nov/2026:10:15:00 +0000] "GET /kat/3/0_0_0.png HTTP/1.1" 200 14432 "-" "Mozilla/5.0" \\
        5f2c-1a "ocpproxy; hit; detail=memory" 0.000 -

The request's id, its ``Cache-Status``, the seconds that the answer took, and what a miss spent them on
(``Server-Timing``, or a hyphen). Lines are written in batches, as a hit has no time for a file. Control characters,
quotes and whatever is not ASCII are escaped, so nobody writes lines but the log.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import NamedTuple

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ocpproxy.log import Logger
from ocpproxy.web.signed_links import hidden

_FLUSH_AFTER = 0.25
"""Seconds that a line may wait."""
_LARGE = 2**16
"""Bytes of lines that are written at once."""
_MOST = 2**24
"""Bytes of lines that wait for a disk that refuses them; later ones are lost."""
_ODD = re.compile(rb"[^\x20\x21\x23-\x5b\x5d-\x7e]")
_ODD_IN_ADDRESS = re.compile(rb"[^\w.:%/-]", re.ASCII)
_NONE = b"-"
Write = Callable[[bytes], None]
"""Writes whole lines; raises OSError when the disk refuses."""


def quote(text: bytes) -> bytes:
    """Return a text in quotes, with what cannot stand between them escaped."""
    return b'"%b"' % (_ODD.sub(lambda found: b"\\x%02x" % found[0][0], text) if _ODD.search(text) else text)


def agent_fields(referer: bytes | None, agent: bytes | None) -> bytes:
    """Return the fields of the page and the program that ask, quoted."""
    return b"%b %b" % (quote(hidden(referer or _NONE)[:1024]), quote((agent or _NONE)[:512]))


class Answered(NamedTuple):
    """An answer, for the log and the counters."""

    client: str
    line: bytes
    """The request line, quoted."""
    status: int
    size: int
    """Bytes of the body."""
    cache: bytes
    """Its ``Cache-Status``."""
    result: str | None
    """The result of a tile, None for any other answer."""
    agent: bytes
    """`agent_fields`."""
    request_id: bytes
    seconds: float = 0.0
    """From the request to the end of the answer; 0 for a hit that is answered at once."""
    timing: bytes = _NONE
    """Its ``Server-Timing``."""


class LineForm(NamedTuple):
    """What the lines of a log look like. What all lines of a client have in common within a second is made once."""

    begin: Callable[[bytes, int], bytes]
    """Takes the client, in ASCII, and the time in seconds since 1970; returns the beginning of its lines."""
    end: Callable[[bytes, Answered], bytes]
    """Takes the beginning and the answer; returns the line."""


def _begin_combined(client: bytes, second: int) -> bytes:
    return b"%b - - [%b] " % (client, time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(second)).encode())


def _end_combined(beginning: bytes, answered: Answered) -> bytes:
    _, line, status, size, cache, _, agent, request_id, seconds, timing = answered
    return b'%b%b %d %d %b %b "%b" %.3f %b\n' % (
        beginning,
        line,
        status,
        size,
        agent,
        request_id,
        cache,
        seconds,
        timing,
    )


def _begin_json(client: bytes, second: int) -> bytes:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
    return b'{"time": "%b", "logger": "access", "client": "%b", ' % (at.encode(), client)


def _end_json(beginning: bytes, answered: Answered) -> bytes:
    _, line, status, size, cache, result, agent, request_id, seconds, timing = answered
    referer, program = agent[1:-1].split(b'" "')
    members = {
        "request": line[1:-1].decode(),
        "status": status,
        "bytes": size,
        "referer": referer.decode(),
        "agent": program.decode(),
        "request_id": request_id.decode("ascii", "replace"),
        "cache_status": cache.decode("latin-1"),
        "result": result,
        "seconds": round(seconds, 6),
        "timing": timing.decode("latin-1"),
    }
    return beginning + json.dumps(members)[1:].encode() + b"\n"


COMBINED = LineForm(_begin_combined, _end_combined)
"""The combined format, with our fields after it."""
JSON_LINES = LineForm(_begin_json, _end_json)
"""One JSON object a line."""


class AccessLog(Service):
    """The access log of one process.

    :param now: returns the seconds since 1970.
    """

    _log = Logger()

    def __init__(
        self, write: Write, clock: IReactorTime, now: Callable[[], float] = time.time, form: LineForm = COMBINED
    ) -> None:
        self._write = write
        self._clock = clock
        self._now = now
        self._begin, self._end = form
        self._lines: list[bytes] = []
        self._size = self._waiting = 0
        self._timer: IDelayedCall | None = None
        self._second = 0
        self._beginnings: dict[str, bytes] = {}
        """The beginnings of the lines of this second, by client."""
        self._refused = False

    def stopService(self) -> None:
        """Write what waits."""
        super().stopService()
        self.flush()

    def add(self, answered: Answered) -> None:
        """Add a line."""
        second, client = int(self._now()), answered.client
        if second != self._second:
            self._second = second
            self._beginnings.clear()
        beginning = self._beginnings.get(client)
        if beginning is None:
            name = _ODD_IN_ADDRESS.sub(b"?", client.encode("ascii", "replace"))
            beginning = self._beginnings[client] = self._begin(name, second)
        text = self._end(beginning, answered)
        self._lines.append(text)
        self._size += len(text)
        if self._size >= _LARGE:
            self.flush()
        elif self._timer is None:
            self._timer = self._clock.callLater(_FLUSH_AFTER, self.flush)

    def flush(self) -> None:
        """Write all lines. Those that the disk refuses are tried again with the next ones."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if not self._lines:
            return
        try:
            self._write(b"".join(self._lines))
        except OSError as error:
            if not self._refused:
                self._log.error("the access log cannot be written: {reason}", reason=str(error))
            self._refused = True
            self._waiting += self._size
            if self._waiting < _MOST:
                self._size = 0  # so that the next lines are not written one by one
                return
        else:
            self._refused = False
        self._lines.clear()
        self._size = self._waiting = 0
