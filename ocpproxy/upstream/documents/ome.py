"""OME-Zarr images: ``multiscales`` in ``.zattrs`` (0.4) or in ``attributes.ome`` of ``zarr.json`` (0.5).

Format: ngff.openmicroscopy.org. Only the scales of coordinate transformations are read: the translations of coarser
levels are half a voxel, and a tile's address counts voxels of its level. Of the scales, only those along x, y and z
are: programs write what they like for time and channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ocpproxy.upstream.documents import arrays, pyramids, units, zarr
from ocpproxy.upstream.documents.arrays import ArrayScale, Documents, SizedArray, along_xyz
from ocpproxy.upstream.documents.checks import Unexpected, fraction, json_array, json_object, string, unexpected
from ocpproxy.upstream.documents.pyramids import Volume


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
    paths = []
    for dataset in _datasets(_multiscale(attributes(name, group))):
        with suppress(Unexpected):
            paths.append(_path(name, dataset))
    return paths


def parse_volume(channel: str | None, name: str, documents: Documents) -> Volume[ArrayScale]:
    """Return the volume of an image.

    :param channel: the channel whose address the volume is at.
    :param name: the path of the group's document.
    :raises Unexpected: with what was expected.
    """
    group = attributes(name, arrays.parse_object(documents, name))
    multiscale = _multiscale(group)
    parse = partial(_parse_scale, channel, name, documents, multiscale, _axes(multiscale))
    sized, notes = pyramids.parse_scales(_datasets(multiscale), _label, parse)
    return arrays.build_volume(sized, notes, labels="image-label" in group, windows=_windows(group))


def document_names(path: str, group: str) -> Sequence[str]:
    """Return the paths that the document of an array may have, that of its group's version first.

    :param group: the path of the group's document.
    """
    names = [f"{path}/{zarr.DOCUMENT_2}", f"{path}/{zarr.DOCUMENT_3}"]
    return names[::-1] if group.endswith(zarr.DOCUMENT_3) else names


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
    """Return the first multiscale that has datasets."""
    multiscales = json_array("multiscales", group.get("multiscales"))
    usable = [one for one in multiscales if isinstance(one, dict) and isinstance(one.get("datasets"), list)]
    return json_object("multiscales", (usable or multiscales or [None])[0])


def _datasets(multiscale: Mapping[str, Any]) -> list[Any]:
    """Return what the group says of each array."""
    return json_array("datasets", multiscale.get("datasets"))


def _path(name: str, dataset: object) -> str:
    """Return the path of an array below the volume's address.

    :param name: the path of the group's document.
    """
    below = name.rpartition("/")[0]
    return f"{below}/{arrays.parse_path(json_object('a dataset', dataset).get('path'))}".lstrip("/")


def _label(dataset: object) -> str:
    """Return the name of a level, for people."""
    return str(dataset.get("path") if isinstance(dataset, dict) else dataset)[:60]


def _parse_scale(
    channel: str | None,
    name: str,
    documents: Documents,
    multiscale: Mapping[str, Any],
    axes: Sequence[tuple[str, object]],
    dataset: object,
) -> SizedArray:
    """Return one level.

    :param name: the path of the group's document.
    :param axes: the name and the unit of each axis.
    """
    path, members = _path(name, dataset), json_object("a dataset", dataset)
    key = next((key for key in document_names(path, name) if key in documents), None)
    if key is None:
        raise unexpected(f"an array at {path}", None)
    letters = "".join(axis[:1].lower() or "?" for axis, _ in axes) or None
    array = zarr.parse_array(channel, key, arrays.parse_object(documents, key), letters)
    letters = letters or array.scale.axes
    own = _scale_factors(members.get("coordinateTransformations"), letters)
    numbers = [_product(a, b) for a, b in zip(own, _common_factors(multiscale, letters), strict=True)]
    if array.scale.grid.end[2] == 1:  # a picture has no thickness, and programs write anything for it
        numbers[2] = numbers[2] if _is_length(numbers[2]) else numbers[0]
    lengths = [unit for _, unit in axes] or [None] * len(letters)
    voxel, unit = units.voxel_size(numbers, along_xyz(letters, lengths, None))
    return SizedArray(path, voxel, unit, array)


def _product(own: object, common: object) -> object:
    """Return the product of two factors: a decimal number, so that it is exact, or what is no number."""
    if own == 1 or common == 1:
        return own if common == 1 else common
    return float(fraction("scale", own) * fraction("scale", common))


def _is_length(value: object) -> bool:
    try:
        fraction("scale", value)
    except Unexpected:
        return False
    return True


def _common_factors(multiscale: Mapping[str, Any], axes: str) -> Sequence[object]:
    """Return the factors of all levels along x, y, z; 1 where they are not to be used."""
    try:
        factors = _scale_factors(multiscale.get("coordinateTransformations"), axes)
    except Unexpected:
        return (1, 1, 1)
    return factors if all(map(_is_length, factors)) else (1, 1, 1)


def _axes(multiscale: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return the name and the unit of each axis; nothing where the group does not name them."""
    axes = json_array("axes", multiscale.get("axes") or [], max_length=arrays.MAX_DIMENSIONS)
    named = [axis if isinstance(axis, dict) else {"name": axis} for axis in axes]
    return [(string("an axis", axis.get("name", "")), axis.get("unit")) for axis in named]


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


def _windows(group: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Return the values shown as black and white for each channel, as the group has them; (0, 0) is none."""
    omero = group.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    return [_window(channel) for channel in channels] if isinstance(channels, list) else []


def _window(channel: object) -> tuple[float, float]:
    window = channel.get("window") if isinstance(channel, dict) else None
    if not isinstance(window, dict):
        return (0, 0)
    low, high = window.get("start"), window.get("end")
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)) or not low < high:
        return (0, 0)
    return (low, high)
