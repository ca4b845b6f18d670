"""Doubles of services behind a real socket: what they answer when they are well, and every way in which they fail.

A `Double` says what a service answers; the doubles share no code with the gateway. `serve` serves it, counts what it is
asked, and lets it fail as `mode` says: ``well``, or one of the methods of `Faults` for what it is asked of voxels;
``info_`` before one of them for everything else.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPullProducer
from twisted.internet.task import deferLater
from twisted.protocols.policies import WrappingFactory
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from twisted.web.util import Redirect
from zope.interface import implementer

Answer = tuple[str, int, dict[str, str], bytes]
"""What was asked for (``cutout`` or ``info``), status, headers, body."""


@dataclass(kw_only=True)
class Double:
    """A service. `delay` is seconds before a cutout."""

    mode: str = "well"
    delay: float = 0.0
    asked: Counter[str] = field(default_factory=Counter)
    cutouts: list[str] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Answer:
        """What it answers when it is well; the path without its first slash, names of headers in lower case."""
        raise NotImplementedError

    def fault(self, mode: str, fine: bytes) -> tuple[int, dict[str, str], bytes] | None:
        """What a fault looks like in its own format, where that is not the common way."""
        return None


@dataclass(kw_only=True)
class Speaking(Double):
    """A double whose answers are made by somebody else."""

    speaker: Callable[[str, dict[str, list[str]], dict[str, str]], Answer]

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Answer:
        """What the speaker says."""
        return self.speaker("/" + path, query, headers)


@dataclass(kw_only=True)
class Bucket(Double):
    """The files below a directory, as an object store serves them, with ranges.

    `encoding` is the content encoding under which everything but JSON is stored.
    """

    directory: Path
    encoding: str = ""
    absent: int = 404

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Answer:
        """A file, or a part of it."""
        last = path.rpartition("/")[2]
        kind = "info" if last in ("info", "zarr.json", ".zarray", ".zattrs", ".zgroup", "attributes.json") else "cutout"
        file = self.directory / path
        if ".." in path.split("/") or not file.is_file():
            return kind, self.absent, {}, b"<Error><Code>NoSuchKey</Code></Error>"
        body = file.read_bytes()
        told = {"content-type": "application/octet-stream", "etag": f'"{zlib.crc32(body):x}-{len(body)}"'}
        if kind == "cutout" and self.encoding:
            told["content-encoding"] = self.encoding
        wanted = headers.get("range", "")
        if wanted.startswith("bytes="):
            first, _, final = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else len(body) - int(final)
            stop = min(int(final) + 1, len(body)) if first and final else len(body)
            told["content-range"] = f"bytes {start}-{stop - 1}/{len(body)}"
            return kind, 206, told, body[start:stop]
        return kind, 200, told, body


class Faults:
    """What an answer may be instead."""

    def __init__(self, double: Double, request: Request, fine: bytes) -> None:
        self._double = double
        self._request = request
        self._fine = fine

    def make(self, mode: str) -> None:
        """Fail in this way."""
        own = self._double.fault(mode, self._fine)
        if own is not None:
            code, headers, body = own
            self._send(code, body, **headers)
        else:
            getattr(self, mode)()

    def _send(self, code: int, body: bytes, **headers: str) -> None:
        self._request.setResponseCode(code)
        for name, value in headers.items():
            self._request.setHeader(name.replace("_", "-"), value)
        self._request.setHeader("content-length", str(len(body)))
        self._request.write(body)
        self._request.finish()

    def error500(self) -> None:
        """A debug page."""
        self._send(500, b"<html>Traceback</html>")

    def html200(self) -> None:
        """A page that says it is fine."""
        self._send(200, b"<html><body>Welcome to nginx!</body></html>", content_type="text/html")

    def outage(self) -> None:
        """What is behind it is down."""
        self._send(502, b"bad gateway")

    def busy(self) -> None:
        """Too much to do."""
        self._send(503, b"busy", retry_after="7")

    def refused(self) -> None:
        """Credentials wanted."""
        self._send(403, b'{"detail": "Authentication credentials were not provided."}')

    def reset(self) -> None:
        """The connection is reset."""
        self._request.transport.abortConnection()  # type: ignore[union-attr]

    def bomb(self) -> None:
        """1 GiB of zeros in 1 MiB."""
        shrink = zlib.compressobj(9, wbits=31)
        first = shrink.compress(bytes(2**20)) + shrink.flush(zlib.Z_FULL_FLUSH)
        mebibyte = shrink.compress(bytes(2**20)) + shrink.flush(zlib.Z_FULL_FLUSH)
        self._send(200, first + mebibyte * 1023, content_encoding="gzip")

    def endless(self) -> None:
        """A body that does not end, as fast as it is read."""
        self._request.registerProducer(_Endless(self._request), False)

    def short(self) -> None:
        """A body that is properly ended, and shorter than it should be."""
        self._send(200, self._fine[: len(self._fine) // 2])

    def silence(self) -> None:
        """Half a body, and then nothing."""
        self._request.setHeader("content-length", str(len(self._fine)))
        self._request.write(self._fine[: len(self._fine) // 2])

    def mute(self) -> None:
        """Nothing at all."""

    def half(self) -> None:
        """Half a body, and then the end of the connection."""
        self.silence()
        self._request.channel.loseConnection()

    def half_unsized(self) -> None:
        """Half a body that does not say how long it is, properly ended."""
        self._request.write(self._fine[: len(self._fine) // 2])
        self._request.finish()

    def elsewhere(self) -> None:
        """A redirect to another host."""
        self._send(302, b"", location="http://127.0.0.2:9/ca/")


@implementer(IPullProducer)
class _Endless:
    """Writes whenever there is room."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def resumeProducing(self) -> None:
        """There is room."""
        if self._request.channel is not None:
            self._request.write(bytes(2**16))

    def stopProducing(self) -> None:
        """Nobody reads any more."""


