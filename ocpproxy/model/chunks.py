"""Volumes and their chunks: how a channel becomes blocks of voxels for readers that want voxels, as pure arithmetic.

* A **volume** here is one channel of a dataset, with all its levels and times. It is to readers of voxels what a stack
  is to viewers of tiles, and its name is the first half of the identity of every chunk.
* A **chunk** is a block of voxels: the unit of serving voxels. Chunks are counted from the level's offset, x, y and z
  each by itself, and the last ones end where the volume ends.

Each level has its grid of chunks. Where the upstream has chunks that can be served as they are (`NativeChunks`), it is
the upstream's own. Else chunks are cut from the cuboids that tiles of xy are cut from, so that a tile and a chunk of
the same cuboid cost one cutout: 512 x 512 voxels, in chunks of some 2^18 voxels.

The identity of a chunk is a `Tile` whose stack is a volume's name: its row, column and slice are the chunk's numbers
along y, x and z. So whatever keeps tiles keeps chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from ocpproxy.model.dataset import CHUNKS, TILE, Box, Channel, Cutout, Dataset, Level, Triple, Z
from ocpproxy.model.stack import EARLIER_EPOCHS, MAX_CUTOUT, Cuboid, Stack, Tile, digest, slab_depth

_MOST_VOXELS = 2**18
"""Voxels of a chunk: what neuroglancer's own volumes have, 64 x 64 x 64."""
_THICKEST = 64
_IN_CHUNKS = f"{CHUNKS}/"
_SMALLEST = 8
MOST_CHUNKS = 2**20
"""Chunks of a level along one axis: what the keys of the index hold (`ocpproxy.store.keys`)."""


class NativeChunks(NamedTuple):
    """The chunks of a level as an upstream stores them."""

    chunk: Triple
    """Voxels of a chunk along x, y, z; the first one begins at the level's offset."""
    encoding: str
    """``raw``, ``jpeg``, ``png`` or ``compressed_segmentation``, as in precomputed volumes."""
    block: Triple = (8, 8, 8)
    """The size of the blocks of compressed segmentation, (x, y, z)."""


