"""Inputs of the field suite that a review found: other inputs of the kinds that the other modules have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import zarr

from tests.field import (
    CHUNK,
    Array,
    Json,
    Outcome,
    Server,
    Shown,
    Writer,
    edited,
    given,
    gradient,
    halved,
    image,
    put,
    refused,
)
from tests.field_collections import ome_plate
from tests.field_display import dim
from tests.field_n5 import array as n5_array
from tests.field_n5 import pyramid as n5_pyramid
from tests.field_ome import ASPECT, attributes, dataset, ome, windows
from tests.field_precomputed import cloud
from tests.field_zarr import told, zarr2, zarr3

# -- 5: one level, or what nobody needs


def _level(change: Callable[[Path], None]) -> Writer:
    """One of two levels has a document that cannot be used."""

    def write(directory: Path) -> Outcome:
        ome(directory, gradient(), halved(gradient()))
        change(directory)
        return image(gradient(), levels=1, logged=["s1"])

    return write


def _bytes(body: bytes) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        (directory / "s1" / ".zarray").write_bytes(body)

    return change


def _directory(directory: Path) -> None:
    """A directory in the place of a document."""
    (directory / "s1" / ".zarray").unlink()
    (directory / "s1" / ".zarray").mkdir()


put(5, "level_not_utf8", _level(_bytes(b'{"shape": "\xe4"}')))
put(5, "level_too_large", _level(_bytes(b" " * (3 * 2**20))))
put(5, "level_without_shape", _level(_bytes(b'{"error": "not found"}')))
put(5, "level_directory", _level(_directory))


@given(5)
def level_of_fewer_channels(directory: Path) -> Outcome:
    """Level 1 has one of the three channels."""
    voxels = np.stack([gradient(shift=n) for n in range(3)])
    ome(directory, voxels, halved(voxels))
    zarr.create_array(str(directory / "s1"), data=halved(voxels[:1]), zarr_format=2, overwrite=True, chunks=(1, *CHUNK))
    channels = {f"image_{n}": image(voxels[n]).channels["image"] for n in range(3)}
    return Shown(channels=channels, levels=1, logged=["s1"])


def _odd(change: Callable[[Json], None], aspect: Any = ASPECT) -> Writer:
    """An image whose multiscale is changed."""

    def write(directory: Path) -> Outcome:
        ome(directory, gradient(), halved(gradient()))
        with attributes(directory) as group:
            change(group)
        return image(gradient(), halved(gradient()), aspect=aspect)

    return write


def _transformed(value: object) -> Callable[[Json], None]:
    return lambda group: group["multiscales"][0].update(coordinateTransformations=value)


put(5, "common_scale_nan", _odd(_transformed([{"type": "scale", "scale": [1.0, float("nan"), 1.0]}])))
put(5, "common_scale_text", _odd(_transformed("identity")))
put(5, "second_multiscale", _odd(lambda group: group["multiscales"].insert(0, None)))
put(5, "axes_null", _odd(lambda group: group["multiscales"][0].update(axes=None)))


@given(5)
def dataset_null(directory: Path) -> Outcome:
    """The list of levels has something else in it."""
    ome(directory, gradient())
    with attributes(directory) as group:
        group["multiscales"][0]["datasets"] += [None, {"path": "../x"}]
    return image(gradient(), aspect=ASPECT, levels=1)


@given(5)
def picture_without_thickness(directory: Path) -> Outcome:
    """One slice, whose thickness is 0."""
    voxels = gradient()[:1]
    ome(directory, voxels)
    with dataset(directory, 0) as level:
        level["coordinateTransformations"][0]["scale"][0] = 0.0
    return image(voxels)


@given(5)
def zarr2_nulls(directory: Path) -> Outcome:
    """Members that are null, and a type without the order of its bytes."""
    zarr2(directory, gradient())
    told(directory, order=None, dimension_separator=None, dtype="u1")
    return image(gradient())


# -- 6 and 13: members of codecs that only an encoder needs


def _codec(codec: Any, **members: object) -> Writer:
    def write(directory: Path) -> Outcome:
        zarr2(directory, gradient("uint16"), compressors=codec)
        with edited(directory / ".zarray") as document:
            document["compressor"].update(members)
        return image(gradient("uint16"))

    return write


put(6, "zlib_default_level", _codec(numcodecs.Zlib(-1)))
put(6, "zlib_level_null", _codec(numcodecs.Zlib(1), level=None))
put(6, "blosc_level_large", _codec(numcodecs.Blosc("zstd"), clevel=99))
put(13, "lz4_more_members", _codec(numcodecs.LZ4(), checksum=False))


@given(6)
def zarr3_gzip_level(directory: Path) -> Outcome:
    """Version 3 whose gzip has zlib's default level."""
    zarr3(directory, gradient(), compressors=[{"name": "gzip", "configuration": {"level": 5}}])
    with edited(directory / "zarr.json") as document:
        document["codecs"][-1]["configuration"]["level"] = -1
    return image(gradient())


