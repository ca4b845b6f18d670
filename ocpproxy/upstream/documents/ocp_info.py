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

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from ocpproxy.model.dataset import Channel, Dataset, Level, Triple
from ocpproxy.upstream.documents import checks
from ocpproxy.upstream.documents.checks import DTYPES, LARGEST, NAME, items, mapping, ratio, unexpected, whole

_CHANNELS, _TIMES = 1024, 2**20
_LEVELS = 16
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
    with checks.reading(f"the info of {token}"):
        return _read(token, checks.parsed(document))


def _read(token: str, info: object) -> Dataset:
    document = mapping("a JSON object", info)
    said = mapping("dataset", document.get("dataset"))
    project = mapping("project", document.get("project"))
    first = "slicerange" in said
    generation = 1 if first else 2 if "timerange" in said else 3
    numbers = [whole("a level", n, 0, _LEVELS - 1) for n in items("dataset.resolutions", said.get("resolutions"))]
    if not numbers or len(set(numbers)) != len(numbers):
        raise unexpected("at least one level, each once", numbers)
    levels = {n: (_first_level if first else _level)(said, str(n)) for n in sorted(numbers)}
    channels = _first_channels(document, said, project) if first else _channels(document, said)
    # The channels of a channel project are shown by naming them: none of them is the picture.
    shown = [channel.name for channel in channels if channel.kind != "channels"]
    images = [channel.name for channel in channels if channel.kind in ("image", "timeseries")]
    default_channel = next(iter([name for name in images if name == "image"] or images or shown), None)
    return Dataset(token, levels, tuple(channels), default_channel, upstream_data=generation)


def _first_level(said: Mapping[str, Any], n: str) -> Level:
    x, y = (whole("imagesize", v, 1, LARGEST) for v in _of_level("imagesize", said, n, 2))
    low, high = (whole("slicerange", v, 0, LARGEST) for v in items("dataset.slicerange", said["slicerange"], 2))
    if high < low:
        raise unexpected("a slicerange that is not reversed", (low, high))
    scale = ratio("zscale", mapping("zscale", said.get("zscale")).get(n))
    wide = Fraction(2 ** int(n))  # x and y halve at each level, which this generation does not say
    return Level((x, y, high - low + 1), (0, 0, low), _cube(said, n), (wide, wide, wide * scale))


def _level(said: Mapping[str, Any], n: str) -> Level:
    x, y, z = (whole("imagesize", v, 1, LARGEST) for v in _of_level("imagesize", said, n, 3))
    ox, oy, oz = (whole("offset", v, 0, LARGEST) for v in _of_level("offset", said, n, 3))
    vx, vy, vz = (ratio("voxelres", v) for v in _of_level("voxelres", said, n, 3))
    return Level((x, y, z), (ox, oy, oz), _cube(said, n), (vx, vy, vz))


def _cube(said: Mapping[str, Any], n: str) -> Triple:
    x, y, z = (whole("cube_dimension", v, 1, 4096) for v in _of_level("cube_dimension", said, n, 3))
    return (x, y, z)


def _first_channels(document: Mapping[str, Any], said: Mapping[str, Any], project: Mapping[str, Any]) -> list[Channel]:
    type_ = whole("project.projecttype", project.get("projecttype"), 1, 12)
    kind, dtype = _PROJECT_TYPES[type_]
    window = _window(said.get("windowrange", [0, 0]))
    time = _time(said.get("timerange", [0, 0]))
    base = whole("project.resolution", project.get("resolution", 0), 0, _LEVELS - 1)
    if kind != "channels":
        writable = kind == "annotation" and project.get("readonly") == 0
        name = "image" if kind == "timeseries" else kind
        return [Channel(name, kind, dtype, window, time, base, writable=writable)]
    named = _few("channels", mapping("channels", document.get("channels")))
    return [
        Channel(name, kind, dtype, window, time, base, whole("a channel's number", number, 0, 2**31))
        for name, number in named.items()
        if NAME.fullmatch(name)
    ]


def _channels(document: Mapping[str, Any], said: Mapping[str, Any]) -> list[Channel]:
    found = []
    for name, value in _few("channels", mapping("channels", document.get("channels"))).items():
        if not NAME.fullmatch(name):
            continue  # no address could name it
        channel = mapping("a channel", value)
        dtype, kind = str(channel.get("datatype")), str(channel.get("channel_type"))
        kind = _OLD_KINDS.get(kind, kind)
        kind, dtype = _OLD_DTYPES.get(dtype, (kind, dtype))
        if dtype not in DTYPES or not NAME.fullmatch(kind):
            continue  # int8 to int32 of 2017, or what we do not know: there, but not shown
        time = channel.get("timerange") or said.get("timerange") or [0, 0]
        base = whole("a channel's resolution", channel.get("resolution", 0), 0, _LEVELS - 1)
        window = _window(channel.get("windowrange", [0, 0]))
        writable = kind == "annotation" and channel.get("readonly") == 0
        found.append(Channel(name, kind, dtype, window, _time(time), base, writable=writable))
    return found


def _few(what: str, named: Mapping[str, Any]) -> Mapping[str, Any]:
    if len(named) > _CHANNELS:
        raise unexpected(f"at most {_CHANNELS} {what}", len(named))
    return named


def _window(value: object) -> tuple[int, int]:
    low, high = (whole("windowrange", v, 0, 2**32) for v in items("windowrange", value, 2))
    return (low, high)


def _time(value: object) -> tuple[int, int]:
    first, last = (whole("timerange", v, 0, _TIMES) for v in items("timerange", value, 2))
    if last < first:
        raise unexpected("a timerange that is not reversed", (first, last))
    return (first, last)


def _of_level(name: str, said: Mapping[str, Any], n: str, count: int) -> list[Any]:
    return items(f"dataset.{name}[{n}]", mapping(f"dataset.{name}", said.get(name)).get(n), count)
