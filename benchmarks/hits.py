"""TileLookup beside nginx, Varnish and MapProxy: a hot tile, many at random, from disk, 304s, and a Zipf load.

    python -m benchmarks.hits [hot] [random] [zipf]

``wrk -t1 -c16`` on each server in turn, the turns repeated, so that what a noisy machine does to one it does to all.
"""

from __future__ import annotations

import random
import sys

from benchmarks.misses import at_rest, gateway_before
from benchmarks.stage import Stage, get, metric, resident, stage, told, wrk
from tests.databases import as_option, mysql_server

TURNS = 5


def hot(on: Stage) -> None:
    """One 512 x 512 tile of EM: from memory, from disk, by validators; SQLite beside MariaDB; MapProxy, Varnish."""
    path = "/demo/5/1_1_0.png"
    port, _ = on.gateway("memory")
    disk, _ = on.gateway("disk", cache_directory="cache-disk", cache_memory="0", index_url="sqlite:///disk.sqlite")
    logged, _ = on.gateway(
        "logged", cache_directory="cache-log", index_url="sqlite:///log.sqlite", server_access_log="on"
    )
    two, _ = on.gateway("two", cache_directory="cache-two", index_url="sqlite:///two.sqlite", server_workers="2")
    _, picture, headers = get(port, path)
    for one in (disk, logged, two, two, two, two):
        get(one, path)
    place = on.place / "static"
    place.mkdir()
    (place / "hot.png").write_bytes(picture)
    place.chmod(0o755)
    nginx, logging = on.nginx(place), on.nginx(place, log=True)
    servers = {
        "nginx, sendfile, one worker": (nginx, "/hot.png"),
        "ocpproxy, memory": (port, path),
        "ocpproxy, disk (memory tier off)": (disk, path),
        "nginx, access log on": (logging, "/hot.png"),
        "ocpproxy, memory, access log on": (logged, path),
        "ocpproxy, two workers": (two, path),
    }
    if nginx is not None:
        servers["Varnish"] = (on.varnish(nginx), "/hot.png")
        servers["MapProxy, two workers"] = (on.mapproxy(nginx), "/tms/1.0.0/em/EPSG3857/1/0/0.png")
    index = mysql_database(on)
    if index is not None:
        servers["ocpproxy, memory, index on MariaDB"] = (index, path)
        get(index, path)
    etag = f"If-None-Match: {headers['etag']}"
    rates: dict[str, list[float]] = {name: [] for name in servers}
    frugal: dict[str, list[float]] = {name: [] for name in servers}
    rates["ocpproxy, 304"] = []
    for turn in range(TURNS + 1):
        on.load_all(servers, 3, *((rates, frugal) if turn else ({}, {})))  # the first is to warm up
        load = wrk(port, path, 3, headers=[etag])
        if turn:
            rates["ocpproxy, 304"].append(load.rate)
    first = next(iter(servers))
    for name, found in rates.items():
        if found:
            told(f"hot tile: {name}", found, "/s", rates[first] or None)
        else:
            print(f"hot tile: {name}: not installed")
    # Where the load generator is the bottleneck, rates say nothing; what an answer costs the server does.
    for name, found in frugal.items():
        if found:
            told(f"answers by a second of processor: {name}", found, "", frugal[first] or None)
    if logging is not None:
        both = [rates[f"{name} access log on"] for name in ("ocpproxy, memory,", "nginx,")]
        told("access log on, beside nginx with its own", both[0], "/s", both[1], "0.95")
    proxy = "MapProxy, two workers"
    if rates.get(proxy):
        told("ocpproxy, memory, beside MapProxy", rates["ocpproxy, memory"], "/s", rates[proxy], "8")
        told("    by a second of processor", frugal["ocpproxy, memory"], "", frugal[proxy], "8")
    if index is not None:
        mariadb = rates["ocpproxy, memory, index on MariaDB"]
        told("index on MariaDB beside SQLite", mariadb, "/s", rates["ocpproxy, memory"], "0.9 to 1.1")


def mysql_database(on: Stage) -> int | None:
    """A gateway whose index is in a database of its own on a real server, as the tests have it; its port."""
    from twisted.trial.unittest import TestCase

    from tests.databases import mysql_database as made

    if mysql_server() is None:
        return None
    case = TestCase("run")
    url = made(case)
    on.at_the_end.append(lambda: [call(*args) for call, args, _ in reversed(case._cleanups)])
    port, _ = on.gateway("mariadb", cache_directory="cache-mariadb", index_url=as_option(url))
    return port


def many(on: Stage) -> None:
    """300 and 2,000 tiles at random, all of them in memory, beside nginx on the same files."""
    port, _ = gateway_before(on, "blosc", cache_memory="1024")
    paths = [f"/kat/{z}/{row}_{col}_0.png" for z in range(16) for row in range(12) for col in range(11)][:2000]
    for path in paths[: 12 * 11]:
        get(port, path)
    at_rest(port)
    place = on.place / "static"
    for path in paths:
        _, picture, _ = get(port, path)
        (place / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (place / path[1:]).write_bytes(picture)
    for directory in (place, *place.rglob("*")):
        directory.chmod(0o755 if directory.is_dir() else 0o644)
    nginx = on.nginx(place)
    chance = random.Random(7)
    for count, bound in ((300, "0.6"), (2000, "")):
        script = on.paths(f"random{count}", [chance.choice(paths[:count]) for _ in range(50_000)])
        ours, theirs = [], []
        for turn in range(TURNS + 1):
            found = wrk(port, "/", 3, script)
            other = wrk(nginx, "/", 3, script) if nginx is not None else found
            if turn:
                ours.append(found.rate)
                theirs.append(other.rate)
        told(f"{count:,} tiles at random: nginx", theirs, "/s")
        told(f"{count:,} tiles at random: ocpproxy, memory", ours, "/s", theirs, bound)


def zipf(on: Stage) -> None:
    """20,000 tiles asked for by Zipf's law through a cache and a memory that hold half of them and less."""
    port, _ = gateway_before(on, "npz", cache_size="2000", cache_memory="256")
    tiles = [f"/kat/{z}/{row}_{col}_0.png" for row in range(35) for col in range(36) for z in range(16)][:20_000]
    chance = random.Random(7)
    chance.shuffle(tiles)
    weights = [1 / (n + 1) for n in range(len(tiles))]
    script = on.paths("zipf", chance.choices(tiles, weights, k=200_000))
    for seconds in (60, 20, 20):
        before = results(port)
        load = wrk(port, "/", seconds, script)
        after = {name: count - before[name] for name, count in results(port).items()}
        shares = ", ".join(f"{name} {100 * count / sum(after.values()):.1f} %" for name, count in after.items())
        print(
            f"Zipf over 20,000: {load.rate:8,.0f} /s, p99 {load.p99 * 1000:.1f} ms, {load.failed} failed; {shares}; "
            f"{metric(port, 'ocpproxy_cache_bytes ') / 2**20:,.0f} MiB on disk, "
            f"{resident(on.listeners[port].pid):.0f} MiB resident"
        )


def results(port: int) -> dict[str, float]:
    """How tiles came until now."""
    return {
        name: metric(port, f'ocpproxy_tiles_total{{result="{name}"}}') for name in ("hit_memory", "hit_disk", "miss")
    }


def main() -> None:
    """Measure what is named, or all."""
    for name, measure in (("hot", hot), ("random", many), ("zipf", zipf)):
        if len(sys.argv) < 2 or name in sys.argv[1:]:
            with stage() as on:
                measure(on)


if __name__ == "__main__":
    main()
