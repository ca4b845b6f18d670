"""What upstreams cost: a cold cuboid beside TensorStore, and a start of the daemon.

    python -m benchmarks.upstreams [cuboid] [start]

``cuboid``: 512 x 512 x 16 voxels of a precomputed raw volume on the loopback, in chunks of several sizes, by our own
reader and by TensorStore, each time another cuboid, in turns of so many cuboids. The server is Twisted's, in a process
of its own.

``start``: from the command to the line that says where it answers.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.web.client import Agent, HTTPConnectionPool

from benchmarks.stage import PROGRAMS, ROOT, answers, free_port, stage, wait_for

CHUNKS = ((512, 512, 16), (128, 128, 16), (64, 64, 64))
CUBOIDS = 24
TURNS = 6


def write(place: Path, chunk: tuple[int, int, int]) -> None:
    """A volume of so many cuboids along x, by TensorStore."""
    import tensorstore as ts

    voxels = np.random.default_rng(1).integers(0, 256, (512 * CUBOIDS, 512, max(16, chunk[2]), 1), np.uint8)
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{place}/"},
        "multiscale_metadata": {"data_type": "uint8", "num_channels": 1, "type": "image"},
        "scale_metadata": {
            "size": list(voxels.shape[:3]),
            "resolution": [4, 4, 40],
            "encoding": "raw",
            "chunk_size": list(chunk),
        },
        "create": True,
    }
    ts.open(spec).result().write(voxels).result()


async def cuboids(reactor: Any, url: str) -> dict[str, list[float]]:
    """Seconds that each cuboid took."""
    import tensorstore as ts

    from ocpproxy.concurrency.threads import LanedThreadPool
    from ocpproxy.config import parse
    from ocpproxy.model.dataset import Box, Cutout
    from ocpproxy.upstream.http import HttpClient, make_treq
    from ocpproxy.upstream.kind import UpstreamContext
    from ocpproxy.upstream.registry import KINDS, build_upstream
    from ocpproxy.upstream.tensorstore.reader import TensorStoreReaders

    pool = LanedThreadPool(reactor, 2, "decode")
    pool.startService()
    connections = HTTPConnectionPool(reactor)
    connections.maxPersistentPerHost = 8
    context = UpstreamContext(
        HttpClient(make_treq(Agent(reactor, pool=connections)), reactor, Random(1)),
        pool.run,
        reactor,
        TensorStoreReaders(reactor),
    )
    said = parse(f"[dataset v]\ntype = precomputed\nurl = {url}\n", Path(), {}, KINDS).datasets["v"].upstream
    ours = build_upstream(said, context)
    dataset = ours.dataset("v", await ours.describe("v"))
    theirs = ts.open(
        {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "http", "base_url": url + "/"}}, read=True
    ).result()
    took: dict[str, list[float]] = {"ours": [], "TensorStore": []}
    for turn in range(TURNS):
        for name in ("ours", "TensorStore") if turn % 2 else ("TensorStore", "ours"):
            for n in range(CUBOIDS):
                box = Box(512 * n, 512 * n + 512, 0, 512, 0, 16)
                began = time.perf_counter()
                if name == "ours":
                    voxels = await ours.cutout(Cutout(dataset, dataset.channels[0], 0, 0, box))
                else:
                    voxels = theirs[box.x0 : box.x1, :512, :16, 0].T.read(order="C").result()
                took[name].append(time.perf_counter() - began)
                assert voxels.shape == (16, 512, 512)
    await connections.closeCachedConnections()
    pool.stopService()
    return took


def measure(url: str) -> None:
    """Print medians of one volume; in a process of its own, because a reactor runs once."""

    async def main(reactor: Any) -> None:
        took = await cuboids(reactor, url)
        ours, theirs = (statistics.median(took[name]) * 1000 for name in ("ours", "TensorStore"))
        print(f"ours {ours:.1f} ms, TensorStore {theirs:.1f} ms: {ours / theirs:.2f} of its time", flush=True)

    react(lambda reactor: Deferred.fromCoroutine(main(reactor)), [])


def cuboid() -> None:
    """Volumes with chunks of several sizes."""
    for chunk in CHUNKS:
        with stage() as on:
            write(on.place / "v", chunk)
            port = free_port()
            where = f"tcp:{port}:interface=127.0.0.1"
            on.run([PROGRAMS / "twistd", "-n", "--pidfile=", "web", "--listen", where, "--path", on.place], "web")
            wait_for(lambda port=port: answers(port))  # type: ignore[misc]
            print(f"chunks {chunk}: ", end="", flush=True)
            command = [sys.executable, "-m", "benchmarks.upstreams", f"http://127.0.0.1:{port}/v"]
            subprocess.run(command, check=True, cwd=ROOT)


def start() -> None:
    """Print the median of some starts."""
    took = []
    for _ in range(7):
        with stage() as on:
            began = time.perf_counter()
            on.gateway()
            took.append(time.perf_counter() - began)
    print(f"start: median {statistics.median(took):.2f} s, {min(took):.2f} to {max(took):.2f}")


if __name__ == "__main__":
    for what in sys.argv[1:] or ["cuboid", "start"]:
        if what.startswith("http"):
            measure(what)
        else:
            {"cuboid": cuboid, "start": start}[what]()
