"""Inputs of the field suite: windows, units and types of OME-Zarr, by ome-zarr-py."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from tests import formats
from tests.field import (
    Array,
    Channel,
    Outcome,
    Shown,
    Writer,
    annotation,
    given,
    gradient,
    halved,
    image,
    put,
    together,
)
from tests.field_ome import ASPECT, Version, attributes, label, ome, two, windows

# -- 7: windows


def dim(dtype: str = "uint16", shift: int = 0) -> Array:
    """Light that is all in the lowest values, 0 to 46."""
    return (gradient(shift=shift) % 47).astype(dtype)


def _dim(version: Version, window: tuple[float, float], shown: tuple[int, int], many: int = 3) -> Writer:
    """One channel with OMERO's window, and as many axes."""

    def write(directory: Path) -> Outcome:
        voxels = dim()
        ome(directory, voxels.reshape((1,) * (many - 3) + voxels.shape), version=version)
        windows(directory, window)
        return image(voxels, window=shown, aspect=ASPECT)

    return write


put(7, "window_of_one", _dim("0.4", (0, 46), (0, 46)), kind="zarr")
put(7, "window_of_one_5", _dim("0.5", (0.0, 46.0), (0, 46)))
put(7, "window_of_one_czyx", _dim("0.4", (5, 40), (5, 40), 4))
put(7, "window_of_one_tczyx", _dim("0.5", (0, 46), (0, 46), 5))


@given(7)
def window_of_two(directory: Path) -> Outcome:
    """Two channels."""
    both = np.stack([dim(), dim(shift=9)])
    ome(directory, both)
    windows(directory, (0, 46), (10, 30))
    return two(both, ranges=((0, 46), (10, 30)))


@given(7)
def window_of_one_of_two(directory: Path) -> Outcome:
    """Two channels, of which one has no window."""
    both = np.stack([dim(), gradient("uint16")])
    ome(directory, both)
    windows(directory, (0, 46), None)
    return two(both, ranges=((0, 46), None))


@given(7)
def window_of_times(directory: Path) -> Outcome:
    """One channel at two times."""
    both = np.stack([dim(), dim(shift=9)])[:, None]
    ome(directory, both)
    windows(directory, (0, 46))
    return Shown(channels={"image": Channel(levels={0: both[1, 0]}, window=(0, 46), time=1)})


@given(7, window="0,20")
def window_of_operator(directory: Path) -> Outcome:
    """The operator's window counts more."""
    ome(directory, dim())
    windows(directory, (0, 46))
    return image(dim(), window=(0, 20), aspect=ASPECT)


# -- 9: units

BOTH = "\n  em: {at}/em\n  ids: {at}/ids"


def _beside(unit: str | None, micrometres: float, other: str | None = "nanometer", version: Version = "0.4") -> Writer:
    """An image in one unit, whose length in micrometres is given, and ids of the same voxels, in nanometres."""

    def write(directory: Path) -> Outcome:
        voxels, ids = gradient(), gradient("uint16", shift=3)
        z, y, x = (edge / micrometres for edge in (0.04, 0.004, 0.004))
        ome(directory / "em", voxels, halved(voxels), scale=(z, y, x), unit=unit, version=version)
        if other == "precomputed":
            wide = ids.astype("uint32")
            formats.precomputed(
                directory / "ids", wide, 2, kind="segmentation", resolution=(4, 4, 40), chunk=(16, 16, 4)
            )
            shown = annotation(wide, halved(wide), name="ids")
        elif other == "n5":
            formats.n5(directory / "ids", ids, 2, resolution=(4, 4, 40), chunk=(16, 16, 4))
            shown = image(ids, halved(ids), name="ids")
        else:
            scale = (z, y, x) if other is None else (40.0, 4.0, 4.0)
            label(directory / "ids", ids, scale=scale, unit=other)
            shown = annotation(ids, name="ids")
        light = image(voxels, halved(voxels), name="em")
        return Shown(channels=together(light, shown).channels, aspect=Fraction(10), levels=2)

    return write


