"""``kill -9`` of the daemon, and of workers, while a small cache fills and evicts all the time.

    python -m benchmarks.killed [kills on each database]

Half of the kills hit a daemon, which is started again, and half a worker of two. Every tile is compared with that of
another gateway, which nobody kills. At the end it prints the kills, tiles, wrong tiles, leases that are left, and what
``ocpproxy fsck`` mends, which has to be nothing.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Thread
from typing import Any

import pymysql

from benchmarks.stage import PROGRAMS, Stage, get, metric, stage, wait_for
from tests.databases import mysql_server

_WORKERS_KILLED = 4
"""Workers of one daemon that are killed: the pause before the next one doubles each time."""
_CACHE = "12"
"""MiB: some 60 tiles."""


class Client(Thread):
    """Asks for tiles of a gateway, and compares them with those of another one."""

    def __init__(self, reference: int, seed: int) -> None:
        super().__init__(daemon=True)
        self._reference = reference
        self._random = random.Random(seed)
        self._known: dict[str, bytes] = {}
        self.port = 0
        self.tiles = self.wrong = 0

    def run(self) -> None:
        """Ask until the process ends."""
        while True:
            z, row, col = (self._random.randrange(n) for n in (60, 2, 2))
            path = f"/demo/{z}/{row}_{col}_{self._random.randrange(2)}.png"
            try:
                connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
                connection.request("GET", path)
                response = connection.getresponse()
                body, status = response.read(), response.status
                connection.close()
            except (OSError, HTTPException):
                time.sleep(0.01)  # it was killed
                continue
            if status == 200:
                if path not in self._known:
                    self._known[path] = get(self._reference, path)[1]
                self.tiles += 1
                self.wrong += body != self._known[path]


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def leases(url: str) -> int:
    """Return how many rows of leases there are."""
    connection: Any
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    else:
        connection = pymysql.connect(**(mysql_server() or {}), database=url.rpartition("/")[2].partition("?")[0])
    cursor = connection.cursor()
    cursor.execute("SELECT COUNT(*) FROM fetching")
    (found,) = cursor.fetchone()
    connection.close()
    return int(found)


def kill(process: subprocess.Popen[bytes], worker: int | None) -> None:
    """Kill a daemon, or one of its workers, and wait for the next one."""
    if worker is None:
        process.kill()
        process.wait()
        return
    wait_for(lambda: len(children(process.pid)) == 2)
    os.kill(children(process.pid)[worker], signal.SIGKILL)


def run(on: Stage, name: str, url: str, kills: int) -> bool:
    """Kill, and print what is left; return whether all is well."""
    reference, _ = on.gateway(
        f"{name}-whole", cache_directory=f"{name}-whole", index_url=f"sqlite:///{name}-whole.sqlite"
    )
    clients = [Client(reference, seed) for seed in range(4)]
    options = {"cache_directory": name, "cache_size": _CACHE, "cache_memory": "0", "index_url": url, "index_lease": "1"}
    evicted = 0.0
    for workers in ("1", "2"):
        todo = kills // 2
        while todo:
            port, process = on.gateway(name, **options, server_workers=workers)
            for client in clients:
                client.port = port
                if not client.is_alive():
                    client.start()
            some = 1 if workers == "1" else min(todo, _WORKERS_KILLED)
            for n in range(some):
                time.sleep(0.3 + 1.2 * random.Random(todo + n).random())
                if workers == "1":
                    evicted += metric(port, "ocpproxy_reclaimed_tiles_total")
                kill(process, None if workers == "1" else n % 2)
            todo -= some
            if workers == "1":
                on.running.remove(process)
            else:
                evicted += metric(port, "ocpproxy_reclaimed_tiles_total")
                on.stop(process)
    for client in clients:
        client.port = 0
    port, process = on.gateway(name, **options)
    time.sleep(5)  # leases of the dead expire, and what they left is reconciled
    unsettled = metric(port, "ocpproxy_unsettled_tiles")
    on.stop(process)
    left = leases(url if url.startswith("mysql") else f"sqlite:///{on.place}/{name}.sqlite")
    command = [str(PROGRAMS / "ocpproxy"), "fsck", "--config", str(on.place / f"{name}.ini")]
    fsck = subprocess.run(command, capture_output=True, text=True, check=False, cwd=on.place)
    tiles, wrong = sum(c.tiles for c in clients), sum(c.wrong for c in clients)
    mended = re.findall("mended: .*", fsck.stdout)
    print(
        f"{name}: {kills} kills, {tiles} tiles, {wrong} wrong, {evicted:.0f} evicted, "
        f"{unsettled:.0f} rows pending, {left} leases left, fsck: {fsck.returncode} {fsck.stdout.splitlines()[-1:]}",
        *mended[:20],
        sep="\n  ",
        flush=True,
    )
    return not wrong and not left and fsck.returncode == 0


def main() -> int:
    """Kill on both databases."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with stage() as on:
        databases = {"sqlite": "sqlite:///sqlite.sqlite"}
        server = mysql_server()
        if server is not None:
            connection = pymysql.connect(**server)
            connection.cursor().execute("DROP DATABASE IF EXISTS ocpproxy_killed")
            connection.cursor().execute("CREATE DATABASE ocpproxy_killed")
            socket = f"?unix_socket={server['unix_socket']}" if "unix_socket" in server else ""
            where = f"{server.get('host', 'localhost')}:{server.get('port', 3306)}"
            databases["mariadb"] = f"mysql://{server['user']}:{server['password']}@{where}/ocpproxy_killed{socket}"
        results = [run(on, name, url, kills) for name, url in databases.items()]
        return int(not all(results))


if __name__ == "__main__":
    raise SystemExit(main())
