"""What the paths below a token mean in one format, remembered for as long as the dataset is described as it is.

Documents are asked for again and again, and nobody is to wait while they are made: those of a dataset with many
channels take milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

from cachetools import LRUCache

from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.formats.location import ChunkPlace, Folder, FormatDocument, ServedVolume, VoxelFormat
from ocpproxy.model.chunks import ChunkedVolume
from ocpproxy.model.dataset import CannotDisplay

_MOST_DOCUMENTS = 1000
_MOST_CHANNELS = 64
"""Channels of an array that has them as an axis."""


class FoundChunk(NamedTuple):
    """A chunk, and what it is served from."""

    served: ServedVolume
    place: ChunkPlace


@dataclass
class _Known:
    """What is known of one dataset."""

    served: dict[str, ServedVolume | None] = field(default_factory=dict)
    """By the first segment of a path; under an empty one that of all channels."""
    documents: LRUCache[tuple[str, ...], FormatDocument] = field(default_factory=lambda: LRUCache(_MOST_DOCUMENTS))


class ServedVolumes:
    """The volumes of all datasets in one format."""

    def __init__(self, voxel_format: VoxelFormat) -> None:
        self._format = voxel_format
        self._known: WeakKeyDictionary[CatalogueEntry, _Known] = WeakKeyDictionary()

    def find(self, entry: CatalogueEntry, path: Sequence[str]) -> FormatDocument | Folder | FoundChunk | None:
        """Return what a path below a token means; None for no name of the format, and for what is off the grid.

        :raises CannotDisplay: a channel cannot be cut into chunks.
        """
        known = self._known.setdefault(entry, _Known())
        document = known.documents.get(tuple(path))
        if document is not None:
            return document
        served, rest = self._served(entry, known, path)
        found = None if served is None else self._format.find(served, rest)
        if isinstance(found, FormatDocument):
            known.documents[tuple(path)] = found
        if isinstance(found, ChunkPlace) and served is not None:
            return FoundChunk(served, found)
        if path:
            return found if not isinstance(found, ChunkPlace) else None
        own = found.names if isinstance(found, Folder) else ()
        return Folder([*own, *(f"{channel.name}/" for channel in entry.dataset.channels)])

    def _served(
        self, entry: CatalogueEntry, known: _Known, path: Sequence[str]
    ) -> tuple[ServedVolume | None, Sequence[str]]:
        """Return what a path is served from, and what is left of the path."""
        first = path[0] if path else ""
        name, _, time = first.partition("@")
        if any(channel.name == name for channel in entry.dataset.channels):
            if first not in known.served:
                volume = entry.volume(name)
                served = _at_time(volume, time) if time else ServedVolume((volume,))
                if served is None:
                    return None, path
                known.served[first] = served
            return known.served[first], path[1:]
        if "" not in known.served:
            known.served[""] = self._all_channels(entry)
        return known.served[""], path

    def _all_channels(self, entry: CatalogueEntry) -> ServedVolume | None:
        """Return all channels as an axis of one array; None where they cannot be.

        They cannot where one is called as something in the array is: a reader would get either for the other.
        """
        names = [channel.name for channel in entry.dataset.channels]
        if not self._format.axis_of_channels or len(names) > _MOST_CHANNELS:
            return None
        try:
            volumes = tuple(map(entry.volume, names))
        except CannotDisplay:
            return None
        served = ServedVolume(volumes)
        clash = any(self._format.find(served, [name]) is not None for name in names)
        return served if len(set(map(_likeness, volumes))) == 1 and not clash else None


def _likeness(volume: ChunkedVolume) -> object:
    """Return what channels have in common that can be an axis of one array."""
    channel = volume.channel
    grids = tuple((n, grid.chunk, grid.encoding == "compressed_segmentation") for n, grid in volume.grids.items())
    return (channel.dtype, channel.time, channel.kind == "annotation", grids)


def _at_time(volume: ChunkedVolume, text: str) -> ServedVolume | None:
    """Return a volume at one of its time points."""
    first, last = volume.channel.time
    if not text.isascii() or not text.isdecimal() or len(text) > 7 or not first <= int(text) <= last:
        return None
    return ServedVolume((volume,), time=int(text))
