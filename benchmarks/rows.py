"""An index of two million rows: start-up, memory, and reclaiming 100,000 of them while hits go on.

    python -m benchmarks.rows [sqlite] [mariadb] [number of rows]

Every row has its file (a link: all of these tiles are black). It takes a few minutes to make them, and to remove them.
"""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pymysql

from benchmarks.misses import Client, at_rest
from benchmarks.stage import Stage, get, metric, quantile, resident, stage, told
from ocpproxy.imagery import png
from ocpproxy.model.stack import Tile
from ocpproxy.store import keys, rows
from ocpproxy.store.files import TileFiles
from tests.databases import as_option, mysql_database, mysql_server

DEPTH = 4000
"""Slices in each column of tiles."""
SWEEP = 300
"""Seconds that the sweep at the start may have; then it goes on while tiles are reclaimed."""


class Looker(Thread):
    """Somebody who looks at tiles all the time: 100 looks a second."""

    def __init__(self, port: int, paths: list[str]) -> None:
        super().__init__(daemon=True)
        self._client, self._paths = Client(port), paths
        self.took: list[tuple[float, float]] = []
        """(when, how long)."""

    def run(self) -> None:
        """DisplaySettings."""
        chance = random.Random(3)
        while True:
            took = self._client.get(chance.choice(self._paths))
            self.took.append((time.perf_counter(), took))
            time.sleep(0.01)

    def p99(self, since: float, until: float) -> float:
        """Milliseconds."""
        return quantile([took for when, took in self.took if since <= when < until], 0.99) * 1000


