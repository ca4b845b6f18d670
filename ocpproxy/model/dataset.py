"""Datasets: levels, channels and boxes of voxels.

A **dataset** (what a token names) is a pyramid of levels, as in the Open Connectome services. Level ``i`` has a size,
an offset and a cube per axis, always in the order x, y, z and in voxels *of that level*; valid coordinates are
``offset <= v < offset + size``. `ocpproxy.model.stack` turns a dataset into tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any, NamedTuple

from ocpproxy.model.voxels import VOXEL_TYPES, VoxelType

TILE = 512
"""Pixels on each side of every tile."""
Triple = tuple[int, int, int]
"""A value per axis, in the order x, y, z."""
Z = 2
"""The axis z, as an index of a `Triple`."""
CHUNKS = "3d"
"""What the name of a volume of chunks has where that of a stack has its plane (`ocpproxy.model.chunks`)."""
NAME = r"\w[\w-]{0,63}"
"""A regular expression: the name of a token or a channel (ASCII)."""


class Plane(Enum):
    """Which axis of the volume runs along the columns of a tile, and which along its rows.

    ``yz`` is Open Connectome's (columns y, rows z), ``zy`` is CATMAID's (columns z, rows y): one is the transpose of
    the other.
    """

    XY = "xy"
    XZ = "xz"
    YZ = "yz"
    ZY = "zy"

    axes: Triple
    """The axes of columns, of rows, and through the slices."""

    def __init__(self, name: str) -> None:
        columns, rows = ("xyz".index(letter) for letter in name)
        self.axes = (columns, rows, 3 - columns - rows)

    @property
    def shows_z(self) -> bool:
        """True if z is one of the two axes of a tile."""
        return self is not Plane.XY


class CannotDisplay(LookupError):
    """The dataset cannot be shown as asked: unknown channel, or a kind of pixels that has no picture.

    The message is one sentence that is safe to show to clients.
    """


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a dataset; level 0 is the finest."""

    size: Triple
    offset: Triple
    cube: Triple
    """The block in which the upstream stores its voxels: reading whole blocks saves it work."""
    voxel: tuple[Fraction, Fraction, Fraction] = (Fraction(1), Fraction(1), Fraction(1))
    """The edges of a voxel, in nanometres (`Dataset.in_nanometres`); to tiles only their ratios have a meaning."""

    @property
    def end(self) -> Triple:
        """The first coordinate behind the volume, per axis."""
        (ox, oy, oz), (x, y, z) = self.offset, self.size
        return (ox + x, oy + y, oz + z)

    def z_scale(self, plane: Plane) -> Fraction:
        """Return how many pixels one z step takes in a plane that shows z, so that pixels are square.

        That is the edge of a voxel along z, divided by its edge along the other axis of the plane.
        """
        columns, rows, _ = plane.axes
        return self.voxel[Z] / self.voxel[rows if columns == Z else columns]


@dataclass(frozen=True, slots=True)
class Channel:
    """One kind of voxel in a dataset."""

    name: str
    kind: str
    """``image``, ``annotation``, ``timeseries``, ``probability``, ``bitmask``, ``rgba``, ``channels`` or ``grey``.

    An image of 32 or 64 bits holds colours, as Open Connectome's do; a ``grey`` channel of that size does not.
    """
    dtype: str
    """The name of its `VoxelType`."""
    window: tuple[int, int] = (0, 0)
    """The values shown as black and white, as the upstream reports them; ``(0, 0)`` is none."""
    time: tuple[int, int] = (0, 0)
    """The first and the last time point, both included."""
    base_level: int = 0
    """The finest level that holds data."""
    number: int | None = None
    """Its number in a channel project of generation 1."""
    version: str = ""
    """A string that changes when the upstream reports other voxels; empty where it reports geometry only."""
    writable: bool = False
    """True if its voxels may change under the same version."""

    @property
    def voxel_type(self) -> VoxelType:
        """The type of its voxels."""
        return VOXEL_TYPES[self.dtype]

    @property
    def itemsize(self) -> int:
        """Bytes of a voxel."""
        return self.voxel_type.itemsize


class Box(NamedTuple):
    """Half-open ranges of voxels of one level: ``x0 <= x < x1`` and so on."""

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


@dataclass(frozen=True, slots=True)
class Cutout:
    """A request to an upstream: the voxels of one channel at one time in one box."""

    dataset: Dataset
    channel: Channel
    time: int
    level: int
    box: Box
    epoch: int = 0
    """The epoch of the stack that asks. Voxels that may change are not shared between epochs."""

    @property
    def nbytes(self) -> int:
        """Bytes of voxels in the answer."""
        z, y, x = self.box.shape
        return z * y * x * self.channel.itemsize


@dataclass(frozen=True, eq=False)
class Dataset:
    """What is known of a token."""

    token: str
    levels: Mapping[int, Level]
    channels: tuple[Channel, ...]
    default_channel: str | None = None
    """The channel of addresses that name none."""
    upstream_data: Any = None
    """Opaque data of the upstream that described the dataset; it comes back to it with every cutout."""
    alias_of: str = ""
    """The upstream's token, where it is another."""
    in_nanometres: bool = True
    """Whether the edges of voxels are nanometres; where the upstream has no unit, only their ratios have a meaning."""
    notes: tuple[str, ...] = ()
    """What the volume declares and the gateway does not show, and why, for people."""

    @property
    def upstream_token(self) -> str:
        """The token by which the upstream knows the dataset."""
        return self.alias_of or self.token

    @property
    def finest(self) -> Level:
        """The level with the smallest number."""
        return self.levels[min(self.levels)]

    def channel(self, name: str | None) -> Channel:
        """Return the channel of this name or number; for None the default channel.

        :raises CannotDisplay: when there is none; the message names those there are.
        """
        wanted = self.default_channel if name is None else name
        for channel in self.channels:
            if channel.name == wanted or (channel.number is not None and str(channel.number) == wanted):
                return channel
        known = ", ".join(channel.name for channel in self.channels[:20]) or "none"
        missing = "is shown by naming its channels" if wanted is None else f"has no channel {wanted}"
        raise CannotDisplay(f"{self.token} {missing}; they are: {known}")
