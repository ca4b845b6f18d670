"""Zarr arrays: ``.zarray`` of version 2, ``zarr.json`` of version 3.

Axes of version 2 are t, c, z, y, x, the last ones of them if there are fewer. xarray names them in the ``.zattrs`` of
the array, with ``_ARRAY_DIMENSIONS``. Version 3 can name them, with ``dimension_names``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ocpproxy.upstream.documents import arrays, encodings
from ocpproxy.upstream.documents.arrays import ArrayScale, DescribedArray
from ocpproxy.upstream.documents.checks import json_array, json_object, string

DOCUMENT_2 = ".zarray"
DOCUMENT_3 = "zarr.json"
ATTRIBUTES_2 = ".zattrs"
_AXES = "tczyx"
_DTYPE_2 = re.compile(r"[<>|=]?([uifb])([1248])")
_KINDS = {"u": "uint", "i": "int", "f": "float"}
_XARRAY_AXES = "_ARRAY_DIMENSIONS"


def is_array(name: str, document: Mapping[str, Any]) -> bool:
    """Return whether a document is that of an array, and not of a group."""
    return name == DOCUMENT_2 or (name == DOCUMENT_3 and document.get("node_type") == "array")


def names_axes(attributes: Mapping[str, Any]) -> bool:
    """Return whether the attributes of an array of version 2 name its axes."""
    return _XARRAY_AXES in attributes


def parse_array(
    channel: str | None,
    name: str,
    document: Mapping[str, Any],
    axes: str | None = None,
    attributes: Mapping[str, Any] = MappingProxyType({}),
) -> DescribedArray:
    """Return the array that a document describes.

    :param channel: the channel whose address the volume is at.
    :param name: the path of the document below the volume's address.
    :param axes: a letter for each axis, where the array's group names them.
    :param attributes: of an array of version 2.
    :raises Unexpected: with what was expected.
    """
    shape = arrays.parse_shape("shape", document.get("shape"))
    if name.endswith(DOCUMENT_3):
        driver, dtype = "zarr3", arrays.check_dtype("data_type", document.get("data_type"))
        encoding = encodings.zarr3(document, dtype)
        chunk, names = _chunk_3(document), document.get("dimension_names")
    else:
        driver, dtype = "zarr", arrays.check_dtype("dtype", _dtype_2(document.get("dtype")))
        chunk, names = document.get("chunks"), attributes.get(_XARRAY_AXES)
        encoding = encodings.zarr2(document, shape, arrays.parse_chunk("chunks", chunk, len(shape)), dtype)
    axes = axes or _dimension_names(names, len(shape)) or _AXES[-len(shape) :].rjust(len(shape), "1")
    axes = arrays.check_axes(axes, shape)
    chunks = arrays.parse_chunk("chunks", chunk, len(shape))
    path, grid = name.rpartition("/")[0], arrays.array_grid(axes, shape, chunks)
    nbytes = arrays.chunk_bytes(chunks, shape, dtype)
    return DescribedArray(ArrayScale(channel, driver, path, axes, grid, dtype, encoding, nbytes), shape)


def _dtype_2(value: object) -> str:
    """Return numpy's name of a type of version 2, or what is written there if it is not one of numbers."""
    match = _DTYPE_2.fullmatch(string("dtype", value))
    if match and match[1] == "b":
        return "bool"
    return f"{_KINDS[match[1]]}{8 * int(match[2])}" if match else str(value)


def _chunk_3(document: Mapping[str, Any]) -> object:
    """Return the shape of the chunks that can be read one by one: those in a shard, if there are shards."""
    grid = json_object("chunk_grid", document.get("chunk_grid"))
    chunk: object = json_object("configuration", grid.get("configuration")).get("chunk_shape")
    for codec in json_array("codecs", document.get("codecs", [])):
        if isinstance(codec, dict) and codec.get("name") == "sharding_indexed":
            chunk = json_object("configuration", codec.get("configuration")).get("chunk_shape")
    return chunk


def _dimension_names(names: object, dimensions: int) -> str | None:
    """Return a letter for each axis, or None if the names do not include x and y."""
    if not isinstance(names, list) or len(names) != dimensions:
        return None
    letters = "".join(str(name or "1").lower()[:1] for name in names)
    return letters if {"x", "y"} <= set(letters) else None
