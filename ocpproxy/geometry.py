"""Where things are: datasets, levels, cuboids and tiles, as pure arithmetic.

Three units, after the Open Connectome services:

* a **dataset** (what a token names) is a pyramid of levels; level ``i`` has a size, an offset and a cube per axis,
  always in the order x, y, z and in voxels *of that level*. Valid coordinates are ``offset <= v < offset + size``;
* a **stack** is one way to look at it: a plane and the channels shown. It is what a viewer adds to a project, and what
  has one image base. Its name is the first half of every tile's identity;
* a **tile** is 512 x 512 pixels of one slice of a stack; a **cuboid** is the block of voxels that is fetched to make
  tiles: for xy the 512 x 512 columns of a slab of 16 (or 64) slices.

Tile (row 0, col 0) begins at the level's offset, and slabs are counted from its first slice::

    x0 = ox + col * 512           x1 = min(x0 + 512, ox + X)
    y0 = oy + row * 512           y1 = min(y0 + 512, oy + Y)
    z0 = oz + slab * depth        z1 = min(z0 + depth, oz + Z)       slab = (slice - oz) // depth

What is outside those bounds is *blank*, never an error (`Stack.cuboid` answers None) and never fetched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from functools import cached_property
from math import ceil
from typing import NamedTuple

TILE = 512
"""Pixels on each side of every tile."""
MAX_CUTOUT = 16 * 2**20
"""Bytes of voxels that one cutout may hold; a slab that would need more is cut into thinner ones."""

Triple = tuple[int, int, int]
"""A value per axis, in the order x, y, z."""


class Plane(Enum):
    """The two axes of a tile: the first runs along its columns, the second along its rows."""

    XY = "xy"
    XZ = "xz"
    YZ = "yz"
    ZY = "zy"


class NotShown(LookupError):
    """The dataset cannot be shown as asked: unknown channel, plane or kind of pixels. One sentence for anyone."""


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution: level 0 is the finest."""

    size: Triple
    offset: Triple
    cube: Triple
    """The block in which the upstream keeps its voxels: reading whole ones spares it work."""
    voxel: tuple[Fraction, Fraction, Fraction] = (Fraction(1), Fraction(1), Fraction(1))
    """Edges of a voxel; only their ratios mean anything."""

    @property
    def end(self) -> Triple:
        """The first coordinate behind the volume, per axis."""
        (ox, oy, oz), (x, y, z) = self.offset, self.size
        return (ox + x, oy + y, oz + z)

    def z_scale(self, plane: Plane) -> Fraction:
        """How many pixels one z step takes in a plane that shows z, so that pixels are square."""
        vx, vy, vz = self.voxel
        return vz / (vx if plane is Plane.XZ else vy)

    def extent(self, plane: Plane) -> Triple:
        """(columns, rows, slices) of the whole plane in pixels, z scaled to square pixels where it is shown."""
        x, y, z = self.size
        if plane is Plane.XY:
            return (x, y, z)
        depth = ceil(z * self.z_scale(plane))
        return {Plane.XZ: (x, depth, y), Plane.YZ: (y, depth, x), Plane.ZY: (depth, y, x)}[plane]

    def tiles(self, plane: Plane) -> tuple[int, int]:
        """(columns, rows) of tiles that cover the plane."""
        width, height, _ = self.extent(plane)
        return (-(-width // TILE), -(-height // TILE))


@dataclass(frozen=True, slots=True)
class Channel:
    """One kind of voxel in a dataset."""

    name: str
    kind: str
    """``image``, ``annotation``, ``timeseries``, ``probability``, ``bitmask``, ``rgba``, ``channels``."""
    dtype: str
    """A numpy name: ``uint8``, ``uint16``, ``uint32``, ``uint64``, ``float32``."""
    window: tuple[int, int] = (0, 0)
    """Values shown as black and white; ``(0, 0)`` is none."""
    time: tuple[int, int] = (0, 0)
    """First and last time point, inclusive."""
    base_level: int = 0
    """The finest level that holds data."""
    number: int | None = None
    """The integer that generation-1 channel projects call it by."""

    @property
    def itemsize(self) -> int:
        """Bytes of a voxel."""
        return {"uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "float32": 4}[self.dtype]


class Box(NamedTuple):
    """Half-open voxel ranges of one level: ``x0 <= x < x1`` and so on."""

    x0: int
    x1: int
    y0: int
    y1: int
    z0: int
    z1: int

    @property
    def shape(self) -> Triple:
        """(z, y, x): the shape of an array of these voxels in C order."""
        return (self.z1 - self.z0, self.y1 - self.y0, self.x1 - self.x0)


class Tile(NamedTuple):
    """The identity of one tile. `stack` is a `Stack.name`; equal tiles are equal pictures."""

    stack: str
    time: int
    level: int
    slice: int
    row: int
    col: int


@dataclass(frozen=True, slots=True)
class Cutout:
    """What an upstream is asked for: the voxels of one channel at one time in one box."""

    dataset: Dataset
    channel: Channel
    time: int
    level: int
    box: Box

    @property
    def nbytes(self) -> int:
        """Bytes of voxels in the answer."""
        z, y, x = self.box.shape
        return z * y * x * self.channel.itemsize


@dataclass(frozen=True, slots=True)
class Cuboid:
    """What is fetched, locked and cut into tiles as one."""

    stack: Stack
    time: int
    level: int
    row: int
    col: int
    box: Box

    @property
    def name(self) -> str:
        """One name for the cuboid among all processes and versions, at most 255 characters."""
        return f"{self.stack.name}/{self.time}/{self.level}/{self.row}_{self.col}/{self.box.z0}-{self.box.z1}"

    def tile(self, slice_: int) -> Tile:
        """The tile of one of its slices."""
        return Tile(self.stack.name, self.time, self.level, slice_, self.row, self.col)

    def tiles(self) -> list[Tile]:
        """The tiles it holds, in the order of its slices: the n-th shows plane ``z0 + n``."""
        return [self.tile(z) for z in range(self.box.z0, self.box.z1)]

    def cutout(self) -> Cutout:
        """The voxels to ask for."""
        return Cutout(self.stack.dataset, self.stack.channel, self.time, self.level, self.box)


@dataclass(frozen=True, eq=False)
class Dataset:
    """What is known of a token."""

    token: str
    levels: Mapping[int, Level]
    channels: tuple[Channel, ...]
    default_channel: str | None = None
    """The channel of addresses that name none."""
    dialect: str = ""
    """A word of the upstream that described it, handed back to it with every cutout."""

    def channel(self, name: str | None) -> Channel:
        """The channel called so, or the default one.

        :raises NotShown: when there is none, naming those there are.
        """
        wanted = self.default_channel if name is None else name
        for channel in self.channels:
            if channel.name == wanted or (channel.number is not None and str(channel.number) == wanted):
                return channel
        known = ", ".join(channel.name for channel in self.channels[:20]) or "none"
        missing = "names no channel" if wanted is None else f"has no channel {wanted}"
        raise NotShown(f"{self.token} {missing}; its channels are: {known}")

    def stack(self, plane: Plane, channel: str | None) -> Stack:
        """The stack that shows one channel as it is.

        :raises NotShown: unknown channel, or a plane or pixels that are not served.
        """
        found = self.channel(channel)
        if plane is not Plane.XY:
            raise NotShown(f"the {plane.value} plane of {self.token} is not served, only xy")
        if found.dtype != "uint8" or found.kind not in ("image", "timeseries"):
            raise NotShown(
                f"channel {found.name} of {self.token} is {found.kind} {found.dtype}; only uint8 images are served"
            )
        return Stack(self, plane, found)


@dataclass(frozen=True, eq=False)
class Stack:
    """One plane and channel of a dataset: what a viewer shows as one stack, under one image base."""

    dataset: Dataset
    plane: Plane
    channel: Channel

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stack) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    @cached_property
    def version(self) -> str:
        """Eight hex digits that change when the geometry or the pixels of the stack do.

        It is part of every tile's identity: when an upstream re-ingests a volume, the tiles of the old one are not
        found any more and age out, with nothing to delete.
        """
        said = [
            [[n, level.size, level.offset, [str(v) for v in level.voxel]] for n, level in self.dataset.levels.items()],
            [self.channel.kind, self.channel.dtype, self.channel.window, self.channel.base_level],
        ]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:8]

    @cached_property
    def name(self) -> str:
        """``token/plane/channel/version``: unique, and safe as a relative path."""
        return f"{self.dataset.token}/{self.plane.value}/{self.channel.name}/{self.version}"

    def depth(self, level: Level) -> int:
        """Slices in a slab: the upstream's cube, or the largest divisor of it that keeps within `MAX_CUTOUT`."""
        most = max(1, MAX_CUTOUT // (TILE * TILE * self.channel.itemsize))
        return max(n for n in range(1, min(level.cube[2], most) + 1) if level.cube[2] % n == 0)

    def cuboid(self, time: int | None, level: int, slice_: int, row: int, col: int) -> Cuboid | None:
        """The cuboid that holds a tile, or None when the tile lies outside the volume."""
        first, last = self.channel.time
        time = first if time is None else time
        shape = self.dataset.levels.get(level)
        if shape is None or not first <= time <= last:
            return None
        (ox, oy, oz), (ex, ey, ez) = shape.offset, shape.end
        x0, y0 = ox + col * TILE, oy + row * TILE
        if not (oz <= slice_ < ez and col >= 0 and x0 < ex and row >= 0 and y0 < ey):
            return None
        depth = self.depth(shape)
        z0 = oz + (slice_ - oz) // depth * depth
        box = Box(x0, min(x0 + TILE, ex), y0, min(y0 + TILE, ey), z0, min(z0 + depth, ez))
        return Cuboid(self, time, level, row, col, box)
