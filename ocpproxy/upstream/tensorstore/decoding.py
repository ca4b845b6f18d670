"""Arrays of Zarr 2 whose codecs TensorStore lacks, decoded with numcodecs: in TensorStore's process, from its stores.

Whatever a hostile chunk does to a codec, it does to this process, whose memory is limited and which can be replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

_MOST_CHUNKS = 65536
"""Chunks of one request."""
ReadChunk = Callable[[str], Any]
"""Starts to read the object of a chunk, and returns TensorStore's future of it."""


def read(read_chunk: ReadChunk, metadata: Mapping[str, Any], fill_missing: bool, index: Sequence[Any]) -> Any:
    """Return a part of an array, with the axes of the array that the index does not drop.

    :param metadata: of the array, as ``.zarray`` has them.
    :param fill_missing: a missing chunk has the fill value; otherwise it is an error.
    :param index: for each axis [first, end], or a number, which drops the axis.
    :raises ValueError: a chunk is missing, damaged, or not what the metadata say.
    """
    shape, dtype = metadata["chunks"], np.dtype(metadata["dtype"])
    spans = [part if isinstance(part, list) else [part, part + 1] for part in index]
    fill = 0 if metadata["fill_value"] is None else metadata["fill_value"]
    target = np.full([end - first for first, end in spans], fill, dtype)
    decode = _decoder(metadata)
    numbers = [range(first // size, -(-end // size)) for (first, end), size in zip(spans, shape, strict=True)]
    if prod(map(len, numbers)) > _MOST_CHUNKS:
        raise ValueError(f"expected a part of at most {_MOST_CHUNKS} chunks")
    separator = metadata["dimension_separator"]
    reading = [(number, read_chunk(separator.join(map(str, number)))) for number in product(*numbers)]
    for number, future in reading:
        found = future.result()
        if found.state == "missing":
            if not fill_missing:
                raise ValueError(f"NOT_FOUND: chunk {separator.join(map(str, number))} is missing")
            continue
        voxels = _shaped(decode(bytes(found.value)), metadata, dtype)
        there, here = zip(*_overlaps(number, shape, spans), strict=True)
        target[there] = voxels[here]
    return target[tuple(slice(None) if isinstance(part, list) else 0 for part in index)]


def _decoder(metadata: Mapping[str, Any]) -> Callable[[bytes], Any]:
    """Return a function that undoes the compressor and the filters, the last one first."""
    from numcodecs.registry import get_codec

    filters = [get_codec(dict(config)) for config in metadata["filters"] or []]
    compressor = metadata["compressor"]
    codecs = [*filters, *([get_codec(dict(compressor))] if compressor is not None else [])]

    def decode(body: Any) -> Any:
        for codec in reversed(codecs):
            body = codec.decode(body)
        return body

    return decode


def _shaped(decoded: Any, metadata: Mapping[str, Any], dtype: np.dtype[Any]) -> Any:
    """Return what was decoded as a chunk.

    :raises ValueError: it has another size.
    """
    shape = metadata["chunks"]
    voxels = np.frombuffer(decoded, np.uint8) if isinstance(decoded, (bytes, bytearray)) else np.asarray(decoded)
    voxels = np.ascontiguousarray(voxels).reshape(-1)
    if voxels.dtype != dtype:
        voxels = voxels.view(np.uint8).view(dtype)
    if voxels.size != prod(shape):
        raise ValueError(f"expected a chunk of {prod(shape)} voxels, not {voxels.size}")
    return voxels.reshape(shape, order=metadata["order"])


def _overlaps(
    number: Sequence[int], shape: Sequence[int], spans: Sequence[Sequence[int]]
) -> Iterator[tuple[slice, slice]]:
    """Yield, for each axis, where a chunk lies in the part, and which voxels of the chunk those are."""
    for n, size, (first, end) in zip(number, shape, spans, strict=True):
        low, high = max(n * size, first), min((n + 1) * size, end)
        yield slice(low - first, high - first), slice(low - n * size, high - n * size)
