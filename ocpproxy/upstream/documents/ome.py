"""OME-Zarr groups: ``multiscales`` in ``.zattrs`` (0.4) or in ``attributes.ome`` of ``zarr.json`` (0.5).

Format: ngff.openmicroscopy.org. Only the scales of coordinate transformations are read: the translations of coarser
levels are half a voxel, and a tile's address counts voxels of its level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from ocpproxy.upstream.documents import arrays, zarr
from ocpproxy.upstream.documents.arrays import ArrayScale, DescribedArray, Documents, along_xyz
from ocpproxy.upstream.documents.checks import fraction, json_array, json_object, string, unexpected
from ocpproxy.upstream.documents.pyramids import Volume, VoxelSize

DOCUMENT_04 = ".zattrs"
_AXES = ["t", "c", "z", "y", "x"]
"""Axes of a group that does not name them."""


def array_paths(name: str, group: Mapping[str, Any]) -> list[str]:
    """Return the paths of the arrays of a group.

    :param name: the name of the group's document.
    :raises Unexpected: they are no paths below the group.
    """
    return [path for path, _ in _datasets(_multiscale(_attributes(name, group)))]


def parse_volume(channel: str | None, name: str, documents: Documents) -> Volume[ArrayScale]:
    """Return the volume of a group.

    :param channel: the channel whose address the volume is at.
    :param name: the name of the group's document.
    :raises Unexpected: with what was expected.
    """
    attributes = _attributes(name, arrays.parse_object(documents, name))
    multiscale = _multiscale(attributes)
    axes = _axes(multiscale)
    common = _scale_factors(multiscale.get("coordinateTransformations", []), len(axes))
    described: list[tuple[VoxelSize, DescribedArray]] = []
    for path, dataset in _datasets(multiscale):
        key = next((key for key in document_names(path) if key in documents), None)
        if key is None:
            raise unexpected(f"an array at {path}", None)
        array = zarr.parse_array(channel, key, arrays.parse_object(documents, key), axes)
        own = _scale_factors(dataset.get("coordinateTransformations", []), len(axes))
        edges = [a * b for a, b in zip(own, common, strict=True)]
        described.append((along_xyz(axes, edges, Fraction(1)), array))
    if not described:
        raise unexpected("at least one dataset", multiscale)
    return arrays.build_volume(described, labels="image-label" in attributes, windows=_windows(attributes))


def document_names(path: str) -> tuple[str, str]:
    """Return the paths that the document of an array may have."""
    return f"{path}/{zarr.DOCUMENT_2}", f"{path}/{zarr.DOCUMENT_3}"


def _attributes(name: str, group: Mapping[str, Any]) -> Mapping[str, Any]:
    if name != zarr.DOCUMENT_3:
        return group
    return json_object("ome", json_object("attributes", group.get("attributes")).get("ome"))


def _multiscale(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    multiscales = json_array("multiscales", attributes.get("multiscales"))
    return json_object("multiscales", multiscales[0] if multiscales else None)


def _datasets(multiscale: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the path of each array, and what the group says of it."""
    datasets = [json_object("a dataset", dataset) for dataset in json_array("datasets", multiscale.get("datasets"))]
    return [(arrays.parse_path(dataset.get("path")), dataset) for dataset in datasets]


def _axes(multiscale: Mapping[str, Any]) -> str:
    """Return the first letter of each axis' name."""
    axes = json_array("axes", multiscale.get("axes", _AXES), max_length=arrays.MAX_DIMENSIONS)
    names = [string("an axis", axis.get("name") if isinstance(axis, dict) else axis) for axis in axes]
    return "".join(name[:1].lower() for name in names)


def _scale_factors(value: object, count: int) -> Sequence[Fraction]:
    """Return the factors of the first scale among transformations, in the order of the axes."""
    for item in json_array("coordinateTransformations", value):
        transformation = json_object("a transformation", item)
        if transformation.get("type") == "scale":
            return [fraction("scale", factor) for factor in json_array("scale", transformation.get("scale"), count)]
    return [Fraction(1)] * count


def _windows(attributes: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return the values shown as black and white for each channel, as the group has them for its viewer."""
    omero = attributes.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    return [_window(channel) for channel in channels] if isinstance(channels, list) else []


def _window(channel: object) -> tuple[int, int]:
    window = channel.get("window") if isinstance(channel, dict) else None
    if not isinstance(window, dict):
        return (0, 0)
    low, high = window.get("start"), window.get("end")
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return (0, 0)
    return (int(low), int(high)) if 0 <= low < 2**16 and 0 <= high < 2**16 else (0, 0)
