"""What CATMAID and its clients are told: the export for its importer, and stacks as CATMAID's own API tells of them.

With the second, catpy, pymaid and odemis read volumes from the gateway without any CATMAID. Numbers of projects and
stacks are made from their names, so that they are the same after a restart.

All triples are in the axes of the stack: columns, rows, slices. Slices are counted absolutely, as in the tiles'
addresses: what is before the first one is blank. Columns and rows begin with the volume.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from zlib import crc32

from ocpproxy.cache.catalogue import CatalogueEntry
from ocpproxy.model.address import ChannelName, ImageBase, write_base
from ocpproxy.model.dataset import TILE, CannotDisplay, Level, Plane, Triple, Z
from ocpproxy.model.stack import Stack

_ORIENTATIONS = {Plane.XY: 0, Plane.XZ: 1, Plane.ZY: 2}
"""CATMAID's numbers of its orientations."""
_TYPES = (1, 4, 5, 7, 9)
"""Tile source types that Python clients know; some give up a stack that has any other. The first is the best."""


def bases(known: CatalogueEntry, planes: tuple[Plane, ...] = tuple(Plane)) -> Iterator[ImageBase]:
    """The image bases of each channel that can be shown by itself."""
    for channel in known.dataset.channels:
        for plane in planes:
            base = ImageBase(known.dataset.token, plane, (ChannelName(channel.name),))
            try:
                known.stack(base)
            except CannotDisplay:
                break
            yield base


@dataclass(frozen=True, slots=True)
class StackInfo:
    """What a viewer must know of a stack."""

    base: ImageBase
    dimension: Triple
    resolution: tuple[float, float, float]
    factors: list[Triple]
    """By zoom level: pixels and slices of level 0 that one stands for."""
    canary: Triple

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.base.token} {self.base.channels[0].name} {self.base.plane.value.upper()}"

    @property
    def id(self) -> int:
        """Its number."""
        return _number(write_base(self.base))


def facts(known: CatalogueEntry) -> list[StackInfo]:
    """Those of every stack that CATMAID has an orientation for; none when the volume has no level 0."""
    if 0 not in known.dataset.levels:
        return []
    return [_facts(known.stack(base), base) for base in bases(known, tuple(_ORIENTATIONS))]


def _facts(stack: Stack, base: ImageBase) -> StackInfo:
    levels = stack.dataset.levels
    columns, rows, _ = stack.extent(levels[0])
    through = stack.plane.axes[2]
    first, size = levels[0].offset[through], levels[0].size[through]
    resolution = _pixel(stack, levels[0])
    factors = []
    for n in range(max(levels) + 1):
        if n in levels:
            ratios = [a / b for a, b in zip(_pixel(stack, levels[n]), resolution, strict=True)]
            across, along, deep = (max(1, round(ratio)) for ratio in ratios)
            factors.append((across, along, 1 if stack.display.full_slices else deep))
        else:
            factors.append((2**n, 2**n, 1))
    width, height, depth = map(float, resolution)
    return StackInfo(
        base,
        (columns, rows, first + size),
        (width, height, depth),
        factors,
        (columns // 2, rows // 2, first + size // 2),
    )


def _pixel(stack: Stack, level: Level) -> list[Fraction]:
    """The edges of a pixel, and the thickness of a slice."""
    scale = stack.z_scale(level)
    return [
        level.voxel[axis] / scale if axis == Z and n < 2 else level.voxel[axis]
        for n, axis in enumerate(stack.plane.axes)
    ]


def project_id(token: str) -> int:
    """The number of a dataset."""
    return _number(token)


def _number(name: str) -> int:
    return crc32(name.encode()) & 0x7FFFFFFF or 1


def exported(known: CatalogueEntry, root: str) -> dict[str, Any]:
    """One project of ``/projects/export``, after what CATMAID's importer reads: strings where it wants strings."""
    token = known.dataset.token
    return {
        "project": {
            "title": f"{token} (ocpproxy)",
            "stacks": [_exported(one, root) for one in facts(known)],
        }
    }


def _exported(one: StackInfo, root: str) -> dict[str, Any]:
    return {
        "title": one.title,
        "orientation": _ORIENTATIONS[one.base.plane],
        "dimension": str(one.dimension),
        "resolution": "({:g}, {:g}, {:g})".format(*one.resolution),
        "translation": "(0, 0, 0)",
        "downsample_factors": [str(factor) for factor in one.factors],
        "canary_location": str(one.canary),
        "placeholder_color": "(0, 0, 0, 1)",
        "broken_sections": [],
        "comment": "",
        "description": "",
        "attribution": "",
        "metadata": {},
        "mirrors": [
            {
                "title": f"ocpproxy {root.partition('://')[2]}",
                "position": 0,
                "url": f"{root}/ocpcatmaid/{write_base(one.base)}",
                "fileextension": "png",
                "tile_width": TILE,
                "tile_height": TILE,
                "tile_source_type": _TYPES[0],
            }
        ],
        "stackgroups": [{"title": f"{one.base.token} {one.base.channels[0].name} orthoviews", "relation": "view"}],
    }


def project(known: CatalogueEntry) -> dict[str, Any]:
    """One item of ``/projects/``."""
    return {
        "id": project_id(known.dataset.token),
        "title": known.dataset.token,
        "comment": "",
        "stacks": [{"id": one.id, "title": one.title, "comment": ""} for one in facts(known)],
        "stackgroups": [],
    }


def stacks(known: CatalogueEntry) -> list[dict[str, Any]]:
    """``/{project}/stacks``."""
    pid = project_id(known.dataset.token)
    return [{"id": one.id, "pid": pid, "title": one.title, "comment": ""} for one in facts(known)]


def info(known: CatalogueEntry, stack_id: int, root: str) -> dict[str, Any] | None:
    """``/{project}/stack/{stack}/info``, or None when there is no such stack: just the keys that CATMAID has."""
    one = next((one for one in facts(known) if one.id == stack_id), None)
    if one is None:
        return None
    return {
        "sid": one.id,
        "pid": project_id(known.dataset.token),
        "ptitle": known.dataset.token,
        "stitle": one.title,
        "downsample_factors": [_xyz(factor) for factor in one.factors],
        "num_zoom_levels": -1,
        "translation": _xyz((0.0, 0.0, 0.0)),
        "resolution": _xyz(one.resolution),
        "dimension": _xyz(one.dimension),
        "comment": "",
        "description": "",
        "metadata": None,
        "broken_slices": {},
        "orientation": _ORIENTATIONS[one.base.plane],
        "attribution": "",
        "canary_location": _xyz(one.canary),
        "placeholder_color": {"r": 0.0, "g": 0.0, "b": 0.0, "a": 1.0},
        "mirrors": [
            {
                "id": n,
                "title": f"type {type_}",
                "position": n,
                "image_base": f"{root}/ocpcatmaid/{write_base(one.base)}",
                "file_extension": "png",
                "tile_width": TILE,
                "tile_height": TILE,
                "tile_source_type": type_,
            }
            for n, type_ in enumerate(_TYPES)
        ],
    }


def _xyz(values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip("xyz", values, strict=True))
