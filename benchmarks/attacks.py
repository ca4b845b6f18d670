"""What an attack costs the others: a victim's miss, or the daemon's memory, before, during and after.

    python -m benchmarks.attacks [ATTACK ...]

Each attack has a daemon of its own and an upstream that takes half a second for each answer. The attacker comes from
192.0.2.1 and the victim from 192.0.2.2, as a trusted front tells it. The cases that need no clock are tests
(`tests.test_fairness`, `test_requests`, `test_heads`, `test_codecs`, `test_colourings`).
"""

from __future__ import annotations

import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from itertools import count

from benchmarks.stage import Stage, resident, stage

_SLOW = 0.5
"""Seconds that the upstream takes."""
_ATTACKER, _VICTIM = "192.0.2.1", "192.0.2.2"
_numbers = count(1)


def miss(port: int) -> float:
    """Return how long a new cuboid takes the victim."""
    n = next(_numbers)
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    began = time.monotonic()
    try:
        connection.request("GET", f"/kat/{16 * n}/{n % 40}_{n % 7}_0.png", headers={"X-Forwarded-For": _VICTIM})
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status
    finally:
        connection.close()
    return time.monotonic() - began


def median_miss(port: int, times: int = 5) -> float:
    """Return the median of some misses of the victim, one after another."""
    return statistics.median(miss(port) for _ in range(times))


def send(port: int, path: str, *, leave: bool = False, header: str = "") -> socket.socket | None:
    """Send a request of the attacker; keep the connection unless he leaves."""
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {_ATTACKER}\r\n{header}\r\n".encode())
    if leave:
        client.close()
        return None
    return client


@contextmanager
def repeated(work: Callable[[int], object], rate: float) -> Iterator[None]:
    """Do the work again and again, so many times a second, for the time of a block."""
    over = threading.Event()

    def run() -> None:
        for n in count():
            if over.wait(1 / rate):
                return
            with suppress(OSError):
                work(n)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def unknown_tokens(port: int) -> Iterator[None]:
    """Sixty tokens a second that nobody knows, whose clients leave at once."""
    with repeated(lambda n: send(port, f"/q{n}/0/0_0_0.png", leave=True), 60):
        time.sleep(3)
        yield


@contextmanager
def many_misses(port: int) -> Iterator[None]:
    """Four hundred misses at once."""
    clients = [send(port, f"/kat/{16 * (n + 1)}/{n % 40}_{30 + n % 9}_0.png") for n in range(400)]
    time.sleep(0.5)
    yield
    for client in clients:
        if client is not None:
            client.close()


@contextmanager
def hoarded_connections(port: int) -> Iterator[None]:
    """Three thousand connections that send nothing, half a request, or read nothing, and are opened again."""
    held: list[socket.socket] = []

    def hold(n: int) -> None:
        client = socket.create_connection(("127.0.0.1", port), timeout=5)
        sends = (b"", b"GET /kat/3/0_", b"GET /kat/16/0_0_0.png HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        client.sendall(sends[n % 3])
        held.append(client)
        if len(held) > 3000:
            held.pop(0).close()

    with repeated(hold, 300):
        time.sleep(3)
        yield
    for client in held:
        client.close()


@contextmanager
def header_blocks(port: int) -> Iterator[None]:
    """Eight MiB of requests for a stored tile, each with another header block."""
    miss_path = "/kat/16/0_0_0.png"
    client = send(port, miss_path)
    assert client is not None
    client.recv(2**20)
    for n in range(1100):
        tags = ",".join(f'"{n}-{k}"' for k in range(900))
        with suppress(OSError):
            one = send(port, miss_path, header=f"If-None-Match: {tags[:7000]}\r\n")
            if one is not None:
                one.recv(1000)
                one.close()
    yield


@contextmanager
def unknown_volumes(port: int) -> Iterator[None]:
    """Sixty volumes a second that nobody knows, in all formats, whose clients leave at once."""
    names = ("precomputed", "zarr", "zarr3", "n5")
    with repeated(lambda n: send(port, f"/{names[n % 4]}/v{n}/image/info", leave=True), 60):
        time.sleep(3)
        yield


@contextmanager
def many_chunks(port: int) -> Iterator[None]:
    """Four hundred chunks of as many cuboids at once, with ranges."""
    clients = [
        send(port, f"/zarr/kat/image/0/{n + 1}/{4 * (n % 40)}/{4 * (30 + n % 9)}", header="Range: bytes=0-9\r\n")
        for n in range(400)
    ]
    time.sleep(0.5)
    yield
    for client in clients:
        if client is not None:
            client.close()


ATTACKS = {
    "tokens": unknown_tokens,
    "volumes": unknown_volumes,
    "chunks": many_chunks,
    "misses": many_misses,
    "connections": hoarded_connections,
    "headers": header_blocks,
}


def run(on: Stage, name: str) -> None:
    """Run one attack, and print what it costs."""
    url = f"http://127.0.0.1:{on.origin('npz', str(_SLOW))}"
    gateway, process = on.gateway(
        name,
        upstream_type="ocp",
        upstream_url=url,
        server_trusted_proxies="127.0.0.1",
        cache_directory=f"cache-{name}",
        index_url=f"sqlite:///{name}.sqlite",
    )
    miss(gateway)
    before, memory = median_miss(gateway), resident(process.pid)
    with ATTACKS[name](gateway):
        during, at_most = median_miss(gateway), resident(process.pid)
    after = median_miss(gateway)
    print(
        f"{name:12} a miss {before:5.2f} s before, {during:5.2f} s during ({during / before:4.2f}), {after:5.2f} s "
        f"after; memory {memory:4.0f} MiB before, {at_most:4.0f} during, {resident(process.pid):4.0f} after",
        flush=True,
    )
    on.stop(process)


def main() -> None:
    """Run the attacks that are named, or all."""
    with stage() as on:
        for name in sys.argv[1:] or ATTACKS:
            run(on, name)


if __name__ == "__main__":
    main()
