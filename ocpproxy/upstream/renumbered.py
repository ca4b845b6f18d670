"""An upstream under other numbers: slices counted from elsewhere, levels called otherwise.

A token of an old project shows a volume that has moved: its new home may count slices from 0 where the old one counted
from 1, and may have lost its finest level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ocpproxy.model.dataset import Box, Cutout, Dataset, Level, Z
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import Picture, Upstream, UpstreamBroken


class Renumbered:
    """The upstream, renumbered.

    :param shift: added to the number of each slice of the finest level; of others, as much as they are coarser.
    :param levels: their number of each of our levels; all as they are where there is none.
    """

    def __init__(self, upstream: Upstream, shift: int, levels: Mapping[int, int]) -> None:
        self._upstream = upstream
        self._shift = shift
        self._levels = levels
        self.origin = upstream.origin

    async def describe(self, token: str) -> str:
        """As `Upstream.describe`."""
        return await self._upstream.describe(token)

    def dataset(self, token: str, description: str) -> Dataset:
        """As `Upstream.dataset`; its `theirs` is the upstream's own dataset."""
        theirs = self._upstream.dataset(token, description)
        absent = sorted(set(self._levels.values()) - theirs.levels.keys())
        if absent:
            raise UpstreamBroken(f"{token} has no level {absent[0]}: it has {sorted(theirs.levels)}")
        numbers = self._levels or {n: n for n in theirs.levels}
        levels = {n: self._moved(theirs, theirs.levels[there]) for n, there in sorted(numbers.items())}
        return replace(theirs, levels=levels, upstream_data=theirs)

    def _by(self, theirs: Dataset, level: Level) -> int:
        return int(self._shift * theirs.finest.voxel[Z] / level.voxel[Z])

    def _moved(self, theirs: Dataset, level: Level) -> Level:
        x, y, z = level.offset
        return replace(level, offset=(x, y, z + self._by(theirs, level)))

    def _theirs(self, cutout: Cutout) -> Cutout:
        theirs: Dataset = cutout.dataset.upstream_data
        number = self._levels.get(cutout.level, cutout.level)
        by, box = self._by(theirs, theirs.levels[number]), cutout.box
        there = Box(box.x0, box.x1, box.y0, box.y1, box.z0 - by, box.z1 - by)
        return replace(cutout, dataset=replace(theirs, alias_of=cutout.dataset.upstream_token), level=number, box=there)

    async def cutout(self, cutout: Cutout) -> Voxels:
        """As `Upstream.cutout`."""
        return await self._upstream.cutout(self._theirs(cutout))

    async def picture(self, cutout: Cutout, known: Picture | None) -> Picture | None:
        """As `Upstream.picture`."""
        return await self._upstream.picture(self._theirs(cutout), known)


def renumbered(upstream: Upstream, shift: int, levels: Mapping[int, int]) -> Upstream:
    """The upstream, renumbered where there is anything to renumber."""
    return Renumbered(upstream, shift, levels) if shift or levels else upstream
