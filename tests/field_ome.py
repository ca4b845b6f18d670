"""Inputs of the field suite: OME-Zarr, by ome-zarr-py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from math import inf, nan
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from ome_zarr import writer
from ome_zarr.format import FormatV04, FormatV05

from tests.field import (
    CHUNK,
    Array,
    Channel,
    Json,
    Outcome,
    Shown,
    Writer,
    edited,
    given,
    gradient,
    halved,
    image,
    put,
    refused,
    replaced,
)

Version = Literal["0.4", "0.5"]
ASPECT = Fraction(4)
"""Of images whose scale is not said."""


def group(directory: Path, version: Version = "0.4") -> zarr.Group:
    """Make a group, or open it."""
    return zarr.open_group(str(directory), mode="a", zarr_format=2 if version == "0.4" else 3)


def ome(
    directory: Path,
    *levels: Array,
    version: Version = "0.4",
    scale: Sequence[float] = (2.0, 0.5, 0.5),
    unit: str | Sequence[str | None] | None = "micrometer",
) -> None:
    """Write an image: axes are the last of t, c, z, y, x, and `scale` is that of z, y, x of level 0."""
    names = "tczyx"[-levels[0].ndim :]
    units: Sequence[str | None] = [unit] * 3 if unit is None or isinstance(unit, str) else unit
    axes: list[Json] = []
    for name in names:
        kind = {"t": "time", "c": "channel"}.get(name, "space")
        of = units["zyx".index(name)] if kind == "space" else None
        axes.append({"name": name, "type": kind} | ({"unit": of} if of else {}))
    z, y, x = scale
    more = [1.0] * (len(names) - 3)
    steps = [[{"type": "scale", "scale": [*more, z, y * 2**n, x * 2**n]}] for n in range(len(levels))]
    writer.write_multiscale(
        list(levels),
        group(directory, version),
        fmt=FormatV04() if version == "0.4" else FormatV05(),
        axes=axes,
        coordinate_transformations=steps,
        storage_options={"chunks": (1,) * (len(names) - 3) + CHUNK},
    )


@contextmanager
def attributes(directory: Path) -> Iterator[Json]:
    """What a group says."""
    old = directory / ".zattrs"
    with edited(old if old.exists() else directory / "zarr.json") as document:
        yield document if old.exists() else document["attributes"]["ome"]


@contextmanager
def dataset(directory: Path, number: int) -> Iterator[Json]:
    """What a group says of a level."""
    with attributes(directory) as told:
        yield told["multiscales"][0]["datasets"][number]


def windows(directory: Path, *pairs: tuple[float, float] | None) -> None:
    """Give each channel OMERO's window."""
    with attributes(directory) as told:
        told["omero"] = {
            "channels": [
                {"color": "FFFFFF", "active": True, "label": f"c{n}"}
                | ({"window": {"min": 0.0, "max": 65535.0, "start": pair[0], "end": pair[1]}} if pair else {})
                for n, pair in enumerate(pairs)
            ]
        }


def two(
    *levels: Array, aspect: Fraction | None = ASPECT, ranges: Sequence[tuple[int, int] | None] = (None,) * 2
) -> Shown:
    """Two channels along the axis c, which is the first."""
    channels = {
        f"image_{c}": Channel(levels={n: level[c] for n, level in enumerate(levels)}, window=ranges[c])
        for c in range(2)
    }
    return Shown(channels=channels, aspect=aspect)


def label(directory: Path, ids: Array, version: Version = "0.4", **how: Any) -> None:
    """Write a label image by itself."""
    ome(directory, ids, version=version, **how)
    with attributes(directory) as told:
        told["image-label"] = {"version": version}


# -- 5: what is not needed does not refuse a volume


def _scaled(index: int, value: object, shape: Sequence[int] = (1, 1, 8, 32, 40)) -> Writer:
    """Another value in the scale of t, c, z, y, x."""

    def write(directory: Path) -> Outcome:
        voxels = gradient(shape=tuple(shape))
        ome(directory, voxels, halved(voxels))
        for n in range(2):
            with dataset(directory, n) as told:
                told["coordinateTransformations"][0]["scale"][index] = value
        return image(voxels[0, 0], halved(voxels)[0, 0], aspect=ASPECT)

    return write


put(5, "time_zero", _scaled(0, 0.0), kind="zarr")
put(5, "time_negative", _scaled(0, -1.0))
put(5, "time_null", _scaled(0, None))
put(5, "time_nan", _scaled(0, nan))
put(5, "channel_zero", _scaled(1, 0))
put(5, "channel_infinite", _scaled(1, inf))


@given(5)
def fewer_scales(directory: Path) -> Outcome:
    """Three values for five axes: those of z, y, x."""
    voxels = gradient(shape=(1, 1, 8, 32, 40))
    ome(directory, voxels, halved(voxels))
    for n in range(2):
        with dataset(directory, n) as told:
            del told["coordinateTransformations"][0]["scale"][:2]
    return image(voxels[0, 0], halved(voxels)[0, 0])


@given(5)
def fewer_scales_4(directory: Path) -> Outcome:
    """Three values for four axes, of which two channels."""
    voxels = np.stack([gradient(), gradient(shift=50)])
    ome(directory, voxels, version="0.5")
    with dataset(directory, 0) as told:
        del told["coordinateTransformations"][0]["scale"][0]
    return two(voxels, aspect=None)


@given(5)
def more_scales(directory: Path) -> Outcome:
    """Five values for three axes."""
    ome(directory, gradient())
    with dataset(directory, 0) as told:
        told["coordinateTransformations"][0]["scale"][:0] = [1.0, 1.0]
    return image(gradient())


