"""Documents for CATMAID and its clients: the export for its importer, and stacks as CATMAID's own API reports them.

With the second, catpy, pymaid and odemis read volumes from the gateway without any CATMAID. The ids of projects and
stacks are derived from their names, so they are the same after a restart.

All triples are in the axes of the stack: columns, rows, slices. Slices are counted absolutely, as in the tiles'
addresses, and those before the first one are blank. Columns and rows begin with the volume.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from zlib import crc32

from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.model.address import ChannelName, ImageBase, write_base
from ocpproxy.model.dataset import TILE, CannotDisplay, Level, Plane, Triple, Z
from ocpproxy.model.stack import Stack

_ORIENTATIONS = {Plane.XY: 0, Plane.XZ: 1, Plane.ZY: 2}
"""CATMAID's numbers of orientations."""
_TYPES = (1, 4, 5)
"""The tile source types that all clients know, the best one first: pymaid picks any mirror that answers fast."""


def image_bases(entry: CatalogueEntry, planes: tuple[Plane, ...] = tuple(Plane)) -> Iterator[ImageBase]:
    """Yield the image bases of each channel that can be shown by itself."""
    for channel in entry.dataset.channels if entry.source.display.as_tiles else ():
        for plane in planes:
            base = ImageBase(entry.dataset.token, plane, (ChannelName(channel.name),))
            try:
                entry.stack(base)
            except CannotDisplay:
                break
            yield base


@dataclass(frozen=True, slots=True)
class StackInfo:
    """What a viewer has to know of a stack."""

    base: ImageBase
    dimension: Triple
    resolution: tuple[float, float, float]
    factors: list[Triple]
    """By zoom level: how many pixels and slices of level 0 one pixel and one slice stand for."""
    canary: Triple
    """The middle of the volume: CATMAID loads a tile there to see whether a mirror works."""
    broken: tuple[int, ...] = ()
    """Slices that are broken."""

    @property
    def title(self) -> str:
        """The name of the stack, for people."""
        return f"{self.base.token} {self.base.channels[0].name} {self.base.plane.value.upper()}"

    @property
    def id(self) -> int:
        """The id of the stack."""
        return _id(write_base(self.base))


def stack_infos(entry: CatalogueEntry) -> Iterator[StackInfo]:
    """Yield every stack that CATMAID has an orientation for; none when the volume has no level 0."""
    if 0 in entry.dataset.levels:
        for base in image_bases(entry, tuple(_ORIENTATIONS)):
            yield _stack_info(entry.stack(base), base)


