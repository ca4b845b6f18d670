"""A day in twenty minutes: viewers, prefetch jobs, flushes, and everything that breaks, all at once.

    python -m benchmarks.day [minutes]

Two workers on a private MariaDB serve a volume whose every voxel is known, from a cache that is too small for it.
Viewers fly through slices and jump, and compare every pixel. Meanwhile prefetch jobs run, boxes are flushed, the
configuration is read again, the upstream dies and comes back, the database restarts, and every minute a worker is
killed with -9. At the end all of that stops. Then no pixel may have been wrong, the log may hold no error but those of
the faults that were made, memory must be flat, and ``fsck`` must have nothing to mend.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from zlib import compress

import numpy as np
import pymysql
from PIL import Image

from benchmarks.killed import children
from benchmarks.stage import PROGRAMS, ROOT, Stage, get, metric, resident, stage, wait_for
from tests.databases import PrivateServer

SIDE, DEPTH, SLAB = 4096, 256, 16
INFO = {
    "channels": {
        "image": {
            "channel_type": "image",
            "datatype": "uint8",
            "resolution": 0,
            "windowrange": [0, 0],
            "readonly": 1,
            "propagate": 2,
            "exceptions": 0,
        }
    },
    "dataset": {
        "resolutions": [0],
        "imagesize": {"0": [SIDE, SIDE, DEPTH]},
        "offset": {"0": [0, 0, 0]},
        "voxelres": {"0": [1.0, 1.0, 10.0]},
        "cube_dimension": {"0": [512, 512, SLAB]},
        "scaling": "zslices",
        "scalinglevels": 0,
        "timerange": [0, 0],
    },
    "project": {"name": "kat"},
    "metadata": {},
}
EXPECTED = (
    r"worker \d has died",
    r"the index",
    r"index database",
    r"kat.*(unreachable|not described|no response|connection)",
)
"""Errors in the log that the faults which are made here explain."""
INI = """\
[server]
listen = tcp:0:interface=127.0.0.1
workers = 2
access_log = access.log
[cache]
directory = cache
size = 150
memory = 32
[index]
url = mysql://root:@localhost/day?unix_socket={socket}
lease = 3
[admin]
listen = unix:{admin}
[upstream]
url = http://127.0.0.1:{upstream}/ocp
timeout = 10
retries = 1
[dataset kat]
"""


def voxels(x0: int, x1: int, y0: int, y1: int, z0: int, z1: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The voxels of a box, axes (z, y, x): every slice differs from its neighbours."""
    z, y, x = np.ogrid[z0:z1, y0:y1, x0:x1]
    made: np.ndarray[Any, np.dtype[np.uint8]] = (((x // 3) ^ (y // 5)) + 37 * z).astype(np.uint8)
    return made


class Volume(BaseHTTPRequestHandler):
    """The upstream."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer the info, or a cutout."""
        segments = self.path.strip("/").split("/")
        if segments[-1] == "info":
            body = json.dumps(INFO).encode()
        else:
            box = [int(number) for part in segments[-3:] for number in part.split(",")]
            out = io.BytesIO()
            np.save(out, voxels(*box)[np.newaxis])
            body = compress(out.getvalue(), 1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Viewer(Thread):
    """Flies through slices, jumps, and compares every pixel."""

    def __init__(self, port: int, seed: int, end: Event) -> None:
        super().__init__(daemon=True)
        self._port, self._random, self._end = port, random.Random(seed), end
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.broken = 0

    def run(self) -> None:
        """Ask until the end."""
        connection = None
        row = col = z = 0
        while not self._end.is_set():
            if self._random.random() < 0.03:
                row, col, z = (self._random.randrange(n) for n in (8, 8, DEPTH))
            z = (z + 1) % DEPTH
            try:
                connection = connection or HTTPConnection("127.0.0.1", self._port, timeout=60)
                connection.request("GET", f"/kat/{z}/{row}_{col}_0.png")
                response = connection.getresponse()
                body = response.read()
            except (OSError, HTTPException):  # its worker was killed
                connection = None
                self.broken += 1
                time.sleep(0.05)
                continue
            self.statuses[response.status] += 1
            if response.status == 200:
                self._compare(body, z, row, col)
            time.sleep(0.01 if response.status == 200 else 0.2)

    def _compare(self, body: bytes, z: int, row: int, col: int) -> None:
        expected = voxels(512 * col, 512 * col + 512, 512 * row, 512 * row + 512, z, z + 1)[0]
        if not np.array_equal(np.asarray(Image.open(io.BytesIO(body)).convert("L")), expected):
            self.wrong.append(f"{z}/{row}_{col}")


class Trouble(Thread):
    """Does something again and again, with pauses."""

    def __init__(self, every: float, do: Callable[[], object], end: Event) -> None:
        super().__init__(daemon=True)
        self._every, self._do, self._end = every, do, end
        self.times = 0

    def run(self) -> None:
        """Do it until the end."""
        while not self._end.wait(self._every):
            self._do()
            self.times += 1


class Day:
    """The gateway, what it stands on, and what happens to it."""

    def __init__(self, on: Stage, minutes: float) -> None:
        self._on = on
        self._seconds = 60 * minutes
        self._random = random.Random(7)
        self._database = PrivateServer()
        on.at_the_end.append(self._database.end)
        connection = pymysql.connect(**self._database.options)
        connection.cursor().execute("CREATE DATABASE day")
        connection.close()
        self._upstream_port = 20000 + self._random.randrange(20000)
        self._start_upstream()
        place = on.place
        ini = INI.format(
            socket=self._database.options["unix_socket"], admin=place / "admin.sock", upstream=self._upstream_port
        )
        (place / "day.ini").write_text(ini)
        self._daemon = on.run(
            [PROGRAMS / "twistd", "-n", "--pidfile=", "ocpproxy", "--config", place / "day.ini"], "day"
        )
        self._log = place / "day.log"
        wait_for(lambda: self._log.read_text().count(" is ready") == 2)
        self._port = int(re.findall(r"answers at http://127.0.0.1:(\d+)", self._log.read_text())[0])
        self._failed: Counter[str] = Counter()

    def _start_upstream(self) -> None:
        self._upstream = self._on.run(
            [sys.executable, "-m", "benchmarks.day", "upstream", self._upstream_port], "up", PYTHONPATH=str(ROOT)
        )
        wait_for(lambda: _answers(self._upstream_port))

    def command(self, *words: str) -> int:
        """Run a command, and return its exit code."""
        ran = subprocess.run(
            [str(PROGRAMS / "ocpproxy"), *words, "--config", "day.ini"],
            cwd=self._on.place,
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            self._failed[f"{words[0]}: {ran.returncode} {ran.stderr.strip()[-80:]}"] += 1
        return ran.returncode

    def _box(self, side: int, depth: int) -> str:
        x, y = (512 * self._random.randrange(SIDE // 512 - side + 1) for _ in range(2))
        z = self._random.randrange(DEPTH - depth)
        return f"{x}:{x + 512 * side},{y}:{y + 512 * side},{z}:{z + depth}"

    def outage(self) -> None:
        """Kill the upstream; it is back after a while."""
        self._upstream.kill()
        self._upstream.wait()
        self._on.running.remove(self._upstream)
        time.sleep(self._random.uniform(2, 20))
        self._start_upstream()

    def restart_database(self) -> None:
        """Stop the database; it is back after a while."""
        self._database.stop()
        time.sleep(self._random.uniform(0, 8))
        self._database.start()

    def kill_worker(self) -> None:
        """Kill a worker with -9."""
        workers = children(self._daemon.pid)
        if workers:
            os.kill(self._random.choice(workers), signal.SIGKILL)

    def reload(self) -> None:
        """Change an option of the dataset, and let the daemon read it."""
        path = self._on.place / "day.ini"
        kept = path.read_text().partition("[dataset kat]\n")[0] + "[dataset kat]\n"
        path.write_text(kept + self._random.choice(("", "quota = 100\n", "max_cutout = 64\n")))
        os.kill(self._daemon.pid, signal.SIGHUP)

    def memory(self) -> float:
        """MiB that the daemon and its workers have, when two workers live."""
        while True:
            workers = children(self._daemon.pid)
            with suppress(IndexError, OSError):  # one was just killed
                if len(workers) == 2:
                    return sum(resident(pid) for pid in (self._daemon.pid, *workers))
            time.sleep(0.2)

    def run(self) -> bool:
        """Let the day pass; return whether all was well."""
        end = Event()
        viewers = [Viewer(self._port, seed, end) for seed in range(4)]
        troubles = {
            "prefetch jobs": Trouble(20, lambda: self.command("prefetch", "kat", "--box", self._box(2, 24)), end),
            "flushes": Trouble(17, lambda: self.command("flush", "kat", "--box", self._box(3, 40), "--yes"), end),
            "upstream outages": Trouble(53, self.outage, end),
            "database restarts": Trouble(71, self.restart_database, end),
            "workers killed": Trouble(60, self.kill_worker, end),
            "reloads": Trouble(31, self.reload, end),
        }
        for thread in (*viewers, *troubles.values()):
            thread.start()
        memory: list[float] = []
        for tenth in range(10):
            time.sleep(self._seconds / 10)
            memory.append(self.memory())
            answers = sum((viewer.statuses for viewer in viewers), Counter[int]())
            wrong = sum(len(viewer.wrong) for viewer in viewers)
            print(f"{tenth + 1}0 %: {dict(answers)}, {wrong} wrong, {memory[-1]:.0f} MiB", flush=True)
        end.set()
        for thread in (*viewers, *troubles.values()):
            thread.join(300)
        print(", ".join(f"{trouble.times} {name}" for name, trouble in troubles.items()))
        return self._check(viewers, memory)

    def _check(self, viewers: list[Viewer], memory: list[float]) -> bool:
        time.sleep(10)  # leases of the dead expire, and what they left is reconciled
        wait_for(lambda: metric(self._port, "ocpproxy_unsettled_tiles") == 0, 120)
        status, _, _ = get(self._port, "/kat/7/3_3_0.png")
        fsck = subprocess.run(
            [str(PROGRAMS / "ocpproxy"), "fsck", "--config", "day.ini"],
            cwd=self._on.place,
            capture_output=True,
            text=True,
            check=False,
        )
        self._on.stop(self._daemon)
        events = self._log.read_text().replace("\n\t", "  ").splitlines()
        errors = [
            event[:600]
            for event in events
            if re.search(r"#error|#critical|Traceback", event) and not any(re.search(one, event) for one in EXPECTED)
        ]
        wrong = sum(len(viewer.wrong) for viewer in viewers)
        early, late = sum(memory[2:5]) / 3, sum(memory[7:]) / 3
        print(f"wrong pixels in {wrong} tiles; connections lost with a worker: {sum(v.broken for v in viewers)}")
        print(f"memory: {early:.0f} MiB in the third to fifth tenth, {late:.0f} in the last three")
        print(
            f"fsck: {fsck.returncode} {fsck.stdout.splitlines()[-1:]}; the daemon's exit code {self._daemon.returncode}"
        )
        print(f"commands that failed: {dict(self._failed)}")
        print(f"{len(errors)} errors in the log that no fault explains", *errors[:20], sep="\n  ")
        return (wrong, fsck.returncode, status, len(errors)) == (0, 0, 200, 0) and late < 1.15 * early


def _answers(port: int) -> bool:
    try:
        return get(port, "/ocp/kat/info/")[0] == 200
    except OSError:
        return False


def main() -> int:
    """Serve as the upstream, or let a day pass."""
    if sys.argv[1:2] == ["upstream"]:
        ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Volume).serve_forever()
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    with stage() as on:
        os.chmod(on.place, 0o755)
        return int(not Day(on, minutes).run())


if __name__ == "__main__":
    raise SystemExit(main())
