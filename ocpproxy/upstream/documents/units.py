"""Units of length.

OME-Zarr names them in full, as UDUNITS-2 does (ngff.openmicroscopy.org, 0.4, axes); N5 and people abbreviate.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from ocpproxy.upstream.documents.checks import fraction
from ocpproxy.upstream.documents.pyramids import VoxelSize

_PREFIXES = {
    "yotta": 24,
    "zetta": 21,
    "exa": 18,
    "peta": 15,
    "tera": 12,
    "giga": 9,
    "mega": 6,
    "kilo": 3,
    "hecto": 2,
    "deca": 1,
    "": 0,
    "deci": -1,
    "centi": -2,
    "milli": -3,
    "micro": -6,
    "nano": -9,
    "pico": -12,
    "femto": -15,
    "atto": -18,
    "zepto": -21,
    "yocto": -24,
}
_NANOMETERS = {
    **{f"{prefix}meter": Fraction(10) ** (9 + power) for prefix, power in _PREFIXES.items()},
    "angstrom": Fraction(1, 10),
    "inch": Fraction(25_400_000),
    "foot": Fraction(304_800_000),
    "yard": Fraction(914_400_000),
    "mile": Fraction(1_609_344_000_000),
    "parsec": Fraction(30_856_775_814_913_673) * 10**9,
}
"""Nanometres of each unit, by its name in OME-Zarr."""
_OTHER_NAMES = {
    "m": "meter",
    "cm": "centimeter",
    "mm": "millimeter",
    "nm": "nanometer",
    "pm": "picometer",
    "km": "kilometer",
    "um": "micrometer",
    "µm": "micrometer",
    "μm": "micrometer",
    "micron": "micrometer",
    "å": "angstrom",
    "a": "angstrom",
    "in": "inch",
    "ft": "foot",
    "yd": "yard",
    "ångström": "angstrom",
}


def nanometers(unit: object) -> Fraction | None:
    """Return how many nanometres a unit of length is, or None for what is no unit of length, such as a pixel."""
    if not isinstance(unit, str) or len(unit) > 40:
        return None
    name = unit.strip().lower().removesuffix("s").replace("metre", "meter")
    return _NANOMETERS.get(_OTHER_NAMES.get(name, name))


def voxel_size(numbers: Sequence[object], units: Sequence[object]) -> tuple[VoxelSize, Fraction | None]:
    """Return the edges of a voxel, and the unit that the volumes beside this one may have meant, in nanometres.

    The edges are in nanometres. An axis without a unit has that of another axis. Where no axis has a unit, the edges
    are the numbers as they are, and the unit is None.

    :param numbers: the edges along x, y, z.
    :param units: of each edge.
    :raises Unexpected: an edge is not a positive number.
    """
    x, y, z = (fraction(f"scale along {axis}", number) for axis, number in zip("xyz", numbers, strict=True))
    known = [nanometers(unit) for unit in units]
    common = next((unit for unit in known if unit is not None), None)
    if common is None:
        return (x, y, z), None
    a, b, c = (unit or common for unit in known)
    return (x * a, y * b, z * c), common
