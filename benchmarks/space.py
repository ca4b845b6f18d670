"""Two million tiles: how long ``ocpproxy usage`` takes, and a flush of a million, while somebody looks at others.

    python -m benchmarks.space [sqlite] [mariadb] [number of tiles]

Every row has its file (a link: all of these tiles are black). The flush is of half the slices, so the files of each
directory are removed one by one.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time

from benchmarks.rows import DEPTH, look, prepare
from benchmarks.stage import ROOT, Stage, get, metric, stage, told

LONGEST = 900
"""Seconds in which the files are removed."""


def command(on: Stage, *words: str) -> tuple[float, str]:
    """Run a command; return the seconds it took, and its output."""
    began = time.perf_counter()
    line = [sys.executable, "-m", "ocpproxy.cli", *words, "--config", str(on.place / "gateway.ini")]
    out = subprocess.run(line, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return time.perf_counter() - began, out


def measure(on: Stage, kind: str, count: int) -> None:
    """One index."""
    options = prepare(on, kind, count, admin_listen=f"unix:{on.place}/admin.sock")
    port, process = on.gateway(**options)
    columns = range(count // DEPTH)
    later = [f"/kat/{z}/{n // 40}_{n % 40}_0.png" for n in columns for z in range(DEPTH // 2, DEPTH)]
    gone = [f"/kat/{z}/{n // 40}_{n % 40}_0.png" for n in columns for z in range(DEPTH // 2)]
    get(port, later[-1])
    began, spent = time.perf_counter(), 0.0
    while (now := on.processor_seconds(port)) - spent > 0.2 and time.perf_counter() - began < LONGEST:
        spent = now  # the sweep at the start
        time.sleep(2)
    print(f"    {time.perf_counter() - began:.0f} s given to the sweep at the start", flush=True)
    took = [command(on, "usage", "--by", "level")[0] * 1000 for _ in range(9)]
    told(f"{kind}: ocpproxy usage, the whole command", took, "ms", bound="300")
    lookers, quiet = look(port, later[-1], later), time.perf_counter()
    time.sleep(20)
    first = time.perf_counter()
    seconds, _ = command(on, "flush", "kat", "--yes", "--box", f"0:20480,0:20480,0:{DEPTH // 2}")
    told(f"{kind}: flush of {count // 2:,} tiles, the whole command", [seconds], "s", bound="2")
    for address in random.Random(3).sample(gone, 20):
        _, _, headers = get(port, address)
        if headers["cache-status"] == "ocpproxy; hit":
            raise SystemExit(f"{address} is still there")
    while "no files" not in command(on, "flush", "--list")[1] and time.perf_counter() - first < LONGEST:
        time.sleep(2)
    last = time.perf_counter()
    print(f"    the disk is clean after {last - first:.0f} s: {metric(port, 'ocpproxy_cache_tiles '):,.0f} tiles left")
    for name, looker in zip(("in memory", "from disk"), lookers, strict=True):
        before, during = looker.p99(quiet, first), looker.p99(first, last)
        told(f"{kind}: hits {name} until then, p99", [during], "ms", [before], "ratio 2 at most")
    on.stop(process)


def main() -> None:
    """Measure what is named, or both."""
    count = next((int(word) for word in sys.argv[1:] if word.isdigit()), 2_000_000)
    for kind in ("sqlite", "mariadb"):
        if kind in sys.argv[1:] or not {"sqlite", "mariadb"} & set(sys.argv[1:]):
            with stage() as on:
                measure(on, kind, count)


if __name__ == "__main__":
    main()
