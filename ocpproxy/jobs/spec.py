"""What a job is to fetch, as it is written in the index and sent to the admin endpoint: one JSON object.

=================  ====================================================================================================
``token``          the dataset
``channels``       names; without it the channel of addresses that name none
``planes``         ``xy``, ``xz``, ``yz``, ``zy``; by default ``xy``
``levels``         [first, last], both included; null for the coarsest; by default all
``times``          [first, last]; by default those of the channel
``box``            [x0, x1, y0, y1, z0, z1]: half-open ranges of voxels of the finest level; by default everything
``base_level``     the level that the box is in voxels of; by default the finest
``segments``       [[x0, y0, z0, x1, y1, z1], …]: lines in nanometres; instead of a box
``radius``         nanometres around the lines
``voxel``          [x, y, z]: the edges of a voxel of the finest level in nanometres, where the dataset's are not
``rate``           cuboids a second at most
``max_bytes``      bytes of tiles after which the job stops
``until``          ``HH:MM``, the local time at which the job stops
``fail_budget``    the share of cuboids that may fail before the job stops; by default 0.1
=================  ====================================================================================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from ocpproxy.model.dataset import NAME, Box, Plane
from ocpproxy.model.region import Point, Region, Segment
from ocpproxy.model.skeletons import MOST_SEGMENTS

FAIL_BUDGET = 0.1
_LARGEST = 2**40
_UNTIL = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


class BadJob(ValueError):
    """Something cannot be a job. The message is one sentence that says what was expected."""


@dataclass(frozen=True)
class JobSpec:
    """What a job is to fetch, and how."""

    token: str
    channels: tuple[str, ...] = ()
    planes: tuple[Plane, ...] = (Plane.XY,)
    levels: tuple[int, int | None] | None = None
    times: tuple[int, int] | None = None
    region: Region = field(default_factory=Region)
    base_level: int | None = None
    rate: float | None = None
    max_bytes: int | None = None
    until: str | None = None
    fail_budget: float = FAIL_BUDGET

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        region = self.region
        values: dict[str, Any] = {
            "token": self.token,
            "channels": list(self.channels),
            "planes": [plane.value for plane in self.planes],
            "levels": self.levels,
            "times": self.times,
            "box": region.box,
            "base_level": self.base_level,
            "segments": [[*segment.begin, *segment.end] for segment in region.segments] or None,
            "radius": region.radius or None,
            "voxel": region.voxel,
            "rate": self.rate,
            "max_bytes": self.max_bytes,
            "until": self.until,
            "fail_budget": self.fail_budget,
        }
        return {key: value for key, value in values.items() if value is not None}


def read_text(text: str) -> JobSpec:
    """Return the job of a JSON text.

    :raises BadJob: it is none.
    """
    return read_spec(read_json(text))


def read_json(text: str) -> Any:
    """Return the value of a JSON text.

    :raises BadJob: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadJob("expected a JSON object") from None


def read_spec(document: Any, keys: Collection[str] = ()) -> JobSpec:
    """Return the job of a JSON object.

    :param keys: what it may have; by default all that a job may have.
    :raises BadJob: it is none.
    """
    if not isinstance(document, Mapping):
        raise BadJob("expected a JSON object")
    allowed = keys or _READERS
    for key in document.keys() - set(allowed):
        raise BadJob(f"there is no {str(key)[:40]!r}; expected " + ", ".join(allowed))
    found = {key: read(key, document[key]) for key, read in _READERS.items() if document.get(key) is not None}
    if "token" not in found:
        raise BadJob("expected a token")
    region = Region(
        found.pop("box", None), found.pop("segments", ()), found.pop("radius", 0.0), found.pop("voxel", None)
    )
    if region.box is not None and region.segments:
        raise BadJob("expected a box or segments, not both")
    return JobSpec(region=region, **found)


def _numbers(count: int, low: float, high: float) -> Callable[[str, Any], tuple[Any, ...]]:
    def read(key: str, value: Any) -> tuple[Any, ...]:
        ok = isinstance(value, (list, tuple)) and len(value) == count and all(map(_is_number, value))
        if not ok or not all(low <= number <= high for number in value):
            raise BadJob(f"{key}: expected {count} numbers from {low:g} to {high:g}")
        return tuple(value)

    return read


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and isfinite(value)))


def _range(key: str, value: Any) -> tuple[int, int]:
    first, last = _numbers(2, 0, 2**23)(key, value)
    if first > last or not all(isinstance(number, int) for number in (first, last)):
        raise BadJob(f"{key}: expected two whole numbers, the smaller first")
    return (first, last)


def _levels(key: str, value: Any) -> tuple[int, int | None]:
    if isinstance(value, (list, tuple)) and len(value) == 2 and value[1] is None:
        return (_range(key, [value[0], value[0]])[0], None)
    return _range(key, value)


def _box(key: str, value: Any) -> Box:
    numbers = _numbers(6, -_LARGEST, _LARGEST)(key, value)
    box = Box(*numbers)
    if not all(isinstance(number, int) for number in numbers):
        raise BadJob(f"{key}: expected whole numbers")
    if box.x0 >= box.x1 or box.y0 >= box.y1 or box.z0 >= box.z1:
        raise BadJob(f"{key}: expected x0 < x1, y0 < y1 and z0 < z1")
    return box


def _segments(key: str, value: Any) -> tuple[Segment, ...]:
    if not isinstance(value, (list, tuple)) or not 0 < len(value) <= MOST_SEGMENTS:
        raise BadJob(f"{key}: expected a list of 1 to {MOST_SEGMENTS} lines")
    read = _numbers(6, -_LARGEST, _LARGEST)
    return tuple(Segment((a, b, c), (d, e, f)) for a, b, c, d, e, f in (read(key, one) for one in value))


def _voxel(key: str, value: Any) -> Point:
    x, y, z = _numbers(3, 1e-3, 1e9)(key, value)
    return (float(x), float(y), float(z))


def _number(low: float, high: float) -> Callable[[str, Any], float]:
    def read(key: str, value: Any) -> float:
        if not _is_number(value) or not low <= value <= high:
            raise BadJob(f"{key}: expected a number from {low:g} to {high:g}")
        return float(value)

    return read


def _whole(low: int, high: int) -> Callable[[str, Any], int]:
    def read(key: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise BadJob(f"{key}: expected a whole number from {low} to {high}")
        return value

    return read


def _name(key: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(NAME, value, re.ASCII):
        raise BadJob(f"{key}: expected a name of 1 to 64 letters, digits, _ and -")
    return value


def _names(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > 1024:
        raise BadJob(f"{key}: expected a list of names")
    return tuple(dict.fromkeys(_name(key, one) for one in value))


def _planes(key: str, value: Any) -> tuple[Plane, ...]:
    known = {plane.value: plane for plane in Plane}
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(v, str) and v in known for v in value):
        raise BadJob(f"{key}: expected some of " + ", ".join(known))
    return tuple(dict.fromkeys(known[one] for one in value))


def _until(key: str, value: Any) -> str:
    if not isinstance(value, str) or not _UNTIL.fullmatch(value):
        raise BadJob(f"{key}: expected a time HH:MM")
    return value


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "token": _name,
    "channels": _names,
    "planes": _planes,
    "levels": _levels,
    "times": _range,
    "box": _box,
    "base_level": _whole(0, 2**16 - 1),
    "segments": _segments,
    "radius": _number(0, 1e9),
    "voxel": _voxel,
    "rate": _number(1e-3, 1e6),
    "max_bytes": _whole(1, 2**60),
    "until": _until,
    "fail_budget": _number(0, 1),
}
