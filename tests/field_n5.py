"""Inputs of the field suite: N5, by z5py and TensorStore."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import z5py

from tests import formats
from tests.field import (
    CHUNK,
    Array,
    Json,
    Outcome,
    Shown,
    Writer,
    annotation,
    edited,
    given,
    gradient,
    halved,
    image,
    put,
    refused,
    together,
)

DOCUMENT = "attributes.json"


def array(directory: Path, voxels: Array, **options: Any) -> None:
    """Write an array, and no document above it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    container = directory.with_name(f"{directory.name}.n5")
    with z5py.File(str(container), mode="w", use_zarr_format=False) as file:
        usual = {"chunks": CHUNK[-voxels.ndim :], "compression": "gzip"}
        file.create_dataset("array", data=voxels, **usual | options)
    (container / "array").rename(directory)
    rmtree(container)


def bare(directory: Path, voxels: Array, levels: int = 2, **options: Any) -> list[Array]:
    """Write s0, s1, ... into a group that has no attributes; they are returned."""
    written = [voxels]
    for _ in range(levels - 1):
        written.append(halved(written[-1]))
    for n, level in enumerate(written):
        array(directory / f"s{n}", level, **options)
    return written


def pyramid(directory: Path, voxels: Array, **options: Any) -> list[Array]:
    """Write s0 and s1 into a group."""
    written = bare(directory, voxels, **options)
    told(directory, n5="2.0.0")
    return written


def told(directory: Path, **members: object) -> None:
    """Add members to the attributes of a group or an array."""
    path = directory / DOCUMENT
    if not path.exists():
        path.write_text("{}")
    with edited(path) as document:
        document.update(members)


# -- 2: what nobody here reads


@given(2, kind="n5")
def n5_lz4(directory: Path) -> Outcome:
    """lz4 as Java writes it."""
    array(directory, gradient(), compression="lz4")
    return refused("lz4", otherwise=image(gradient()))


@given(2)
def n5_lz4_levels(directory: Path) -> Outcome:
    """The same in a group."""
    levels = pyramid(directory, gradient("uint16"), compression="lz4")
    return refused("lz4", otherwise=image(*levels))


def _named(compression: object) -> Writer:
    """A codec that other programs have."""

    def write(directory: Path) -> Outcome:
        array(directory, gradient(), compression="raw")
        told(directory, compression=compression)
        return refused(str(compression["type"] if isinstance(compression, dict) else compression))

    return write


put(2, "n5_jpeg", _named({"type": "jpeg", "quality": 80}))
put(2, "n5_jpeg2000", _named({"type": "jpeg2000"}))
put(2, "n5_own_codec", _named({"type": "my_lab_codec"}))
put(2, "n5_blosc_unknown", _named({"type": "blosc", "cname": "my_lab_codec", "clevel": 5, "shuffle": 1}))


@given(2)
def n5_multiset(directory: Path) -> Outcome:
    """Paintera's label multisets in an array."""
    array(directory, gradient())
    told(directory, isLabelMultiset=True, maxId=250)
    return refused("label multiset")


@given(2, kind="n5")
def n5_multiset_levels(directory: Path) -> Outcome:
    """The same in a group whose arrays say so."""
    pyramid(directory, gradient())
    for n in range(2):
        told(directory / f"s{n}", isLabelMultiset=True, labelMultisetType="bigcat")
    return refused("label multiset")


@given(2)
def n5_multiset_group(directory: Path) -> Outcome:
    """The same where the group says so, too."""
    pyramid(directory, gradient())
    for at in (directory, directory / "s0", directory / "s1"):
        told(at, isLabelMultiset=True, multiScale=True, maxId=250)
    return refused("label multiset")


@given(2)
def n5_object(directory: Path) -> Outcome:
    """Blocks of objects."""
    array(directory, gradient())
    told(directory, dataType="object")
    return refused("object")


@given(2)
def n5_xz_bzip2(directory: Path) -> Outcome:
    """Codecs that are read, one a level."""
    voxels = gradient("uint16")
    array(directory / "s0", voxels, compression="xz")
    array(directory / "s1", halved(voxels), compression="bzip2")
    told(directory, n5="2.0.0")
    return image(voxels, halved(voxels))


