"""What the pages show of a dataset: its size, where it comes from, and how it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from math import prod
from urllib.parse import urlsplit

from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.cache.fetch_times import FetchReport
from ocpproxy.model.address import ImageBase, write_base
from ocpproxy.model.dataset import Channel, Dataset, Plane
from ocpproxy.web.catmaid.stacks import image_bases

SLOW = 3.0
"""Seconds that a cuboid usually takes, from which on a dataset counts as slow: viewers wait no longer."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[^\s]+")
_PREFIXES = (("nm", 1.0), ("µm", 1e3), ("mm", 1e6))
_BYTES = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


class DatasetHealth(Enum):
    """How a dataset is."""

    WELL = "well"
    SLOW = "slow"
    FAILING = "failing"
    UNKNOWN = "not asked for"
    """Nobody has asked for it."""


@dataclass(frozen=True)
class DatasetState:
    """How a dataset is, and why."""

    health: DatasetHealth
    reason: str


@dataclass(frozen=True)
class Condition:
    """Finds out how datasets are."""

    catalogue: Catalogue
    fetches: FetchReport

    def of(self, token: str) -> DatasetState:
        """Return how a dataset is."""
        trouble, entry = self.catalogue.trouble(token), self.catalogue.entry_now(token)
        if trouble is not None:
            shown = "It cannot be shown" if entry is None else "It is shown by an earlier description"
            return DatasetState(DatasetHealth.FAILING, f"{shown}: {trouble.failure.explanation}.")
        if entry is None:
            return DatasetState(DatasetHealth.UNKNOWN, "Nobody has asked for it yet.")
        if not entry.source.is_asked:
            return DatasetState(
                DatasetHealth.WELL, "In maintenance: its upstream is not asked, what is cached is shown."
            )
        if entry.source.is_resting(token):
            reason = "Its upstream fails, and is left alone for a moment; what is cached is shown."
            return DatasetState(DatasetHealth.FAILING, reason)
        notes = " ".join(f"{note}." for note in entry.dataset.notes)
        usual = self.fetches.usual(token)
        if usual is not None and usual > SLOW:
            return DatasetState(DatasetHealth.SLOW, f"Its upstream takes {usual:.1f} s for a cuboid. {notes}".strip())
        return DatasetState(DatasetHealth.WELL, notes)


def in_voxels(dataset: Dataset) -> str:
    """Return the size in voxels, for people."""
    return " × ".join(f"{edge:,}" for edge in dataset.finest.size)


def in_nanometres(dataset: Dataset) -> str:
    """Return the size of a voxel and of the volume with their units; empty where the upstream has none."""
    if not dataset.in_nanometres:
        return ""
    finest = dataset.finest
    voxel = " × ".join(f"{float(edge):g}" for edge in finest.voxel)
    lengths = [edge * float(voxel) for edge, voxel in zip(finest.size, finest.voxel, strict=True)]
    unit, scale = next(((u, s) for u, s in reversed(_PREFIXES) if max(lengths) >= s), _PREFIXES[0])
    whole = " × ".join(f"{length / scale:.3g}" for length in lengths)
    return f"{voxel} nm a voxel, {whole} {unit}"


def in_bytes(dataset: Dataset) -> str:
    """Return how large all channels are at the finest level, uncompressed."""
    voxels = prod(dataset.finest.size)
    return sized(sum(voxels * one.itemsize * (one.time[1] - one.time[0] + 1) for one in dataset.channels))


def sized(count: float) -> str:
    """Return a number of bytes, for people."""
    power = 0
    while count >= 1024 and power < len(_BYTES) - 1:
        count, power = count / 1024, power + 1
    return f"{count:,.3g} {_BYTES[power]}" if count < 1000 else f"{count:,.0f} {_BYTES[power]}"


def about_channel(channel: Channel) -> str:
    """Return a channel in a few words."""
    first, last = channel.time
    times = f", {last - first + 1} time points" if last > first else ""
    return f"{channel.name} ({channel.kind}, {channel.dtype}{times})"


def comes_from(entry: CatalogueEntry) -> str:
    """Return the kind of the upstream, and the servers that it is on.

    No path and no query is shown, for they may hold keys, and nothing of a directory of this machine.
    """
    servers: dict[str, None] = {}
    for _, origin in entry.source.homes:
        for address in _ADDRESS.findall(origin):
            parts = urlsplit(address)
            is_local = parts.scheme == "file" or not parts.hostname
            servers["this machine" if is_local else f"{parts.scheme}://{_host(parts.netloc)}"] = None
    kind = entry.source.homes[0][0].rpartition("-")[0] if entry.source.homes else ""
    return f"{kind}: {', '.join(servers)}" if servers else kind


def _host(netloc: str) -> str:
    return netloc.rpartition("@")[2]


def overview_path(entry: CatalogueEntry) -> str | None:
    """Return the path of the overview of the middle slice; None where the dataset has no picture."""
    base: ImageBase | None = next(image_bases(entry, (Plane.XY,)), None)
    shown = entry.source.display.channel or entry.dataset.default_channel
    for other in image_bases(entry, (Plane.XY,)):
        if other.channels[0].name == shown:
            base = other
            break
    if base is None:
        return None
    level = entry.dataset.finest
    return f"ocpcatmaid/{write_base(base)}{level.offset[2] + level.size[2] // 2}/small.png"