@given(6, kind="n5")
def n5_gzip_level_null(directory: Path) -> Outcome:
    """N5 whose gzip has no level."""
    n5_array(directory, gradient())
    with edited(directory / "attributes.json") as document:
        document["compression"]["level"] = None
    return image(gradient())


@given(13)
def delta_without_type(directory: Path) -> Outcome:
    """A filter that lacks what it needs."""
    zarr2(directory, gradient(), filters=[numcodecs.Delta("|u1")])
    with edited(directory / ".zarray") as document:
        del document["filters"][0]["dtype"]
    return refused("delta")


@given(13)
def lz4_nan(directory: Path) -> Outcome:
    """A fill value that is the bits of a NaN, which numcodecs' way has to understand too."""
    zarr2(directory, gradient("float32"), compressors=numcodecs.LZ4())
    told(directory, fill_value="0x7fc00000")
    return image(gradient("float32"))


# -- 3 and 10: what is there


@given(3)
def plate_with_layout(directory: Path) -> Outcome:
    """A plate that bioformats2raw wrote: it is a collection in two ways."""
    ome_plate(directory, "0.4", {"A/1": ["0"]})
    with edited(directory / ".zattrs") as document:
        document["bioformats2raw.layout"] = 3
    return image(gradient(), aspect=ASPECT)


@given(30, url="{at}/.zattrs/")
def ends_zattrs_slash(directory: Path) -> Outcome:
    """A document, and a slash."""
    ome(directory, gradient())
    return image(gradient(), aspect=ASPECT)


@given(30, url="{at}|ZARR2:")
def pipe_capitals(directory: Path) -> Outcome:
    """A pipeline in capitals."""
    ome(directory, gradient())
    return image(gradient(), aspect=ASPECT)


@given(10)
def info_directory(directory: Path) -> Outcome:
    """A directory where the info of another format would be."""
    zarr2(directory, gradient())
    (directory / "info").mkdir()
    (directory / "zarr.json").mkdir()
    return image(gradient())


@given(10)
def n5_picture(directory: Path) -> Outcome:
    """N5 of two dimensions."""
    n5_array(directory, gradient()[3])
    return image(gradient()[3:4])


def _among(write: Callable[[Path], Outcome]) -> None:
    """A server that answers 200 for everything: a page that is not UTF-8, or a few words."""
    servers: tuple[Server, ...] = ("latin", "words")
    for server in servers:
        put(10, f"{write.__name__}_among_{server}", lambda at: write(at), server=server)


def zarr2_plain(directory: Path) -> Outcome:
    """Version 2."""
    zarr2(directory, gradient())
    return image(gradient())


def ome_5(directory: Path) -> Outcome:
    """OME 0.5."""
    ome(directory, gradient(), version="0.5")
    return image(gradient(), aspect=ASPECT)


def n5_group(directory: Path) -> Outcome:
    """A group of N5."""
    return image(*n5_pyramid(directory, gradient()))


for one in (zarr2_plain, ome_5, n5_group):
    _among(one)


# -- 4: names of chunks


@given(4, kind="precomputed")
def gz_behind_a_desert(directory: Path) -> Outcome:
    """Hundreds of chunks that are not there, before those that have other names."""
    voxels = np.zeros((8, 32, 1200), np.uint8)
    voxels[:, :, -16:] = 1 + gradient()[:, :, :16]
    cloud(directory, voxels, compress="gzip")
    for path in directory.glob("4_4_40/*.gz"):
        if int(path.name.partition("-")[0]) < 1184:
            path.unlink()
    return image(voxels, aspect=10, logged=[])


# -- 7: windows that the type does not have


def _window(dtype: str, window: tuple[float, float], shown: tuple[int, int], scale: int = 1) -> Writer:
    def write(directory: Path) -> Outcome:
        voxels: Array = dim(dtype) * np.array(scale, dtype)
        ome(directory, voxels)
        windows(directory, window)
        return image(voxels, window=shown, aspect=ASPECT)

    return write


put(7, "window_of_bytes", _window("uint8", (0, 46), (0, 46)))
put(7, "window_of_floats", _window("float32", (0.0, 1000.0), (0, 1000), 20))
put(7, "window_too_high", _window("uint16", (0, 70000), (0, 65535), 1000))
put(7, "window_below_zero", _window("uint16", (-5.0, 46.0), (0, 46)))
put(7, "window_of_fractions", _window("uint16", (10.2, 10.8), (10, 11)))
put(7, "window_infinite", _window("uint16", (0, float("inf")), (0, 65535), 1000))
