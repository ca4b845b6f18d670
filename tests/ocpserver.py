"""A double of the Open Connectome services, in three generations, behind a real socket.

It serves a volume (z, y, x) under the token ``kat`` (any token that begins so), counts what it is asked, and can be
told to fail in every way that is known of the real ones. It shares no code with the gateway.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import blosc
import numpy as np
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from twisted.web.util import Redirect

from tests.volumes import Volume, level

OUTAGE = b"(2003, \"Can't connect to MySQL server on 'dsp061.pha.jhu.edu' (111)\")"


def npz(array: np.ndarray[Any, Any]) -> bytes:
    """An array as these services send it."""
    out = BytesIO()
    np.save(out, array)
    return zlib.compress(out.getvalue())


PROJECT_TYPES = {
    ("image", "uint8"): 1,
    ("annotation", "uint32"): 2,
    ("channels", "uint16"): 3,
    ("channels", "uint8"): 4,
    ("probability", "float32"): 5,
    ("bitmask", "uint8"): 6,
    ("annotation", "uint64"): 7,
    ("image", "uint16"): 8,
    ("rgba", "uint32"): 9,
    ("rgba", "uint64"): 10,
    ("timeseries", "uint8"): 11,
    ("timeseries", "uint16"): 12,
}
"""Of generation 1, which has one for a whole project."""


@dataclass
class Served:
    """A channel: its voxels, axes (z, y, x), or (t, z, y, x) for a time series."""

    voxels: np.ndarray[Any, Any]
    kind: str = "image"
    window: tuple[int, int] = (0, 0)

    @property
    def time(self) -> list[int]:
        """First and last time point."""
        return [0, self.voxels.shape[0] - 1 if self.kind == "timeseries" else 0]


@dataclass
class Service:
    """One server.

    `mode` is how it behaves: ``well``, or one of the methods of `Faults`. `delay` is seconds before a cutout.
    """

    volume: Volume
    generation: int = 2
    offset: tuple[int, int, int] = (0, 0, 1)
    levels: int = 3
    channel: str = "image"
    depth: int = 16
    delay: float = 0.0
    mode: str = "well"
    kind: str = "image"
    channels: dict[str, Served] = field(default_factory=dict)
    scale: float = 10.0
    asked: Counter[str] = field(default_factory=Counter)
    cutouts: list[str] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0

    def __post_init__(self) -> None:
        """One channel, where no others are said."""
        if not self.channels:
            self.channels = {self.channel: Served(self.volume, self.kind)}

    def info(self) -> dict[str, Any]:
        """The info document of the generation."""
        first = next(iter(self.channels.values()))
        z, y, x = self.volume.shape
        numbers = [str(n) for n in range(self.levels)]
        sizes = {n: [-(-x // 2 ** int(n)), -(-y // 2 ** int(n))] for n in numbers}
        cube = {n: [128, 128, self.depth] for n in numbers}
        dataset: dict[str, Any] = {"resolutions": list(range(self.levels)), "cube_dimension": cube}
        if self.generation == 1:
            dataset |= {
                "imagesize": sizes,
                "slicerange": [self.offset[2], self.offset[2] + z - 1],
                "timerange": first.time,
                "windowrange": list(first.window),
                "zscale": {n: self.scale / 2 ** int(n) for n in numbers},
            }
            type_ = PROJECT_TYPES[first.kind, first.voxels.dtype.name]
            info = {"dataset": dataset, "project": {"projecttype": type_, "dataset": "kat", "resolution": 0}}
            return info | ({"channels": self._numbers()} if type_ in (3, 4) else {})
        dataset |= {
            "imagesize": {n: [*sizes[n], z] for n in numbers},
            "offset": {n: [self.offset[0] >> int(n), self.offset[1] >> int(n), self.offset[2]] for n in numbers},
            "voxelres": {n: [2.0 ** int(n), 2.0 ** int(n), self.scale] for n in numbers},
            "scaling": "zslices",
            "scalinglevels": self.levels - 1,
        }
        told = {}
        for name, served in self.channels.items():
            told[name] = {
                "channel_type": served.kind,
                "datatype": served.voxels.dtype.name,
                "resolution": 0,
                "windowrange": list(served.window),
                "readonly": 1,
                "propagate": 2,
                "exceptions": 0,
            } | ({"timerange": served.time} if self.generation == 3 else {})
        if self.generation == 2:
            dataset["timerange"] = max(served.time for served in self.channels.values())
        return {"channels": told, "dataset": dataset, "project": {"name": "kat"}, "metadata": {}}

    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.channels, 1)}

    def cutout(self, segments: list[str]) -> tuple[int, bytes]:
        """The answer to the segments behind ``ca/{token}/``."""
        times: list[int] = [0, 1]
        if self.generation == 1:
            word, *rest = segments
            served = next(iter(self.channels.values()))
            if served.kind == "channels":
                named = {str(number): name for name, number in self._numbers().items()}
                served = self.channels[named[rest.pop(0)]]
            elif served.kind == "timeseries":
                times = [int(v) for v in rest.pop(0).split(",")]
        else:
            channel, word, *rest = segments
            if channel not in self.channels:
                return 404, f"Channel {channel} does not exist".encode()
            served = self.channels[channel]
            if len(rest) > 5:
                times = [int(v) for v in rest.pop(4).split(",")]
        if word not in ("npz", "blosc") or len(rest) != 5 or rest[4] != "":
            return 404, b"Incorrect cutout arguments"
        number = int(rest[0])
        (x0, x1), (y0, y1), (z0, z1) = ([int(v) for v in part.split(",")] for part in rest[1:4])
        if number >= self.levels:
            return 404, b"Illegal scaling level"
        part = level(served.voxels, number)
        ox, oy, oz = self.offset[0] >> number, self.offset[1] >> number, self.offset[2]
        if self.generation == 1:
            ox = oy = 0
        z, y, x = part.shape[-3:]
        if not (ox <= x0 < x1 <= ox + x and oy <= y0 < y1 <= oy + y and oz <= z0 < z1 <= oz + z):
            return 404, b'"Illegal arguments to cutout. Check cube failed \'Illegal range."'
        voxels = part[..., z0 - oz : z1 - oz, y0 - oy : y1 - oy, x0 - ox : x1 - ox]
        if served.kind == "timeseries":
            voxels = voxels[times[0] : times[1]]
        if self.generation > 1 or served.kind == "channels":
            voxels = voxels[np.newaxis]
        return 200, npz(voxels) if word == "npz" else blosc.pack_array(np.ascontiguousarray(voxels))


class Faults:
    """What a cutout's answer may be instead."""

    def __init__(self, request: Request, fine: bytes) -> None:
        self._request = request
        self._fine = fine

    def _send(self, code: int, body: bytes, **headers: str) -> None:
        self._request.setResponseCode(code)
        for name, value in headers.items():
            self._request.setHeader(name.replace("_", "-"), value)
        self._request.write(body)
        self._request.finish()

    def error500(self) -> None:
        """A debug page."""
        self._send(500, b"<html>Traceback</html>")

    def html200(self) -> None:
        """A page that says it is fine."""
        self._send(200, b"<html><body>Welcome to nginx!</body></html>", content_type="text/html")

    def outage(self) -> None:
        """The database behind it is down."""
        self._send(404, OUTAGE)

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
        shrink = zlib.compressobj(9, wbits=-15)
        mebibyte = shrink.compress(bytes(2**20)) + shrink.flush(zlib.Z_FULL_FLUSH)
        body = b"\x78\x9c" + mebibyte * 1024 + shrink.flush()
        self._send(200, body, content_length=str(len(body)))

    def endless(self) -> None:
        """A body that does not end."""
        part = bytes(2**16)

        def more() -> None:
            if self._request.channel is not None:
                self._request.write(part)
                reactor.callLater(0, more)  # type: ignore[attr-defined]

        more()

    def short(self) -> None:
        """Fewer voxels than were asked for."""
        self._send(200, npz(np.zeros((1, 3, 5, 7), np.uint8)))

    def wrong_type(self) -> None:
        """The right shape of another type."""
        array = np.load(BytesIO(zlib.decompress(self._fine)))
        self._send(200, npz(array.astype(np.uint16)))

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
        self._send(200, self._fine[: len(self._fine) // 2])

    def pickle(self) -> None:
        """An array of objects, which is a pickle that runs code."""
        out = BytesIO()
        np.save(out, np.array([{"hostile": 1}], dtype=object), allow_pickle=True)
        self._send(200, zlib.compress(out.getvalue()))

    def elsewhere(self) -> None:
        """A redirect to another host."""
        self._send(302, b"", location="http://127.0.0.2:9/ca/")


class _Answer(Resource):
    isLeaf = True

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    def render_GET(self, request: Request) -> Any:
        """Info or a cutout."""
        service = self._service
        segments = request.path.decode().split("/")[1:]
        if segments[:1] == ["moved"]:
            return Redirect(b"/" + "/".join(segments[1:]).encode()).render(request)
        ca, token, *rest = segments
        if ca != "ca" or not token.startswith("kat"):
            request.setResponseCode(404)
            return f"Token {token} does not exist".encode()
        if rest == ["info", ""]:
            service.asked["info"] += 1
            if service.mode.startswith("info_"):
                getattr(Faults(request, b"x" * 99), service.mode.removeprefix("info_"))()
                return NOT_DONE_YET
            return json.dumps(service.info(), indent=4, sort_keys=True).encode()
        service.asked["cutout"] += 1
        service.cutouts.append("/".join(rest))
        service.open_now += 1
        service.most_open = max(service.most_open, service.open_now)

        began = reactor.seconds()  # type: ignore[attr-defined]
        code, body = service.cutout(rest)
        left = max(0.0, began + service.delay - reactor.seconds())  # type: ignore[attr-defined]
        answering = deferLater(reactor, left, self._cutout, request, code, body)  # type: ignore[arg-type]
        answering.addErrback(lambda failure: failure.trap(CancelledError))

        def closed(_: object) -> None:
            service.open_now -= 1
            answering.cancel()

        request.notifyFinish().addBoth(closed)
        return NOT_DONE_YET

    def _cutout(self, request: Request, code: int, body: bytes) -> None:
        if request.channel is None:
            return
        if self._service.mode != "well" and not self._service.mode.startswith("info_"):
            getattr(Faults(request, body), self._service.mode)()
            return
        request.setResponseCode(code)
        request.setHeader("content-type", "product/npz")
        request.setHeader("content-length", str(len(body)))
        request.write(body)
        request.finish()


def site(service: Service) -> Site:
    """The server of a service."""
    return Site(_Answer(service))
