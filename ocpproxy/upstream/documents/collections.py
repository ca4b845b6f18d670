"""Collections of OME-Zarr images: what bioformats2raw writes, plates, wells, and the labels of an image.

A collection is not a volume. Where it holds one image only, that image is what somebody means who gives its address;
where it holds several, they are listed, so that the address of one can be written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ocpproxy.upstream.documents import arrays, ome
from ocpproxy.upstream.documents.checks import Unexpected, json_array, json_object

ReadDocument = Callable[[str], Awaitable[str | None]]
"""Returns the text of a document, by its path below the volume's address, or None if there is none."""

_LAYOUT = "bioformats2raw.layout"
_MAX_IMAGES = 32
_LISTED = 8
"""Images that a message names."""


def is_collection(name: str, group: Mapping[str, Any]) -> bool:
    """Return whether a group is a collection.

    :param name: the path of the group's document.
    """
    members = ome.attributes(name, group)
    return any(member in members for member in (_LAYOUT, "plate", "well", "labels"))


async def find_image(read: ReadDocument, name: str, group: Mapping[str, Any]) -> str:
    """Return the path of the only image of a collection, below the volume's address.

    :param name: the path of the group's document.
    :raises Unexpected: it has no image, or several; then the message lists them.
    """
    document = name.rpartition("/")[2]
    members = ome.attributes(name, group)
    if "plate" in members:
        wells = _paths("wells", json_object("plate", members["plate"]).get("wells"))
        if len(wells) != 1:
            raise _several("a plate with the wells", wells)
        fields = await _images_of_well(read, f"{wells[0]}/{document}")
        return _only("a plate with the images", [f"{wells[0]}/{field}" for field in fields])
    if _LAYOUT in members:
        return _only("a collection of images", await _series(read, document))
    if "well" in members:
        return _only("a well with the images", _paths("images", json_object("well", members["well"]).get("images")))
    labels = [arrays.parse_path(label) for label in json_array("labels", members["labels"], max_length=_MAX_IMAGES)]
    return _only("the labels of an image, which are", labels)


def _only(what: str, paths: list[str]) -> str:
    if len(paths) != 1:
        raise _several(what, paths)
    return paths[0]


def _several(what: str, paths: list[str]) -> Unexpected:
    """Return the error for a collection of several images, or of none."""
    if not paths:
        return Unexpected(f"expected an image: this is {what}, and it is empty")
    names = ", ".join(paths[:_LISTED]) + (f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else "")
    return Unexpected(f"expected one image: this is {what} {names}; write one of them at the end of the address")


def _paths(name: str, value: object) -> list[str]:
    """Return the paths in a list of objects."""
    items = json_array(name, value, max_length=10_000)
    return [arrays.parse_path(json_object(name, item).get("path")) for item in items]


async def _images_of_well(read: ReadDocument, name: str) -> list[str]:
    text = await read(name)
    if text is None:
        raise Unexpected(f"expected a well at {name}")
    members = ome.attributes(name, arrays.parse_object({name: text}, name))
    return _paths("images", json_object("well", members.get("well")).get("images"))


async def _series(read: ReadDocument, document: str) -> list[str]:
    """Return the images of a collection: those that its group ``OME`` lists, or those from ``0`` on that exist."""
    name = f"OME/{document}"
    text = await read(name)
    listed = ome.attributes(name, arrays.parse_object({name: text}, name)).get("series") if text else None
    if isinstance(listed, list):
        return [arrays.parse_path(path) for path in json_array("series", listed, max_length=10_000)]
    found: list[str] = []
    while len(found) < _MAX_IMAGES and await read(f"{len(found)}/{document}") is not None:
        found.append(str(len(found)))
    return found