class _Answer(Resource):
    isLeaf = True

    def __init__(self, double: Double) -> None:
        super().__init__()
        self._double = double

    def render_GET(self, request: Request) -> Any:
        """What the double says, or a fault."""
        double = self._double
        path = request.path.decode().removeprefix("/")
        if path.startswith("moved/"):
            return Redirect(b"/" + path.removeprefix("moved/").encode()).render(request)
        began = reactor.seconds()  # type: ignore[attr-defined]
        query = {name.decode(): [v.decode() for v in values] for name, values in (request.args or {}).items()}
        headers = {name.decode().lower(): v[0].decode() for name, v in request.requestHeaders.getAllRawHeaders()}
        kind, code, told, body = double.answer(path, query, headers)
        double.asked[kind] += 1
        if kind != "cutout":
            if double.mode.startswith("info_"):
                Faults(double, request, body).make(double.mode.removeprefix("info_"))
            else:
                self._send(request, code, told, body)
            return NOT_DONE_YET
        double.cutouts.append(path)
        double.open_now += 1
        double.most_open = max(double.most_open, double.open_now)

        left = max(0.0, began + double.delay - reactor.seconds())  # type: ignore[attr-defined]
        answering = deferLater(reactor, left, self._cutout, request, code, told, body)  # type: ignore[arg-type]
        answering.addErrback(lambda failure: failure.trap(CancelledError))

        def closed(_: object) -> None:
            double.open_now -= 1
            answering.cancel()

        request.notifyFinish().addBoth(closed)
        return NOT_DONE_YET

    def _cutout(self, request: Request, code: int, told: dict[str, str], body: bytes) -> None:
        if request.channel is None:
            return
        if self._double.mode != "well" and not self._double.mode.startswith("info_"):
            Faults(self._double, request, body).make(self._double.mode)
            return
        self._send(request, code, told, body)

    def _send(self, request: Request, code: int, told: dict[str, str], body: bytes) -> None:
        request.setResponseCode(code)
        for name, value in told.items():
            request.setHeader(name, value)
        if code not in (204, 304):
            request.setHeader("content-length", str(len(body)))
            request.write(body)
        request.finish()


def serve(case: TestCase, double: Double) -> str:
    """Start the double until the end of the test; its address."""
    factory = WrappingFactory(Site(_Answer(double)))
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]

    async def end() -> None:
        await port.stopListening()
        while factory.protocols:
            for connection in list(factory.protocols):
                connection.transport.abortConnection()
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]

    case.addCleanup(lambda: Deferred.fromCoroutine(end()))
    return f"http://127.0.0.1:{port.getHost().port}"
