"""How a dataset is shown: stacks, tiles, and the cuboids that are fetched to make them, as pure arithmetic.

* a **stack** is one way to look at a dataset: a plane, the channels shown and their colours. It is what a viewer adds
  to a project, and what has one image base. Its name is the first half of every tile's identity;
* a **tile** is 512 x 512 pixels of one slice of a stack;
* a **cuboid** is the block of voxels that is fetched, locked and cut into tiles as one: the columns and rows of one
  tile, through a slab of slices.

Tile (row 0, col 0) begins at the level's offset, and slabs are counted from the level's first slice. Along x and y::

    v0 = offset + number * 512        v1 = min(v0 + 512, offset + size)

Along z, where a plane shows it, pixels are square: one z step takes ``s`` of them (`Level.z_scale`), or one where the
stack is native. The whole plane is then ``H = ceil(size * s)`` pixels long, and pixel ``R`` shows the slice whose
middle is nearest::

    i(R) = min(floor((R + 1/2) / s), size - 1)

in exact rationals, so that tiles do not depend on the noise of floats; neighbours may share a slice, nothing is
interpolated, and ids stay ids. What is outside is *blank*, never an error, and never fetched.

A slab is as thick as the upstream's cube, or the thickest part of it that keeps the cutouts of all channels within
`max_cutout` bytes together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from functools import cached_property
from math import ceil
from typing import NamedTuple

from ocpproxy.model.address import COLOURS, ChannelName, Colouring, ImageBase
from ocpproxy.model.dataset import TILE, Box, CannotDisplay, Channel, Cutout, Dataset, Level, Plane, Triple, Z

MAX_CUTOUT = 16 * 2**20
"""Bytes of voxels that a cuboid may take when nothing else is said."""
EPOCHS = 8
"""How far back old tiles are looked for."""
PLACEHOLDER = "0"
"""An item of a channel list that takes a colour's place and shows nothing."""

Window = tuple[int, int]
"""Values shown as black and as white; none when the second is not larger."""


class DrawMode(Enum):
    """What pixels are made of voxels."""

    GREY = "grey"
    HEAT = "heat"
    """Grey, in shades of red."""
    LABELS = "labels"
    """Ids in the colours of the palette, nothing where the id is 0."""
    RGBA = "rgba"
    """Voxels that are colours already."""
    COLOURS = "colours"
    """False colour: each channel adds its light."""


@dataclass(frozen=True, slots=True)
class DisplaySettings:
    """How a dataset is shown, as its operator has said (``[dataset]`` of the configuration)."""

    channel: str | None = None
    """The channel of addresses that name none."""
    full_slices: bool = False
    """Slices of xz, yz and zy are counted in voxels of the finest level at every level, as CATMAID does by default."""
    native: bool = False
    """Planes that show z have one pixel for each z step, for viewers that stretch them themselves."""
    windows: tuple[tuple[str | None, Window], ...] = ()
    """Windows by channel; None is for all that are not named."""
    gain: float = 1.0
    """What false colours are multiplied by; 4 is the look of 2013 to 2015."""
    opaque: bool = False
    """False colour is black where nothing is lit, not transparent."""
    heat: bool = False
    """Probabilities are red instead of grey."""

    def window(self, channel: Channel) -> Window | None:
        """The window of a channel, or None.

        One that the upstream tells of counts for 16-bit voxels only, as it always has.
        """
        said = dict(self.windows)
        low, high = said.get(channel.name, said.get(None, channel.window if channel.dtype == "uint16" else (0, 0)))
        by_value = channel.dtype in ("uint8", "uint16") or channel.kind == "grey"
        return (low, high) if high > low and by_value else None


PLAIN = DisplaySettings()
"""As it is."""


class ShownChannel(NamedTuple):
    """A channel of a stack."""

    channel: Channel
    window: Window | None
    colour: str | None = None
    """One of `COLOURS`, in false colour."""


