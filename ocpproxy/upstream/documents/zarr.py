"""Zarr arrays: ``.zarray`` of version 2, ``zarr.json`` of version 3.

Axes of version 2 are t, c, z, y, x, the last ones of them if there are fewer. Version 3 can name them, with
``dimension_names``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ocpproxy.upstream.documents import arrays
from ocpproxy.upstream.documents.arrays import ArrayScale, DescribedArray
from ocpproxy.upstream.documents.checks import json_array, json_object, string

DOCUMENT_2 = ".zarray"
DOCUMENT_3 = "zarr.json"
_AXES = "tczyx"
_DTYPE_2 = re.compile(r"[<>|]([uif])([1248])")
_KINDS = {"u": "uint", "i": "int", "f": "float"}


def is_array(name: str, document: Mapping[str, Any]) -> bool:
    """Return whether a document is that of an array, and not of a group."""
    return name == DOCUMENT_2 or (name == DOCUMENT_3 and document.get("node_type") == "array")


def parse_array(channel: str | None, name: str, document: Mapping[str, Any], axes: str | None = None) -> DescribedArray:
    """Return the array that a document describes.

    :param channel: the channel whose address the volume is at.
    :param name: the path of the document below the volume's address.
    :param axes: a letter for each axis, where the array's group names them.
    :raises Unexpected: with what was expected.
    """
    shape = arrays.parse_shape("shape", document.get("shape"))
    if name.endswith(DOCUMENT_3):
        driver, dtype, chunk = "zarr3", string("data_type", document.get("data_type")), _chunk_3(document)
        if axes is None:
            axes = _dimension_names(document.get("dimension_names"), len(shape))
    else:
        driver, dtype, chunk = "zarr", _dtype_2(document.get("dtype")), document.get("chunks")
    if axes is None:
        axes = _AXES[-len(shape) :].rjust(len(shape), "1")
    axes = arrays.check_axes(axes, shape)
    grid = arrays.array_grid(axes, shape, arrays.parse_chunk("chunks", chunk, len(shape)))
    return DescribedArray(ArrayScale(channel, driver, name.rpartition("/")[0], axes, grid), dtype, shape)


def _dtype_2(value: object) -> str:
    """Return numpy's name of a type of version 2, or what is written there if it is not one of numbers."""
    match = _DTYPE_2.fullmatch(string("dtype", value))
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
