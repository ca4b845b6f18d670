"""Inputs of the field suite: precomputed, by CloudVolume and TensorStore; and what is not there, of every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cloudvolume import CloudVolume

from tests import formats
from tests.field import (
    Array,
    Json,
    Outcome,
    Writer,
    annotation,
    edited,
    given,
    gradient,
    halved,
    image,
    put,
    refused,
)
from tests.field_n5 import array as n5_array
from tests.field_ome import ASPECT, ome
from tests.field_zarr import zarr2, zarr3


def cloud(
    directory: Path,
    *levels: Array,
    encoding: str = "raw",
    layer: str = "image",
    compress: str | bool = False,
    offset: tuple[int, int, int] = (0, 0, 0),
) -> None:
    """Write a volume of 4 x 4 x 40 nm; `compress` is as CloudVolume has it, which names local files by it."""
    voxels = levels[0].T
    directory.mkdir(parents=True)
    info = CloudVolume.create_new_info(
        1, layer, str(voxels.dtype), encoding, (4, 4, 40), offset, voxels.shape, chunk_size=(16, 16, 4)
    )
    volume = CloudVolume(f"file://{directory}", info=info, compress=compress, progress=False)
    for n in range(1, len(levels)):
        volume.add_scale((2**n, 2**n, 1))
    volume.commit_info()
    for n, level in enumerate(levels):
        at = CloudVolume(f"file://{directory}", mip=n, compress=compress, progress=False)
        at[:, :, :] = np.asfortranarray(level.T[..., None])


def told(directory: Path, scale: int | None = None, **members: object) -> None:
    """Change members of the info, or of a scale in it."""
    with edited(directory / "info") as info:
        (info if scale is None else info["scales"][scale]).update(members)


def shown(*levels: Array, **how: Any) -> Outcome:
    """An image of these voxels."""
    return image(*levels, aspect=10, **how)


# -- 2: encodings of forks


def _encoded(encoding: str, dtype: str = "uint8", kind: str = "image") -> Writer:
    """Chunks in an encoding that is not read, or not for this type."""

    def write(directory: Path) -> Outcome:
        cloud(directory, gradient(dtype), layer=kind)
        told(directory, 0, encoding=encoding)
        return refused(encoding)

    return write


put(2, "jxl", _encoded("jxl"), kind="precomputed")
put(2, "compresso", _encoded("compresso", "uint32", "segmentation"), kind="precomputed")
put(2, "fpzip", _encoded("fpzip", "float32"), kind="precomputed")
put(2, "kempressed", _encoded("kempressed", "float32"))
put(2, "zfpc", _encoded("zfpc", "float32"))
put(2, "crackle", _encoded("crackle", "uint64", "segmentation"))
put(2, "jpeg_of_16_bits", _encoded("jpeg", "uint16"), kind="precomputed")
put(2, "png_of_32_bits", _encoded("png", "uint32", "segmentation"), kind="precomputed")
put(2, "compressed_segmentation_of_8_bits", _encoded("compressed_segmentation"), kind="precomputed")


@given(2, kind="precomputed")
def jxl_in_shards(directory: Path) -> Outcome:
    """A fork's encoding in shards."""
    formats.precomputed(directory, gradient(), 1, sharded=True, chunk=(16, 16, 4))
    told(directory, 0, encoding="jxl")
    return refused("jxl")


@given(2)
def shards_of_tomorrow(directory: Path) -> Outcome:
    """Shards of another version."""
    formats.precomputed(directory, gradient(), 1, sharded=True, chunk=(16, 16, 4))
    with edited(directory / "info") as info:
        info["scales"][0]["sharding"]["@type"] = "neuroglancer_uint64_sharded_v2"
    return refused("neuroglancer_uint64_sharded_v2")


# -- 4: names of files


def _local(encoding: str, dtype: str, compress: str, name: str = "") -> Writer:
    """Files as CloudVolume names them on a disk."""

    def write(directory: Path) -> Outcome:
        voxels = gradient(dtype)
        labels = dtype in ("uint32", "uint64")
        cloud(directory, voxels, encoding=encoding, layer="segmentation" if labels else "image", compress=compress)
        assert not list(directory.glob("4_4_40/*-*[0-9]")), "the plain names"
        return annotation(voxels, aspect=10) if labels else image(voxels, aspect=10)

    return write


