"""How the chunks of an array are encoded: whether they can be read, and what their reader has to know.

TensorStore reads documents too, and more strictly: it refuses a whole array for a member that it does not know. So the
gateway gives it clean metadata, made here of the members that count, and it reads no document (``assume_metadata``).
Chunks of Zarr 2 whose codecs TensorStore lacks are read with numcodecs, by the same process.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Any

import numpy as np

from ocpproxy.upstream.documents.checks import json_array, json_object, string, unexpected

TENSORSTORE, NUMCODECS = "tensorstore", "numcodecs"
_BLOSC = {"cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
"""Members that TensorStore requires and does not use to decode. They are constants: those of a document may be bad."""
_COMPRESSORS_2: Mapping[str, Mapping[str, Any]] = {
    "blosc": _BLOSC,
    "bz2": {"level": 1},
    "gzip": {"level": 1},
    "zlib": {"level": 1},
    "zstd": {"level": 1},
}
"""The compressors of Zarr 2 that TensorStore has."""
_CODECS_2: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    **dict.fromkeys((*_COMPRESSORS_2, "lz4", "packbits"), ((), ())),
    **dict.fromkeys(("crc32", "adler32"), ((), ("location",))),
    "fletcher32": ((), ()),
    "jenkins_lookup3": ((), ("initval", "prefix")),
    "lzma": ((), ("format", "filters")),
    "shuffle": (("elementsize",), ()),
    "delta": (("dtype",), ("astype",)),
    "quantize": (("digits", "dtype"), ("astype",)),
    "bitround": (("keepbits",), ()),
    "fixedscaleoffset": (("offset", "scale", "dtype"), ("astype",)),
    "astype": (("encode_dtype", "decode_dtype"), ()),
}
"""The compressors and filters of Zarr 2 that numcodecs undoes: the members that it needs to decode, and those that it
may have. Codecs that make Python objects are not among them."""
_CODECS_3: Mapping[str, Mapping[str, Any] | None] = {
    "bytes": None,
    "transpose": None,
    "blosc": {"cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "blocksize": 0, "typesize": 1},
    "gzip": {"level": 1},
    "zstd": {"level": 1, "checksum": False},
    "crc32c": {},
    "sharding_indexed": None,
}
"""The codecs of Zarr 3 that TensorStore has, with members as above; None where those of the document count."""
_COMPRESSIONS_N5: Mapping[str, Mapping[str, Any]] = {
    "raw": {},
    "gzip": {},
    "bzip2": {},
    "xz": {},
    "zstd": {},
    "blosc": {"cname": "lz4", "clevel": 5, "shuffle": 1},
}
_BLOSC_NAMES = ("blosclz", "lz4", "lz4hc", "snappy", "zlib", "zstd")
_NUMBERS = re.compile(r"[<>|]?[uifb][1248]")
"""Types that a filter may name."""
_MAX_NESTING = 4


@dataclass(frozen=True, slots=True)
class Encoding:
    """What a reader of chunks has to know."""

    reader: str
    """`TENSORSTORE` or `NUMCODECS`."""
    metadata: str
    """The members of TensorStore's spec of the array that have its metadata, as JSON."""
    notes: tuple[str, ...] = ()
    """What in the document was ignored, for people."""


# -- Zarr 2


def zarr2(document: Mapping[str, Any], shape: Sequence[int], chunk: Sequence[int], dtype: str) -> Encoding:
    """Return the encoding of an array of Zarr 2 (zarr-specs.readthedocs.io, v2).

    :param dtype: numpy's name of the type.
    :raises Unexpected: its chunks cannot be read; with the name of the codec.
    """
    filters = document.get("filters")
    filters = [_codec_2(item) for item in json_array("filters", filters, max_length=16)] if filters else []
    compressor = document.get("compressor")
    compressor = None if compressor is None else _codec_2(compressor)
    known = not filters and (compressor is None or compressor["id"] in _COMPRESSORS_2)
    if known and compressor is not None:
        compressor = {"id": compressor["id"], **_COMPRESSORS_2[compressor["id"]]}
    fill, notes = _fill_value(document.get("fill_value"), dtype)
    metadata = {
        "shape": list(shape),
        "chunks": list(chunk),
        "dtype": _dtype_2(string("dtype", document.get("dtype"))),
        "compressor": compressor,
        "fill_value": fill,
        "order": string("order", document.get("order") or "C", "C", "F"),
        "filters": filters or None,
        "dimension_separator": string("dimension_separator", document.get("dimension_separator") or ".", ".", "/"),
    }
    return Encoding(TENSORSTORE if known else NUMCODECS, json.dumps({"metadata": metadata}), notes)


def _dtype_2(text: str) -> str:
    """Return a type as TensorStore has it: with the order of its bytes."""
    return text if text[:1] in "<>|" else np.dtype(text.lstrip("=")).str


def _codec_2(value: object) -> dict[str, Any]:
    """Return a codec, with the members that are needed to decode."""
    codec = json_object("a codec", value)
    name = string("a codec", codec.get("id"))
    if name not in _CODECS_2:
        raise unexpected("chunks in a codec that can be read here (" + ", ".join(sorted(_CODECS_2)) + ")", name)
    if name == "blosc":
        string("the compressor of blosc", codec.get("cname", "lz4"), *_BLOSC_NAMES)
    needed, optional = _CODECS_2[name]
    for member in needed:
        if codec.get(member) is None:
            raise unexpected(f"a member {member} of the codec {name}", sorted(map(str, codec)))
    for member in ("dtype", "astype", "encode_dtype", "decode_dtype"):
        if codec.get(member) is not None and not _NUMBERS.fullmatch(string(member, codec[member])):
            raise unexpected(f"a type of numbers for {member} of {name}", codec[member])
    return {"id": name, **{key: codec[key] for key in (*needed, *optional) if codec.get(key) is not None}}


