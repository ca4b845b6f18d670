"""The suite of upstreams before volumes that are files below a web server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ocpproxy.upstream.base import Upstream
from tests import doubles
from tests.conformance import DescribingTests

WRITTEN: dict[type, Path] = {}
"""Where each class has written its volume: once for all its tests."""


class BucketTests(DescribingTests):
    """Volumes that are files below a web server."""

    kind = "precomputed"
    encoding = ""

    def write(self, directory: Path) -> None:
        """Write the volume."""
        raise NotImplementedError

    def double(self: Any) -> doubles.Double:
        """A bucket with the volume."""
        directory = WRITTEN.get(type(self))
        if directory is None:
            directory = WRITTEN[type(self)] = self.place()
            self.write(directory / "volume")
        return doubles.Bucket(directory=directory, encoding=self.encoding)

    def at(self: Any, url: str, **options: object) -> Upstream:
        """A client of it."""
        upstream: Upstream = self.configured(f"type = {self.kind}\nurl = {url}/volume\n", **options)
        return upstream
