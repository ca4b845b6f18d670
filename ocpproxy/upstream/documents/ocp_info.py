"""The ``info`` document of the Open Connectome services, in its three generations.

=== ======================= ==========================================================================
gen dates                   recognised by
=== ======================= ==========================================================================
1   2013 to March 2015      ``dataset.slicerange``; one ``project.projecttype`` for all voxels
2   April 2015 to 2016      ``dataset.timerange``; named ``channels`` with types of their own
3   December 2016 on        neither: each channel has its own ``timerange``
=== ======================= ==========================================================================

The keys of maps by level are strings. Nothing in the document is trusted: it comes over plain HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from ocpproxy.model.dataset import Channel, Dataset, Level, Triple
from ocpproxy.upstream.documents import checks
from ocpproxy.upstream.documents.checks import (
    CHANNEL_NAME,
    DTYPES,
    MAX_EXTENT,
    fraction,
    fraction_triple,
    integer,
    integer_triple,
    json_array,
    json_object,
    unexpected,
)

_MAX_CHANNELS = 1024
_MAX_TIME = 2**20
_MAX_CUBE = 4096
"""Voxels of a cuboid along one axis."""
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


def parse_info(token: str, document: str) -> Dataset:
    """Return the dataset that the document describes; its `upstream_data` is the generation.

    :raises UpstreamBroken: with what was expected.
    """
    with checks.parsing(f"the info of {token}"):
        return _parse(token, checks.parse_json(document))


def _parse(token: str, info: object) -> Dataset:
    document = json_object("the info", info)
    dataset = json_object("dataset", document.get("dataset"))
    project = json_object("project", document.get("project"))
    first = "slicerange" in dataset
    generation = 1 if first else 2 if "timerange" in dataset else 3
    resolutions = json_array("dataset.resolutions", dataset.get("resolutions"))
    numbers = [integer("a level", number, 0, _LEVELS - 1) for number in resolutions]
    if not numbers or len(set(numbers)) != len(numbers):
        raise unexpected("at least one level, each once", numbers)
    parse_level = _parse_first_level if first else _parse_level
    levels = {number: parse_level(dataset, str(number)) for number in sorted(numbers)}
    channels = _parse_first_channels(document, dataset, project) if first else _parse_channels(document, dataset)
    # The channels of a channel project are shown by name only: none of them is the default image.
    shown = [channel.name for channel in channels if channel.kind != "channels"]
    images = [channel.name for channel in channels if channel.kind in ("image", "timeseries")]
    default_channel = next(iter([name for name in images if name == "image"] or images or shown), None)
    return Dataset(token, levels, tuple(channels), default_channel, upstream_data=generation)


def _parse_first_level(dataset: Mapping[str, Any], level: str) -> Level:
    sizes = json_array(f"dataset.imagesize[{level}]", _value_at("imagesize", dataset, level), 2)
    x, y = (integer("imagesize", size, 1, MAX_EXTENT) for size in sizes)
    low, high = _parse_range("slicerange", dataset["slicerange"], MAX_EXTENT)
    zscale = fraction(f"dataset.zscale[{level}]", _value_at("zscale", dataset, level))
    step = Fraction(2 ** int(level))  # x and y halve at each level; documents of this generation do not say so
    return Level((x, y, high - low + 1), (0, 0, low), _parse_cube(dataset, level), (step, step, step * zscale))


def _parse_level(dataset: Mapping[str, Any], level: str) -> Level:
    size, offset = _triple_at("imagesize", dataset, level, 1), _triple_at("offset", dataset, level)
    voxel = fraction_triple(f"dataset.voxelres[{level}]", _value_at("voxelres", dataset, level))
    return Level(size, offset, _parse_cube(dataset, level), voxel)


def _parse_cube(dataset: Mapping[str, Any], level: str) -> Triple:
    return _triple_at("cube_dimension", dataset, level, 1, _MAX_CUBE)


def _parse_first_channels(
    document: Mapping[str, Any], dataset: Mapping[str, Any], project: Mapping[str, Any]
) -> list[Channel]:
    project_type = integer("project.projecttype", project.get("projecttype"), 1, len(_PROJECT_TYPES))
    kind, dtype = _PROJECT_TYPES[project_type]
    window = _parse_window(dataset.get("windowrange", [0, 0]), dtype)
    time = _parse_range("timerange", dataset.get("timerange", [0, 0]), _MAX_TIME)
    base_level = integer("project.resolution", project.get("resolution", 0), 0, _LEVELS - 1)
    if kind != "channels":
        writable = kind == "annotation" and project.get("readonly") == 0
        name = "image" if kind == "timeseries" else kind
        return [Channel(name, kind, dtype, window, time, base_level, writable=writable)]
    return [
        Channel(name, kind, dtype, window, time, base_level, integer("a channel's number", number, 0, 2**31))
        for name, number in _named_channels(document)
    ]


def _parse_channels(document: Mapping[str, Any], dataset: Mapping[str, Any]) -> list[Channel]:
    channels = []
    for name, value in _named_channels(document):
        channel = json_object("a channel", value)
        dtype, kind = str(channel.get("datatype")), str(channel.get("channel_type"))
        kind = _OLD_KINDS.get(kind, kind)
        kind, dtype = _OLD_DTYPES.get(dtype, (kind, dtype))
        if dtype not in DTYPES or not CHANNEL_NAME.fullmatch(kind):
            continue  # int8 to int32 of 2017, or an unknown type: it cannot be drawn
        times = channel.get("timerange") or dataset.get("timerange") or [0, 0]
        base_level = integer("a channel's resolution", channel.get("resolution", 0), 0, _LEVELS - 1)
        window = _parse_window(channel.get("windowrange", [0, 0]), dtype)
        time = _parse_range("timerange", times, _MAX_TIME)
        writable = kind == "annotation" and channel.get("readonly") == 0
        channels.append(Channel(name, kind, dtype, window, time, base_level, writable=writable))
    return channels


def _named_channels(document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the (name, description) of each channel whose name can be part of an address."""
    named = json_object("channels", document.get("channels"))
    if len(named) > _MAX_CHANNELS:
        raise unexpected(f"at most {_MAX_CHANNELS} channels", len(named))
    return [(name, value) for name, value in named.items() if CHANNEL_NAME.fullmatch(name)]


def _parse_window(value: object, dtype: str) -> tuple[int, int]:
    """Return the window of a channel; the services have one for all types, and use it for 16 bits."""
    low, high = (integer("windowrange", bound, 0, 2**32) for bound in json_array("windowrange", value, 2))
    return (low, high) if dtype == "uint16" else (0, 0)


def _parse_range(name: str, value: object, maximum: int) -> tuple[int, int]:
    """Return (first, last), both inclusive."""
    first, last = (integer(name, bound, 0, maximum) for bound in json_array(name, value, 2))
    if last < first:
        raise unexpected(f"a {name} that is not reversed", (first, last))
    return (first, last)


def _value_at(name: str, dataset: Mapping[str, Any], level: str) -> object:
    """Return the value of a level in one of the maps by level."""
    return json_object(f"dataset.{name}", dataset.get(name)).get(level)


def _triple_at(
    name: str, dataset: Mapping[str, Any], level: str, minimum: int = 0, maximum: int = MAX_EXTENT
) -> Triple:
    return integer_triple(f"dataset.{name}[{level}]", _value_at(name, dataset, level), minimum, maximum)
