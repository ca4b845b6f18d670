"""Chunks of voxels: a hot one beside nginx, TensorStore reading a volume through the gateway, warm and cold.

    python -m benchmarks.voxels [hot] [warm] [cold]

``hot``: one chunk of 128 x 128 x 16 voxels, by ``wrk -t1 -c16``, beside nginx with sendfile on the same bytes.

``warm``: 512 x 512 x 512 voxels of the demo, all stored, by TensorStore from the gateway and from nginx in turns.

``cold``: a precomputed volume of 512 x 512 x 512 voxels in chunks of 64 x 64 x 64, on a server that takes 100 ms for
each: by TensorStore straight from there, and through a gateway that has nothing, each turn another. Then a second
reader in another process.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from benchmarks.stage import ROOT, Stage, answers, free_port, get, stage, told, wait_for

TURNS = 5
SIDE = 512
DELAY = 0.1
READ = """
import sys, time, tensorstore as ts
url, side = sys.argv[1], int(sys.argv[2])
spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "http", "base_url": url}}
store = ts.open(spec, read=True).result()
began = time.perf_counter()
voxels = store[:side, :side, :side].read().result()
print(time.perf_counter() - began, int(voxels.astype("uint64").sum()))
"""


def read(url: str) -> tuple[float, int]:
    """Seconds that TensorStore takes for the volume, in a process of its own, and the sum of the voxels."""
    output = subprocess.run([sys.executable, "-c", READ, url, str(SIDE)], stdout=subprocess.PIPE, text=True, check=True)
    seconds, total = output.stdout.split()
    return float(seconds), int(total)


def chunk_path(x: int, y: int, z: int) -> str:
    """The path of a chunk of the demo at level 0, by its numbers."""
    return f"0/{128 * x}-{128 * x + 128}_{128 * y}-{128 * y + 128}_{16 * z}-{16 * z + 16}"


def copied(on: Stage, port: int, depth: int) -> Path:
    """A directory with the demo's info and chunks, as the gateway at a port serves them."""
    place = on.place / "static"
    (place / "0").mkdir(parents=True)
    names = ["info", *(chunk_path(x, y, z) for z in range(depth) for y in range(4) for x in range(4))]
    for name in names:
        status, body, _ = get(port, f"/precomputed/demo/image/{name}")
        if status != 200:
            raise SystemExit(f"{name}: {status}")
        (place / name).write_bytes(body)
    for directory in (place, place / "0"):
        directory.chmod(0o755)
    return place


def hot(on: Stage) -> None:
    """One chunk from memory and from disk."""
    port, _ = on.gateway("memory")
    disk, _ = on.gateway("disk", cache_directory="cache-disk", cache_memory="0", index_url="sqlite:///disk.sqlite")
    nginx = on.nginx(copied(on, port, 1))
    path, name = f"/precomputed/demo/image/{chunk_path(1, 1, 0)}", f"/{chunk_path(1, 1, 0)}"
    zarr = "/zarr/demo/image/0/0/1/1"
    for one in (path, zarr):
        get(disk, one)
        get(port, one)
    servers = {
        "nginx, sendfile": (nginx, name),
        "ocpproxy, memory": (port, path),
        "ocpproxy, disk (memory tier off)": (disk, path),
        "ocpproxy, Zarr, disk": (disk, zarr),
    }
    rates: dict[str, list[float]] = {title: [] for title in servers}
    frugal: dict[str, list[float]] = {title: [] for title in servers}
    for turn in range(TURNS + 1):
        on.load_all(servers, 3, *((rates, frugal) if turn else ({}, {})))
    for what, found in (("hot chunk", rates), ("by a second of processor", frugal)):
        for title, values in found.items():
            if values:
                told(
                    f"{what}: {title}", values, "/s", found["nginx, sendfile"] or None, "1.0" if what[0] == "h" else ""
                )


def warm(on: Stage) -> None:
    """A volume that is stored."""
    port, _ = on.gateway("memory")
    nginx = on.nginx(copied(on, port, SIDE // 16))
    ours, theirs = [], []
    for turn in range(TURNS + 1):
        found = read(f"http://127.0.0.1:{port}/precomputed/demo/image/")
        other = read(f"http://127.0.0.1:{nginx}/") if nginx is not None else found
        if found[1] != other[1]:
            raise SystemExit("the voxels differ")
        if turn:
            ours.append(SIDE**3 / found[0] / 2**20)
            theirs.append(SIDE**3 / other[0] / 2**20)
    told("TensorStore, warm: nginx", theirs, "MiB/s")
    told("TensorStore, warm: ocpproxy", ours, "MiB/s", theirs, "0.9")


def write(place: Path) -> None:
    """A precomputed volume, by TensorStore."""
    import numpy as np
    import tensorstore as ts

    voxels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, SIDE, 1), np.uint8)
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{place}/"},
        "multiscale_metadata": {"data_type": "uint8", "num_channels": 1, "type": "image"},
        "scale_metadata": {"size": [SIDE] * 3, "resolution": [4, 4, 4], "encoding": "raw", "chunk_size": [64] * 3},
        "create": True,
    }
    ts.open(spec).result().write(voxels).result()


def cold(on: Stage) -> None:
    """A volume on a slow server."""
    write(on.place / "volume")
    origin = free_port()
    on.run([sys.executable, ROOT / "benchmarks" / "voxels.py", "serve", on.place / "volume", str(origin)], "origin")
    wait_for(lambda: answers(origin))
    ours, theirs, again = [], [], []
    for turn in range(3):
        theirs.append(read(f"http://127.0.0.1:{origin}/")[0])
        port, process = on.gateway(
            f"cold{turn}",
            cache_directory=f"cache{turn}",
            index_url=f"sqlite:///cold{turn}.sqlite",
            upstream_type="precomputed",
            upstream_url=f"http://127.0.0.1:{origin}/{{token}}",
            upstream_connections="32",
        )
        get(port, "/precomputed/volume/image/info")
        before = asked(origin)
        ours.append(read(f"http://127.0.0.1:{port}/precomputed/volume/image/")[0])
        between = asked(origin)
        again.append(read(f"http://127.0.0.1:{port}/precomputed/volume/image/")[0])
        print(
            f"    requests upstream: {between - before} for the first reader, {asked(origin) - between} for the second"
        )
        on.stop(process)
    told("cold, 100 ms a chunk: TensorStore alone", theirs, "s")
    told("cold, 100 ms a chunk: through ocpproxy", ours, "s", theirs, "1.1 at most")
    told("the second reader", again, "s", theirs)


def asked(port: int) -> int:
    """How many chunks the slow server was asked for."""
    return int(get(port, "/asked")[1])


async def serve(place: Path, port: int) -> None:
    """Serve files, each after a while; ``/asked`` returns how many."""
    count = 0

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        with suppress(OSError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ")[1].decode().partition("?")[0].removeprefix("/").removeprefix("volume/")
                file = place / path
                body = str(count).encode()
                if path != "asked":
                    body = file.read_bytes() if file.is_file() else b""
                if path not in ("asked", "info"):
                    count += 1
                    await asyncio.sleep(DELAY)
                status = b"200 OK" if body else b"404 Not Found"
                writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", port, backlog=256)
    await server.serve_forever()


def main() -> None:
    """Measure what is named, or all."""
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(Path(sys.argv[2]), int(sys.argv[3])))
        return
    for name, measure in (("hot", hot), ("warm", warm), ("cold", cold)):
        if len(sys.argv) < 2 or name in sys.argv[1:]:
            with stage() as on:
                measure(on)


if __name__ == "__main__":
    main()
