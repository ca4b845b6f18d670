"""A volume with a channel of every type, and a daemon before a server that has it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from twisted.internet.defer import Deferred, gatherResults

from tests import ocpserver, oracle
from tests.daemons import Daemon, DaemonCase
from tests.ocpserver import Served
from tests.pictures import opaque, rgba
from tests.volumes import em, mitochondria, nuclei

Array = np.ndarray[Any, Any]
PLANES = ("xy", "xz", "yz", "zy")
SMALL: dict[str, Any] = {"side": 16, "depth": 2}
"""Cubes whose slabs have few tiles: these tests look at few slices, and each slab is drawn whole."""


@cache
def channels() -> dict[str, Served]:
    """Return a channel of every type on one grid, made of the real volumes: electrons, ids, and fluorescence."""
    electrons, ids = em(), mitochondria()
    wide = np.zeros(electrons.shape, np.uint16)
    cells = nuclei()[: electrons.shape[0]]
    wide[: cells.shape[0], : cells.shape[1], : cells.shape[2]] = cells
    moving = np.stack([np.roll(electrons, 40 * n, 2) for n in range(13)])
    quad = wide.astype(np.uint64)
    return {
        "em": Served(electrons),
        "wide": Served(wide),
        "windowed": Served(wide, window=(500, 20000)),
        "moving": Served(moving, "timeseries"),
        "moving16": Served(np.stack([wide, wide[::-1]]), "timeseries"),
        "ids": Served(ids.astype(np.uint32) * 1_000_003, "annotation"),
        "ids64": Served(ids.astype(np.uint64) * 3_000_000_000_019, "annotation"),
        "mask": Served((ids > 40).astype(np.uint8) * 3, "bitmask"),
        "sure": Served(electrons.astype(np.float32) / 250, "probability"),
        "rgb": Served(electrons.astype(np.uint32) * 65793 + (ids.astype(np.uint32) << 24), "rgba"),
        "rgb64": Served(quad | quad << np.uint64(17) | np.uint64(0xFFFF << 48), "rgba"),
    }


def shown(name: str, served: Served, picture: Array) -> Array:
    """Return the colours of a whole picture of one channel, as it is shown by itself."""
    if served.kind == "annotation":
        return oracle.labels(picture)
    if served.kind == "rgba":
        return oracle.rgba(picture)
    return opaque(light(served, picture))


def light(served: Served, picture: Array, window: tuple[int, int] | None = None) -> Array:
    """Return the grey of a picture of a channel."""
    if served.kind == "bitmask":
        return np.where(picture == 0, 0, 255).astype(np.uint8)
    return oracle.grey(picture, served.window if served.window[1] else window)


class ViewsCase(DaemonCase):
    """A daemon before a server of many channels."""

    timeout = 900

    async def view(self, service: ocpserver.Service, extra: str = "", **options: Any) -> Daemon:
        """Start a double and a daemon.

        :param extra: more sections of the configuration.
        """
        path = self.configure(self.serve(service), **options)
        with path.open("a") as file:
            file.write(extra)
        return await self.start(path)

    async def pictures(self, daemon: Daemon, paths: list[str]) -> list[Array]:
        """Return the colours of tiles that are requested all at once."""
        answers = await gatherResults([Deferred.fromCoroutine(daemon.get(path)) for path in paths])
        for path, (code, body, headers) in zip(paths, answers, strict=True):
            self.assertEqual((code, headers["content-type"]), (200, "image/png"), (path, body[:200]))
            self.assertEqual(headers["content-length"], str(len(body)))
        return [rgba(body) for _, body, _ in answers]

    async def check(self, daemon: Daemon, base: str, whole: Array, n: int, slice_: int, solid: bool = True) -> None:
        """Check that every tile of one slice of an image base equals its part of a whole picture."""
        rows, cols = (-(-side // 512) for side in whole.shape[:2])
        places = [(row, col) for row in range(rows) for col in range(cols)]
        found = await self.pictures(daemon, [f"{base}/{slice_}/{row}_{col}_{n}.png" for row, col in places])
        for (row, col), got in zip(places, found, strict=True):
            want = oracle.cut(whole, row, col)
            if solid:
                want[..., 3] = 255  # what is grey is black beyond the volume
            np.testing.assert_array_equal(got, want, f"{base} {slice_} {row} {col} {n}")