put(4, "gz_raw", _local("raw", "uint8", "gzip"), kind="precomputed")
put(4, "gz_raw_volume", _local("raw", "uint16", "gzip"))
put(4, "gz_segmentation", _local("compressed_segmentation", "uint64", "gzip"), kind="precomputed")
put(4, "br_raw", _local("raw", "uint8", "br"), kind="precomputed")


@given(4, kind="precomputed")
def gz_one(directory: Path) -> Outcome:
    """One file is plain, and the others are not."""
    cloud(directory, gradient(), compress="gzip")
    plain = directory.parent / f"{directory.name}-plain"
    cloud(plain, gradient())
    (directory / "4_4_40" / "0-16_0-16_0-4.gz").unlink()
    (plain / "4_4_40" / "0-16_0-16_0-4").rename(directory / "4_4_40" / "0-16_0-16_0-4")
    return image(gradient(), aspect=10)


def _nothing(writer: Callable[[Path, Array], object], chunks: str) -> Writer:
    """All chunks are missing: background, and the log says so."""

    def write(directory: Path) -> Outcome:
        writer(directory, gradient())
        gone = [path for path in directory.glob(chunks) if path.is_file()]
        assert gone
        for path in gone:
            path.unlink()
        return image(np.zeros_like(gradient()), logged=["missing"])

    return write


put(4, "no_chunks_precomputed", _nothing(cloud, "4_4_40/*"), kind="precomputed")
put(4, "no_chunks_volume", _nothing(cloud, "4_4_40/*"))
put(4, "no_chunks_zarr2", _nothing(zarr2, "[0-9]*"), kind="zarr")
put(4, "no_chunks_zarr3", _nothing(zarr3, "c/**/[0-9]"))
put(4, "no_chunks_n5", _nothing(n5_array, "[0-9]*/**/[0-9]"), kind="n5")


@given(4, kind="zarr")
def one_chunk_there(directory: Path) -> Outcome:
    """All chunks but one are missing, and so all of the cuboid that is looked at: that is logged, and black."""
    voxels = np.zeros_like(gradient())
    voxels[:4, :16, :16] = gradient()[:4, :16, :16]
    zarr2(directory, voxels)
    assert (directory / "0.0.0").exists() and not (directory / "1.1.1").exists()
    return image(voxels, logged=["missing"])


# -- 5: not needed


def _odd(number: int, **members: object) -> Writer:
    """One of two scales has something odd."""

    def write(directory: Path) -> Outcome:
        levels = gradient(), halved(gradient())
        cloud(directory, *levels)
        told(directory, number, **members)
        if number == 0:
            return image(levels=1, logged=["4_4_40"])
        return image(levels[0], aspect=10, levels=1, logged=["8_8_40"])

    return write


put(5, "offset_fraction", _odd(1, voxel_offset=[0.5, 0, 0]), kind="precomputed")
put(5, "offset_null", _odd(1, voxel_offset=[None, 0, 0]), kind="precomputed")
put(5, "offset_nan", _odd(1, voxel_offset=[float("nan"), 0, 0]))
put(5, "offset_of_two", _odd(1, voxel_offset=[0, 0]))
put(5, "offset_finest", _odd(0, voxel_offset=[0.5, 0, 0]), kind="precomputed")
put(5, "resolution_zero", _odd(1, resolution=[8, 0, 40]), kind="precomputed")
put(5, "scale_without_chunks", _odd(1, chunk_sizes=[]), kind="precomputed")
put(5, "scale_of_fork", _odd(1, encoding="jxl"), kind="precomputed")
put(5, "scale_without_size", _odd(1, size=[20, 16, 0]))


@given(5, kind="precomputed")
def info_nan(directory: Path) -> Outcome:
    """NaN where nobody needs a number."""
    cloud(directory, gradient())
    told(directory, intensity={"mean": float("nan"), "max": float("inf")})
    told(directory, 0, min_value=float("-inf"))
    return image(gradient(), aspect=10)


