"""A disk that is slow: who waits for it, and who does not.

    pip install fusepy     (and the package fuse, for fusermount)
    python -m benchmarks.slow_disk

The cache directory lies on a file system of our own (FUSE), which hands everything on to a real one, and takes 300 ms
for each look-up, open and read of a tile as soon as it is told to. One viewer looks at a tile that is in memory, others
at tiles that are on that disk only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

from benchmarks.misses import Client, Looker, at_rest, gateway_before
from benchmarks.stage import Stage, metric, quantile, stage, told, wait_for

DELAY = 0.3


def serve(real: str, mounted: str) -> None:
    """Be the file system."""
    from fuse import FUSE, FuseOSError, Operations

    def slow(path: str) -> None:
        if path.endswith(".png") and os.path.exists(f"{real}/slow"):
            time.sleep(DELAY)

    class Through(Operations):  # type: ignore[misc]
        """Hands on."""

        def __call__(self, operation: str, path: str, *args: Any) -> Any:
            slow(path)
            return super().__call__(operation, real + path, *args)

        def access(self, path: str, mode: int) -> None:
            if not os.access(path, mode):
                raise FuseOSError(13)

        def getattr(self, path: str, handle: Any = None) -> dict[str, Any]:
            found = os.lstat(path)
            names = ("st_atime", "st_ctime", "st_gid", "st_mode", "st_mtime", "st_nlink", "st_size", "st_uid", "st_ino")
            return {name: getattr(found, name) for name in names}

        def readdir(self, path: str, handle: Any) -> list[str]:
            return [".", "..", *os.listdir(path)]

        def link(self, target: str, source: str) -> None:
            os.link(real + source, target)

        def rename(self, old: str, new: str) -> None:
            os.rename(old, real + new)

        def open(self, path: str, flags: int) -> int:
            return os.open(path, flags)

        def create(self, path: str, mode: int, info: Any = None) -> int:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

        def read(self, path: str, size: int, offset: int, handle: int) -> bytes:
            return os.pread(handle, size, offset)

        def write(self, path: str, data: bytes, offset: int, handle: int) -> int:
            return os.pwrite(handle, data, offset)

        def truncate(self, path: str, length: int, handle: Any = None) -> None:
            os.truncate(path, length)

        def release(self, path: str, handle: int) -> None:
            os.close(handle)

        def statfs(self, path: str) -> dict[str, Any]:
            found = os.statvfs(path)
            names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_files", "f_ffree", "f_frsize", "f_namemax")
            return {name: getattr(found, name) for name in names}

        mkdir = staticmethod(os.mkdir)
        rmdir = staticmethod(os.rmdir)
        unlink = staticmethod(os.unlink)
        chmod = staticmethod(os.chmod)

    FUSE(Through(), mounted, foreground=True, use_ino=True)


def measure(on: Stage) -> None:
    """Before and while it is slow."""
    real, mounted = on.place / "real", on.place / "mounted"
    real.mkdir()
    mounted.mkdir()
    on.run([sys.executable, "-m", "benchmarks.slow_disk", real, mounted], "fuse", PYTHONPATH=str(Path.cwd()))
    on.at_the_end.append(lambda: subprocess.run(["fusermount", "-uz", str(mounted)], capture_output=True, check=False))
    wait_for(lambda: os.path.ismount(mounted))
    port, _ = gateway_before(on, "npz", cache_directory=str(mounted), cache_memory="4")
    hot = Looker(port, "/kat/100/0_0_0.png")
    clients = [Client(port) for _ in range(8)]
    for col in range(8):
        clients[0].get(f"/kat/0/1_{col}_0.png")
    at_rest(port)
    hot.start()
    time.sleep(3)
    before = len(hot.took)
    (real / "slow").touch()
    cold: list[float] = []

    def look(client: Client, col: int) -> None:
        cold.extend(client.get(f"/kat/{z}/1_{col}_0.png") for z in range(4, 14))

    threads = [Thread(target=look, args=(client, col)) for col, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told("hits in memory, disk as it is: p99", [quantile(hot.took[:before], 0.99) * 1000], "ms")
    told("hits in memory, disk slow: p99", [quantile(hot.took[before:], 0.99) * 1000], "ms")
    told("hits in memory, disk slow: the latest of all", [max(hot.took[before:]) * 1000], "ms")
    told(f"hits on the slow disk ({len(cold)}): median", [quantile(cold, 0.5) * 1000], "ms")
    lag = metric(port, 'ocpproxy_event_loop_lag_seconds{quantile="0.99"}')
    told("event loop lag, p99", [lag * 1000], "ms")
    (real / "slow").unlink()


def main() -> None:
    """Measure, or be the file system."""
    if len(sys.argv) == 3:
        serve(sys.argv[1], sys.argv[2])
        return
    with stage() as on:
        measure(on)


if __name__ == "__main__":
    main()
