"""Zarr: version 2 with the metadata of OME-Zarr 0.4, and version 3 with that of OME-Zarr 0.5.

The root is a group, and each level an array with the axes of `ServedVolume.axes`. A chunk at the end of an array is
filled up with 0. Images are not compressed, so that most chunks are sent as they are kept; ids are. Source: the
specifications at zarr-specs.readthedocs.io, v2.0 and v3.0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ocpproxy.formats import ome
from ocpproxy.formats.chunk_file import GZIP_LEVEL, gzip
from ocpproxy.formats.location import (
    ChunkPlace,
    Encode,
    Folder,
    FormatItem,
    ServedVolume,
    json_document,
    number,
    numbers,
)
from ocpproxy.model.voxels import Voxels


def _body(place: ChunkPlace, voxels: Voxels, *, compressed: bool) -> bytes:
    """Return the voxels of a whole chunk, little endian, in C order; those beyond the volume are 0."""
    whole = np.zeros(place.grid.chunk[::-1], voxels.dtype.newbyteorder("<"))
    z, y, x = voxels.shape
    whole[:z, :y, :x] = voxels
    return gzip(whole.tobytes()) if compressed else whole.tobytes()


class _Zarr:
    """What both versions have in common."""

    axis_of_channels = True

    def encoder(self, served: ServedVolume, place: ChunkPlace) -> Encode | None:
        """Return what makes the body of a chunk; None for a whole chunk of voxels that are not compressed."""
        if place.grid.encoding == "raw" and place.is_whole:
            return None
        return partial(_body, place, compressed=served.is_compressed(place.level))

    def has_type(self, dtype: str) -> bool:
        """Return True: Zarr has all types."""
        return True

    def plain_length(self, served: ServedVolume, place: ChunkPlace) -> int | None:
        """Return the bytes of a chunk's body; see `VoxelFormat.plain_length`."""
        z, y, x = place.grid.chunk
        return None if served.is_compressed(place.level) else z * y * x * place.volume.channel.itemsize


class Zarr2Format(_Zarr):
    """Zarr 2."""

    name = "zarr"

    def find(self, served: ServedVolume, path: Sequence[str]) -> FormatItem | None:
        """Return what a path means; see `VoxelFormat.find`."""
        if not path:
            return Folder([".zgroup", ".zattrs", ".zmetadata", *(f"{level}/" for level in served.levels)])
        if len(path) == 1:
            make = _DOCUMENTS.get(path[0])
            if make is not None:
                return json_document(make(served))
        level = number(path[0])
        if level is None or level not in served.levels:
            return None
        if len(path) == 1:
            return Folder([".zarray", ".zattrs"])
        if len(path) == 2 and path[1] in (".zarray", ".zattrs"):
            return json_document(_array(served, level) if path[1] == ".zarray" else _array_attributes(served))
        found = numbers(path[1:])
        return None if found is None else served.place(level, found)


_GROUP = {"zarr_format": 2}


def _attributes(served: ServedVolume) -> dict[str, Any]:
    return {
        "multiscales": [{"version": "0.4", **ome.multiscale(served)}],
        "omero": {"version": "0.4", **ome.omero(served)},
    }


def _array_attributes(served: ServedVolume) -> dict[str, Any]:
    return {"_ARRAY_DIMENSIONS": list(served.axes)}


def _metadata(served: ServedVolume) -> dict[str, Any]:
    """Return the documents of all levels in one, as readers of consolidated metadata want them."""
    documents: dict[str, Any] = {".zgroup": _GROUP, ".zattrs": _attributes(served)}
    for level in served.levels:
        documents[f"{level}/.zarray"] = _array(served, level)
        documents[f"{level}/.zattrs"] = _array_attributes(served)
    return {"zarr_consolidated_format": 1, "metadata": documents}


def _array(served: ServedVolume, level: int) -> dict[str, Any]:
    return {
        "zarr_format": 2,
        "shape": served.shape(level),
        "chunks": served.chunk(level),
        "dtype": np.dtype(served.dtype).newbyteorder("<").str,
        "compressor": {"id": "gzip", "level": GZIP_LEVEL} if served.is_compressed(level) else None,
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }


_DOCUMENTS: dict[str, Callable[[ServedVolume], Any]] = {
    ".zgroup": lambda served: _GROUP,
    ".zattrs": _attributes,
    ".zmetadata": _metadata,
}


class Zarr3Format(_Zarr):
    """Zarr 3."""

    name = "zarr3"

    def find(self, served: ServedVolume, path: Sequence[str]) -> FormatItem | None:
        """Return what a path means; see `VoxelFormat.find`."""
        if not path:
            return Folder(["zarr.json", *(f"{level}/" for level in served.levels)])
        if path == ["zarr.json"]:
            return json_document(_group3(served))
        level = number(path[0])
        if level is None or level not in served.levels:
            return None
        if len(path) == 1:
            return Folder(["zarr.json", "c/"])
        if list(path[1:]) == ["c"]:
            return Folder([])
        if list(path[1:]) == ["zarr.json"]:
            return json_document(_array3(served, level))
        found = numbers(path[2:]) if path[1] == "c" else None
        return None if found is None else served.place(level, found)


def _group3(served: ServedVolume) -> dict[str, Any]:
    attributes = {"ome": {"version": "0.5", "multiscales": [ome.multiscale(served)], "omero": ome.omero(served)}}
    arrays = {str(level): _array3(served, level) for level in served.levels}
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": attributes,
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
    }


def _array3(served: ServedVolume, level: int) -> dict[str, Any]:
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if served.is_compressed(level):
        codecs.append({"name": "gzip", "configuration": {"level": GZIP_LEVEL}})
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": served.shape(level),
        "data_type": served.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": served.chunk(level)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if served.dtype.startswith("float") else 0,
        "codecs": codecs,
        "dimension_names": list(served.axes),
        "attributes": {},
    }
