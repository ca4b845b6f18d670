"""The metadata of OME-Zarr: the axes, the place of each level, and how channels are shown.

Levels are named by their numbers. Source: ngff.openmicroscopy.org, 0.4 and 0.5.
"""

from __future__ import annotations

from typing import Any

from ocpproxy.formats.location import ServedVolume
from ocpproxy.model.dataset import Channel

_TYPES = {"t": "time", "c": "channel"}
_COLOURS = ("FFFFFF", "FF0000", "00FF00", "0000FF", "FF00FF", "00FFFF", "FFFF00")


def multiscale(served: ServedVolume) -> dict[str, Any]:
    """Return the one item of ``multiscales``."""
    return {
        "name": served.name,
        "axes": [_axis(letter, served.unit) for letter in served.axes],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": served.scale(level)},
                    {"type": "translation", "translation": served.translation(level)},
                ],
            }
            for level in served.levels
        ],
    }


def _axis(letter: str, unit: str | None) -> dict[str, str]:
    axis = {"name": letter, "type": _TYPES.get(letter, "space")}
    if unit is not None and letter in "zyx":
        axis["unit"] = unit
    return axis


def omero(served: ServedVolume) -> dict[str, Any]:
    """Return how the channels are shown."""
    several = len(served.volumes) > 1
    return {
        "name": served.name,
        "channels": [
            _channel(volume.channel, _COLOURS[number % len(_COLOURS)] if several else _COLOURS[0])
            for number, volume in enumerate(served.volumes)
        ],
    }


def _channel(channel: Channel, colour: str) -> dict[str, Any]:
    low, high = channel.window
    voxel_type = channel.voxel_type
    most = 2 ** (8 * voxel_type.itemsize - voxel_type.is_signed) - 1 if voxel_type.is_integer else 1
    least = -most - 1 if voxel_type.is_signed else 0
    if high <= low:
        low, high = least, most
    least, most = min(least, low), max(most, high)
    return {
        "label": channel.name,
        "color": colour,
        "active": True,
        "window": {"min": least, "max": most, "start": low, "end": high},
    }
