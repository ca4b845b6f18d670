"""Documents for CATMAID and its clients: the export for its importer, and stacks as CATMAID's own API reports them.

With the second, catpy, pymaid and odemis read volumes from the gateway without any CATMAID.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ocpproxy.model.address import write_base
from ocpproxy.model.dataset import TILE
from ocpproxy.web.catmaid.stacks import ORIENTATIONS, StackInfo, project_id

TYPES = (1, 4, 5)
"""The tile source types that all clients know, the best one first: pymaid picks any mirror that answers fast."""


def exported_project(token: str, infos: Iterable[StackInfo], roots: Sequence[str]) -> dict[str, Any]:
    """Return one project of ``/projects/export``, as CATMAID's importer reads it: strings where it wants strings.

    :param roots: the addresses of this gateway and of its mirrors.
    """
    return {
        "project": {
            "title": f"{token} (ocpproxy)",
            "stacks": [exported_stack(info, roots) for info in infos],
        }
    }


def exported_stack(info: StackInfo, roots: Sequence[str]) -> dict[str, Any]:
    """Return one stack of a project, as CATMAID's importer reads it."""
    return {
        "title": info.title,
        "orientation": ORIENTATIONS[info.base.plane],
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
                "position": n,
                "url": f"{root}/ocpcatmaid/{write_base(info.base)}",
                "fileextension": "png",
                "tile_width": TILE,
                "tile_height": TILE,
                "tile_source_type": TYPES[0],
            }
            for n, root in enumerate(roots)
        ],
        "stackgroups": list(_groups(info)),
    }


def _groups(info: StackInfo) -> Iterator[dict[str, str]]:
    """Yield the groups of a stack: the planes of its channel side by side, and the channels of a plane in layers."""
    token, channel, plane = info.base.token, info.base.channels[0].name, info.base.plane.value
    yield {"title": f"{token} {channel} orthoviews", "relation": "view"}
    if info.has_other_channels:
        yield {"title": f"{token} channels {plane.upper()}", "relation": "channel"}


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
        "orientation": ORIENTATIONS[info.base.plane],
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
            for n, type_ in enumerate(TYPES)
        ],
    }


def _xyz(values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip("xyz", values, strict=True))


def _steps(broken: Sequence[int]) -> dict[str, int]:
    """Return how many slices it is to the next good one, by broken slice."""
    steps: dict[int, int] = {}
    for number in reversed(broken):
        steps[number] = steps.get(number + 1, 0) + 1
    return {str(number): steps[number] for number in broken}
