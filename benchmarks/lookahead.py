"""A viewer flies through cold slices: how many are there when they are asked for, and what was fetched in vain.

    python -m benchmarks.lookahead [slices a second ...]

A view of six tiles moves on at its pace, whether the tiles have come or not, over 512 slices of an origin that is 500
ms away and is asked by eight connections. A slice is complete when all its tiles are answered within a twenty-fourth of
a second. Then a viewer turns every 40 slices: 40 on, 40 back, and somewhere else again.
"""

from __future__ import annotations

import selectors
import sys
import time
from collections.abc import Iterable

from benchmarks.misses import Client, at_rest, gateway_before
from benchmarks.stage import Stage, get, metric, stage

IN_TIME = 1 / 24
SLAB = 16
WASTED_AFTER = 61
"""Seconds after which a cuboid that was fetched ahead, and that nobody has wanted, counts as wasted."""
RESULTS = ("used", "wasted", "given_up", "failed")


def fly(port: int, slices: Iterable[int], pace: float, left: int = 0) -> list[float]:
    """Ask for a view of each slice at its time; return the seconds until each slice was complete."""
    free: list[Client] = []
    took: dict[int, float] = {}
    asked: dict[Client, int] = {}
    began = time.perf_counter()
    with selectors.DefaultSelector() as selector:

        def read(until: float) -> None:
            while (wait := until - time.perf_counter()) > 0 and (asked or wait < 60):
                for key, _ in selector.select(wait):
                    client = key.data
                    one = client.read()
                    if one is not None:
                        number = asked.pop(client)
                        took[number] = max(took.get(number, 0.0), one)
                        selector.unregister(client.socket)
                        free.append(client)

        for number, slice_ in enumerate(slices):
            read(began + number / pace)
            for tile in range(6):
                client = free.pop() if free else Client(port)
                asked[client] = number
                selector.register(client.socket, selectors.EVENT_READ, client)
                client.ask(f"/kat/{slice_}/{tile // 3}_{left + tile % 3}_0.png")
        read(time.perf_counter() + 1000)
    return [took[number] for number in sorted(took)]


def counts(port: int) -> dict[str, int]:
    """What became of the cuboids that were fetched ahead."""
    name = "ocpproxy_lookahead_cuboids_total"
    return {result: int(metric(port, f'{name}{{result="{result}"}}')) for result in RESULTS}


def straight(on: Stage, pace: float) -> None:
    """Fly over 512 cold slices, with look-ahead and without."""
    for switch in ("on", "off"):
        port, origin = gateway_before(on, "npz", "0.5", cache_lookahead=switch)
        get(port, "/kat/4000/39_39_0.png")  # the origin makes the body of its first cutout
        took = fly(port, range(512), pace)[SLAB:]
        complete = sum(one <= IN_TIME for one in took) / len(took)
        at_rest(port)
        bound = "   asked for: 90%" if switch == "on" else ""
        asked = int(get(origin, "/asked")[1])
        print(
            f"{pace:g} slices/s, look-ahead {switch}: {complete:.1%} of slices complete when asked for{bound}; "
            f"{asked} cutouts; {counts(port)}",
            flush=True,
        )


def turning(on: Stage, pace: float) -> None:
    """Turn every 40 slices."""
    port, origin = gateway_before(on, "npz", "0.5")
    get(port, "/kat/4000/39_39_0.png")
    for turn in range(6):
        first = 100 * turn
        fly(port, [*range(first, first + 40), *range(first + 40, first, -1)], pace, 3 * turn)
    at_rest(port)
    time.sleep(WASTED_AFTER)
    fly(port, [3000], pace)  # whatever nobody has wanted by now counts as wasted
    found, asked = counts(port), int(get(origin, "/asked")[1])
    print(
        f"{pace:g} slices/s, turning every 40: {asked} cutouts, {found['wasted'] / asked:.1%} of them wasted"
        f"   asked for: 15%; {found}",
        flush=True,
    )


def main() -> None:
    """Measure at each pace."""
    for pace in map(float, sys.argv[1:] or ("5", "24")):
        for measure in (straight, turning):
            with stage() as on:
                measure(on, pace)


if __name__ == "__main__":
    main()
