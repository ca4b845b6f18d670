"""A web server on the loopback, through which TensorStore reads what the gateway's own clients can read.

TensorStore's HTTP knows nothing of the rules for upstreams: the cap of a host, the bound on a response, which statuses
mean that a chunk is missing, which redirects are trusted. So its process asks this server, and the client of its
`Location` reads the object. The address of an array holds a secret of this process: nobody else can use it.
"""

from __future__ import annotations

import re
from secrets import token_hex
from typing import Any
from urllib.parse import unquote

from cachetools import LRUCache
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from ocpproxy.log import Logger
from ocpproxy.upstream.base import UpstreamBroken, UpstreamFailure
from ocpproxy.upstream.chunks import MissingChunks
from ocpproxy.upstream.http import HttpResponse
from ocpproxy.upstream.locations import Location

_FAILED = 502
_ARRAYS = 10_000
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_PASSED_ON = ("content-encoding", "content-range", "etag")


class RelayedArray:
    """One array, or one scale, at its location.

    :param limit: bytes of an object that is read whole.
    """

    def __init__(self, location: Location, token: str, path: str, limit: int, missing: MissingChunks) -> None:
        self.failed = 0
        """Objects that could not be read."""
        self.failure: UpstreamFailure | None = None
        """Why the last one of them could not."""
        self.open = 0
        """Objects that are being read."""
        self.present = 0
        """Objects that were there."""
        self.absent = 0
        """Objects that were missing."""
        self._location = location
        self._token = token
        self._path = path
        self._limit = limit
        self._missing = missing

    async def read(self, name: str, byte_range: str) -> HttpResponse:
        """Return an object, or the range of it; a response with another status than 200 and 206 is a missing object.

        :param name: its path below the array.
        :param byte_range: the value of ``Range``, or an empty string. A server may ignore it: then the object is cut.
        :raises UpstreamFailure: it cannot be read.
        """
        headers = {"Range": byte_range} if byte_range else {}
        self.open += 1
        try:
            if {"", ".", ".."} & set(name.split("/")) or "\0" in name:
                raise UpstreamBroken(f"expected the name of an object below the array, not {name[:60]!r}")
            path = self._location.path(self._token, f"{self._path}/{name}")
            response = await self._location.client.get(path, self._limit, self._check, headers)
            if byte_range and response.status == 200:
                response = _cut(response, byte_range)
        except UpstreamFailure as failure:
            self.failed, self.failure = self.failed + 1, failure
            raise
        finally:
            self.open -= 1
        there = response.status in (200, 206)
        self.present += there
        self.absent += not there
        return response

    def _check(self, response: HttpResponse) -> UpstreamFailure | None:
        return None if response.status == 206 else self._missing.check(response)


def _cut(response: HttpResponse, byte_range: str) -> HttpResponse:
    """Return a range of a whole object.

    :raises UpstreamBroken: it cannot be cut.
    """
    span = _RANGE.fullmatch(byte_range)
    size = len(response.body)
    if span is None or not any(span.groups()) or response.encoding:
        raise UpstreamBroken("the server ignores Range, which shards need")
    first = int(span[1]) if span[1] else max(0, size - int(span[2]))
    end = min(size, int(span[2]) + 1) if span[1] and span[2] else size
    headers = {**response.headers, "content-range": f"bytes {first}-{end - 1}/{size}"}
    return HttpResponse(206, response.body[first:end], headers)


class Relay:
    """The server; it listens from the first array on."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._key = token_hex(16)
        self._port: Any = None
        self._numbers: LRUCache[Any, int] = LRUCache(_ARRAYS)
        self._arrays: LRUCache[int, RelayedArray] = LRUCache(_ARRAYS)
        self._last = 0

    def array(
        self, location: Location, token: str, path: str, limit: int, missing: MissingChunks
    ) -> tuple[str, RelayedArray]:
        """Return the address at which TensorStore reads an array, and the array; the same ones each time."""
        identity = (location, token, path, limit, missing)
        number = self._numbers.get(identity)
        if number is None or number not in self._arrays:
            self._last += 1
            number = self._numbers[identity] = self._last
            self._arrays[number] = RelayedArray(location, token, path, limit, missing)
        return f"http://127.0.0.1:{self._listen()}/{self._key}/{number}/", self._arrays[number]

    def _listen(self) -> int:
        if self._port is None:
            site = _QuietSite(_Objects(self._find))
            self._port = self._reactor.listenTCP(0, site, interface="127.0.0.1")
        port: int = self._port.getHost().port
        return port

    def _find(self, key: str, number: str) -> RelayedArray | None:
        known = key == self._key and number.isascii() and number.isdigit() and len(number) < 10
        return self._arrays.get(int(number)) if known else None

    def stop(self) -> Deferred[None] | None:
        """Close the server."""
        port, self._port = self._port, None
        closed: Deferred[None] | None = None if port is None else port.stopListening()
        return closed


class _QuietSite(Site):
    """A server without an access log."""

    displayTracebacks = False
    noisy = False

    def log(self, request: Any) -> None:
        """Log nothing."""


class _Objects(Resource):
    """All objects: ``/{key}/{array}/{name}``."""

    isLeaf = True
    _log = Logger()

    def __init__(self, find: Any) -> None:
        super().__init__()
        self._find = find

    def render_GET(self, request: Request) -> Any:
        """Start to answer; the work is cancelled when TensorStore closes the connection."""
        _, key, number, name, *_ = (*request.path.decode("latin-1").split("/", 3), "", "", "")
        array: RelayedArray | None = self._find(key, number)
        if array is None:
            request.setResponseCode(_FAILED)  # not 404, which would be a missing chunk
            return b""
        byte_range = request.getHeader("range") or ""
        work = Deferred.fromCoroutine(array.read(unquote(name), byte_range))
        request.notifyFinish().addErrback(lambda _: work.cancel())
        work.addCallbacks(self._answer, self._fail, (request,), {}, (request,), {})
        work.addErrback(lambda failure: self._log.failure("an object could not be relayed", failure))
        return NOT_DONE_YET

    def _answer(self, response: HttpResponse, request: Request) -> None:
        there = response.status in (200, 206)
        body = response.body if there else b""
        request.setResponseCode(response.status if there else 404)
        for name in _PASSED_ON if there else ():
            if name in response.headers:
                request.setHeader(name, response.headers[name])
        request.setHeader("content-length", str(len(body)))
        request.write(body)
        request.finish()

    def _fail(self, failure: Failure, request: Request) -> None:
        if failure.check(CancelledError):
            return
        if not failure.check(UpstreamFailure):
            self._log.failure("while reading for TensorStore", failure)
        request.setResponseCode(_FAILED)
        request.finish()
