"""A double of the Open Connectome services, in three generations, behind a real socket.

It serves a volume (z, y, x) under the token ``kat`` (any token that begins so), counts what it is asked, and can
fail in every way that is known of the real ones.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import blosc
import numpy as np

from tests.doubles import Answer, Double
from tests.volumes import Volume, level

OUTAGE = b"(2003, \"Can't connect to MySQL server on 'dsp061.pha.jhu.edu' (111)\")"


def npz(array: np.ndarray[Any, Any]) -> bytes:
    """Return an array as these services send it."""
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
        """Return the first and the last time point."""
        return [0, self.voxels.shape[0] - 1 if self.kind == "timeseries" else 0]


@dataclass
class Service(Double):
    """One server. `side` and `depth` are its cubes', in voxels: a slab is as thick, and all its tiles are drawn."""

    volume: Volume
    generation: int = 2
    offset: tuple[int, int, int] = (0, 0, 1)
    levels: int = 3
    channel: str = "image"
    side: int = 128
    depth: int = 16
    kind: str = "image"
    channels: dict[str, Served] = field(default_factory=dict)
    scale: float = 10.0

    def __post_init__(self) -> None:
        """Serve one channel unless others are given."""
        if not self.channels:
            self.channels = {self.channel: Served(self.volume, self.kind)}

    def info(self) -> dict[str, Any]:
        """Return the info document of the generation."""
        first = next(iter(self.channels.values()))
        z, y, x = self.volume.shape
        numbers = [str(n) for n in range(self.levels)]
        sizes = {n: [-(-x // 2 ** int(n)), -(-y // 2 ** int(n))] for n in numbers}
        cube = {n: [self.side, self.side, self.depth] for n in numbers}
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
        documents = {}
        for name, served in self.channels.items():
            documents[name] = {
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
        return {"channels": documents, "dataset": dataset, "project": {"name": "kat"}, "metadata": {}}

    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.channels, 1)}

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Answer:
        """Respond with info or a cutout."""
        ca, token, *rest = [*path.split("/"), ""]
        rest = rest[:-1]
        if ca != "ca" or not token.startswith("kat"):
            return "other", 404, {}, f"Token {token} does not exist".encode()
        if rest == ["info", ""]:
            return "info", 200, {}, json.dumps(self.info(), indent=4, sort_keys=True).encode()
        code, body = self.cutout(rest)
        return "cutout", code, {"content-type": "product/npz"}, body

    def fault(self, mode: str, fine: bytes) -> tuple[int, dict[str, str], bytes] | None:
        """Return a fault as these services express it, if they do."""
        if mode == "outage":
            return 404, {}, OUTAGE
        if mode == "bomb":
            shrink = zlib.compressobj(9, wbits=-15)
            mebibyte = shrink.compress(bytes(2**20)) + shrink.flush(zlib.Z_FULL_FLUSH)
            return 200, {}, b"\x78\x9c" + mebibyte * 1024 + shrink.flush()
        if mode == "short":
            return 200, {}, npz(np.zeros((1, 3, 5, 7), np.uint8))
        if mode == "wrong_type":
            return 200, {}, npz(np.load(BytesIO(zlib.decompress(fine))).astype(np.uint16))
        if mode == "pickle":  # an array of objects, which is a pickle that runs code
            out = BytesIO()
            np.save(out, np.array([{"hostile": 1}], dtype=object), allow_pickle=True)
            return 200, {}, zlib.compress(out.getvalue())
        return None

    def cutout(self, segments: list[str]) -> tuple[int, bytes]:
        """Return status and body for the segments behind ``ca/{token}/``."""
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
