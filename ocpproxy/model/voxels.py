"""The types of voxels: one table of how each is read, windowed and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # numpy takes a quarter of the time in which a command starts that only asks a daemon
    import numpy.typing as npt

    Voxels = npt.NDArray[Any]
    """An array of voxels in C order, axes (z, y, x)."""
else:
    Voxels = Any


@dataclass(frozen=True, slots=True)
class VoxelType:
    """One type of voxel."""

    name: str
    """Its numpy name."""
    itemsize: int
    """Bytes of a voxel."""
    grey_factor: Fraction
    """What a value is multiplied by to become a grey pixel, 0 to 255, where no window is set.

    It makes the high byte of an integer, without its sign, and ``256 p`` of a number p from 0 to 1. Values below 0 are
    black.
    """
    is_integer: bool = True
    holds_colours: bool = False
    """True if an image of this type holds red, green, blue and alpha in each voxel, as Open Connectome's do."""
    has_window: bool = False
    """True if the values of an image of this type may be shown through a window."""
    holds_ids: bool = False
    """True if a volume of this type holds ids where its format does not tell: images are of other types."""
    id_type: str = ""
    """The type as which ids of this type are read: its unsigned twin, so that id -1 is the largest one."""

    @property
    def is_signed(self) -> bool:
        """True if values may be below 0."""
        return bool(self.id_type)


VOXEL_TYPES: Mapping[str, VoxelType] = {
    voxel_type.name: voxel_type
    for voxel_type in (
        VoxelType("uint8", 1, Fraction(1), has_window=True),
        VoxelType("uint16", 2, Fraction(1, 2**8), has_window=True),
        VoxelType("uint32", 4, Fraction(1, 2**24), holds_colours=True, holds_ids=True),
        VoxelType("uint64", 8, Fraction(1, 2**56), holds_colours=True, holds_ids=True),
        VoxelType("float32", 4, Fraction(256), is_integer=False),
        VoxelType("int8", 1, Fraction(2), has_window=True, id_type="uint8"),
        VoxelType("int16", 2, Fraction(1, 2**7), has_window=True, id_type="uint16"),
        VoxelType("int32", 4, Fraction(1, 2**23), holds_ids=True, id_type="uint32"),
        VoxelType("int64", 8, Fraction(1, 2**55), holds_ids=True, id_type="uint64"),
    )
}
"""Every type that can be shown, by its numpy name."""
