"""The way of a miss: a cold herd, one slab, filling the cache, a flight through the sections.

    python -m benchmarks.misses [herd] [slab] [fill] [flight]

Each is measured in front of an origin whose cutouts are ready made, as npz and as blosc that was not compressed.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time
from collections.abc import Sequence
from threading import Thread

from benchmarks.stage import Stage, get, metric, quantile, stage, told


class Client:
    """One connection of a viewer, kept alive. Costs little, for the servers share the machine with it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(2**20)
        self._path, self._began, self._have, self._needed = "", 0.0, 0, 0

    def ask(self, path: str) -> None:
        """Ask for a tile."""
        self._path, self._began, self._have, self._needed = path, time.perf_counter(), 0, 0
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    def read(self) -> float | None:
        """Read what has come: the seconds it took when the answer is complete."""
        got = self.socket.recv_into(memoryview(self._buffer)[self._have :])
        if not got:
            raise SystemExit(f"{self._path}: the connection was closed")
        self._have += got
        if not self._needed and (end := self._buffer.find(b"\r\n\r\n", 0, self._have)) >= 0:
            head = bytes(self._buffer[:end]).lower()
            if not head.startswith(b"http/1.1 200"):
                raise SystemExit(f"{self._path}: {head.decode()}")
            self._needed = end + 4 + int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        return time.perf_counter() - self._began if self._needed and self._have >= self._needed else None

    def get(self, path: str) -> float:
        """Ask for a tile and read it; the seconds it took."""
        self.ask(path)
        while (took := self.read()) is None:
            pass
        return took


def together(work: Sequence[tuple[Client, Sequence[str]]]) -> list[float]:
    """Each client asks for its paths, one after the other, all clients side by side; the seconds of each answer.

    In one thread: a herd of threads would measure how they wait for one another.
    """
    took = []
    left = {client: list(reversed(paths)) for client, paths in work if paths}
    with selectors.DefaultSelector() as selector:
        for client, paths in left.items():
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.ask(paths.pop())
        while selector.get_map():
            for key, _ in selector.select():
                one = key.data.read()
                if one is not None:
                    took.append(one)
                    if left[key.data]:
                        key.data.ask(left[key.data].pop())
                    else:
                        selector.unregister(key.data.socket)
    return took


def asked(origin: int) -> int:
    """SharedCutouts that an origin has been asked for."""
    return int(get(origin, "/asked")[1])


def gateway_before(on: Stage, form: str, delay: str = "0", **options: str) -> tuple[int, int]:
    """(port of a gateway, port of its origin)."""
    origin = on.origin(form, delay)
    upstream = {"upstream_type": "ocp", "upstream_url": f"http://127.0.0.1:{origin}", "upstream_format": form}
    name = f"gateway{origin}"
    place = {"cache_directory": f"cache{origin}", "index_url": f"sqlite:///index{origin}.sqlite"}
    port, _ = on.gateway(name, **{**upstream, **place, **options})
    get(port, "/kat/")
    return port, origin


def at_rest(port: int) -> None:
    """Return when a gateway has stored and accounted for all that it fetched."""
    while metric(port, "ocpproxy_flights") or metric(port, "ocpproxy_unsettled"):
        time.sleep(0.02)


def herd(on: Stage) -> None:
    """32 clients on one cold tile, origin 1 s away; and 16 on the 16 slices of one slab."""
    behind = on.origin("npz", "1.0")
    varnish = on.varnish(behind)
    if varnish is not None:  # it caches tiles: what comes from its origin is one already
        clients, late = [Client(varnish) for _ in range(32)], []
        for turn in range(9):
            took = together([(client, [f"/kat/{turn}.png"]) for client in clients])
            late.append((quantile(took, 0.95) - 1) * 1000)
        told("cold herd, Varnish before a server of tiles: p95", late, "ms")
    for form, bound in (("npz", "40 ms"), ("blosc", "25 ms")):
        port, origin = gateway_before(on, form, "1.0")
        clients = [Client(port) for _ in range(32)]
        late, slabs, before = [], [], asked(origin)
        for turn in range(9):
            at_rest(port)
            took = together([(client, [f"/kat/5/{turn}_0_0.png"]) for client in clients])
            late.append((quantile(took, 0.95) - 1) * 1000)
        for turn in range(9):
            at_rest(port)
            took = together([(client, [f"/kat/{z}/{turn}_1_0.png"]) for z, client in enumerate(clients[:16])])
            slabs.append((max(took) - 1) * 1000)
        told(f"cold herd, {form}: p95 above the origin", late, "ms", bound=bound)
        told(f"one slab of 16 slices, {form}: all, above the origin", slabs, "ms", bound="60 ms")
        print(f"    {asked(origin) - before} cutouts for 18 cuboids")


class Looker(Thread):
    """Somebody who looks at one tile all the time."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__(daemon=True)
        self._client, self._path = Client(port), path
        self._client.get(path)
        self.took: list[float] = []

    def run(self) -> None:
        """DisplaySettings 200 times a second."""
        while True:
            self.took.append(self._client.get(self._path))
            time.sleep(0.005)


def fill(on: Stage) -> None:
    """Cuboids as fast as they can be fetched, rendered and stored, while somebody looks at what is there."""
    for form, bound in (("npz", "250"), ("blosc", "500")):
        port, _ = gateway_before(on, form)
        looker = Looker(port, "/kat/1023/39_39_0.png")
        at_rest(port)
        looker.start()
        time.sleep(3)
        quiet, rates, clients = len(looker.took), [], [Client(port) for _ in range(8)]
        for turn in range(5):
            before, began = metric(port, "ocpproxy_cache_tiles "), time.perf_counter()
            together([(c, [f"/kat/{16 * turn}/{row}_{n}_0.png" for row in range(15)]) for n, c in enumerate(clients)])
            at_rest(port)
            rates.append((metric(port, "ocpproxy_cache_tiles ") - before) / (time.perf_counter() - began))
        told(f"fill, {form}", rates, "tiles/s", bound=bound)
        for when, took in (("before", looker.took[:quiet]), ("meanwhile", looker.took[quiet:])):
            told(f"    hits {when}: p99", [quantile(took, 0.99) * 1000], "ms", bound="50")


def flight(on: Stage) -> None:
    """64 sections at 24 frames a second, 30 tiles a view over six connections; and cold views before."""
    port, origin = gateway_before(on, "npz", "0.1")
    clients = [Client(port) for _ in range(6)]
    views = [f"/kat/{{z}}/{row}_{col}_0.png" for row in range(5) for col in range(6)]

    def view(z: int) -> float:
        began = time.perf_counter()
        together([(client, [path.format(z=z) for path in views[n::6]]) for n, client in enumerate(clients)])
        return (time.perf_counter() - began) * 1000

    told("cold view of 30 tiles, origin 100 ms away", [view(z) for z in (0, 16, 32, 48)], "ms", bound="1,000")
    at_rest(port)
    late = []
    for _ in range(3):
        frames = []
        for z in range(64):
            due = time.perf_counter() + 1 / 24
            frames.append(view(z))
            time.sleep(max(0.0, due - time.perf_counter()))
        late.append(quantile(frames, 0.99))
    told("warm flight: frames at p99", late, "ms", bound="42")
    print(f"    {asked(origin)} cutouts")


def main() -> None:
    """Measure what is named, or all."""
    for measure in (herd, fill, flight):
        if len(sys.argv) < 2 or measure.__name__ in sys.argv[1:]:
            with stage() as on:
                measure(on)


if __name__ == "__main__":
    main()