def some_rows(stack: str, datasetid: int, count: int) -> Iterator[tuple[Any, ...]]:
    """The rows of so many tiles, the later ones used later."""
    size, began = len(png.blank(clear=False)), time.time() - count
    for n in range(count):
        tile = Tile(stack, 0, 0, n % DEPTH, n // DEPTH // 40, n // DEPTH % 40)
        yield *keys.pack(tile, datasetid), keys.path(tile), rows.stamp(began + n), size


def make_files(place: Path, stack: str, count: int) -> None:
    """Their files."""
    files, black = TileFiles(place / "tiles", "benchmark"), png.blank(clear=False)
    for n in range(count):
        tile = Tile(stack, 0, 0, n % DEPTH, n // DEPTH // 40, n // DEPTH % 40)
        if n % 60_000 == 0:  # a new shared file, once in a while
            (place / "uniform").mkdir(exist_ok=True)
            for old in (place / "uniform").iterdir():
                old.unlink()
            files.create(tile, black)
            (shared,) = (place / "uniform").iterdir()
        elif n % DEPTH == 0:
            files.create(tile, black)
        else:
            os.link(shared, place / "tiles" / keys.path(tile))


def fill_index(connection: Any, mark: str, stack: str, count: int) -> None:
    """Their rows."""
    cursor = connection.cursor()
    cursor.execute(f"SELECT datasetid FROM datasets WHERE dataset = {mark}", (stack,))
    (datasetid,) = cursor.fetchone()
    cursor.execute("DELETE FROM contents")
    sql = "INSERT INTO contents (highkey, lowkey, filename, reftime, bytes) VALUES "
    some: list[tuple[Any, ...]] = []
    for row in some_rows(stack, datasetid, count):
        some.append(row)
        if len(some) == 5000:
            cursor.executemany(sql + f"({', '.join([mark] * 5)})", some)
            connection.commit()
            some.clear()
    if some:
        cursor.executemany(sql + f"({', '.join([mark] * 5)})", some)
    cursor.execute("UPDATE metadata SET numtiles = (SELECT COUNT(*) FROM contents)")
    cursor.execute("UPDATE metadata SET bytes = (SELECT SUM(bytes) FROM contents)")
    cursor.execute("DELETE FROM accounts")
    total = "SELECT highkey, COUNT(*), SUM(bytes), 0 FROM contents GROUP BY highkey"
    cursor.execute(f"INSERT INTO accounts (highkey, tiles, bytes, used) {total}")
    connection.commit()
    connection.close()


def look(port: int, hot: str, paths: list[str]) -> list[Looker]:
    """Somebody who looks at one tile, and somebody who looks at thousands."""
    lookers = [Looker(port, [hot]), Looker(port, random.Random(5).sample(paths, 5000))]
    for looker in lookers:
        looker.start()
    return lookers


def prepare(on: Stage, kind: str, count: int, **more: str) -> dict[str, str]:
    """Make an index with so many rows and their files; the options of a gateway on them."""
    index, connect, mark = sqlite_index(on) if kind == "sqlite" else mariadb_index(on)
    upstream = {"upstream_type": "ocp", "upstream_url": f"http://127.0.0.1:{on.origin('npz')}"}
    options = {**upstream, "index_url": index, "cache_memory": "64", **more}
    port, process = on.gateway(**options)
    get(port, "/kat/0/39_39_0.png")
    at_rest(port)
    on.stop(process)
    (example,) = {path.parent for path in (on.place / "cache" / "tiles").rglob("*.png")}
    stack = "/".join(example.relative_to(on.place / "cache" / "tiles").parts[:4])
    for path in example.iterdir():
        path.unlink()
    began = time.perf_counter()
    make_files(on.place / "cache", stack, count)
    fill_index(connect(), mark, stack, count)
    print(f"{kind}: {count:,} rows and files made in {time.perf_counter() - began:.0f} s", flush=True)
    return options


def measure(on: Stage, kind: str, count: int) -> None:
    """One index."""
    options = prepare(on, kind, count, cache_reclaim_interval="2")
    columns = range(count // DEPTH - 20, count // DEPTH)
    paths = [f"/kat/{z}/{n // 40}_{n % 40}_0.png" for n in columns for z in range(DEPTH)]
    hot = paths[-1]
    began = time.perf_counter()
    port, process = on.gateway(**options)
    status, _, headers = get(port, hot)
    told(f"{kind}: start-up to the first hit", [time.perf_counter() - began], "s", bound="2")
    if (status, headers["cache-status"]) != (200, "ocpproxy; hit"):
        raise SystemExit(f"the first hit is none: {status} {headers}")
    warm, began, lookers = resident(process.pid), time.perf_counter(), look(port, hot, paths)
    time.sleep(30)
    memory, disk = (looker.p99(began, time.perf_counter()) for looker in lookers)
    print(
        f"    30 s of the sweep at the start: {resident(process.pid):.0f} MiB resident ({warm:.0f} before); "
        f"hits meanwhile p99 {memory:.1f} ms in memory, {disk:.1f} ms from disk",
        flush=True,
    )
    on.stop(process)

    # Full, but for one cuboid; what comes on top of that is 100,000 too many.
    bound = {"cache_max_tiles": str(2 * count), "cache_reclaim_above": f"{(count + 8) / (2 * count):.9f}"}
    bound["cache_reclaim_to"] = f"{(count - 100_000) / (2 * count):.9f}"
    port, process = on.gateway(**options, **bound)
    began, spent = time.perf_counter(), 0.0
    while (now := on.processor_seconds(port)) - spent > 0.2 and time.perf_counter() - began < SWEEP:
        spent = now
        time.sleep(2)
    print(f"    {time.perf_counter() - began:.0f} s given to the sweep at the start (at most {SWEEP})", flush=True)
    lookers, quiet = look(port, hot, paths), time.perf_counter()
    time.sleep(20)
    first = time.perf_counter()
    get(port, "/kat/0/39_38_0.png")
    while metric(port, "ocpproxy_reclaimed_tiles_total") < 99_500 and time.perf_counter() - first < 240:
        time.sleep(0.5)
    last = time.perf_counter()
    gone = metric(port, "ocpproxy_reclaimed_tiles_total")
    print(f"    {gone:,.0f} reclaimed in {last - first:.1f} s; {resident(process.pid):.0f} MiB resident", flush=True)
    for name, looker in zip(("in memory", "from disk"), lookers, strict=True):
        before, during = looker.p99(quiet, first), looker.p99(first, last)
        told(f"{kind}: hits {name} while reclaiming, p99", [during], "ms", [before], "ratio 2 at most")
    on.stop(process)


def sqlite_index(on: Stage) -> tuple[str, Any, str]:
    """(option, how to connect, the mark of a value)."""
    return "sqlite:///rows.sqlite", lambda: sqlite3.connect(on.place / "rows.sqlite"), "?"


def mariadb_index(on: Stage) -> tuple[str, Any, str]:
    """The same on a real server."""
    from twisted.trial.unittest import TestCase

    server = mysql_server()
    if server is None:
        raise SystemExit("no MariaDB server")
    case = TestCase("run")
    url = mysql_database(case)
    on.at_the_end.append(lambda: [call(*args) for call, args, _ in reversed(case._cleanups)])
    return as_option(url), lambda: pymysql.connect(**server, database=url.database), "%s"


def main() -> None:
    """Measure what is named, or both."""
    count = next((int(word) for word in sys.argv[1:] if word.isdigit()), 2_000_000)
    for kind in ("sqlite", "mariadb"):
        if kind in sys.argv[1:] or not {"sqlite", "mariadb"} & set(sys.argv[1:]):
            with stage() as on:
                measure(on, kind, count)


if __name__ == "__main__":
    main()
