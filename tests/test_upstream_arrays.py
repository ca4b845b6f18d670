"""Upstreams that TensorStore reads: the suite that all kinds pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ocpproxy.model.dataset import Box, Cutout
from ocpproxy.upstream.base import Upstream
from tests import formats
from tests.buckets import BucketTests
from tests.conformance import PoliteTests, UpstreamCase, patiently
from tests.volumes import em


class TensorStoreTests(PoliteTests, BucketTests):
    """What TensorStore reads, by the gateway's own client."""

    kind = "volume"

    async def prepare(self: Any, upstream: Upstream, cutout: Cutout) -> None:
        """Start TensorStore's process, by a voxel of another chunk."""
        end = cutout.dataset.levels[cutout.level].end
        await patiently(lambda: upstream.cutout(replace(cutout, box=Box(*(v for e in end for v in (e - 1, e))))))


class ShardedTests(TensorStoreTests, UpstreamCase):
    """precomputed in shards, as type = precomputed."""

    kind = "precomputed"

    def write(self, directory: Path) -> None:
        """By TensorStore."""
        formats.precomputed(directory, em(), sharded=True, offset=(64, 32, 5))


class N5Tests(TensorStoreTests, UpstreamCase):
    """N5, gzip."""

    kind = "n5"

    def write(self, directory: Path) -> None:
        """By TensorStore."""
        formats.n5(directory, em())


class N5ProbedTests(TensorStoreTests, UpstreamCase):
    """N5 that has its levels told by their arrays alone."""

    def write(self, directory: Path) -> None:
        """By TensorStore."""
        formats.n5(directory, em(), factors="each")


class OmeZarr04Tests(TensorStoreTests, UpstreamCase):
    """OME-Zarr 0.4."""

    kind = "zarr"

    def write(self, directory: Path) -> None:
        """By TensorStore."""
        formats.ome_zarr(directory, em(), version="0.4", axes="tczyx")


class OmeZarr05Tests(TensorStoreTests, UpstreamCase):
    """OME-Zarr 0.5, in shards."""

    def write(self, directory: Path) -> None:
        """By TensorStore."""
        formats.ome_zarr(directory, em(), version="0.5")
