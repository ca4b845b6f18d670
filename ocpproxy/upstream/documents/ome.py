"""OME-Zarr images: ``multiscales`` in ``.zattrs`` (0.4) or in ``attributes.ome`` of ``zarr.json`` (0.5).

Format: ngff.openmicroscopy.org. Only the scales of coordinate transformations are read: the translations of coarser
levels are half a voxel, and a tile's address counts voxels of its level. Of the scales, only those along x, y and z
are: programs write what they like for time and channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ocpproxy.upstream.documents import arrays, pyramids, units, zarr
from ocpproxy.upstream.documents.arrays import ArrayScale, Documents, SizedArray, along_xyz
from ocpproxy.upstream.documents.checks import fraction, json_array, json_object, string, unexpected
from ocpproxy.upstream.documents.pyramids import Volume

_AXES = ["t", "c", "z", "y", "x"]
"""Axes of a group that does not name them."""


def is_image(name: str, group: Mapping[str, Any]) -> bool:
    """Return whether a group is an image.

    :param name: the path of the group's document.
    """
    return "multiscales" in attributes(name, group)


def array_paths(name: str, group: Mapping[str, Any]) -> list[str]:
    """Return the paths of the arrays of an image.

    :param name: the path of the group's document.
    :raises Unexpected: they are no paths below the group.
    """
    return [path for path, _ in _datasets(name, _multiscale(attributes(name, group)))]


def parse_volume(channel: str | None, name: str, documents: Documents) -> Volume[ArrayScale]:
    """Return the volume of an image.

    :param channel: the channel whose address the volume is at.
    :param name: the path of the group's document.
    :raises Unexpected: with what was expected.
    """
    group = attributes(name, arrays.parse_object(documents, name))
    multiscale = _multiscale(group)
    parse = partial(_parse_scale, channel, documents, multiscale, _axes(multiscale))
    sized, notes = pyramids.parse_scales(_datasets(name, multiscale), lambda dataset: dataset[0], parse)
    return arrays.build_volume(sized, notes, labels="image-label" in group, windows=_windows(group))


def document_names(path: str) -> tuple[str, str]:
    """Return the paths that the document of an array may have."""
    return f"{path}/{zarr.DOCUMENT_2}", f"{path}/{zarr.DOCUMENT_3}"


def attributes(name: str, group: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a group's document says for viewers; it is empty where there is nothing.

    :param name: the path of the group's document.
    """
    if not name.endswith(zarr.DOCUMENT_3):
        return group
    own = group.get("attributes")
    ome = own.get("ome") if isinstance(own, dict) else None
    return ome if isinstance(ome, dict) else {}


def _multiscale(group: Mapping[str, Any]) -> Mapping[str, Any]:
    multiscales = json_array("multiscales", group.get("multiscales"))
    return json_object("multiscales", multiscales[0] if multiscales else None)


def _datasets(name: str, multiscale: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the path of each array below the volume's address, and what the group says of it."""
    below = name.rpartition("/")[0]
    datasets = [json_object("a dataset", dataset) for dataset in json_array("datasets", multiscale.get("datasets"))]
    paths = [arrays.parse_path(dataset.get("path")) for dataset in datasets]
    return [(f"{below}/{path}".lstrip("/"), dataset) for path, dataset in zip(paths, datasets, strict=True)]


def _parse_scale(
    channel: str | None,
    documents: Documents,
    multiscale: Mapping[str, Any],
    axes: Sequence[tuple[str, object]],
    dataset: tuple[str, Mapping[str, Any]],
) -> SizedArray:
    """Return one level.

    :param axes: the name and the unit of each axis.
    """
    path, members = dataset
    key = next((key for key in document_names(path) if key in documents), None)
    if key is None:
        raise unexpected(f"an array at {path}", None)
    letters = "".join(name[:1].lower() for name, _ in axes)
    array = zarr.parse_array(channel, key, arrays.parse_object(documents, key), letters)
    own, common = (_scale_factors(item.get("coordinateTransformations"), letters) for item in (members, multiscale))
    numbers = [_product(a, b) for a, b in zip(own, common, strict=True)]
    voxel, unit = units.voxel_size(numbers, along_xyz(letters, [unit for _, unit in axes], None))
    return SizedArray(path, voxel, unit, array)


def _product(own: object, common: object) -> object:
    """Return the product of two factors: a decimal number, so that it is exact, or what is no number."""
    if own == 1 or common == 1:
        return own if common == 1 else common
    return float(fraction("scale", own) * fraction("scale", common))


def _axes(multiscale: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return the name and the unit of each axis."""
    axes = json_array("axes", multiscale.get("axes", _AXES), max_length=arrays.MAX_DIMENSIONS)
    return [
        (string("an axis", axis.get("name")), axis.get("unit")) if isinstance(axis, dict) else (string("axis", axis), 0)
        for axis in axes
    ]


def _scale_factors(value: object, axes: str) -> Sequence[object]:
    """Return the factors along x, y and z of the first scale among transformations.

    A scale may have too few or too many factors: then they are those of the last axes.
    """
    for item in json_array("coordinateTransformations", value or []):
        transformation = json_object("a transformation", item)
        if transformation.get("type") == "scale":
            factors = json_array("scale", transformation.get("scale"))[-len(axes) :]
            return along_xyz(axes, [*[1] * (len(axes) - len(factors)), *factors], 1)
    return (1, 1, 1)


def _windows(group: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return the values shown as black and white for each channel, as the group has them for its viewer."""
    omero = group.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    return [_window(channel) for channel in channels] if isinstance(channels, list) else []


def _window(channel: object) -> tuple[int, int]:
    window = channel.get("window") if isinstance(channel, dict) else None
    if not isinstance(window, dict):
        return (0, 0)
    low, high = window.get("start"), window.get("end")
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return (0, 0)
    return (int(low), int(high)) if -(2**15) <= low < high < 2**16 else (0, 0)