@given(5)
def no_transformations(directory: Path) -> Outcome:
    """No transformation at all, as before 0.4."""
    ome(directory, gradient(), halved(gradient()))
    for n in range(2):
        with dataset(directory, n) as told:
            del told["coordinateTransformations"]
    return image(gradient(), halved(gradient()))


@given(5)
def translation_nan(directory: Path) -> Outcome:
    """A translation that is no number."""
    ome(directory, gradient())
    with dataset(directory, 0) as told:
        told["coordinateTransformations"].append({"type": "translation", "translation": [0.0, nan, "a"]})
    return image(gradient(), aspect=ASPECT)


@given(5)
def window_nan(directory: Path) -> Outcome:
    """OMERO's window of an empty image."""
    ome(directory, gradient("uint16"))
    windows(directory, (nan, inf))
    return image(gradient("uint16"), aspect=ASPECT)


@given(5)
def window_nan_5(directory: Path) -> Outcome:
    """The same in 0.5, for one of two channels."""
    voxels = np.stack([gradient("uint16"), gradient("uint16", shift=50)])
    ome(directory, voxels, version="0.5")
    windows(directory, (nan, nan), (0, 40000))
    return two(voxels, ranges=(None, (0, 40000)))


@given(5)
def comma(directory: Path) -> Outcome:
    """A comma too many is no JSON to anybody."""
    ome(directory, gradient())
    replaced(directory / ".zattrs", '"version": "0.4"', '"version": "0.4",')
    return refused(".zattrs", "JSON")


def _missing(*numbers: int, version: Version = "0.4") -> Writer:
    """Three levels are declared, and some have no document."""

    def write(directory: Path) -> Outcome:
        levels = [gradient(), halved(gradient()), halved(halved(gradient()))]
        ome(directory, *levels, version=version)
        for number in numbers:
            (directory / f"s{number}" / (".zarray" if version == "0.4" else "zarr.json")).unlink()
        there = [level for number, level in enumerate(levels) if number not in numbers]
        shown = there if min(numbers) > 1 else there[:1] if 0 not in numbers else []
        return image(*shown, logged=[f"s{numbers[0]}"])

    return write


put(5, "last_level_missing", _missing(2))
put(5, "last_level_missing_5", _missing(2, version="0.5"))
put(5, "middle_level_missing", _missing(1))
put(5, "coarse_levels_missing", _missing(1, 2))
put(5, "finest_level_missing", _missing(0))


def _wrong(change: Callable[[Path], None], version: Version = "0.4") -> Writer:
    """One of two levels has something that is needed, and wrong."""

    def write(directory: Path) -> Outcome:
        ome(directory, gradient(), halved(gradient()), version=version)
        change(directory)
        return image(gradient(), levels=1, logged=["s1"])

    return write


def _bad_scale(index: int, value: object) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        with dataset(directory, 1) as told:
            told["coordinateTransformations"][0]["scale"][index] = value

    return change


def _bad_array(name: str, value: object) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        with edited(directory / "s1" / ".zarray") as document:
            document[name] = value

    return change


def _float_level(directory: Path) -> None:
    """A mean that was not rounded."""
    level = directory / "s1"
    zarr.create_array(str(level), data=halved(gradient("float32")), zarr_format=2, overwrite=True, chunks=CHUNK)


put(5, "scale_x_zero", _wrong(_bad_scale(2, 0.0)))
put(5, "scale_z_negative", _wrong(_bad_scale(0, -2.0), "0.5"))
put(5, "scale_y_nan", _wrong(_bad_scale(1, nan)))
put(5, "level_of_other_type", _wrong(_float_level))
put(5, "level_of_other_rank", _wrong(_bad_array("shape", [16, 20])))
put(5, "level_without_chunks", _wrong(_bad_array("chunks", None)))
put(5, "level_of_unknown_codec", _wrong(_bad_array("compressor", {"id": "my_lab_codec"})))
put(5, "level_no_json", _wrong(lambda at: replaced(at / "s1" / ".zarray", "{", "{,")))


@given(5)
def no_scale_of_use(directory: Path) -> Outcome:
    """All levels are without a size along x, which is needed: there is nothing left."""
    ome(directory, gradient(), halved(gradient()))
    for n in range(2):
        with dataset(directory, n) as told:
            told["coordinateTransformations"][0]["scale"][2] = 0.0
    return refused("scale", otherwise=image(gradient()))


@given(5)
def more_channels_declared(directory: Path) -> Outcome:
    """OMERO has three channels, the array two."""
    voxels = np.stack([gradient("uint16"), gradient("uint16", shift=50)])
    ome(directory, voxels)
    windows(directory, (0, 30000), (0, 40000), (0, 50000))
    return two(voxels, ranges=((0, 30000), (0, 40000)))


@given(5, url="\n  em: {at}/em\n  gone: {at}/gone")
def channel_missing(directory: Path) -> Outcome:
    """One of two channels is not there."""
    ome(directory / "em", gradient())
    return image(gradient(), name="em", aspect=ASPECT, logged=["gone"])


@given(5, url="\n  gone: {at}/gone\n  em: {at}/em")
def first_channel_broken(directory: Path) -> Outcome:
    """One of two channels is not understood, and it is the first."""
    ome(directory / "em", gradient(), version="0.5")
    ome(directory / "gone", gradient())
    (directory / "gone" / ".zattrs").write_text("{")
    return image(gradient(), name="em", aspect=ASPECT, logged=["gone"])
