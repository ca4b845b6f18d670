"""Writers of volumes in the formats that upstreams have, each by software that shares no code with the gateway.

A volume has axes (z, y, x), or (c, z, y, x). Level n of a pyramid is every 2**n-th voxel along x and y.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import brotli
import numpy.typing as npt
import tensorstore as ts

Array = npt.NDArray[Any]
Triple = tuple[float, float, float]
Json = dict[str, Any]

SHARDING: Json = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "hash": "identity",
    "preshift_bits": 1,
    "minishard_bits": 2,
    "shard_bits": 5,
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}


def pyramid(volume: Array, levels: int) -> list[Array]:
    """The levels of a volume, finest first."""
    return [volume[..., :: 2**n, :: 2**n] for n in range(levels)]


def key(resolution: Triple, n: int) -> str:
    """The directory of a level of a precomputed volume, as ``4.6_4.6_45``."""
    return "_".join(f"{length:g}" for length in _coarser(resolution, n))


def _coarser(resolution: Triple, n: int) -> list[float]:
    return [resolution[0] * 2**n, resolution[1] * 2**n, resolution[2]]


def _grid(volume: Array, offset: tuple[int, int, int], n: int) -> dict[str, list[int]]:
    """Where a level of a precomputed volume lies; `volume` is the level itself."""
    return {"size": list(volume.shape[:-4:-1]), "voxel_offset": [offset[0] >> n, offset[1] >> n, offset[2]]}


def _channels(volume: Array) -> Array:
    """The volume with axes (c, z, y, x)."""
    return volume.reshape((1,) * (4 - volume.ndim) + volume.shape)


def _write(directory: Path, spec: Json, voxels: Array) -> None:
    """Have TensorStore make a store and write an array whole, even the chunks that are all zero."""
    spec = {"kvstore": {"driver": "file", "path": f"{directory}/"}, "store_data_equal_to_fill_value": True} | spec
    store = ts.open(spec, create=True).result()
    with ts.Transaction() as transaction:
        store.with_transaction(transaction).write(voxels).result()


def _save(path: Path, document: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def precomputed(
    directory: Path,
    volume: Array,
    levels: int = 3,
    *,
    encoding: Literal["raw", "jpeg", "png", "compressed_segmentation"] = "raw",
    chunk: tuple[int, int, int] = (128, 128, 16),
    offset: tuple[int, int, int] = (0, 0, 0),
    resolution: Triple = (4.6, 4.6, 45.0),
    kind: Literal["image", "segmentation"] = "image",
    sharded: bool | Json = False,
    stored: Literal["gzip", "br"] | None = None,
    shuffle: bool = False,
    missing: Collection[str] = (),
) -> None:
    """Write a precomputed volume; triples are x, y, z, and `sharded` may change some of `SHARDING`.

    `stored` compresses the files of chunks under their names, `shuffle` puts the finest scale last in the info, and
    `missing` are chunks to delete, as ``4.6_4.6_45/0-128_0-128_0-16``. ShardedScales lack the chunks that are all zero.
    """
    if sharded and (stored or missing):
        raise ValueError("the files of a sharded volume are not chunks")
    for n, voxels in enumerate(pyramid(_channels(volume), levels)):
        scale: Json = {"key": key(resolution, n), "resolution": _coarser(resolution, n)}
        scale |= _grid(voxels, offset, n) | {"chunk_size": list(chunk), "encoding": encoding}
        if encoding == "jpeg":
            scale["jpeg_quality"] = 90
        if encoding == "compressed_segmentation":
            scale["compressed_segmentation_block_size"] = [8, 8, 8]
        if sharded:
            scale["sharding"] = SHARDING | (sharded if isinstance(sharded, dict) else {})
        many = {"data_type": str(volume.dtype), "num_channels": voxels.shape[0], "type": kind}
        spec = {"driver": "neuroglancer_precomputed", "multiscale_metadata": many, "scale_metadata": scale}
        _write(directory, spec, voxels.T)
    if shuffle:
        info = json.loads((directory / "info").read_text())
        info["scales"] = info["scales"][1:] + info["scales"][:1]
        _save(directory / "info", info)
    for name in missing:
        (directory / name).unlink()
    if stored:
        for path in directory.glob("*/*"):
            data = path.read_bytes()
            path.write_bytes(gzip.compress(data, mtime=0) if stored == "gzip" else brotli.compress(data, quality=5))


def n5(
    directory: Path,
    volume: Array,
    levels: int = 3,
    *,
    compression: Literal["raw", "gzip", "bzip2", "xz", "blosc", "zstd"] = "gzip",
    chunk: tuple[int, int, int] = (128, 128, 16),
    resolution: Triple = (4.6, 4.6, 45.0),
    factors: Literal["downsamplingFactors", "scales", "each"] = "downsamplingFactors",
) -> None:
    """Write an N5 group of arrays ``s0``, ``s1``, ... with axes x, y, z.

    `factors` is where those of the levels are told: under one of two names in the group, or in each array alone.
    """
    settings = {"cname": "lz4", "clevel": 5, "shuffle": 1} if compression == "blosc" else {}
    steps = [[2**n, 2**n, 1] for n in range(levels)]
    group: Json = {"n5": "2.5.1", "pixelResolution": {"unit": "nm", "dimensions": list(resolution)}}
    _save(directory / "attributes.json", group if factors == "each" else group | {factors: steps})
    for n, voxels in enumerate(pyramid(volume, levels)):
        metadata: Json = {"dimensions": list(voxels.shape[::-1]), "blockSize": list(chunk)}
        metadata |= {"dataType": str(volume.dtype), "compression": {"type": compression} | settings}
        _write(directory / f"s{n}", {"driver": "n5", "metadata": metadata}, voxels.T)
        if factors == "each":
            path = directory / f"s{n}" / "attributes.json"
            _save(path, json.loads(path.read_text()) | {"downsamplingFactors": steps[n]})


def zarr2(directory: Path, volume: Array, *, chunk: tuple[int, ...] = (16, 128, 128), **metadata: Any) -> None:
    """Write a zarr version 2 array; `metadata` are fields of its ``.zarray`` that differ from these."""
    usual = {
        "shape": list(volume.shape),
        "chunks": [1] * (volume.ndim - len(chunk)) + list(chunk),
        "dtype": volume.dtype.newbyteorder("<").str,
        "compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0},
        "dimension_separator": ".",
        "fill_value": 0,
        "order": "C",
    }
    _write(directory, {"driver": "zarr", "metadata": usual | metadata}, volume)


def zarr3(
    directory: Path,
    volume: Array,
    *,
    sharded: bool = False,
    chunk: tuple[int, ...] = (16, 128, 128),
    compression: Literal["zstd", "gzip", "blosc"] | None = "zstd",
    **metadata: Any,
) -> None:
    """Write a zarr version 3 array, in chunks or in shards of 1 x 2 x 2 (z, y, x) of them.

    `metadata` are fields of its ``zarr.json`` that differ from these.
    """
    settings: Json = {
        "zstd": {"level": 3, "checksum": False},
        "gzip": {"level": 5},
        "blosc": {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "blocksize": 0, "typesize": volume.dtype.itemsize},
    }
    inner = [1] * (volume.ndim - len(chunk)) + list(chunk)
    little: Json = {"name": "bytes", "configuration": {"endian": "little"}}
    codecs = [little, {"name": compression, "configuration": settings[compression]}] if compression else [little]
    if sharded:
        index = [little, {"name": "crc32c"}]
        shard = {"chunk_shape": inner, "codecs": codecs, "index_codecs": index, "index_location": "end"}
        codecs = [{"name": "sharding_indexed", "configuration": shard}]
    outer = [*inner[:-2], inner[-2] * 2, inner[-1] * 2] if sharded else inner
    usual = {
        "shape": list(volume.shape),
        "data_type": str(volume.dtype),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": outer}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": codecs,
    }
    _write(directory, {"driver": "zarr3", "metadata": usual | metadata}, volume)


def ome_zarr(
    directory: Path,
    volume: Array,
    levels: int = 3,
    *,
    version: Literal["0.4", "0.5"] = "0.4",
    axes: Literal["zyx", "czyx", "tczyx"] = "zyx",
    chunk: tuple[int, ...] = (16, 128, 128),
    resolution: Triple = (4.6, 4.6, 45.0),
    sharded: bool = True,
    group: bool = True,
) -> None:
    """Write an OME-Zarr image: 0.4 as zarr 2 in chunks, 0.5 as zarr 3 that is `sharded` or not.

    With `group`, arrays are scaled to voxels of level 0, and the group to nanometres; else arrays to nanometres.
    """
    whole = volume.reshape((1,) * (len(axes) - volume.ndim) + volume.shape)
    unit = [1.0] * (len(axes) - 3)
    physical = list(resolution[::-1])
    known: dict[str, Json] = {"t": {"type": "time", "unit": "second"}, "c": {"type": "channel"}}
    space = {"type": "space", "unit": "nanometer"}
    datasets: list[Json] = []
    for n, voxels in enumerate(pyramid(whole, levels)):
        of = [1.0, 1.0, 1.0] if group else physical
        scale = [of[0], of[1] * 2**n, of[2] * 2**n]
        shift = [0.0, of[1] * (2**n - 1) / 2, of[2] * (2**n - 1) / 2]
        transformations: list[Json] = [{"type": "scale", "scale": unit + scale}]
        if n:
            transformations.append({"type": "translation", "translation": [0.0] * len(unit) + shift})
        datasets.append({"path": str(n), "coordinateTransformations": transformations})
        if version == "0.4":
            zarr2(directory / str(n), voxels, chunk=chunk, dimension_separator="/")
        else:
            zarr3(directory / str(n), voxels, sharded=sharded, chunk=chunk, dimension_names=list(axes))
    multiscale: Json = {
        "name": "em",
        "axes": [{"name": axis} | known.get(axis, space) for axis in axes],
        "datasets": datasets,
        "type": "nearest",
    }
    if group:
        multiscale["coordinateTransformations"] = [{"type": "scale", "scale": unit + physical}]
    if version == "0.4":
        _save(directory / ".zgroup", {"zarr_format": 2})
        _save(directory / ".zattrs", {"multiscales": [{"version": "0.4"} | multiscale]})
    else:
        ome = {"version": "0.5", "multiscales": [multiscale]}
        _save(directory / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}})
