"""N5: ``attributes.json`` of an array, or of a group of arrays.

A group has ``scales`` or ``downsamplingFactors``, and as many arrays ``s0``, ``s1``, ... Without those, its arrays are
those from ``s0`` on that exist, each with its own ``downsamplingFactors``. A group need not have a document: what it
lacks may stand in a group above it, as BigDataViewer and n5-viewer write it. Axes are x, y, z (N5 specification;
n5-viewer and neuroglancer read groups in this way).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ocpproxy.upstream.documents import arrays, checks, encodings, pyramids, units
from ocpproxy.upstream.documents.arrays import ArrayScale, DescribedArray, Documents, SizedArray, along_xyz
from ocpproxy.upstream.documents.checks import fraction, json_array, unexpected
from ocpproxy.upstream.documents.pyramids import Volume

DOCUMENT = "attributes.json"
ABOVE = tuple(f"{'../' * n}{DOCUMENT}" for n in (1, 2, 3))
"""Documents of the groups above, the nearest first."""
_SIZES = ("pixelResolution", "resolution")
_FACTORS = ("downsamplingFactors", "scales")


def is_array(attributes: Mapping[str, Any]) -> bool:
    """Return whether attributes are those of an array, and not of a group."""
    return "dimensions" in attributes


def is_complete(attributes: Mapping[str, Any]) -> bool:
    """Return whether a group says itself how its arrays are scaled, and how large a voxel is."""
    return any(name in attributes for name in _SIZES) and any(name in attributes for name in _FACTORS)


def array_paths(group: Mapping[str, Any]) -> list[str]:
    """Return the paths of a group's arrays; of those that it does not count, as many as there may be.

    :raises Unexpected: it has too many.
    """
    factors = scale_factors(group)
    return [f"s{number}" for number in range(checks.MAX_LEVELS if factors is None else len(factors))]


def scale_factors(group: Mapping[str, Any]) -> list[Any] | None:
    """Return the downsampling factors of a group's arrays, or None if it has no list of them.

    :raises Unexpected: they are too many.
    """
    factors = next((group[name] for name in _FACTORS if name in group), None)
    if not isinstance(factors, list) or not factors or not isinstance(factors[0], list):
        return None
    return json_array("scales", factors)


def inherited(documents: Documents) -> Mapping[str, Any]:
    """Return the attributes of a group, and those of the groups above that it does not have itself.

    A document above that is no JSON object counts for nothing.
    """
    merged: dict[str, Any] = {}
    for name in (*reversed(ABOVE), DOCUMENT):
        if name == DOCUMENT and name in documents:
            merged.update(arrays.parse_object(documents, name))
        elif name in documents:
            value = checks.parse_json(documents[name])
            merged.update({key: value[key] for key in (*_SIZES, *_FACTORS, "units", "axes") if key in value})
    return merged


def parse_volume(channel: str | None, documents: Documents) -> Volume[ArrayScale]:
    """Return the volume of an array or of a group.

    :param channel: the channel whose address the volume is at.
    :raises Unexpected: with what was expected.
    """
    group = inherited(documents)
    if is_array(group):
        return arrays.build_volume([_parse_scale(channel, documents, group, {}, (DOCUMENT, None))])
    factors = scale_factors(group)
    if factors is None:
        names = [name for name in documents if name != DOCUMENT and name not in ABOVE]
        levels: list[tuple[str, object]] = [(name, None) for name in names]
    else:
        levels = [(f"{path}/{DOCUMENT}", factor) for path, factor in zip(array_paths(group), factors, strict=True)]
    if not levels:
        raise unexpected("an array, or scales s0, s1, ...", list(documents))
    finest = arrays.parse_object(documents, levels[0][0]) if levels[0][0] in documents else {}
    parse = partial(_parse_scale, channel, documents, group, finest)
    sized, notes = pyramids.parse_scales(levels, lambda level: level[0].removesuffix(f"/{DOCUMENT}"), parse)
    return arrays.build_volume(sized, notes)


def _parse_scale(
    channel: str | None,
    documents: Documents,
    group: Mapping[str, Any],
    finest: Mapping[str, Any],
    level: tuple[str, object],
) -> SizedArray:
    """Return one level.

    :param finest: the attributes of the finest array, which may have the size of a voxel for all.
    :param level: the name of its document, and its downsampling factors where the group has them.
    """
    name, factor = level
    path = name.removesuffix(DOCUMENT).strip("/")
    if name not in documents:
        raise unexpected(f"an array at {path}", None)
    own = arrays.parse_object(documents, name)
    array = _parse_array(channel, path, own, group)
    axes = array.scale.axes
    factor = own.get("downsamplingFactors") if factor is None else factor
    if factor is None:
        numbers, lengths = _voxel(axes, own, group)
    else:
        numbers, lengths = _voxel(axes, group, finest)
        steps = _along_xyz(axes, json_array("downsamplingFactors", factor))
        pairs = zip(numbers, steps, strict=True)
        numbers = [float(fraction("scale", a) * fraction("downsamplingFactors", b)) for a, b in pairs]
    voxel, unit = units.voxel_size(numbers, lengths)
    return SizedArray(path or "0", voxel, unit, array)


def _voxel(axes: str, *documents: Mapping[str, Any]) -> tuple[Sequence[object], Sequence[object]]:
    """Return edges of a voxel and their units along x, y, z from the first document that has them, or edges of 1."""
    for attributes in documents:
        value: Any = next((attributes[name] for name in _SIZES if name in attributes), None)
        lengths = attributes.get("units")
        if isinstance(value, dict):
            value, lengths = value.get("dimensions"), value.get("unit")
        if isinstance(value, list) and 3 <= len(value) <= arrays.MAX_DIMENSIONS:
            each = lengths if isinstance(lengths, list) and len(lengths) == len(value) else [lengths] * len(value)
            return _along_xyz(axes, value), _along_xyz(axes, each)
    return (1, 1, 1), (None, None, None)


def _along_xyz(axes: str, values: Sequence[object]) -> Sequence[object]:
    """Return the values along x, y, z of values in the order of the array's axes, or of x, y, z if there are three."""
    return along_xyz(axes if len(values) == len(axes) else "xyz", [*values, 1, 1, 1], 1)


def _parse_array(channel: str | None, path: str, own: Mapping[str, Any], group: Mapping[str, Any]) -> DescribedArray:
    if own.get("isLabelMultiset") or group.get("isLabelMultiset"):
        raise unexpected("voxels", "label multisets, which Paintera writes; export the labels as plain ids")
    shape = arrays.parse_shape("dimensions", own.get("dimensions"))
    axes = arrays.check_axes(_letters(own.get("axes", group.get("axes")), len(shape)), shape)
    block = arrays.parse_chunk("blockSize", own.get("blockSize"), len(shape))
    dtype = arrays.check_dtype("dataType", own.get("dataType"))
    encoding = encodings.n5(own, shape, block, dtype)
    grid, nbytes = arrays.array_grid(axes, shape, block), arrays.chunk_bytes(block, shape, dtype)
    scale = ArrayScale(channel, "n5", path, axes, grid, dtype, encoding, nbytes)
    return DescribedArray(scale, shape)


def _letters(names: object, dimensions: int) -> str:
    """Return a letter for each axis: those of its names if x, y and z are among them, or x, y, z."""
    if isinstance(names, list) and len(names) == dimensions:
        letters = "".join(str(name).lower()[:1] for name in names)
        if {"x", "y", "z"} <= set(letters):
            return letters
    return "xyz"[:dimensions] + "1" * (dimensions - 3)
