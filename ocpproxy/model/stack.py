"""Stacks, tiles and cuboids: how a dataset becomes tiles, as pure arithmetic.

* A **stack** is one way to look at a dataset: a plane, the channels shown and their colours. It is what a viewer adds
  to a project, and has one image base. Its name is the first half of every tile's identity.
* A **tile** is 512 x 512 pixels of one slice of a stack.
* A **cuboid** is the block of voxels that is fetched, locked and cut into tiles as one: the columns and rows of one
  tile, through a slab of slices.

Tile (row 0, col 0) begins at the level's offset, and slabs are counted from the level's first slice. Along x and y::

    v0 = offset + number * 512        v1 = min(v0 + 512, offset + size)

Along z, where a plane shows it, pixels are square: one z step takes ``s`` of them (`Level.z_scale`), or one where the
stack is native. The whole plane is then ``H = ceil(size * s)`` pixels long, and pixel ``R`` shows the slice whose
middle is nearest::

    i(R) = min(floor((R + 1/2) / s), size - 1)

This is computed in exact fractions, so tiles do not depend on the noise of floats. Neighbouring pixels may show the
same slice; nothing is interpolated, and ids stay ids. What lies outside is *blank*, never an error, and never fetched.

A slab is as thick as the upstream's cube, or the thickest divisor of it that keeps the cutouts of all channels
together within `max_cutout` bytes, and has `MAX_SLAB` slices at most.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import ceil
from typing import NamedTuple

from ocpproxy.model.address import ImageBase
from ocpproxy.model.dataset import TILE, Box, CannotDisplay, Channel, Cutout, Dataset, Level, Plane, Triple, Z
from ocpproxy.model.display import DEFAULT_DISPLAY, DisplaySettings, DrawMode, ShownChannel, shown_channels

MAX_CUTOUT = 16 * 2**20
"""Bytes of voxels that a cuboid may take by default."""
MAX_SLAB = 512
"""Slices of a slab, each of which is a tile: of a flat volume, thousands fit into a cutout."""
EARLIER_EPOCHS = 8
"""The number of earlier epochs in which a tile is looked up."""


class Tile(NamedTuple):
    """The identity of one tile, or of one chunk (`ocpproxy.model.chunks`); equal ones have equal contents.

    `stack` is a `Stack.name`.
    """

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
    mode: DrawMode
    display: DisplaySettings = DEFAULT_DISPLAY
    max_cutout: int = MAX_CUTOUT
    epoch: int = 0
    """The number of the period after which tiles are fetched again; 0 when they never are."""

    @classmethod
    def build(
        cls,
        dataset: Dataset,
        base: ImageBase,
        display: DisplaySettings = DEFAULT_DISPLAY,
        max_cutout: int = MAX_CUTOUT,
        epoch: Callable[[Sequence[Channel]], int] | None = None,
    ) -> Stack:
        """Return the stack of an image base.

        :param epoch: returns the epoch of tiles that show these channels.
        :raises CannotDisplay: unknown channel, or one that cannot be drawn this way.
        """
        shown, mode = shown_channels(dataset, base, display)
        now = epoch([item.channel for item in shown]) if epoch else 0
        return cls(dataset, base.plane, shown, mode, display, max_cutout, now)

    def earlier_epochs(self) -> Iterator[Stack]:
        """Yield the same stack in earlier epochs, the latest first; none when its tiles are never fetched again."""
        for epoch in range(self.epoch - 1, max(0, self.epoch - 1 - EARLIER_EPOCHS), -1):
            yield replace(self, epoch=epoch)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stack) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def is_overlay(self) -> bool:
        """True if empty pixels are transparent, so that the stack can lie over another one."""
        coloured = self.mode is DrawMode.FALSE_COLOUR and not self.display.opaque
        return coloured or self.mode in (DrawMode.LABELS, DrawMode.RGBA)

    @cached_property
    def version(self) -> str:
        """Eight hex digits that change when the geometry or the pixels of the stack do, or its epoch ends.

        It is part of every tile's identity. When an upstream ingests a volume again, an operator changes how it is
        shown, or tiles have become too old, their names are not looked up any more. They age out; nothing is deleted.
        """
        false_colour = self.mode is DrawMode.FALSE_COLOUR
        content = [
            [[n, level.size, level.offset, [str(v) for v in level.voxel]] for n, level in self.dataset.levels.items()],
            [
                [c.kind, c.dtype, window, c.base_level, colour, *([c.version] if c.version else [])]
                for c, window, colour in self.shown
            ],
            self.mode.value,
            self.plane.shows_z and self.display.native,
            (self.display.gain, self.display.opaque) if false_colour else None,
            *([self.epoch] if self.epoch else []),
        ]
        return digest(content, 8)

    @cached_property
    def name(self) -> str:
        """``token/plane/channel/version``: unique, and safe as a relative path.

        In false colour the channel is ``~`` and a digest of channels and colours, a name that no channel can have.
        """
        channel = self.shown[0].channel.name
        if self.mode is DrawMode.FALSE_COLOUR:
            channel = "~" + digest([[item.channel.name, item.colour] for item in self.shown], 16)
        return f"{self.dataset.token}/{self.plane.value}/{channel}/{self.version}"

    # -- pixels

    def z_scale(self, level: Level) -> Fraction:
        """Return how many pixels one z step takes along a tile."""
        return Fraction(1) if self.display.native or not self.plane.shows_z else level.z_scale(self.plane)

    def extent(self, level: Level) -> Triple:
        """Return (columns, rows, slices) of the whole plane in pixels."""
        columns, rows, through = self.plane.axes
        return (self._length(level, columns), self._length(level, rows), level.size[through])

    def tiles(self, level: Level) -> tuple[int, int]:
        """Return (columns, rows) of tiles that cover the plane."""
        columns, rows, _ = self.extent(level)
        return (-(-columns // TILE), -(-rows // TILE))

    def slice_at(self, level: Level, slice_: int) -> int:
        """Return the number that addresses a slice at a level; `slice_` is counted as at the finest level."""
        return slice_ if self.display.full_slices else slice_ // self._thickness(level)

    def _thickness(self, level: Level) -> Fraction:
        """Return how many slices of the finest level one slice of this level stands for."""
        through = self.plane.axes[2]
        return level.voxel[through] / self.dataset.finest.voxel[through]

    @cached_property
    def _bounds(self) -> dict[int, tuple[int, int, Fraction]]:
        """By level: columns and rows of tiles, and how many addressed numbers one slice takes."""
        full = self.display.full_slices
        return {
            n: (*self.tiles(level), self._thickness(level) if full else Fraction(1))
            for n, level in self.dataset.levels.items()
        }

    def tile(self, time: int | None, level: int, slice_: int, row: int, col: int) -> Tile | None:
        """Return the tile at an address, or None when it is to be blank: outside the volume, or a broken slice.

        Where the nearest good slice is shown instead of a broken one, it is a tile of that slice.
        """
        shape = self.dataset.levels.get(level)
        time = self.shown[0].channel.time[0] if time is None else time
        if shape is None or not any(first <= time <= last for first, last in (c.time for c, _, _ in self.shown)):
            return None
        columns, rows, factor = self._bounds[level]
        slice_, through = slice_ // factor, self.plane.axes[2]
        if not (0 <= col < columns and 0 <= row < rows and shape.offset[through] <= slice_ < shape.end[through]):
            return None
        if self.display.broken is not None and self.plane is Plane.XY:
            spans = [(one.offset[through], one.end[through]) for one in (shape, self.dataset.finest)]
            shown = self.display.broken.shown(int(slice_), self._thickness(shape), *spans)
            if shown is None:
                return None
            slice_ = shown
        return Tile(self.name, time, level, slice_, row, col)

    # -- voxels

    def cuboid(self, tile: Tile) -> Cuboid:
        """Return the cuboid that a tile is cut from.

        :raises CannotDisplay: when even a single slice needs more voxels than a cuboid may have.
        """
        shape = self.dataset.levels[tile.level]
        columns, rows, through = self.plane.axes
        spans = {columns: self._span(shape, columns, tile.col), rows: self._span(shape, rows, tile.row)}
        depth = self.depth(shape, tile.row, tile.col)
        first = shape.offset[through] + (tile.slice - shape.offset[through]) // depth * depth
        # A slice below 0 has no address.
        spans[through] = (max(first, 0), min(first + depth, shape.end[through]))
        return Cuboid(self, tile.time, tile.level, tile.row, tile.col, Box(*spans[0], *spans[1], *spans[2]))

    def slices_by_pixel(self, level: Level, number: int) -> list[int]:
        """Return the slice that each pixel of a tile shows along z, counted from the level's first slice.

        :param number: the tile's row, or its column in zy.
        """
        scale, size = self.z_scale(level), level.size[Z]
        end = min((number + 1) * TILE, self._length(level, Z))
        up, down = 2 * scale.numerator, scale.denominator
        return [min((2 * pixel + 1) * down // up, size - 1) for pixel in range(number * TILE, end)]

    def _length(self, level: Level, axis: int) -> int:
        return ceil(level.size[axis] * self.z_scale(level)) if axis == Z else level.size[axis]

    def _span(self, level: Level, axis: int, number: int) -> tuple[int, int]:
        """Return the range of voxels that a tile's pixels show along one of its two axes."""
        offset = level.offset[axis]
        if axis == Z:
            slices = self.slices_by_pixel(level, number)
            return (offset + slices[0], offset + slices[-1] + 1)
        return (offset + number * TILE, offset + min((number + 1) * TILE, level.size[axis]))

    def numbers(self, level: Level, axis: int, first: int, end: int) -> range:
        """Return the rows or columns of tiles that show one of the voxels ``first <= v < end`` along an axis."""
        first, end = first - level.offset[axis], end - level.offset[axis]
        if axis == Z:  # slice i is shown by the pixels from ceil(i * scale - 1/2) on
            scale, half = self.z_scale(level), Fraction(1, 2)
            last_pixel = self._length(level, Z) - 1
            first = min(ceil(first * scale - half), last_pixel)
            end = max(first + 1, min(ceil(end * scale - half), last_pixel + 1))
        return range(first // TILE, (end - 1) // TILE + 1)

    def depth(self, level: Level, row: int, col: int) -> int:
        """Return the slices in a slab at this row and column of tiles.

        :raises CannotDisplay: when even a single slice needs more voxels than a cuboid may have.
        """
        columns, rows, _ = self.plane.axes
        width = 1
        for axis, number in ((columns, col), (rows, row)):
            if axis == Z:
                first, end = self._span(level, axis, number)
                width *= end - first
            else:
                width *= TILE
        needed = width * sum(item.channel.itemsize for item in self.shown)
        what = f"a single {self.plane.value} tile of this level of {self.dataset.token}"
        return slab_depth(level.cube[self.plane.axes[2]], needed, self.max_cutout, what)


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
        """A name that is unique among all processes and versions, at most 255 characters."""
        first, end = self.slices
        return f"{self.stack.name}/{self.time}/{self.level}/{self.row}_{self.col}/{first}-{end}"

    def tiles(self) -> list[Tile]:
        """Return its tiles, in the order of its slices."""
        first, end = self.slices
        return [Tile(self.stack.name, self.time, self.level, n, self.row, self.col) for n in range(first, end)]

    def slices_by_pixel(self) -> list[int] | None:
        """Return the slice of the box that each pixel of a tile shows along z; None where z is not shown."""
        columns, rows, _ = self.stack.plane.axes
        if Z not in (columns, rows):
            return None
        shape = self.stack.dataset.levels[self.level]
        slices = self.stack.slices_by_pixel(shape, self.row if rows == Z else self.col)
        return [number - slices[0] for number in slices]

    def cutouts(self) -> list[Cutout | None]:
        """Return the voxels to ask for, for each channel shown; None for a channel that has none at this time."""
        return [
            Cutout(self.stack.dataset, channel, self.time, self.level, self.box, self.stack.epoch)
            if channel.time[0] <= self.time <= channel.time[1]
            else None
            for channel, _, _ in self.stack.shown
        ]

    def picture_cutout(self) -> Cutout | None:
        """Return the cutout whose voxels are the pixels of its only tile, unchanged; None for any other cuboid.

        An upstream that has such tiles ready-made is asked for the picture instead of the voxels.
        """
        (shown, *others), stack, (first, end) = self.stack.shown, self.stack, self.slices
        unchanged = not others and stack.plane is Plane.XY and stack.mode is DrawMode.GREY and shown.window is None
        eight_bits = shown.channel.itemsize == 1 and shown.channel.kind != "bitmask"
        return self.cutouts()[0] if unchanged and eight_bits and end - first == 1 else None

    @property
    def slices(self) -> tuple[int, int]:
        """Its first slice, and the one after its last."""
        through = self.stack.plane.axes[2]
        return (self.box[2 * through], self.box[2 * through + 1])


def slab_depth(cube: int, needed: int, max_cutout: int, what: str) -> int:
    """Return the slices of a slab: the thickest divisor of the upstream's cube that fits into a cutout.

    :param needed: bytes of voxels of one slice.
    :param what: what needs them, for people.
    :raises CannotDisplay: one slice does not fit.
    """
    most = max_cutout // needed
    if not most:
        wanted, allowed = needed / 2**20, max_cutout / 2**20
        raise CannotDisplay(f"{what} needs {wanted:.0f} MiB of voxels, and a cutout may have {allowed:.0f}")
    return max(n for n in range(1, min(cube, most, MAX_SLAB) + 1) if cube % n == 0)


def digest(content: object, length: int) -> str:
    """Return so many hex digits that are different for different content, which must be JSON."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:length]
