"""An upstream whose slices and levels have other numbers for the gateway's clients.

An old token may show a volume that has moved. The new service may count slices from 0 where the old one counted from 1,
and it may lack the finest level. The clients keep using the old numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ocpproxy.model.chunks import NativeChunks
from ocpproxy.model.dataset import Channel, Cutout, Dataset, Level, Z
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import NotUnderstood, Picture, Upstream


class Renumbered:
    """An upstream with other slice and level numbers.

    :param shift: added to each slice number of the finest level; coarser levels along z are shifted by less.
    :param levels: the upstream's number of each of our levels; empty to keep all levels and their numbers.
    """

    def __init__(self, upstream: Upstream, shift: int, levels: Mapping[int, int]) -> None:
        self._upstream = upstream
        self._shift = shift
        self._levels = levels
        self.origin = upstream.origin

    async def describe(self, token: str) -> str:
        """Return a description; see `Upstream.describe`."""
        return await self._upstream.describe(token)

    def dataset(self, token: str, description: str) -> Dataset:
        """Return a dataset with our numbers, whose `upstream_data` is the upstream's own dataset."""
        original = self._upstream.dataset(token, description)
        absent = sorted(set(self._levels.values()) - original.levels.keys())
        if absent:
            raise NotUnderstood(
                f"{token} has no level {absent[0]}, which levels names: it has {sorted(original.levels)}"
            )
        numbers = self._levels or {n: n for n in original.levels}
        levels = {ours: self._shifted(original, original.levels[n]) for ours, n in sorted(numbers.items())}
        return replace(original, levels=levels, upstream_data=original)

    def _slices(self, original: Dataset, level: Level) -> int:
        """Return the shift of a level, in its own slices."""
        return int(self._shift * original.finest.voxel[Z] / level.voxel[Z])

    def _shifted(self, original: Dataset, level: Level) -> Level:
        x, y, z = level.offset
        return replace(level, offset=(x, y, z + self._slices(original, level)))

    def _original(self, cutout: Cutout) -> Cutout:
        """Return the cutout in the upstream's own numbers."""
        original: Dataset = cutout.dataset.upstream_data
        number = self._levels.get(cutout.level, cutout.level)
        shift, box = self._slices(original, original.levels[number]), cutout.box
        shifted = box._replace(z0=box.z0 - shift, z1=box.z1 - shift)
        dataset = replace(original, alias_of=cutout.dataset.upstream_token)
        return replace(cutout, dataset=dataset, level=number, box=shifted)

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Return voxels; see `Upstream.cutout`."""
        return await self._upstream.cutout(self._original(cutout))

    async def picture(self, cutout: Cutout, known: Picture | None) -> Picture | None:
        """Return a picture; see `Upstream.picture`."""
        return await self._upstream.picture(self._original(cutout), known)

    def native_chunks(self, dataset: Dataset, channel: Channel, level: int) -> NativeChunks | None:
        """Return the chunks that are stored; see `Upstream.native_chunks`."""
        original: Dataset = dataset.upstream_data
        return self._upstream.native_chunks(original, channel, self._levels.get(level, level))

    async def chunk(self, cutout: Cutout) -> bytes:
        """Return a chunk; see `Upstream.chunk`."""
        return await self._upstream.chunk(self._original(cutout))


def renumbered(upstream: Upstream, shift: int, levels: Mapping[int, int]) -> Upstream:
    """Return the upstream with other numbers, or the upstream itself where neither option is set."""
    return Renumbered(upstream, shift, levels) if shift or levels else upstream
