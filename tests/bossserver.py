"""A double of the BossDB service: its responses to a path, a query and headers.

Level n is the grid whose cell c covers the voxels [c * 2**n, (c + 1) * 2**n) of level 0 along every halved axis, in
absolute coordinates, so that a frame's start and stop are halved too (down and up). A cell shows its first voxel that
lies inside the frame. Where the start is 0 (or a multiple of 2**n) that is every 2**n-th voxel.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import blosc
import numpy as np
import numpy.typing as npt
from PIL import Image

Voxels = npt.NDArray[Any]
Answer = tuple[str, int, dict[str, str], bytes]
LARGEST = 520 * 2**20
"""Bytes of a cutout; a quarter of them is counted for uint64."""
FORMATS = ["application/blosc", "application/blosc-python", "application/npygz", "image/jpeg", "application/json"]
"""Of a cutout: where `Accept` leaves a choice, the first is taken."""
NAMES = r"/([\w-]+)/([\w-]+)/([\w-]+)"
CUTOUT = re.compile(rf"/cutout{NAMES}/(\d)/(\d+:\d+)/(\d+:\d+)/(\d+:\d+)(?:/(\d+(?::\d+)?))?/?")
DOWNSAMPLE = re.compile(rf"/downsample{NAMES}/?")


@dataclass
class Served:
    """A channel: its voxels (z, y, x) at level 0, whatever its base resolution, and what its document reports."""

    voxels: Voxels
    kind: str = "image"
    storage_type: str = "spdb"
    bucket: str | None = None
    cv_path: str | None = None
    downsample_status: str = "DOWNSAMPLED"
    base_resolution: int = 0


class Refusal(Exception):
    """A response that is not 200: a JSON document, or a page where there is no document."""

    def __init__(self, status: int, document: dict[str, Any] | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.document = document


def refusal(status: int, code: int, message: str) -> Refusal:
    """Return an error with the words of Boss."""
    return Refusal(status, {"status": status, "code": code, "message": message})


def cells(voxels: Voxels, start: list[int], steps: list[int], low: list[int], high: list[int]) -> Voxels:
    """Return the cells [low, high) of a grid of such steps, every triple in the order z, y, x; 0 outside."""
    inside, index = [], []
    for axis in range(3):
        cell = np.arange(low[axis], high[axis])
        within = ((cell + 1) * steps[axis] > start[axis]) & (cell * steps[axis] < start[axis] + voxels.shape[axis])
        inside.append(within)
        index.append(np.maximum(cell[within] * steps[axis], start[axis]) - start[axis])
    out = np.zeros([b - a for a, b in zip(low, high, strict=True)], voxels.dtype)
    out[np.ix_(*inside)] = voxels[np.ix_(*index)]
    return out


@dataclass
class BossServer:
    """One experiment of a Boss; all its channels have one shape. Without the token `private`, it shows none."""

    channels: dict[str, Served]
    collection: str = "vnc"
    experiment: str = "stack1"
    frame: str = "vnc_frame"
    start: tuple[int, int, int] = (0, 0, 0)
    voxel_size: tuple[float, float, float] = (4.0, 4.0, 35.0)
    unit: str = "nanometers"
    levels: int = 3
    hierarchy_method: str = "anisotropic"
    token: str = "public"
    private: str | None = None

    @property
    def stop(self) -> list[int]:
        """Return the end of the coordinate frame (x, y, z)."""
        shape = next(iter(self.channels.values())).voxels.shape
        return [first + size for first, size in zip(self.start, reversed(shape), strict=True)]

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Answer:
        """Respond to a GET: whether it was for a cutout or info, the status, headers and body."""
        path = re.sub(r"^/latest/", "/v1/", path)
        kind = "cutout" if path.startswith("/v1/cutout/") else "info"
        try:
            type_, body = self._answer(path.removeprefix("/v1"), query, headers)
            return kind, 200, {"content-type": type_}, body
        except Refusal as refused:
            extra = {"www-authenticate": "Token"} if refused.status == 401 else {}
            if refused.document is None:
                return kind, refused.status, {"content-type": "text/html"}, b"<h1>%d</h1>" % refused.status
            body = json.dumps(refused.document).encode()
            return kind, refused.status, {"content-type": "application/json"} | extra, body

    def _answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> tuple[str, bytes]:
        cutout, downsample = CUTOUT.fullmatch(path), DOWNSAMPLE.fullmatch(path)
        data = cutout or downsample
        if not data and not re.match(r"/(collection|coord)(/|$)", path):
            raise Refusal(404)
        format_ = _negotiated(headers.get("accept", "*/*"), FORMATS if cutout else FORMATS[-1:])
        given = headers.get("authorization")
        if given not in [None, f"Token {self.token}"] + ([f"Token {self.private}"] if self.private else []):
            raise Refusal(401, {"detail": "Invalid token."})
        denied: Refusal | None = None
        if self.private and given != f"Token {self.private}":
            denied = refusal(403, 3001, "This user does not have the required permissions")
            if given is None:
                denied = refusal(403, 3004, "Access denied, are you logged in?")
        if not data:
            return format_, json.dumps(self._resource(path.rstrip("/"), denied)).encode()
        known: list[tuple[str, list[str]]] = [("Collection", [self.collection]), ("Experiment", [self.experiment])]
        for (what, names), name in zip([*known, ("Channel", list(self.channels))], data.groups(), strict=False):
            if name not in names:
                raise refusal(404, 4000, f"{what} {name} not found")
        if denied:
            raise denied
        iso = query.get("iso", [""])[-1].lower() == "true"
        if cutout:
            return format_, _rendered(self._cutout(cutout, query, iso), format_)
        return format_, json.dumps(self._downsample(self.channels[data[3]], iso)).encode()

    def _resource(self, path: str, denied: Refusal | None) -> dict[str, Any]:
        """Return the document of a collection, an experiment, a channel or a frame, or a list of some."""
        own = {"public": self.private is None, "description": "", "creator": "admin"}
        coord: dict[str, Any] = {"name": self.frame, "description": "", "voxel_unit": self.unit}
        for axis, first, end, size in zip("xyz", self.start, self.stop, self.voxel_size, strict=True):
            coord |= {f"{axis}_start": first, f"{axis}_stop": end, f"{axis}_voxel_size": size}
        experiment = own | {"name": self.experiment, "collection": self.collection, "coord_frame": self.frame}
        experiment |= {"num_hierarchy_levels": self.levels, "hierarchy_method": self.hierarchy_method}
        experiment |= {"num_time_samples": 1, "time_step": None, "time_step_unit": "seconds"}
        at = f"/collection/{self.collection}/experiment/{self.experiment}"
        documents: dict[str, dict[str, Any]] = {
            "/coord": {"coords": [self.frame]},
            f"/coord/{self.frame}": coord,
            "/collection": {"collections": [self.collection]},
            f"/collection/{self.collection}": own | {"name": self.collection, "experiments": [self.experiment]},
            f"/collection/{self.collection}/experiment": {"experiments": [self.experiment]},
            at: experiment | {"channels": list(self.channels)},
            f"{at}/channel": {"channels": list(self.channels)},
        }
        for name, served in self.channels.items():
            reported = {key: value for key, value in vars(served).items() if key not in ("voxels", "kind")}
            reported |= {"name": name, "experiment": self.experiment, "type": served.kind, "sources": [], "related": []}
            reported |= {"datatype": served.voxels.dtype.name, "default_time_sample": 0}
            documents[f"{at}/channel/{name}"] = own | reported
        names = path.split("/")
        for count in range(2, len(names) + 1):
            if "/".join(names[:count]) not in documents:
                raise refusal(404, 4000, f"{names[count - 1]} does not exist.")
        document = documents[path]
        if denied and path.startswith("/collection"):
            if "name" in document:
                raise denied
            return {word: [] for word in document}
        return document

    def _steps(self, level: int, iso: bool) -> list[int]:
        """Return the voxels of level 0 per cell of a level, along x, y, z."""
        x, _, z = self.voxel_size
        halvings = level if self.hierarchy_method == "isotropic" else 0
        if iso and self.hierarchy_method != "isotropic":
            halvings = max(0, level - min(range(30), key=lambda n: abs(z / (x * 2**n) - 1)))
        return [2**level, 2**level, 2**halvings]

    def _downsample(self, served: Served, iso: bool) -> dict[str, Any]:
        if self.hierarchy_method != "isotropic" and self.voxel_size[0] != self.voxel_size[1]:
            raise Refusal(500)
        steps = {str(level): self._steps(level, iso) for level in range(self.levels)}
        return {
            "status": served.downsample_status,
            "num_hierarchy_levels": self.levels,
            "voxel_size": {n: [a * b for a, b in zip(self.voxel_size, s, strict=True)] for n, s in steps.items()},
            "extent": {n: [-(-a // b) for a, b in zip(self.stop, s, strict=True)] for n, s in steps.items()},
            "cuboid_size": {n: [512, 512, 16] for n in steps},
        }

    def _cutout(self, asked: re.Match[str], query: dict[str, list[str]], iso: bool) -> Voxels:
        channel, level, *texts, time = asked.groups()[2:]
        served = self.channels[channel]
        modes = query.get("access-mode", ["raw"])
        if len(query.keys() & {"access-mode", "no-cache"}) > 1 or modes[-1] not in ("cache", "no-cache", "raw"):
            raise Refusal(500)
        ids = query.get("filter", [""])[-1]
        if "filter" in query and served.kind != "annotation":
            raise refusal(400, 2003, f"The channel in request has type {served.kind}. Filter is only valid for ...")
        if "filter" in query and not re.fullmatch(r"\d{1,19}(,\d{1,19})*", ids):
            raise refusal(400, 1001, f"Invalid id in list of filter ids {ids}.")
        times = [int(text) for text in (time or "0").split(":")]
        times = [times[0], times[-1] + (len(times) == 1)]
        if times[0] > 1 or times[1] > 2 or times[0] >= times[1]:
            raise refusal(400, 1000, f"Invalid time range {time}.")
        lowest = served.base_resolution
        if not lowest <= int(level) < lowest + self.levels:
            reason = f"The resolution has to be within {lowest} and {lowest + self.levels}"
            raise refusal(400, 1002, f"Invalid resolution {level}. {reason}")
        ranges = [[int(text) for text in part.split(":")] for part in texts]
        for (low, high), first, end in zip(ranges, self.start, self.stop, strict=True):
            if not first <= low < high <= end:  # as in Boss: the bounds of level 0 are those of every level
                raise refusal(400, 1001, f"Incorrect cutout arguments {level}/{'/'.join(texts)}")
        size = served.voxels.itemsize * (times[1] - times[0])
        for low, high in ranges:
            size *= high - low
        if size // (4 if served.voxels.itemsize == 8 else 1) > LARGEST:
            raise refusal(413, 2000, "Cutout request is over 500MB when uncompressed. Reduce cutout dimensions.")
        lows, highs = ([part[end] for part in reversed(ranges)] for end in (0, 1))
        part = cells(served.voxels, list(self.start)[::-1], self._steps(int(level), iso)[::-1], lows, highs)
        if ids:
            part[~np.isin(part, np.array([int(text) for text in ids.split(",")], np.uint64))] = 0
        return np.stack([part * (sample == 0) for sample in range(*times)]).astype(part.dtype) if time else part


def _negotiated(accept: str, formats: list[str]) -> str:
    """Return the format of a response, as Django REST framework chooses it: the more exact first, whatever its q."""
    ranges = {part.split(";")[0].strip().lower() for part in accept.split(",")}
    candidates = [(format_, format_) for format_ in formats]
    candidates += [(format_.split("/")[0] + "/*", format_) for format_ in formats]
    for range_, format_ in [*candidates, ("*/*", formats[0])]:
        if range_ in ranges:
            return format_
    raise Refusal(406, {"detail": "Could not satisfy the request Accept header."})


def _rendered(part: Voxels, format_: str) -> bytes:
    out = BytesIO()
    if format_ == "application/blosc":
        return bytes(blosc.compress(part.tobytes(), typesize=8 * part.itemsize))
    if format_ == "application/blosc-python":
        return bytes(blosc.pack_array(part))
    if format_ == "application/npygz":
        np.save(out, part, allow_pickle=False)
        return zlib.compress(out.getvalue())
    if format_ != "image/jpeg":
        raise Refusal(500)
    if part.dtype != np.uint8 or part.ndim != 3:
        raise refusal(400, 2001 if part.dtype != np.uint8 else 2005, "Only 3-D uint8 data can be sent as JPEG")
    if part.shape[0] * part.shape[1] > 65500 or part.shape[2] > 65500:
        raise Refusal(500)
    Image.fromarray(part.reshape(-1, part.shape[2])).save(out, "JPEG", quality=85)
    return out.getvalue()
