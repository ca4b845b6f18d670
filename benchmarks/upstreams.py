"""What upstreams cost: a cold cuboid beside TensorStore, and a start of the daemon.

    python -m benchmarks.upstreams [cuboid] [start]

``cuboid``: 512 x 512 x 16 voxels of a precomputed raw volume on the loopback, in 1, 16 and 64 chunks: by our own
reader, by the same reader with the bare `Agent` in the place of treq, and by TensorStore. Each time another cuboid, in
turns of so many cuboids. The server is Twisted's, in a process of its own.

``start``: from the command to the line that says where it answers.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers

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


class AgentOnly:
    """The agent in the place of treq: the same requests without what treq does about them."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    def get(self, url: Any, headers: Headers, **_: Any) -> Any:
        """Send the request."""
        return self._agent.request(b"GET", url.to_text().encode("ascii"), headers)


async def cuboids(reactor: Any, url: str) -> dict[str, list[float]]:
    """Return the seconds that each cuboid took: by our reader, by it without treq, by TensorStore."""
    import tensorstore as ts

    from ocpproxy.concurrency.threads import LanedThreadPool
    from ocpproxy.config import parse
    from ocpproxy.model.dataset import Box, Cutout
    from ocpproxy.upstream.endpoints import ReusedEndpoints
    from ocpproxy.upstream.http import HttpClient
    from ocpproxy.upstream.kind import UpstreamContext
    from ocpproxy.upstream.plain_treq import make_treq
    from ocpproxy.upstream.registry import KINDS, build_upstream
    from ocpproxy.upstream.tensorstore.reader import TensorStoreReaders

    threads = LanedThreadPool(reactor, 2, "decode")
    threads.startService()
    connections = HTTPConnectionPool(reactor)
    connections.maxPersistentPerHost = 8
    agent = Agent.usingEndpointFactory(reactor, ReusedEndpoints(reactor, 10), connections)
    settings = parse(f"[dataset v]\ntype = precomputed\nurl = {url}\n", Path(), {}, KINDS).datasets["v"].upstream
    upstreams = {}
    for name, client in (("ours", make_treq(agent)), ("Agent", AgentOnly(agent))):
        http = HttpClient(cast(Any, client), reactor, Random(1))
        upstreams[name] = build_upstream(
            settings, UpstreamContext(http, threads.run, threads.run, reactor, TensorStoreReaders(reactor))
        )
    dataset = upstreams["ours"].dataset("v", await upstreams["ours"].describe("v"))
    store = ts.open(
        {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "http", "base_url": url + "/"}}, read=True
    ).result()
    took: dict[str, list[float]] = {"ours": [], "Agent": [], "TensorStore": []}
    names = list(took)
    for turn in range(TURNS):
        for name in names[turn % 3 :] + names[: turn % 3]:
            for n in range(CUBOIDS):
                box = Box(512 * n, 512 * n + 512, 0, 512, 0, 16)
                began = time.perf_counter()
                if name == "TensorStore":
                    voxels = store[box.x0 : box.x1, :512, :16, 0].T.read(order="C").result()
                else:
                    voxels = await upstreams[name].cutout(Cutout(dataset, dataset.channels[0], 0, 0, box))
                took[name].append(time.perf_counter() - began)
                assert voxels.shape == (16, 512, 512)
    await connections.closeCachedConnections()
    threads.stopService()
    return took


def measure(url: str) -> None:
    """Print medians of one volume; in a process of its own, because a reactor runs once."""

    async def main(reactor: Any) -> None:
        took = await cuboids(reactor, url)
        ours, agent, theirs = (statistics.median(took[name]) * 1000 for name in ("ours", "Agent", "TensorStore"))
        print(
            f"ours {ours:.1f} ms, without treq {agent:.1f} ms, TensorStore {theirs:.1f} ms: "
            f"{ours / theirs:.2f} of TensorStore's time, {ours / agent:.2f} of the time without treq",
            flush=True,
        )

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