def _stack_info(stack: Stack, base: ImageBase) -> StackInfo:
    levels = stack.dataset.levels
    extent = stack.extent(levels[0])
    through = stack.plane.axes[2]
    first, size = levels[0].offset[through], levels[0].size[through]
    resolution = _pixel(stack, levels[0])
    factors = []
    for n in range(max(levels) + 1):
        if n in levels:
            ratios = [a / b for a, b in zip(_pixel(stack, levels[n]), resolution, strict=True)]
            columns, rows, slices = (max(1, round(ratio)) for ratio in ratios)
            factors.append((columns, rows, 1 if stack.display.full_slices else slices))
        else:
            factors.append((2**n, 2**n, 1))
    width, height, depth = map(float, resolution)
    return StackInfo(
        base,
        (extent[0], extent[1], first + size),
        (width, height, depth),
        factors,
        (extent[0] // 2, extent[1] // 2, first + size // 2),
        _broken(stack, first, first + size),
    )


def _broken(stack: Stack, first: int, end: int) -> tuple[int, ...]:
    broken = stack.display.broken
    return () if broken is None or stack.plane is not Plane.XY else tuple(broken.within(first, end))


def _steps(broken: Sequence[int]) -> dict[str, int]:
    """Return how many slices it is to the next good one, by broken slice."""
    steps: dict[int, int] = {}
    for number in reversed(broken):
        steps[number] = steps.get(number + 1, 0) + 1
    return {str(number): steps[number] for number in broken}


def _pixel(stack: Stack, level: Level) -> list[Fraction]:
    """Return the edges of a pixel along columns and rows, and the thickness of a slice."""
    scale = stack.z_scale(level)
    return [
        level.voxel[axis] / scale if axis == Z and n < 2 else level.voxel[axis]
        for n, axis in enumerate(stack.plane.axes)
    ]


def project_id(token: str) -> int:
    """Return the id of a dataset."""
    return _id(token)


def _id(name: str) -> int:
    return crc32(name.encode()) & 0x7FFFFFFF or 1


def exported_project(token: str, infos: Iterable[StackInfo], root: str) -> dict[str, Any]:
    """Return one project of ``/projects/export``, as CATMAID's importer reads it: strings where it wants strings."""
    return {
        "project": {
            "title": f"{token} (ocpproxy)",
            "stacks": [_exported_stack(info, root) for info in infos],
        }
    }


def _exported_stack(info: StackInfo, root: str) -> dict[str, Any]:
    return {
        "title": info.title,
        "orientation": _ORIENTATIONS[info.base.plane],
        "dimension": str(info.dimension),
        "resolution": "({:g}, {:g}, {:g})".format(*info.resolution),
        "translation": "(0, 0, 0)",
        "downsample_factors": [str(factor) for factor in info.factors],
        "canary_location": str(info.canary),
        "placeholder_color": "(0, 0, 0, 1)",
        "broken_sections": list(info.broken),
        "comment": "",
        "description": "",
        "attribution": "",
        "metadata": {},
        "mirrors": [
            {
                "title": f"ocpproxy {root.partition('://')[2]}",
                "position": 0,
                "url": f"{root}/ocpcatmaid/{write_base(info.base)}",
                "fileextension": "png",
                "tile_width": TILE,
                "tile_height": TILE,
                "tile_source_type": _TYPES[0],
            }
        ],
        "stackgroups": [{"title": f"{info.base.token} {info.base.channels[0].name} orthoviews", "relation": "view"}],
    }


def project(token: str, infos: Iterable[StackInfo]) -> dict[str, Any]:
    """Return one item of ``/projects/``."""
    return {
        "id": project_id(token),
        "title": token,
        "comment": "",
        "stacks": [{"id": info.id, "title": info.title, "comment": ""} for info in infos],
        "stackgroups": [],
    }


def stacks(token: str, infos: Iterable[StackInfo]) -> list[dict[str, Any]]:
    """Return ``/{project}/stacks``."""
    pid = project_id(token)
    return [{"id": info.id, "pid": pid, "title": info.title, "comment": ""} for info in infos]


def stack_document(token: str, infos: Iterable[StackInfo], stack_id: int, root: str) -> dict[str, Any] | None:
    """Return ``/{project}/stack/{stack}/info`` with the keys that CATMAID has, or None when there is no such stack."""
    info = next((info for info in infos if info.id == stack_id), None)
    if info is None:
        return None
    return {
        "sid": info.id,
        "pid": project_id(token),
        "ptitle": token,
        "stitle": info.title,
        "downsample_factors": [_xyz(factor) for factor in info.factors],
        "num_zoom_levels": -1,
        "translation": _xyz((0.0, 0.0, 0.0)),
        "resolution": _xyz(info.resolution),
        "dimension": _xyz(info.dimension),
        "comment": "",
        "description": "",
        "metadata": None,
        "broken_slices": _steps(info.broken),
        "orientation": _ORIENTATIONS[info.base.plane],
        "attribution": "",
        "canary_location": _xyz(info.canary),
        "placeholder_color": {"r": 0.0, "g": 0.0, "b": 0.0, "a": 1.0},
        "mirrors": [
            {
                "id": n,
                "title": f"type {type_}",
                "position": n,
                "image_base": f"{root}/ocpcatmaid/{write_base(info.base)}",
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
