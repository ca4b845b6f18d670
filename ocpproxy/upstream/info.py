"""The ``info`` document of the Open Connectome services, in its three generations, read into a `Dataset`.

=== ======================= ==========================================================================
gen dates                   told by
=== ======================= ==========================================================================
1   2013 to March 2015      ``dataset.slicerange``; one ``project.projecttype`` says what the voxels are
2   April 2015 to 2016      ``dataset.timerange``; named ``channels`` with types of their own
3   December 2016 on        neither: ``timerange`` is the channel's
=== ======================= ==========================================================================

Per-level maps are keyed by the level as a string. Nothing in the document is trusted: it comes over plain HTTP.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from ocpproxy.geometry import Channel, Dataset, Level, Triple
from ocpproxy.upstream import UpstreamBroken

_LARGEST = 2**28
"""Voxels along one axis that are believed."""
_LEVELS, _CHANNELS, _TIMES = 16, 1024, 2**20
_NAME = re.compile(r"\w[\w-]{0,63}", re.ASCII)
_DTYPES = {"uint8", "uint16", "uint32", "uint64", "float32"}
_PROJECT_TYPES = {
    1: ("image", "uint8"),
    2: ("annotation", "uint32"),
    3: ("channels", "uint16"),
    4: ("channels", "uint8"),
    5: ("probability", "float32"),
    6: ("bitmask", "uint8"),
    7: ("annotation", "uint64"),
    8: ("image", "uint16"),
    9: ("rgba", "uint32"),
    10: ("rgba", "uint64"),
    11: ("timeseries", "uint8"),
    12: ("timeseries", "uint16"),
}
_OLD_DTYPES = {"rgb32": ("rgba", "uint32"), "rgb64": ("rgba", "uint64"), "probability": ("probability", "float32")}
_OLD_KINDS = {"probmap": "probability", "oldchannel": "image"}


def read(token: str, document: str) -> Dataset:
    """The dataset that the document describes.

    :raises UpstreamBroken: with what was expected.
    """
    try:
        info = json.loads(document, parse_constant=lambda word: _bad("numbers", word))
    except (ValueError, RecursionError) as error:
        raise UpstreamBroken(f"the info of {token} is no JSON: {error}") from None
    try:
        return _read(token, info)
    except _Bad as bad:
        raise UpstreamBroken(f"the info of {token}: {bad}") from None


class _Bad(ValueError):
    """What was expected in the document."""


def _bad(expected: str, value: object) -> _Bad:
    raise _Bad(f"expected {expected}, not {str(value)[:60]!r}")


def _read(token: str, info: object) -> Dataset:
    document = _mapping("a JSON object", info)
    said = _mapping("dataset", document.get("dataset"))
    project = _mapping("project", document.get("project"))
    first = "slicerange" in said
    generation = 1 if first else 2 if "timerange" in said else 3
    numbers = [_whole("a level", n, 0, _LEVELS - 1) for n in _list("dataset.resolutions", said.get("resolutions"))]
    if not numbers or len(set(numbers)) != len(numbers):
        _bad("at least one level, each once", numbers)
    levels = {n: (_first_level if first else _level)(said, str(n)) for n in sorted(numbers)}
    channels = _first_channels(document, said, project) if first else _channels(document, said)
    # The channels of a channel project are shown by naming them: none of them is the picture.
    shown = [channel.name for channel in channels if channel.kind != "channels"]
    images = [channel.name for channel in channels if channel.kind in ("image", "timeseries")]
    default_channel = next(iter([name for name in images if name == "image"] or images or shown), None)
    return Dataset(token, levels, tuple(channels), default_channel, f"generation {generation}")


def _first_level(said: Mapping[str, Any], n: str) -> Level:
    x, y = (_whole("imagesize", v, 1, _LARGEST) for v in _of_level("imagesize", said, n, 2))
    low, high = (_whole("slicerange", v, 0, _LARGEST) for v in _list("dataset.slicerange", said["slicerange"], 2))
    if high < low:
        _bad("a slicerange that is not reversed", (low, high))
    scale = _ratio("zscale", _mapping("zscale", said.get("zscale")).get(n))
    wide = Fraction(2 ** int(n))  # x and y halve at each level, which this generation does not say
    return Level((x, y, high - low + 1), (0, 0, low), _cube(said, n), (wide, wide, wide * scale))


def _level(said: Mapping[str, Any], n: str) -> Level:
    x, y, z = (_whole("imagesize", v, 1, _LARGEST) for v in _of_level("imagesize", said, n, 3))
    ox, oy, oz = (_whole("offset", v, 0, _LARGEST) for v in _of_level("offset", said, n, 3))
    vx, vy, vz = (_ratio("voxelres", v) for v in _of_level("voxelres", said, n, 3))
    return Level((x, y, z), (ox, oy, oz), _cube(said, n), (vx, vy, vz))


def _cube(said: Mapping[str, Any], n: str) -> Triple:
    x, y, z = (_whole("cube_dimension", v, 1, 4096) for v in _of_level("cube_dimension", said, n, 3))
    return (x, y, z)


def _first_channels(document: Mapping[str, Any], said: Mapping[str, Any], project: Mapping[str, Any]) -> list[Channel]:
    type_ = _whole("project.projecttype", project.get("projecttype"), 1, 12)
    kind, dtype = _PROJECT_TYPES[type_]
    window = _window(said.get("windowrange", [0, 0]))
    time = _time(said.get("timerange", [0, 0]))
    base = _whole("project.resolution", project.get("resolution", 0), 0, _LEVELS - 1)
    if kind != "channels":
        return [Channel("image" if kind == "timeseries" else kind, kind, dtype, window, time, base)]
    named = _few("channels", _mapping("channels", document.get("channels")))
    return [
        Channel(name, kind, dtype, window, time, base, _whole("a channel's number", number, 0, 2**31))
        for name, number in named.items()
        if _NAME.fullmatch(name)
    ]


def _channels(document: Mapping[str, Any], said: Mapping[str, Any]) -> list[Channel]:
    found = []
    for name, value in _few("channels", _mapping("channels", document.get("channels"))).items():
        if not _NAME.fullmatch(name):
            continue  # no address could name it
        channel = _mapping("a channel", value)
        dtype, kind = str(channel.get("datatype")), str(channel.get("channel_type"))
        kind = _OLD_KINDS.get(kind, kind)
        kind, dtype = _OLD_DTYPES.get(dtype, (kind, dtype))
        if dtype not in _DTYPES or not _NAME.fullmatch(kind):
            continue  # int8 to int32 of 2017, or what we do not know: there, but not shown
        time = channel.get("timerange") or said.get("timerange") or [0, 0]
        base = _whole("a channel's resolution", channel.get("resolution", 0), 0, _LEVELS - 1)
        found.append(Channel(name, kind, dtype, _window(channel.get("windowrange", [0, 0])), _time(time), base))
    return found


def _few(what: str, items: Mapping[str, Any]) -> Mapping[str, Any]:
    if len(items) > _CHANNELS:
        _bad(f"at most {_CHANNELS} {what}", len(items))
    return items


def _window(value: object) -> tuple[int, int]:
    low, high = (_whole("windowrange", v, 0, 2**32) for v in _list("windowrange", value, 2))
    return (low, high)


def _time(value: object) -> tuple[int, int]:
    first, last = (_whole("timerange", v, 0, _TIMES) for v in _list("timerange", value, 2))
    if last < first:
        _bad("a timerange that is not reversed", (first, last))
    return (first, last)


def _of_level(name: str, said: Mapping[str, Any], n: str, count: int) -> list[Any]:
    return _list(f"dataset.{name}[{n}]", _mapping(f"dataset.{name}", said.get(name)).get(n), count)


def _mapping(what: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        _bad(f"an object for {what}", value)
        return {}
    return value


def _list(what: str, value: object, count: int | None = None) -> list[Any]:
    if not isinstance(value, list) or (count is not None and len(value) != count) or len(value) > _LEVELS:
        _bad(f"a list{'' if count is None else f' of {count}'} for {what}", value)
        return []
    return value


def _whole(what: str, value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        _bad(f"a whole number from {least} to {most} for {what}", value)
        return 0
    return value


def _ratio(what: str, value: object) -> Fraction:
    """An exact ratio of what was written, so that tiles do not depend on the noise of floats."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 1e-9 < value < 1e9:
        _bad(f"a positive number for {what}", value)
    return Fraction(str(value))
