"""A flush in the middle of a thousand misses through two daemons on one cache.

    python -m benchmarks.flush

Every request is for another cuboid, and all have been sent before the flush begins. It is of half the columns. Then no
file of that half may be there that was made before the flush, and every other tile has to be there.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.day import DEPTH, SIDE, SLAB
from benchmarks.stage import PROGRAMS, ROOT, free_port, metric, stage, wait_for

MISSES = 1000
COLUMNS = SIDE // 512


async def ask(port: int, paths: list[str], sent: asyncio.Event, statuses: Counter[int]) -> None:
    """Ask for all paths at once, a connection each."""
    waiting = [0]

    async def one(path: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        waiting[0] += 1
        if waiting[0] == len(paths):
            sent.set()
        answer = await reader.read()
        statuses[int(answer.split(b" ", 2)[1])] += 1
        writer.close()

    await asyncio.gather(*map(one, paths))


async def flushed(ports: list[int], paths: list[str], config: Path) -> tuple[Counter[int], float, float]:
    """Ask, and flush meanwhile; return the statuses, and when the flush began and ended."""
    statuses: Counter[int] = Counter()
    halves = [(port, paths[n::2], asyncio.Event()) for n, port in enumerate(ports)]
    asking = [asyncio.create_task(ask(port, half, sent, statuses)) for port, half, sent in halves]
    for _, _, sent in halves:
        await sent.wait()
    await asyncio.sleep(1)
    began = time.time()
    words = ["flush", "kat", "--box", f"0:{SIDE // 2},0:{SIDE},0:{DEPTH}", "--yes", "--config", str(config)]
    command = await asyncio.create_subprocess_exec(str(PROGRAMS / "ocpproxy"), *words)
    if await command.wait():
        raise SystemExit("the flush has failed")
    ended = time.time()
    await asyncio.gather(*asking)
    return statuses, began, ended


def main() -> int:
    """Run it, and say what is left."""
    with stage() as on:
        upstream = free_port()
        on.run([sys.executable, "-m", "benchmarks.day", "upstream", upstream], "up", PYTHONPATH=str(ROOT))
        options = {
            "upstream_type": "ocp",
            "upstream_url": f"http://127.0.0.1:{upstream}/ocp",
            "upstream_timeout": "300",
        }
        ports = [on.gateway(f"flush{n}", **options, admin_listen=f"unix:{on.place}/admin{n}.sock")[0] for n in range(2)]
        cuboids = [(z, row, col) for z in range(0, DEPTH, SLAB) for row in range(COLUMNS) for col in range(COLUMNS)]
        paths = [f"/kat/{z}/{row}_{col}_0.png" for z, row, col in cuboids[:MISSES]]
        statuses, began, ended = asyncio.run(flushed(ports, paths, on.place / "flush0.ini"))
        wait_for(lambda: not sum(metric(port, "ocpproxy_flights") for port in ports), 600)
        listing = [str(PROGRAMS / "ocpproxy"), "flush", "--list", "--json", "--config", str(on.place / "flush0.ini")]
        wait_for(lambda: subprocess.run(listing, capture_output=True, text=True, check=True).stdout in ("", "\n"), 120)
        files = {path: path.stat().st_mtime for path in (on.place / "cache" / "tiles").rglob("*.png")}
        inside = {path: made for path, made in files.items() if int(path.parent.name.partition("_")[2]) < COLUMNS // 2}
        old = sum(made <= began for made in inside.values())
        expected = SLAB * sum(col >= COLUMNS // 2 for _, _, col in cuboids[:MISSES])
        outside = len(files) - len(inside)
        print(json.dumps({"answers": statuses, "seconds of the flush": round(ended - began, 2)}))
        print(f"flushed half: {len(inside)} files, {old} of them made before the flush")
        print(f"other half: {outside} files, expected {expected}")
        return int(bool(old) or outside != expected or set(statuses) != {200})


if __name__ == "__main__":
    raise SystemExit(main())
