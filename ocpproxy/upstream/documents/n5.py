"""N5: ``attributes.json`` of an array, or of a group of arrays.

A group has ``scales`` or ``downsamplingFactors``, and as many arrays ``s0``, ``s1``, ... Without those, its arrays are
those from ``s0`` on that exist, each with its own ``downsamplingFactors``. Axes are x, y, z (N5 specification;
n5-viewer and neuroglancer read groups in this way).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from ocpproxy.upstream.documents import arrays, checks
from ocpproxy.upstream.documents.arrays import ArrayScale, DescribedArray, Documents, along_xyz
from ocpproxy.upstream.documents.checks import fraction, json_array, string, unexpected
from ocpproxy.upstream.documents.pyramids import Volume, VoxelSize

DOCUMENT = "attributes.json"


def array_paths(group: Mapping[str, Any]) -> list[str]:
    """Return the paths of a group's arrays; of those that it does not count, as many as there may be.

    :raises Unexpected: it has too many.
    """
    if "dimensions" in group:
        return []
    factors = scale_factors(group)
    return [f"s{number}" for number in range(checks.MAX_LEVELS if factors is None else len(factors))]


def scale_factors(group: Mapping[str, Any]) -> list[Any] | None:
    """Return the downsampling factors of a group's arrays, or None if it has no list of them.

    :raises Unexpected: they are too many.
    """
    factors = group.get("downsamplingFactors", group.get("scales"))
    if not isinstance(factors, list) or not factors or not isinstance(factors[0], list):
        return None
    return json_array("scales", factors)


def parse_volume(channel: str | None, documents: Documents) -> Volume[ArrayScale]:
    """Return the volume of an array or of a group.

    :param channel: the channel whose address the volume is at.
    :raises Unexpected: with what was expected.
    """
    group = arrays.parse_object(documents, DOCUMENT)
    names = [DOCUMENT] if "dimensions" in group else [name for name in documents if name != DOCUMENT]
    factors = scale_factors(group)
    if not names or (factors is not None and len(factors) < len(names)):
        raise unexpected("an array, or scales s0, s1, ...", list(documents))
    attributes = [arrays.parse_object(documents, name) for name in names]
    described: list[tuple[VoxelSize, DescribedArray]] = []
    for number, (name, own) in enumerate(zip(names, attributes, strict=True)):
        factor = factors[number] if factors else own.get("downsamplingFactors")
        edges = _voxel_edges(own, group) if factor is None else _downsampled(_voxel_edges(group, attributes[0]), factor)
        array = _array(channel, name, own)
        # Edges and factors are in the order of the array's axes, or of x, y, z if there are only three.
        order = array.scale.axes if len(edges) == len(array.scale.axes) else "xyz"
        described.append((along_xyz(order, edges, Fraction(1)), array))
    return arrays.build_volume(described)


def _downsampled(edges: Sequence[Fraction], factor: object) -> Sequence[Fraction]:
    """Return the edges of a voxel of a coarser array."""
    steps = [fraction("downsamplingFactors", step) for step in json_array("downsamplingFactors", factor)]
    if len(steps) != len(edges):
        raise unexpected(f"{len(edges)} downsamplingFactors", factor)
    return [edge * step for edge, step in zip(edges, steps, strict=True)]


def _voxel_edges(*documents: Mapping[str, Any]) -> Sequence[Fraction]:
    """Return the edges of a voxel from the first document that has them, or edges of 1."""
    for attributes in documents:
        value = attributes.get("pixelResolution", attributes.get("resolution"))
        if isinstance(value, dict):
            value = value.get("dimensions")
        if isinstance(value, list) and 3 <= len(value) <= arrays.MAX_DIMENSIONS:
            return [fraction("pixelResolution", edge) for edge in value]
    return arrays.UNIT_VOXEL


def _array(channel: str | None, name: str, attributes: Mapping[str, Any]) -> DescribedArray:
    shape = arrays.parse_shape("dimensions", attributes.get("dimensions"))
    axes = arrays.check_axes(_letters(attributes.get("axes"), len(shape)), shape)
    chunk = arrays.parse_chunk("blockSize", attributes.get("blockSize"), len(shape))
    path = name.removesuffix(DOCUMENT).strip("/")
    scale = ArrayScale(channel, "n5", path, axes, arrays.array_grid(axes, shape, chunk))
    return DescribedArray(scale, string("dataType", attributes.get("dataType")), shape)


def _letters(names: object, dimensions: int) -> str:
    """Return a letter for each axis: those of its names if x, y and z are among them, or x, y, z."""
    if isinstance(names, list) and len(names) == dimensions:
        letters = "".join(str(name).lower()[:1] for name in names)
        if {"x", "y", "z"} <= set(letters):
            return letters
    return "xyz" + "1" * (dimensions - 3)