put(9, "micrometer_with_precomputed", _beside("micrometer", 1, "precomputed"), url=BOTH)
put(9, "micrometer_with_nanometer", _beside("micrometer", 1), url=BOTH)
put(9, "micrometer_with_n5", _beside("micrometer", 1, "n5"), url=BOTH)
put(9, "micrometer_with_precomputed_5", _beside("micrometer", 1, "precomputed", "0.5"), url=BOTH)
put(9, "millimeter_with_precomputed", _beside("millimeter", 1e3, "precomputed"), url=BOTH)
put(9, "meter_with_nanometer", _beside("meter", 1e6), url=BOTH)
put(9, "angstrom_with_precomputed", _beside("angstrom", 1e-4, "precomputed"), url=BOTH)
put(9, "picometer_with_n5", _beside("picometer", 1e-6, "n5"), url=BOTH)
put(9, "inch_with_nanometer", _beside("inch", 25400), url=BOTH)
put(9, "labels_without_unit", _beside("micrometer", 1, None), url=BOTH)
put(9, "image_without_unit", _beside(None, 1e-3), url=BOTH)


def _spelled(unit: str) -> Writer:
    """Micrometres in another spelling, beside precomputed."""

    def write(directory: Path) -> Outcome:
        shown = _beside("micrometer", 1, "precomputed")(directory)
        with attributes(directory / "em") as told:
            for axis in told["multiscales"][0]["axes"]:
                axis["unit"] = unit
        return shown

    return write


put(9, "micro_sign", _spelled("\N{MICRO SIGN}m"), url=BOTH)
put(9, "greek_mu", _spelled("\N{GREEK SMALL LETTER MU}m"), url=BOTH)
put(9, "um", _spelled("um"), url=BOTH)
put(9, "micron", _spelled("micron"), url=BOTH)
put(9, "micrometre", _spelled("micrometre"), url=BOTH)


@given(9)
def z_in_micrometers(directory: Path) -> Outcome:
    """z in another unit than x and y."""
    ome(directory, gradient(), scale=(0.04, 4.0, 4.0), unit=("micrometer", "nanometer", "nanometer"))
    return image(gradient(), aspect=10)


@given(9)
def z_in_nanometers_5(directory: Path) -> Outcome:
    """The other way round, in 0.5, with two levels."""
    units = ("nanometer", "micrometer", "micrometer")
    ome(directory, gradient(), halved(gradient()), scale=(2000.0, 0.5, 0.5), unit=units, version="0.5")
    return image(gradient(), halved(gradient()), aspect=4)


@given(9)
def z_without_unit(directory: Path) -> Outcome:
    """z has no unit, and x and y have the same: the numbers count."""
    ome(directory, gradient(), scale=(2.0, 0.5, 0.5), unit=(None, "micrometer", "micrometer"))
    return image(gradient(), aspect=4)


@given(9)
def all_levels_in_millimeters(directory: Path) -> Outcome:
    """A light sheet in millimetres, whose numbers are small."""
    ome(directory, gradient(), halved(gradient()), scale=(0.002, 0.0005, 0.0005), unit="millimeter")
    return image(gradient(), halved(gradient()), aspect=4)


# -- 11: types


def _ids(dtype: str, version: Version = "0.4") -> Writer:
    """A label image with negative ids."""

    def write(directory: Path) -> Outcome:
        label(directory, gradient(dtype), version)
        return annotation(gradient(dtype), aspect=ASPECT)

    return write


put(11, "labels_int8", _ids("int8"))
put(11, "labels_int16", _ids("int16"), kind="zarr")
put(11, "labels_int32", _ids("int32"))
put(11, "labels_int64", _ids("int64"))
put(11, "labels_int32_5", _ids("int32", "0.5"))
put(11, "labels_int64_5", _ids("int64", "0.5"))
put(11, "labels_uint32", _ids("uint32"))


@given(11)
def labels_bool(directory: Path) -> Outcome:
    """A label image of yes and no: ids 1 and 0."""
    ids = gradient("bool")
    label(directory, ids)
    return annotation(ids.astype(np.uint8), aspect=ASPECT)


@given(11)
def image_int16(directory: Path) -> Outcome:
    """An image with values below 0, through a window."""
    voxels = (gradient("int16") * 3).astype(np.int16)
    ome(directory, voxels)
    windows(directory, (-300, 300))
    return image(voxels, window=(-300, 300), aspect=ASPECT)


@given(11)
def image_int16_positive(directory: Path) -> Outcome:
    """An image of 12 bits that was saved with a sign, in 0.5."""
    voxels = (gradient("int16") * 10).clip(0).astype(np.int16)
    ome(directory, voxels, version="0.5")
    windows(directory, (0, 1200))
    return image(voxels, window=(0, 1200), aspect=ASPECT)


@given(11, window="0,900")
def image_int16_operator(directory: Path) -> Outcome:
    """The window is the operator's."""
    voxels = (gradient("int16") * 10).astype(np.int16)
    ome(directory, voxels)
    return image(voxels, window=(0, 900), aspect=ASPECT)