@dataclass(frozen=True, slots=True)
class ChunkGrid:
    """The chunks of one level."""

    offset: Triple
    size: Triple
    chunk: Triple
    """Voxels of a whole chunk along x, y, z."""
    encoding: str
    """How chunks are stored (`NativeChunks.encoding`)."""
    block: Triple
    """The size of the blocks of compressed segmentation, (x, y, z)."""
    slab: Triple
    """Voxels that are fetched as one, along x, y, z: whole chunks."""
    is_native: bool = False
    """Whether the upstream has these very chunks."""

    @property
    def counts(self) -> Triple:
        """Chunks along x, y, z."""
        x, y, z = (-(-size // step) for size, step in zip(self.size, self.chunk, strict=True))
        return (x, y, z)

    def box(self, number: Triple) -> Box | None:
        """Return the voxels of a chunk, or None for one that is off the grid."""
        if not all(0 <= n < count for n, count in zip(number, self.counts, strict=True)):
            return None
        return self._box(number, self.chunk)

    def _box(self, number: Triple, step: Triple) -> Box:
        spans = [
            (offset + n * one, offset + min((n + 1) * one, size))
            for n, one, offset, size in zip(number, step, self.offset, self.size, strict=True)
        ]
        return Box(*spans[0], *spans[1], *spans[2])

    def slab_of(self, number: Triple) -> Box:
        """Return the box that is fetched for a chunk."""
        x, y, z = (n * one // whole for n, one, whole in zip(number, self.chunk, self.slab, strict=True))
        return self._box((x, y, z), self.slab)

    def numbers_in(self, box: Box) -> tuple[range, range, range]:
        """Return the numbers, along x, y and z, of the chunks that have a voxel of a box within the volume."""
        x, y, z = (
            range((box[2 * n] - offset) // step, -((offset - box[2 * n + 1]) // step))
            for n, (offset, step) in enumerate(zip(self.offset, self.chunk, strict=True))
        )
        return (x, y, z)


@dataclass(frozen=True, eq=False)
class ChunkedVolume:
    """One channel of a dataset in chunks."""

    dataset: Dataset
    channel: Channel
    grids: Mapping[int, ChunkGrid]
    """By level."""
    epoch: int = 0
    """As in `Stack.epoch`."""

    @classmethod
    def build(
        cls,
        dataset: Dataset,
        channel: Channel,
        max_cutout: int = MAX_CUTOUT,
        epoch: Callable[[Sequence[Channel]], int] | None = None,
        native: Callable[[int], NativeChunks | None] = lambda level: None,
    ) -> ChunkedVolume:
        """Return the volume of a channel.

        :param native: returns the chunks of a level that the upstream has.
        :raises CannotDisplay: a slice of a slab needs more voxels than a cutout may have.
        """
        grids = {
            number: _native_grid(level, found)
            if (found := native(number))
            else _grid(dataset, level, channel, max_cutout)
            for number, level in dataset.levels.items()
        }
        return cls(dataset, channel, grids, epoch([channel]) if epoch else 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChunkedVolume) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    @cached_property
    def version(self) -> str:
        """Eight hex digits that change when chunks do; see `Stack.version`."""
        content = [
            [
                [n, grid.offset, grid.size, grid.chunk, grid.encoding, grid.block]
                for n, grid in sorted(self.grids.items())
            ],
            [self.channel.kind, self.channel.dtype, self.channel.base_level, self.channel.version],
            self.epoch,
        ]
        return digest(content, 8)

    @cached_property
    def name(self) -> str:
        """``token/3d/channel/version``: unique, and safe as a relative path."""
        return f"{self.dataset.token}/{CHUNKS}/{self.channel.name}/{self.version}"

    def earlier_epochs(self) -> Iterator[ChunkedVolume]:
        """Yield the same volume in earlier epochs; see `Stack.earlier_epochs`."""
        for epoch in range(self.epoch - 1, max(0, self.epoch - 1 - EARLIER_EPOCHS), -1):
            yield replace(self, epoch=epoch)

    def box(self, tile: Tile) -> Box:
        """Return the voxels of a chunk.

        :raises KeyError: the chunk is off the grid.
        """
        box = self.grids[tile.level].box((tile.col, tile.row, tile.slice))
        if box is None:
            raise KeyError(tile)
        return box

    def cuboid(self, tile: Tile) -> ChunkCuboid:
        """Return the cuboid that a chunk is cut from."""
        box = self.grids[tile.level].slab_of((tile.col, tile.row, tile.slice))
        return ChunkCuboid(self, tile.time, tile.level, box)


def is_chunk(tile: Tile) -> bool:
    """Return whether this is the identity of a chunk."""
    return tile.stack.partition("/")[2].startswith(_IN_CHUNKS)


View = Stack | ChunkedVolume
"""A stack, which is seen as tiles, or a volume, which is read as chunks."""


@dataclass(frozen=True, slots=True)
class ChunkCuboid:
    """What is fetched, locked and cut into chunks as one; see `Cuboid`."""

    stack: ChunkedVolume
    time: int
    level: int
    box: Box

    @property
    def name(self) -> str:
        """A name that is unique among all processes and versions, at most 255 characters."""
        x, y, z = self._numbers()
        return f"{self.stack.name}/{self.time}/{self.level}/{y[0]}_{x[0]}/{z[0]}-{z[-1] + 1}"

    def _numbers(self) -> tuple[range, range, range]:
        return self.stack.grids[self.level].numbers_in(self.box)

    def tiles(self) -> list[Tile]:
        """Return its chunks."""
        xs, ys, zs = self._numbers()
        return [Tile(self.stack.name, self.time, self.level, z, y, x) for z in zs for y in ys for x in xs]

    def cutouts(self) -> list[Cutout | None]:
        """Return the voxels to ask for."""
        stack = self.stack
        return [Cutout(stack.dataset, stack.channel, self.time, self.level, self.box, stack.epoch)]

    def picture_cutout(self) -> None:
        """Return None: nobody draws chunks."""
        return

    def native_cutout(self) -> Cutout | None:
        """Return the cutout whose voxels are a chunk that the upstream stores; None where it stores others."""
        return self.cutouts()[0] if self.stack.grids[self.level].is_native else None


AnyCuboid = Cuboid | ChunkCuboid


def _grid(dataset: Dataset, level: Level, channel: Channel, max_cutout: int) -> ChunkGrid:
    """Return the grid of a level in chunks of our own."""
    width = TILE
    while width > _SMALLEST and width * width * channel.itemsize > max_cutout:
        width //= 2
    depth = slab_depth(level.cube[Z], width * width * channel.itemsize, max_cutout, f"a chunk of {dataset.token}")
    thick = max(n for n in range(1, min(depth, _THICKEST) + 1) if depth % n == 0)
    edge = width
    while edge > _SMALLEST and edge * edge * thick > _MOST_VOXELS:
        edge //= 2
    ids = channel.kind == "annotation" and channel.dtype in ("uint32", "uint64")
    encoding = "compressed_segmentation" if ids else "raw"
    return ChunkGrid(level.offset, level.size, (edge, edge, thick), encoding, (8, 8, 8), (width, width, depth))


def _native_grid(level: Level, native: NativeChunks) -> ChunkGrid:
    chunk = native.chunk
    return ChunkGrid(level.offset, level.size, chunk, native.encoding, native.block, chunk, is_native=True)