@given(2)
def n5_old_compression(directory: Path) -> Outcome:
    """The spelling of N5 1.0."""
    array(directory, gradient())
    with edited(directory / DOCUMENT) as document:
        del document["compression"]
        document["compressionType"] = "gzip"
    return refused("compression", otherwise=image(gradient()))


# -- 5: not needed


@given(5)
def n5_nan(directory: Path) -> Outcome:
    """NaN in the attributes of a group and an infinity in those of an array."""
    levels = pyramid(directory, gradient())
    told(directory, minIntensity=float("nan"))
    told(directory / "s0", contrast=[float("-inf"), float("inf")])
    return image(*levels)


@given(5, kind="n5")
def n5_level_missing(directory: Path) -> Outcome:
    """Three levels are declared, and two there."""
    levels = pyramid(directory, gradient())
    told(directory, downsamplingFactors=[[1, 1, 1], [2, 2, 1], [4, 4, 1]], pixelResolution=[4, 4, 40])
    return image(*levels, aspect=10, logged=["s2"])


@given(5)
def n5_wrong_factor(directory: Path) -> Outcome:
    """The factor of one level is 0."""
    levels = pyramid(directory, gradient())
    told(directory, downsamplingFactors=[[1, 1, 1], [0, 2, 1]])
    return image(levels[0], levels=1, logged=["s1"])


@given(5)
def n5_resolution_of_time(directory: Path) -> Outcome:
    """Four axes, of which the fourth has a resolution of 0."""
    voxels = gradient()
    array(directory, voxels[None], chunks=(1, *CHUNK))
    told(directory, axes=["x", "y", "z", "t"], resolution=[4, 4, 40, 0.0])
    return image(voxels, aspect=10)


# -- 9: units

BOTH = "\n  em: {at}/em\n  ids: {at}/ids"


def _units(members: Json, *, precomputed: bool = True) -> Writer:
    """Two levels with attributes that say 4 x 4 x 40 nm, beside ids of the same."""

    def write(directory: Path) -> Outcome:
        levels, ids = pyramid(directory / "em", gradient()), gradient("uint32", shift=3)
        told(directory / "em", downsamplingFactors=[[1, 1, 1], [2, 2, 1]], **members)
        if precomputed:
            how: Json = {"kind": "segmentation", "resolution": (4, 4, 40), "chunk": (16, 16, 4)}
            formats.precomputed(directory / "ids", ids, 2, **how)
        else:
            formats.n5(directory / "ids", ids, 2, resolution=(4, 4, 40), chunk=(16, 16, 4))
        both = together(image(*levels, name="em"), annotation(ids, halved(ids), name="ids"))
        return Shown(channels=both.channels, levels=2)

    return write


RESOLUTION = "pixelResolution"
MICROMETRES = [0.004, 0.004, 0.04]
put(9, "n5_um", _units({RESOLUTION: {"unit": "um", "dimensions": MICROMETRES}}), url=BOTH)
put(9, "n5_micro_sign", _units({RESOLUTION: {"unit": "µm", "dimensions": MICROMETRES}}), url=BOTH)
put(9, "n5_micrometer", _units({RESOLUTION: {"unit": "micrometer", "dimensions": MICROMETRES}}), url=BOTH)
put(9, "n5_nm", _units({RESOLUTION: {"unit": "nm", "dimensions": [4, 4, 40]}}), url=BOTH)
put(9, "n5_no_unit", _units({RESOLUTION: [4, 4, 40]}), url=BOTH)
put(9, "n5_um_with_n5", _units({RESOLUTION: {"unit": "um", "dimensions": MICROMETRES}}, precomputed=False), url=BOTH)
METRES = {"axes": ["x", "y", "z"], "units": ["m", "m", "m"], "resolution": [4e-9, 4e-9, 4e-8]}
put(9, "n5_metres", _units(METRES), url=BOTH)
put(9, "n5_no_unit_with_n5", _units({RESOLUTION: [4, 4, 40]}, precomputed=False), url=BOTH)


