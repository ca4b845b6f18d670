"""Hits and misses mixed, for as long as you like, through a daemon whose cache is too small for them.

    python benchmarks/soak.py [seconds]

Prints, each tenth of the time, requests, the daemon's resident memory, its event-loop lag, and the tiles it reclaimed;
at the end whether memory was flat after the first fifth, and what errors the log holds.
"""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread

CLIENTS = 6


def resident(pid: int) -> float:
    """MiB."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) / 1024


def metric(port: int, name: str) -> float:
    """One sample."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    for line in connection.getresponse().read().decode().splitlines():
        if line.startswith(name + " "):
            return float(line.rsplit(" ", 1)[1])
    raise SystemExit(f"no metric {name}")


class Client(Thread):
    """Asks for tiles: nine times of ten one of 60, else any of 5,000."""

    def __init__(self, port: int, seed: int) -> None:
        super().__init__(daemon=True)
        self._port, self._random = port, random.Random(seed)
        self.times: list[float] = []
        self.wrong = 0
        self.end = False

    def run(self) -> None:
        """Until told to end."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self.end:
            hot = self._random.random() < 0.98
            z = self._random.randrange(60) if hot else self._random.randrange(1000)
            col = 0 if hot else self._random.randrange(5)
            began = time.perf_counter()
            connection.request("GET", f"/demo/{z}/0_{col}_3.png")
            response = connection.getresponse()
            body = response.read()
            self.times.append(time.perf_counter() - began)
            self.wrong += response.status != 200 or not body.endswith(b"IEND\xaeB`\x82")


def main() -> None:
    """Run it."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600
    place = Path(tempfile.mkdtemp(prefix="ocpproxy-soak-"))
    (place / "ocp.ini").write_text(
        "[server]\nlisten = tcp:0:interface=127.0.0.1\naccess_log = off\n"
        "[cache]\ndirectory = cache\nsize = 100\nmemory = 16\n"
        "[index]\nurl = sqlite:///index.sqlite\n[upstream]\ntype = demo\n"
    )
    log = (place / "log").open("w")
    twistd = str(Path(sys.executable).parent / "twistd")
    daemon = subprocess.Popen(
        [twistd, "-n", "--pidfile=", "ocpproxy", "--config", str(place / "ocp.ini")], stdout=log, stderr=log, cwd=place
    )
    while not (found := re.search(r"answers at http://127.0.0.1:(\d+)", (place / "log").read_text())):
        asyncio.run(asyncio.sleep(0.1))
    port = int(found[1])
    clients = [Client(port, seed) for seed in range(CLIENTS)]
    for client in clients:
        client.start()
    memory, lags = [], []
    for _ in range(10):
        asyncio.run(asyncio.sleep(seconds / 10))
        memory.append(resident(daemon.pid))
        lags.append(metric(port, 'ocpproxy_event_loop_lag_seconds{quantile="0.99"}'))
        print(
            f"{sum(len(c.times) for c in clients):8} requests, {memory[-1]:6.1f} MiB resident, "
            f"lag p99 {lags[-1] * 1000:5.1f} ms, {metric(port, 'ocpproxy_reclaimed_tiles_total'):.0f} reclaimed",
            flush=True,
        )
    for client in clients:
        client.end = True
    for client in clients:
        client.join()
    daemon.terminate()
    code = daemon.wait()
    text = (place / "log").read_text()
    errors = [line for line in text.splitlines() if "#error" in line or "#critical" in line or "Traceback" in line]
    wrong = sum(client.wrong for client in clients)
    print(
        f"exit code {code}, {wrong} wrong answers, {len(errors)} errors in the log, worst lag p99 "
        f"{max(lags) * 1000:.1f} ms, memory {memory[1]:.0f} MiB after a fifth and {memory[-1]:.0f} MiB at the end"
    )
    raise SystemExit(bool(code or wrong or errors))


if __name__ == "__main__":
    main()