class Tile(NamedTuple):
    """The identity of one tile. `stack` is a `Stack.name`; equal tiles are equal pictures."""

    stack: str
    time: int
    level: int
    slice: int
    """In voxels of the level."""
    row: int
    col: int


@dataclass(frozen=True, eq=False)
class Stack:
    """One way to look at a dataset: what a viewer shows as one stack, under one image base."""

    dataset: Dataset
    plane: Plane
    shown: tuple[ShownChannel, ...]
    manner: DrawMode
    look: DisplaySettings = PLAIN
    max_cutout: int = MAX_CUTOUT
    epoch: int = 0
    """Which of the spans of time this is after each of which its tiles are made anew; 0 when they never are."""

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        base: ImageBase,
        look: DisplaySettings = PLAIN,
        max_cutout: int = MAX_CUTOUT,
        epoch: Callable[[Sequence[Channel]], int] | None = None,
    ) -> Stack:
        """The stack of an image base.

        :param epoch: tells the epoch of tiles that show these channels.
        :raises CannotDisplay: unknown channel, or one that cannot be shown so.
        """
        if base.colouring is Colouring.PLAIN or (
            base.colouring is Colouring.BY_POSITION
            and len(base.channels) == 1
            and base.channels[0].name != PLACEHOLDER
            and dataset.channel(base.channels[0].name).kind != "channels"
        ):
            name = base.channels[0].name if base.channels else look.channel
            channel = dataset.channel(name)
            shown = [ShownChannel(channel, look.window(channel))]
            manner = _manner(dataset, channel, look)
        else:
            shown = _coloured(dataset, base.channels, look)
            manner = DrawMode.COLOURS
        now = epoch([item.channel for item in shown]) if epoch else 0
        return cls(dataset, base.plane, tuple(shown), manner, look, max_cutout, now)

    def before(self) -> Iterator[Stack]:
        """The same stack in the epochs before this one, the latest first; none when its tiles are never made anew."""
        for epoch in range(self.epoch - 1, max(0, self.epoch - 1 - EPOCHS), -1):
            yield replace(self, epoch=epoch)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stack) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def overlay(self) -> bool:
        """Whether nothing is shown as transparent, for being laid over another stack."""
        return self.manner in (DrawMode.LABELS, DrawMode.RGBA) or (
            self.manner is DrawMode.COLOURS and not self.look.opaque
        )

    @cached_property
    def version(self) -> str:
        """Eight hex digits that change when the geometry or the pixels of the stack do, or its epoch ends.

        It is part of every tile's identity: when an upstream re-ingests a volume, or an operator changes how it is
        shown, or tiles have become too old, they are not found any more and age out, with nothing to delete.
        """
        said = [
            [[n, level.size, level.offset, [str(v) for v in level.voxel]] for n, level in self.dataset.levels.items()],
            [
                [c.kind, c.dtype, window, c.base_level, colour, *([c.version] if c.version else [])]
                for c, window, colour in self.shown
            ],
            self.manner.value,
            self.plane.shows_z and self.look.native,
            (self.look.gain, self.look.opaque) if self.manner is DrawMode.COLOURS else None,
            *([self.epoch] if self.epoch else []),
        ]
        return _digest(said, 8)

    @cached_property
    def name(self) -> str:
        """``token/plane/channel/version``: unique, and safe as a relative path.

        Where colours are said, the channel is ``~`` and a digest of the list: no channel can be called so.
        """
        shown = self.shown[0].channel.name
        if self.manner is DrawMode.COLOURS:
            shown = "~" + _digest([[item.channel.name, item.colour] for item in self.shown], 16)
        return f"{self.dataset.token}/{self.plane.value}/{shown}/{self.version}"

    # -- pixels

    def z_scale(self, level: Level) -> Fraction:
        """Pixels that one z step takes along a tile."""
        return Fraction(1) if self.look.native or not self.plane.shows_z else level.z_scale(self.plane)

    def extent(self, level: Level) -> Triple:
        """(columns, rows, slices) of the whole plane in pixels."""
        columns, rows, through = self.plane.axes
        return (self._length(level, columns), self._length(level, rows), level.size[through])

    def tiles(self, level: Level) -> tuple[int, int]:
        """(columns, rows) of tiles that cover the plane."""
        columns, rows, _ = self.extent(level)
        return (-(-columns // TILE), -(-rows // TILE))

    def slice_at(self, level: Level, slice_: int) -> int:
        """The number by which a slice, numbered as at the finest level, is addressed at another."""
        return slice_ if self.look.full_slices else slice_ // self._thickness(level)

    def _thickness(self, level: Level) -> Fraction:
        """Slices of the finest level that one of this level stands for."""
        through = self.plane.axes[2]
        return level.voxel[through] / self.dataset.finest.voxel[through]

    @cached_property
    def _bounds(self) -> dict[int, tuple[int, int, Fraction]]:
        """By level: columns and rows of tiles, and the numbers of an address that one slice takes."""
        full = self.look.full_slices
        return {
            n: (*self.tiles(level), self._thickness(level) if full else Fraction(1))
            for n, level in self.dataset.levels.items()
        }

    def tile(self, time: int | None, level: int, slice_: int, row: int, col: int) -> Tile | None:
        """The tile at an address, or None when it lies outside the volume."""
        shape = self.dataset.levels.get(level)
        time = self.shown[0].channel.time[0] if time is None else time
        if shape is None or not any(first <= time <= last for first, last in (c.time for c, _, _ in self.shown)):
            return None
        columns, rows, factor = self._bounds[level]
        slice_, through = slice_ // factor, self.plane.axes[2]
        if not (0 <= col < columns and 0 <= row < rows and shape.offset[through] <= slice_ < shape.end[through]):
            return None
        return Tile(self.name, time, level, slice_, row, col)

    # -- voxels

    def cuboid(self, tile: Tile) -> Cuboid:
        """The cuboid that holds one of its tiles.

        :raises CannotDisplay: when even a single slice needs more voxels than a cuboid may have.
        """
        shape = self.dataset.levels[tile.level]
        columns, rows, through = self.plane.axes
        spans = {columns: self._span(shape, columns, tile.col), rows: self._span(shape, rows, tile.row)}
        depth = self._depth(shape, spans)
        first = shape.offset[through] + (tile.slice - shape.offset[through]) // depth * depth
        # A slice below 0 has no address.
        spans[through] = (max(first, 0), min(first + depth, shape.end[through]))
        return Cuboid(self, tile.time, tile.level, tile.row, tile.col, Box(*spans[0], *spans[1], *spans[2]))

    def lines(self, level: Level, number: int) -> list[int]:
        """The slice, counted from the level's first, that each pixel of a tile shows along z.

        :param number: the tile's row, or its column in zy.
        """
        scale, size = self.z_scale(level), level.size[Z]
        end = min((number + 1) * TILE, self._length(level, Z))
        up, down = 2 * scale.numerator, scale.denominator
        return [min((2 * pixel + 1) * down // up, size - 1) for pixel in range(number * TILE, end)]

    def _length(self, level: Level, axis: int) -> int:
        return ceil(level.size[axis] * self.z_scale(level)) if axis == Z else level.size[axis]

    def _span(self, level: Level, axis: int, number: int) -> tuple[int, int]:
        """The voxels that a tile's pixels show along one of its two axes."""
        offset = level.offset[axis]
        if axis == Z:
            lines = self.lines(level, number)
            return (offset + lines[0], offset + lines[-1] + 1)
        return (offset + number * TILE, offset + min((number + 1) * TILE, level.size[axis]))

    def _depth(self, level: Level, spans: dict[int, tuple[int, int]]) -> int:
        """Slices in a slab."""
        width = 1
        for axis, (first, end) in spans.items():
            width *= end - first if axis == Z else TILE
        needed = width * sum(item.channel.itemsize for item in self.shown)
        most, cube = self.max_cutout // needed, level.cube[self.plane.axes[2]]
        if not most:
            raise CannotDisplay(
                f"a single {self.plane.value} tile of this level of {self.dataset.token} needs "
                f"{needed / 2**20:.0f} MiB of voxels, and a cutout may have {self.max_cutout / 2**20:.0f}"
            )
        return max(n for n in range(1, min(cube, most) + 1) if cube % n == 0)


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
        first, end = self._slices
        return f"{self.stack.name}/{self.time}/{self.level}/{self.row}_{self.col}/{first}-{end}"

    def tiles(self) -> list[Tile]:
        """The tiles it holds, in the order of its slices."""
        first, end = self._slices
        return [Tile(self.stack.name, self.time, self.level, n, self.row, self.col) for n in range(first, end)]

    def lines(self) -> list[int] | None:
        """For each pixel of a tile along z, the slice of the box that it shows; None where z is not shown."""
        columns, rows, _ = self.stack.plane.axes
        if Z not in (columns, rows):
            return None
        shape = self.stack.dataset.levels[self.level]
        lines = self.stack.lines(shape, self.row if rows == Z else self.col)
        return [line - lines[0] for line in lines]

    def cutouts(self) -> list[Cutout | None]:
        """The voxels to ask for, for each channel shown; None for one that has nothing at this time."""
        return [
            Cutout(self.stack.dataset, channel, self.time, self.level, self.box, self.stack.epoch)
            if channel.time[0] <= self.time <= channel.time[1]
            else None
            for channel, _, _ in self.stack.shown
        ]

    def drawn(self) -> Cutout | None:
        """The cutout whose voxels are the pixels of its one tile, as they are; None where pixels are made of them."""
        (shown, *others), stack, (first, end) = self.stack.shown, self.stack, self._slices
        plain = not others and stack.plane is Plane.XY and stack.manner is DrawMode.GREY and shown.window is None
        as_is = plain and shown.channel.dtype == "uint8" and shown.channel.kind != "bitmask"
        return self.cutouts()[0] if as_is and end - first == 1 else None

    @property
    def _slices(self) -> tuple[int, int]:
        through = self.stack.plane.axes[2]
        return (self.box[2 * through], self.box[2 * through + 1])


def _manner(dataset: Dataset, channel: Channel, look: DisplaySettings) -> DrawMode:
    """How one channel is shown by itself."""
    kind, dtype = channel.kind, channel.dtype
    whole = dtype.startswith("uint")
    if kind == "annotation" and whole:
        return DrawMode.LABELS
    if kind in ("bitmask", "grey") and whole:
        return DrawMode.GREY
    if kind in ("image", "timeseries", "channels", "probability", "grey"):
        if dtype in ("uint8", "uint16"):
            return DrawMode.GREY
        if dtype == "float32":
            return DrawMode.HEAT if look.heat else DrawMode.GREY
    if kind in ("image", "timeseries", "rgba") and dtype in ("uint32", "uint64"):
        return DrawMode.RGBA
    raise CannotDisplay(f"channel {channel.name} of {dataset.token} is {kind} {dtype}, which has no picture")


def _coloured(dataset: Dataset, names: tuple[ChannelName, ...], look: DisplaySettings) -> list[ShownChannel]:
    """The channels of a list, each in the colour it names or in that of its place."""
    shown = []
    for place, (name, colour) in zip(COLOURS, ((item.name, item.colour) for item in names), strict=False):
        if name == PLACEHOLDER:
            continue
        channel = dataset.channel(name)
        if _manner(dataset, channel, PLAIN) is not DrawMode.GREY:
            raise CannotDisplay(
                f"channel {channel.name} of {dataset.token} is {channel.kind} {channel.dtype}: it has colours of its "
                "own, and cannot be one of a false colour"
            )
        shown.append(ShownChannel(channel, look.window(channel), colour or place))
    if not shown:
        raise CannotDisplay(f"the channel list names nothing of {dataset.token} but places that are kept free")
    return shown


def _digest(said: object, length: int) -> str:
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:length]