def _fill_value(value: object, dtype: str) -> tuple[object, tuple[str, ...]]:
    """Return the value of missing voxels as TensorStore takes it, and a note where it is not of the array's type.

    Programs write it in quotes, as a float, or as false.
    """
    if value is None:
        return None, ()
    kind = np.dtype(dtype).kind
    if kind == "f" and isinstance(value, str) and re.fullmatch("0x[0-9a-fA-F]{8}", value):
        value = struct.unpack(">f", bytes.fromhex(value[2:]))[0]  # its bits, in Zarr 3
    number = _number(value, float if kind == "f" else int)
    if kind == "b" and number in (0, 1):
        return bool(number), ()
    if kind == "f" and number is not None:
        return (number if isfinite(number) else "NaN" if isnan(number) else f"{'-' * (number < 0)}Infinity"), ()
    if kind in "ui" and number is not None and np.iinfo(dtype).min <= number <= np.iinfo(dtype).max:
        return int(number), ()
    return None, (f"its fill_value {str(value)[:40]!r} is no {dtype}, so missing voxels are 0",)


def _number(value: object, kind: type[int] | type[float]) -> int | float | None:
    """Return a number, a boolean, or what stands in quotes as a number; None for anything else."""
    text = str(int(value)) if isinstance(value, bool) else str(value)
    try:
        return kind(text.removesuffix(".0"))
    except (ValueError, OverflowError):
        return None


# -- Zarr 3


def zarr3(document: Mapping[str, Any], dtype: str) -> Encoding:
    """Return the encoding of an array of Zarr 3 (zarr-specs.readthedocs.io, v3).

    :param dtype: its type.
    :raises Unexpected: its chunks cannot be read; with the name of the codec.
    """
    grid = json_object("chunk_grid", document.get("chunk_grid"))
    string("the name of chunk_grid", grid.get("name"), "regular")
    for name, member in document.items():
        needed = isinstance(member, dict) and member.get("must_understand") is True
        if needed or (name == "storage_transformers" and member):
            raise unexpected("no extension of Zarr that has to be understood", name)
    codecs = _codecs_3(document.get("codecs", []))
    fill, notes = _fill_value(document.get("fill_value"), dtype)
    metadata = {
        "shape": document.get("shape"),
        "data_type": dtype,
        "chunk_grid": grid,
        "chunk_key_encoding": document.get("chunk_key_encoding", {"name": "default"}),
        "fill_value": np.dtype(dtype).type(0).item() if fill is None else fill,
        "codecs": codecs,
    }
    return Encoding(TENSORSTORE, json.dumps({"metadata": metadata}), notes)


def _codecs_3(value: object, depth: int = 0) -> list[Any]:
    """Return codecs, with the members that are needed to decode."""
    if depth > _MAX_NESTING:
        raise unexpected(f"shards in at most {_MAX_NESTING} layers", "more")
    clean: list[Any] = []
    for codec in json_array("codecs", value, max_length=16):
        members = {"name": codec} if isinstance(codec, str) else json_object("a codec", codec)
        name = string("a codec", members.get("name"))
        if name not in _CODECS_3:
            raise unexpected("chunks in codecs that can be read here (" + ", ".join(_CODECS_3) + ")", name)
        configuration = dict(json_object(f"the configuration of {name}", members.get("configuration") or {}))
        if name == "blosc":
            string("the compressor of blosc", configuration.get("cname", "lz4"), *_BLOSC_NAMES)
        if name == "sharding_indexed":
            configuration["codecs"] = _codecs_3(configuration.get("codecs", []), depth + 1)
        used = _CODECS_3[name]
        configuration = configuration if used is None else dict(used)
        clean.append({"name": name, **({"configuration": configuration} if configuration else {})})
    return clean


# -- N5


def n5(attributes: Mapping[str, Any], shape: Sequence[int], block: Sequence[int], dtype: str) -> Encoding:
    """Return the encoding of an array of N5 (github.com/saalfeldlab/n5, file-system specification).

    :raises Unexpected: its blocks cannot be read; with the name of the compression.
    """
    compression = attributes.get("compression", attributes.get("compressionType"))
    if isinstance(compression, str):  # as in N5 1.0
        compression = {"type": compression}
    members = json_object("compression", compression)
    name = string("the type of compression", members.get("type"))
    if name not in _COMPRESSIONS_N5:
        raise unexpected("blocks in a compression that can be read here (" + ", ".join(_COMPRESSIONS_N5) + ")", name)
    if name == "blosc":
        string("the compressor of blosc", members.get("cname", "lz4"), *_BLOSC_NAMES)
    zlib = {"useZlib": True} if name == "gzip" and members.get("useZlib") is True else {}
    metadata = {
        "dimensions": list(shape),
        "blockSize": list(block),
        "dataType": dtype,
        "compression": {"type": name, **_COMPRESSIONS_N5[name], **zlib},
    }
    return Encoding(TENSORSTORE, json.dumps({"metadata": metadata}))