@given(9)
def n5_units_of_axes(directory: Path) -> Outcome:
    """z in another unit than x and y."""
    array(directory, gradient())
    told(directory, axes=["x", "y", "z"], units=["nm", "nm", "um"], resolution=[4, 4, 0.04])
    return image(gradient(), aspect=10)


# -- 10: finding out what is there


@given(10, kind="n5")
def n5_bare(directory: Path) -> Outcome:
    """A group without attributes."""
    return image(*bare(directory, gradient()))


@given(10)
def n5_bare_volume(directory: Path) -> Outcome:
    """The same where any kind may be, with the factors in the arrays."""
    levels = bare(directory, gradient())
    for n in range(2):
        told(directory / f"s{n}", downsamplingFactors=[2**n, 2**n, 1], pixelResolution=[4, 4, 40])
    return image(*levels, aspect=10)


@given(10, server="pages")
def n5_bare_among_pages(directory: Path) -> Outcome:
    """The same at a server that answers every address with a page."""
    return image(*bare(directory, gradient()))


@given(10, server="pages", kind="n5")
def n5_among_pages(directory: Path) -> Outcome:
    """A group with attributes there."""
    levels = pyramid(directory, gradient())
    told(directory, pixelResolution=[4, 4, 40], n5="2.0.0")
    return image(*levels, aspect=10)


@given(10, server="closed")
def n5_bare_closed(directory: Path) -> Outcome:
    """The same in a bucket that answers 403 for what is not there."""
    return image(*bare(directory, gradient()))


@given(10, url="{at}/inner")
def n5_resolution_above(directory: Path) -> Outcome:
    """The group above has the size of a voxel."""
    levels = bare(directory / "inner", gradient())
    (directory / DOCUMENT).write_text(json.dumps({"n5": "2.0.0"}))
    told(directory, pixelResolution={"unit": "nm", "dimensions": [4, 4, 40]})
    return image(*levels, aspect=10)


@given(10, url="{at}/setup0/timepoint0")
def n5_factors_above(directory: Path) -> Outcome:
    """BigDataViewer's layout: factors in the setup, the size of a voxel in the time point."""
    levels = bare(directory / "setup0" / "timepoint0", gradient(), 3)
    told(directory / "setup0", downsamplingFactors=[[1, 1, 1], [2, 2, 1], [4, 4, 1]], dataType="uint8")
    told(directory / "setup0" / "timepoint0", multiScale=True, resolution=[4.0, 4.0, 40.0])
    return image(*levels, aspect=10)


@given(10, url="{at}/em", kind="n5")
def n5_scales_above(directory: Path) -> Outcome:
    """Neuroglancer's and n5-viewer's attributes in the container."""
    levels = bare(directory / "em", gradient())
    (directory / DOCUMENT).write_text("{}")
    told(directory, scales=[[1, 1, 1], [2, 2, 1]], pixelResolution={"unit": "um", "dimensions": MICROMETRES})
    return image(*levels, aspect=10)


@given(10)
def n5_array_of_group(directory: Path) -> Outcome:
    """An array with an info of points beside it."""
    array(directory, gradient("int16").clip(0).astype("uint16"))
    (directory / "info").write_text(json.dumps({"@type": "neuroglancer_annotations_v1"}))
    return image(gradient("int16").clip(0).astype("uint16"))


# -- 11: types


def _signed(dtype: str) -> Writer:
    """Ids in a type with a sign; nobody keeps an image in one of 32 or 64 bits."""

    def write(directory: Path) -> Outcome:
        array(directory, gradient(dtype))
        return annotation(gradient(dtype))

    return write


put(11, "n5_int64", _signed("int64"))
put(11, "n5_int32", _signed("int32"), kind="n5")


@given(11, window="0,100")
def n5_int16(directory: Path) -> Outcome:
    """An image with a sign, through the operator's window."""
    array(directory, gradient("int16"))
    return image(np.asarray(gradient("int16")), window=(0, 100))
