"""What the paths below a token mean in one format, remembered for as long as the dataset is described as it is.

Documents are kept, because making those of a dataset with many channels takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cachetools import LRUCache

from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.formats.location import ChunkPlace, Folder, FormatDocument, ServedVolume, VoxelFormat, number
from ocpproxy.model.chunks import ChunkedVolume
from ocpproxy.model.dataset import CannotDisplay

_MEMORY = 16 * 2**20
"""Bytes of documents that are remembered."""
_MOST_VOLUMES = 1000
_MOST_CHANNELS = 64
"""Channels of an array that has them as an axis."""


_Key = tuple[CatalogueEntry | str, ...]
"""A dataset, and the segments of a path below its token."""


class FoundChunk(NamedTuple):
    """A chunk, and what it is served from."""

    served: ServedVolume
    place: ChunkPlace


class ServedVolumes:
    """The volumes of all datasets in one format."""

    def __init__(self, voxel_format: VoxelFormat) -> None:
        self._format = voxel_format
        self._documents: LRUCache[_Key, FormatDocument] = LRUCache(_MEMORY, getsizeof=lambda one: len(one.body))
        self._served: LRUCache[tuple[CatalogueEntry, str], ServedVolume | None] = LRUCache(_MOST_VOLUMES)

    def find(self, entry: CatalogueEntry, path: Sequence[str]) -> FormatDocument | Folder | FoundChunk | None:
        """Return what a path below a token means; None where the format has no such name, or it is off the grid.

        :param path: its segments. The last one is empty in the address of a folder; without it, a `Folder` is returned
            too, and the caller redirects to its address.
        :raises CannotDisplay: a channel cannot be cut into chunks, or the dataset is served as tiles only.
        """
        if not entry.source.display.as_chunks:
            raise CannotDisplay(f"{entry.dataset.token} is served as tiles only")
        if path[-1:] == [""]:
            found = self._find(entry, path[:-1])
            return found if isinstance(found, Folder) else None
        return self._find(entry, path)

    def _find(self, entry: CatalogueEntry, path: Sequence[str]) -> FormatDocument | Folder | FoundChunk | None:
        document = self._documents.get((entry, *path))
        if document is not None:
            return document
        served, rest = self._find_volume(entry, path)
        found = None if served is None else self._format.find(served, rest)
        if isinstance(found, FormatDocument) and len(found.body) <= _MEMORY // 4:
            self._documents[(entry, *path)] = found
        if isinstance(found, ChunkPlace) and served is not None:
            return FoundChunk(served, found)
        if path:
            return found if not isinstance(found, ChunkPlace) else None
        own = found.names if isinstance(found, Folder) else ()
        return Folder([*own, *(f"{channel.name}/" for channel in entry.dataset.channels)])

    def _find_volume(self, entry: CatalogueEntry, path: Sequence[str]) -> tuple[ServedVolume | None, Sequence[str]]:
        """Return what a path is served from, and what is left of the path."""
        first = path[0] if path else ""
        name, at, time = first.partition("@")
        is_channel = any(channel.name == name for channel in entry.dataset.channels)
        key = (entry, first if is_channel else "")
        if key not in self._served:
            self._served[key] = (
                _channel(entry.volume(name), time if at else None) if is_channel else self._all_channels(entry)
            )
        return self._served[key], path[1:] if is_channel else path

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
    return (channel.dtype, channel.time, ServedVolume((volume,)).holds_ids, grids)


def _channel(volume: ChunkedVolume, time: str | None) -> ServedVolume | None:
    """Return a volume, at one of its time points where one is named; None where it has no such one."""
    if time is None:
        return ServedVolume((volume,))
    first, last = volume.channel.time
    named = number(time)
    return None if named is None or not first <= named <= last else ServedVolume((volume,), time=named)