@given(5, kind="precomputed")
def offset_half_of_odd(directory: Path) -> Outcome:
    """An odd offset, of which the next scale has the half, rounded."""
    voxels = gradient()
    cloud(directory, voxels, halved(voxels), offset=(0, 0, 0))
    told(directory, 1, voxel_offset=[0, 0, 0.0])
    return image(voxels, halved(voxels), aspect=10)


# -- 8: what is missing is a matter of each bucket


def _sparse(writer: Callable[[Path, Array], object], chunk: str, aspect: int | None = None, fill: int = 0) -> Writer:
    """One chunk is not there, in a bucket that answers 403 for that."""

    def write(directory: Path) -> Outcome:
        voxels = gradient()
        writer(directory, voxels)
        (directory / chunk).unlink()
        expected = voxels.copy()
        expected[:4, :16, :16] = fill
        return image(expected, aspect=aspect)

    return write


def _shards(directory: Path, voxels: Array) -> None:
    """A shard a chunk."""
    one: Json = {"preshift_bits": 0, "minishard_bits": 0, "shard_bits": 10}
    formats.precomputed(directory, voxels, 1, sharded=one, chunk=(16, 16, 4), resolution=(4, 4, 40))


SHARD = "4_4_40/000.shard"
CLOSED: Json = {"server": "closed", "missing_status": "403, 404"}
put(8, "closed_precomputed", _sparse(cloud, "4_4_40/0-16_0-16_0-4", 10), kind="precomputed", **CLOSED)
put(8, "closed_zarr", _sparse(zarr2, "0.0.0"), kind="zarr", **CLOSED)
put(8, "closed_zarr3", _sparse(zarr3, "c/0/0/0"), **CLOSED)
put(8, "closed_n5", _sparse(n5_array, "0/0/0"), kind="n5", **CLOSED)
put(8, "closed_volume", _sparse(cloud, "4_4_40/0-16_0-16_0-4", 10), **CLOSED)
put(8, "closed_shards", _sparse(_shards, SHARD, 10), kind="precomputed", **CLOSED)
put(8, "closed_shards_volume", _sparse(_shards, SHARD, 10), **CLOSED)
put(8, "closed_ome", _sparse(lambda at, voxels: ome(at, voxels), "s0/0/0/0", int(ASPECT)), kind="zarr", **CLOSED)


@given(8, kind="zarr", server="closed", missing_status="403")
def closed_fill_value(directory: Path) -> Outcome:
    """What is missing is the fill value."""
    voxels = gradient()
    voxels[:4, :16, :16] = 77
    zarr2(directory, voxels, fill_value=77)
    assert not (directory / "0.0.0").exists()
    return image(voxels)


# -- 10 and 11


@given(10, kind="precomputed", server="pages")
def precomputed_nothing_among_pages(directory: Path) -> Outcome:
    """A page where the info should be."""
    directory.mkdir(parents=True)
    return refused("info")


@given(10, server="pages")
def precomputed_among_pages(directory: Path) -> Outcome:
    """A volume at a server that answers every address with a page."""
    cloud(directory, gradient())
    return image(gradient(), aspect=10)


def _signed(dtype: str) -> Writer:
    """A segmentation in a type with a sign."""

    def write(directory: Path) -> Outcome:
        ids = gradient(dtype)
        cloud(directory, ids, layer="segmentation")
        return annotation(ids, aspect=10)

    return write


put(11, "segmentation_int8", _signed("int8"), kind="precomputed")
put(11, "segmentation_int16", _signed("int16"), kind="precomputed")
put(11, "segmentation_int32", _signed("int32"), kind="precomputed")
put(11, "segmentation_int64", _signed("int64"))


@given(11, kind="precomputed", window="-100,120")
def image_int16_cloud(directory: Path) -> Outcome:
    """An image with a sign through the operator's window."""
    cloud(directory, gradient("int16"))
    return image(gradient("int16"), window=(-100, 120), aspect=10)
