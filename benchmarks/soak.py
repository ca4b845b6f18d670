"""TileLookup and misses mixed, for as long as you like, through a daemon whose cache is too small for them.

    python -m benchmarks.soak [seconds]

Prints, each tenth of the time, requests, the daemon's resident memory, its event-loop lag, and the tiles it reclaimed;
at the end whether memory was flat after the first fifth, and what errors the log holds.
"""

from __future__ import annotations

import random
import sys
import time
from http.client import HTTPConnection
from threading import Thread

from benchmarks.stage import metric, resident, stage

CLIENTS = 6


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
    with stage() as on:
        port, daemon = on.gateway(cache_size="100", cache_memory="16")
        clients = [Client(port, seed) for seed in range(CLIENTS)]
        for client in clients:
            client.start()
        memory, lags = [], []
        for _ in range(10):
            time.sleep(seconds / 10)
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
        on.stop(daemon)
        text = (on.place / "gateway.log").read_text()
    errors = [line for line in text.splitlines() if "#error" in line or "#critical" in line or "Traceback" in line]
    wrong = sum(client.wrong for client in clients)
    print(
        f"exit code {daemon.returncode}, {wrong} wrong answers, {len(errors)} errors in the log, worst lag p99 "
        f"{max(lags) * 1000:.1f} ms, memory {memory[1]:.0f} MiB after a fifth and {memory[-1]:.0f} MiB at the end"
    )
    raise SystemExit(bool(daemon.returncode or wrong or errors))


if __name__ == "__main__":
    main()
