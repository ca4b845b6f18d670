"""A double of DVID: its responses to a path, a query and headers.

A coarser scale is the grid whose cell c covers the voxels [c * 2**s, (c + 1) * 2**s), in absolute coordinates; a cell
shows its first voxel that lies inside the volume. Where the offset is a multiple of 2**s that is every 2**s-th voxel.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from itertools import product
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

Voxels = npt.NDArray[Any]
Point = tuple[int, int, int]
Answer = tuple[str, int, dict[str, str], bytes]
Reply = tuple[str, bytes]
BYTES = "application/octet-stream"
EXTENTS = ("MinPoint", "MaxPoint")
PLANES = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2), "0_1": (0, 1), "0_2": (0, 2), "1_2": (1, 2)}


class Refusal(Exception):
    """A response that is not 200, in plain text."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Volume:
    """Voxels (z, y, x), the first at the coordinates `offset` (x, y, z), and what all instances report."""

    voxels: Voxels
    offset: Point = (0, 0, 0)
    voxel_size: tuple[float, float, float] = (8.0, 8.0, 8.0)
    units: str = "nanometers"
    block: int = 32
    type_name: ClassVar[str]
    compression: ClassVar[str] = "LZ4 compression, level -1"

    @property
    def last(self) -> list[int]:
        """Return the coordinates of the last voxel (x, y, z)."""
        return [at + size - 1 for at, size in zip(self.offset, reversed(self.voxels.shape), strict=True)]

    def box(self, at: Iterable[int], size: Iterable[int], steps: Point = (1, 1, 1)) -> Voxels:
        """Return the cells from `at` on of a grid of such steps, all triples in the order x, y, z; 0 outside."""
        inside: list[Voxels] = []
        index: list[Voxels] = []
        shape: list[int] = []
        for low, cells, step, start, last in zip(at, size, steps, self.offset, self.last, strict=True):
            cell = np.arange(low, low + cells)
            within = ((cell + 1) * step > start) & (cell * step <= last)
            inside.insert(0, within)
            index.insert(0, np.maximum(cell[within] * step, start) - start)
            shape.insert(0, cells)
        out = np.zeros(shape, self.voxels.dtype)
        out[np.ix_(*inside)] = self.voxels[np.ix_(*index)]
        return out

    def extended(self) -> dict[str, Any]:
        """Return the member Extended of info."""
        block = self.block
        return {
            "Values": [{"DataType": self.voxels.dtype.name, "Label": self.type_name}],
            "Interpolable": self.type_name == "uint8blk",
            "BlockSize": [block] * 3,
            "VoxelSize": list(self.voxel_size),
            "VoxelUnits": [self.units] * 3,
            "MinPoint": list(self.offset),
            "MaxPoint": self.last,
            "MinIndex": [at // block for at in self.offset],
            "MaxIndex": [at // block for at in self.last],
            "BackgroundTask": 0,
        }


@dataclass
class Grayscale(Volume):
    """A uint8blk. With `gridstore` it keeps its blocks in another store. `absent` blocks are not stored."""

    gridstore: bool = False
    scale_level: int = 0
    absent: frozenset[Point] = frozenset()
    type_name = "uint8blk"

    def __post_init__(self) -> None:
        """Set absent blocks to 0, as DVID reads them."""
        self.voxels = self.voxels.copy()
        for index in self.absent:
            low = [at * self.block - start for at, start in zip(index, self.offset, strict=True)]
            self.voxels[tuple(slice(max(0, at), max(0, at + self.block)) for at in low[::-1])] = 0

    def extended(self) -> dict[str, Any]:
        """Return the member Extended of info."""
        grid = {"GridStore": "gridstore" if self.gridstore else "", "ScaleLevel": self.scale_level}
        return super().extended() | grid


@dataclass
class Labels(Volume):
    """A labelmap: its scales halve x, y and z. Scales above `max_scale` are zeros, as they are in DVID."""

    block: int = 64
    max_scale: int = 3
    type_name = "labelmap"

    def scaled(self, at: list[int], size: list[int], scale: int) -> Voxels:
        """Return a part of a scale, in the coordinates of the scale."""
        if scale > self.max_scale:
            return np.zeros(size[::-1], np.uint64)
        return self.box(at, size, (2**scale, 2**scale, 2**scale))

    def extended(self) -> dict[str, Any]:
        """Return the member Extended of info."""
        return super().extended() | {"MaxDownresLevel": self.max_scale, "IndexedLabels": True}


@dataclass
class Tiles(Volume):
    """An imagetile: its levels halve a plane's own axes, and slices are counted at full resolution at each.

    `absent` tiles (plane, scale, x, y, z) are not stored, nor is one that holds no voxel of the volume.
    """

    block: int = 512
    levels: int = 3
    format: str = "png"
    source: str = "grayscale"
    absent: frozenset[tuple[str, int, int, int, int]] = frozenset()
    type_name = "imagetile"
    compression = "No compression"

    def metadata(self) -> dict[str, Any]:
        """Return the range of tiles, which are counted in cubes of a tile's size along all axes."""
        levels = range(self.levels)
        spec = {
            str(n): {"Resolution": [v * 2**n for v in self.voxel_size], "TileSize": [self.block] * 3} for n in levels
        }
        low, high = ([at // self.block for at in points] for points in (self.offset, self.last))
        return {"MinTileCoord": low, "MaxTileCoord": high, "Levels": spec}

    def extended(self) -> dict[str, Any]:
        """Return the member Extended of info."""
        encoding = {"lz4": 0, "png": 1, "jpg": 2}[self.format]
        return {"Source": self.source, **self.metadata(), "Placeholder": False, "Encoding": encoding, "Quality": 80}


def pyramid(name: str, base: Grayscale, levels: int, axes: str = "xyz") -> dict[str, Volume]:
    """Return a grayscale and its coarser ones, as instances name, name_1, name_2, ..., each halving these axes."""
    made: dict[str, Volume] = {name: base}
    for level in range(1, levels):
        x, y, z = (2**level if axis in axes else 1 for axis in "xyz")
        low = [at // step for at, step in zip(base.offset, (x, y, z), strict=True)]
        size = [last // step - at + 1 for at, last, step in zip(low, base.last, (x, y, z), strict=True)]
        voxel = (base.voxel_size[0] * x, base.voxel_size[1] * y, base.voxel_size[2] * z)
        voxels = base.box(low, size, (x, y, z))
        same = (base.units, base.block, base.gridstore, level)
        made[f"{name}_{level}"] = Grayscale(voxels, (low[0], low[1], low[2]), voxel, *same)
    return made


@dataclass
class DvidServer:
    """One repository: nodes from the root to the leaf, whether each is locked, and instances that all of them show.

    With `busy`, the response to requests that may be throttled is 503.
    """

    instances: dict[str, Volume]
    nodes: dict[str, bool] = field(
        default_factory=lambda: {"28841c8277e044a7b187dda03e18da13": True, "a89eb3af216a46cdba81204d8f954786": False}
    )
    alias: str = "vnc"
    busy: bool = False

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Answer:
        """Respond to a GET: whether it was for a cutout or info, the status, headers and body."""
        parts = path.removesuffix("/").split("/")[1:]
        kind = "cutout" if parts[4:5] in (["raw"], ["subvolblocks"], ["tile"]) else "info"
        options = {name: values[0] for name, values in query.items()}
        try:
            type_, body = self._answer(parts, options)
            return kind, 200, {"content-type": type_, "access-control-allow-origin": "*"}, body
        except Refusal as refused:
            text = f"{refused} ({path}).\n" if refused.status == 400 else f"{refused}\n"
            sent = {"content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff"}
            return kind, refused.status, sent | {"access-control-allow-origin": "*"}, text.encode()

    def _answer(self, parts: list[str], query: dict[str, str]) -> Reply:
        if parts == ["api", "repos", "info"]:
            return _json({next(iter(self.nodes)): self._repository()})
        if parts[:2] == ["api", "repo"] and parts[3:4] == ["branch-versions"] and len(parts) == 5:
            self._node(parts[2])
            return _json(list(self.nodes)[::-1])
        if parts[:2] != ["api", "node"] or len(parts) < 3:
            raise Refusal("404 page not found", 404)
        self._node(parts[2])
        if len(parts) < 5:
            raise Refusal("incomplete API request")
        name, word, *rest = parts[3:]
        instance = self.instances.get(name)
        if instance is None:
            raise Refusal("invalid data instance name")
        if word == "info":
            return _json(self._info(name, instance))
        if isinstance(instance, Tiles) and word == "metadata":
            return _json(instance.metadata())
        if isinstance(instance, Tiles) and word == "tile":
            return _tile(instance, rest, query)
        if isinstance(instance, Labels) and word == "label" and len(rest) == 1:
            return _json({"Label": int(instance.scaled(_point(rest[0]), [1, 1, 1], _scale(query)).item())})
        if isinstance(instance, Grayscale) and word == "subvolblocks" and len(rest) == 2:
            self._throttle(query)
            return _blocks(instance, _point(rest[1]), _point(rest[0]), query.get("compression", ""))
        if not isinstance(instance, Tiles) and word == "raw":
            if len(rest) < 3:
                raise Refusal('"raw" must be followed by shape/size/offset')
            if isinstance(instance, Grayscale) and instance.gridstore:
                raise Refusal(f'data "{name}" does not support /raw endpoint since it is proxying data')
            if rest[0] == "0_1_2":
                self._throttle(query)
            return _raw(instance, rest, query)
        raise Refusal(f'Bad API call for data "{name}"')

    def _node(self, text: str) -> None:
        prefix, _, branch = text.partition(":")
        found = [uuid for uuid in self.nodes if uuid.startswith(prefix)]
        if len(prefix) < 3 or not found or branch not in ("", "master"):
            raise Refusal(f"Could not find UUID with partial match to {text}!")
        if len(found) > 1:
            raise Refusal(f"More than one UUID matches {text}!")

    def _throttle(self, query: dict[str, str]) -> None:
        if self.busy and query.get("throttle") in ("on", "true"):
            raise Refusal("Server already running maximum of 1 throttled operations", 503)

    def _info(self, name: str, instance: Volume) -> dict[str, Any]:
        extended = instance.extended()
        base = {
            "TypeName": instance.type_name,
            "TypeURL": f"github.com/janelia-flyem/dvid/datatype/{instance.type_name}",
            "TypeVersion": "0.2",
            "DataUUID": hashlib.md5(name.encode()).hexdigest(),
            "Name": name,
            "RepoUUID": next(iter(self.nodes)),
            "Compression": "jpeg" if isinstance(instance, Grayscale) and instance.gridstore else instance.compression,
            "Checksum": "No checksum",
            "Syncs": [],
            "Versioned": isinstance(instance, Labels),
            "Tags": {},
        }
        extents = {} if isinstance(instance, Tiles) else {"Extents": {key: extended[key] for key in EXTENTS}}
        return {"Base": base, "Extended": extended} | extents

    def _repository(self) -> dict[str, Any]:
        uuids = list(self.nodes)
        dates = {"Created": "2026-01-01T00:00:00Z", "Updated": "2026-01-01T00:00:00Z"}
        nodes = {}
        for n, (uuid, locked) in enumerate(self.nodes.items()):
            family = {"Parents": [n] if n else [], "Children": [n + 2] if n + 1 < len(uuids) else []}
            node = {"Branch": "", "Note": "", "Log": [], "UUID": uuid, "VersionID": n + 1, "Locked": locked}
            nodes[uuid] = node | family | dates
        instances = {name: self._info(name, instance) for name, instance in self.instances.items()}
        repository = {"Root": uuids[0], "Alias": self.alias, "Description": "", "Log": [], "Properties": {}}
        return repository | dates | {"DataInstances": instances, "DAG": {"Root": uuids[0], "Nodes": nodes}}


def _json(document: Any) -> Reply:
    return "application/json", json.dumps(document).encode()


def _point(text: str, count: int = 3) -> list[int]:
    if not re.fullmatch(r"-?\d+(_-?\d+)*", text) or text.count("_") != count - 1:
        raise Refusal(f"Cannot parse {count}d point from {text}")
    point = [int(part) for part in text.split("_")]
    if max(abs(value) for value in point) >= 2**31:
        raise Refusal(f"Value out of range in {text}")
    return point


def _scale(query: dict[str, str]) -> int:
    text = query.get("scale") or "0"
    if not re.fullmatch(r"\d+", text):
        raise Refusal(f"bad scale specified: {text}")
    return int(text)


def _image(pixels: Voxels, format_: str) -> Reply:
    match = re.fullmatch(r"(?:(png)|jpe?g(?::(\d+))?)", format_ or "png")
    if not match:
        raise Refusal(f"Illegal image format requested: {format_}")
    kind = match[1] or "jpeg"
    out = BytesIO()
    if kind == "jpeg" and max(pixels.shape) > 65500:
        raise Refusal("jpeg: image is too large to encode")
    Image.fromarray(pixels).save(out, kind, quality=int(match[2] or 80))
    return f"image/{kind}", out.getvalue()


def _raw(volume: Volume, rest: list[str], query: dict[str, str]) -> Reply:
    shape, sizes, at, format_ = [*rest, ""][:4]
    plane = (0, 1, 2) if shape == "0_1_2" else PLANES.get(shape)
    if plane is None:
        raise Refusal(f"Illegal data shape: {shape}")
    given = dict(zip(plane, _point(sizes, len(plane)), strict=True))
    size = [given.get(axis, 1) for axis in range(3)]
    if min(size) < 1 or int(np.prod(size, dtype=object)) * volume.voxels.itemsize > 3 * 10**9:
        raise Refusal(f"Illegal size: {sizes}")
    if isinstance(volume, Labels):
        if len(plane) == 2:
            raise Refusal("This double has no images of labels")
        return BYTES, _packed(volume.scaled(_point(at), size, _scale(query)), query.get("compression", ""))
    part = volume.box(_point(at), size)
    if len(plane) == 3 and format_ not in ("jpg", "jpeg"):
        return BYTES, part.tobytes()
    return _image(part.reshape(-1, size[plane[0]]), format_)


def _packed(labels: Voxels, compression: str) -> bytes:
    data = labels.astype("<u8").tobytes()
    if compression == "":
        return data
    if compression == "gzip":
        return gzip.compress(data, 1)
    if compression == "lz4":  # a block that is one run of literals
        more = len(data) - 15
        length = b"\xff" * (more // 255) + bytes([more % 255]) if more >= 0 else b""
        return bytes([min(15, len(data)) << 4]) + length + data
    raise Refusal(f'unknown compression type "{compression}"')


def _blocks(volume: Grayscale, at: list[int], size: list[int], compression: str) -> Reply:
    block = volume.block
    if any(value % block for value in at + size) or min(size) < 1:
        raise Refusal(f"cannot store labels in non-block aligned geometry {at} -> {size}")
    if compression not in ("", "jpeg", "uncompressed"):
        raise Refusal(f"don't understand 'compression' query string value: {compression}")
    body = b""
    ranges: list[range] = []
    for low, many, start, last in zip(at, size, volume.offset, volume.last, strict=True):
        ranges.insert(0, range(max(low, start) // block, min((low + many) // block, last // block + 1)))
    for z, y, x in product(*ranges):
        if (x, y, z) in volume.absent:
            continue
        part = volume.box((x * block, y * block, z * block), (block, block, block))
        data = part.tobytes() if compression == "uncompressed" else _image(part.reshape(-1, block), "jpg")[1]
        body += struct.pack("<4i", x, y, z, len(data)) + data
    return BYTES, body


def _tile(tiles: Tiles, rest: list[str], query: dict[str, str]) -> Reply:
    if len(rest) < 3:
        raise Refusal("'tile' request must be following by plane, scale level, and tile coordinate")
    shape, level, coordinate, format_ = [*rest, "png"][:4]
    plane = PLANES.get(shape)
    if plane is None or not re.fullmatch(r"\d{1,2}", level):
        raise Refusal(f"Illegal tile plane or scale: {shape}/{level}")
    scale, tile = int(level), _point(coordinate)
    size = [tiles.block if axis in plane else 1 for axis in range(3)]
    at = [value * many for value, many in zip(tile, size, strict=True)]
    x, y, z = (2**scale if axis in plane else 1 for axis in range(3))
    stored = min(tile) >= 0 and scale < tiles.levels and (shape, scale, *tile) not in tiles.absent
    for low, many, step, start, last in zip(at, size, (x, y, z), tiles.offset, tiles.last, strict=True):
        stored = stored and (low + many) * step > start and low * step <= last
    if not stored:
        if query.get("noblanks") == "true":
            raise Refusal("404 page not found", 404)
        if scale >= tiles.levels:
            raise Refusal(f"Could not extract tiles for unspecified scale level {scale}")
        return _image(np.zeros((tiles.block, tiles.block), np.uint8), format_)
    pixels = tiles.box(at, size, (x, y, z)).reshape(tiles.block, tiles.block)
    return _image(pixels, "jpg" if tiles.format == "jpg" else "png")
