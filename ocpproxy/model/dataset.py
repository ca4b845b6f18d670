"""Where things are: datasets, levels and boxes of voxels, as an upstream tells of them.

A **dataset** (what a token names) is a pyramid of levels, after the Open Connectome services. Level ``i`` has a size,
an offset and a cube per axis, always in the order x, y, z and in voxels *of that level*; valid coordinates are
``offset <= v < offset + size``. How it is shown as tiles is for `ocpproxy.model.stack` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any, NamedTuple

TILE = 512
"""Pixels on each side of every tile."""
Triple = tuple[int, int, int]
"""A value per axis, in the order x, y, z."""


X, Y, Z = range(3)
"""The axes, as places in a `Triple`."""


class Plane(Enum):
    """Which axis of the volume runs along the columns of a tile, which along its rows, and which through its slices.

    ``yz`` is the Open Connectome services' (columns y, rows z), ``zy`` CATMAID's (columns z, rows y): the one is the
    other, transposed.
    """

    XY = "xy"
    XZ = "xz"
    YZ = "yz"
    ZY = "zy"

    axes: Triple

    def __init__(self, name: str) -> None:
        columns, rows = ("xyz".index(letter) for letter in name)
        self.axes = (columns, rows, 3 - columns - rows)

    @property
    def shows_z(self) -> bool:
        """Whether z is one of the two axes of its tiles."""
        return self is not Plane.XY


class CannotDisplay(LookupError):
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
        """How many pixels one z step takes in a plane that shows z, so that pixels are square.

        That is the edge of a voxel along z, by its edge along the other axis of the plane.
        """
        columns, rows, _ = plane.axes
        return self.voxel[Z] / self.voxel[rows if columns == Z else columns]


@dataclass(frozen=True, slots=True)
class Channel:
    """One kind of voxel in a dataset."""

    name: str
    kind: str
    """``image``, ``annotation``, ``timeseries``, ``probability``, ``bitmask``, ``rgba``, ``channels``, ``grey``.

    An image of 32 and 64 bits has colours in them, as Open Connectome's; one that is *grey* has not.
    """
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
    version: str = ""
    """A word that changes when the upstream says that its voxels are others; empty where it tells of geometry only."""
    writable: bool = False
    """Whether its voxels may change under the same version."""

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


@dataclass(frozen=True, slots=True)
class Cutout:
    """What an upstream is asked for: the voxels of one channel at one time in one box."""

    dataset: Dataset
    channel: Channel
    time: int
    level: int
    box: Box
    epoch: int = 0
    """Voxels that may change are not the same in two epochs."""

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
    theirs: Any = None
    """What the upstream that described it wants to see again with every cutout; nobody else looks at it."""
    called: str = ""
    """The token by which the upstream knows it, where that is another."""

    @property
    def there(self) -> str:
        """The token by which the upstream knows it."""
        return self.called or self.token

    @property
    def finest(self) -> Level:
        """The level with the smallest number."""
        return self.levels[min(self.levels)]

    def channel(self, name: str | None) -> Channel:
        """The channel called so, or the default one.

        :raises CannotDisplay: when there is none, naming those there are.
        """
        wanted = self.default_channel if name is None else name
        for channel in self.channels:
            if channel.name == wanted or (channel.number is not None and str(channel.number) == wanted):
                return channel
        known = ", ".join(channel.name for channel in self.channels[:20]) or "none"
        missing = "is shown by naming its channels" if wanted is None else f"has no channel {wanted}"
        raise CannotDisplay(f"{self.token} {missing}; they are: {known}")
