"""``/view/TOKEN/``: slices of a dataset. What the page has to know of the dataset is a document within it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.web.template import Flattenable

from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.model.address import write_base
from ocpproxy.model.dataset import CannotDisplay, Channel
from ocpproxy.model.display import DrawMode, draw_mode
from ocpproxy.web.catmaid.stacks import StackInfo
from ocpproxy.web.pages import layout
from ocpproxy.web.pages.layout import PageFrame, tags

SCRIPTS = (
    "viewer.js",
    "address.js",
    "channels.js",
    "controls.js",
    "flight.js",
    "geometry.js",
    "page.js",
    "panel.js",
    "pictures.js",
    "place.js",
    "slice_layer.js",
    "units.js",
)
_KINDS = {DrawMode.LABELS: "labels", DrawMode.RGBA: "colours"}
"""What a channel's tiles are, where they are not grey."""


def volume(entry: CatalogueEntry, infos: Iterable[StackInfo], *, neuroglancer: bool) -> dict[str, Any]:
    """Return what the page has to know of a dataset.

    All triples of the volume are in the order x, y, z; those of a plane are columns, rows, slices. Lengths are
    nanometres, or something else of which only the ratios have a meaning.
    """
    dataset = entry.dataset
    finest = dataset.finest
    planes: dict[str, dict[str, Any]] = {}
    for info in infos:
        planes.setdefault(info.base.channels[0].name, {})[info.base.plane.value] = {
            "base": f"ocpcatmaid/{write_base(info.base)}",
            "dimension": info.dimension,
            "resolution": info.resolution,
            "factors": info.factors,
        }
    return {
        "token": dataset.token,
        "offset": finest.offset,
        "size": finest.size,
        "voxel": [float(edge) for edge in finest.voxel],
        "nanometres": dataset.in_nanometres,
        "channels": [_channel(entry, one, planes[one.name]) for one in dataset.channels if one.name in planes],
        "shown": entry.source.display.channel or dataset.default_channel,
        "neuroglancer": neuroglancer and entry.source.display.as_chunks,
    }


def _channel(entry: CatalogueEntry, channel: Channel, planes: dict[str, Any]) -> dict[str, Any]:
    try:
        mode = draw_mode(entry.dataset, channel, entry.source.display)
    except CannotDisplay:
        mode = DrawMode.GREY
    return {
        "name": channel.name,
        "kind": _KINDS.get(mode, "grey"),
        "about": f"{channel.kind}, {channel.dtype}",
        "time": channel.time,
        "finest": channel.base_level,
        "planes": planes,
    }


def content(frame: PageFrame, document: dict[str, Any]) -> list[Flattenable]:
    """Return what is below the header."""
    token = document["token"]
    if not document["channels"]:
        return [
            tags.main(
                tags.h1(token),
                tags.div(
                    tags.h2("There are no slices to show"),
                    tags.p("No channel of this dataset has tiles, or its finest level is missing. "),
                    tags.p(tags.a("What the gateway knows of it", href=frame.to(f"ocpcatmaid/{token}/"))),
                    class_="empty",
                ),
            ),
            layout.footer(frame),
        ]
    return [
        layout.data_block("volume", document),
        tags.main(
            tags.h1(token, class_="hidden"),
            tags.div(id="panels", class_="panels"),
            tags.aside(id="controls", **{"aria-label": "What is shown"}),
            tags.noscript(tags.p("Slices are shown by a script, which this browser does not run.", class_="empty")),
            class_="viewer",
            id="viewer",
            **{"data-up": frame.up},
        ),
    ]
