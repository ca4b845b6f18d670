"""The pages: how soon the first picture is on the screen, flying through slices, and what open status pages cost.

    python -m benchmarks.pages [first] [fly] [live]

``first``: from opening ``/view/demo/`` in a new Chromium to the first slice shown whole: cold (nothing is cached, the
demo is computed) and warm, and the bytes before the first tile.

``fly``: the full stop is held for ten seconds on a warm cache; the slices that the page has shown whole, a second.

``live``: 200 status pages are open; the daemon's processor time beside that of a quiet one, and the 99th percentile of
hits with and without them, in turns.
"""

from __future__ import annotations

import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.stage import Stage, get, quantile, stage, told
from tests.browser import Page, browser

TURNS = 3
PAGES = 200
HOLD = 10.0
FIRST, LAST = 512, 860
"""Slices of the demo that are made warm."""
SHOWN = "globalThis.ocpproxy && ocpproxy.shownSlices > 0"
BYTES = """performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))
  .filter((one) => !one.name.endsWith('.png')).reduce((sum, one) => sum + one.transferSize, 0)"""
PICTURES = """performance.getEntriesByType("resource").filter((one) => one.name.endsWith(".png"))
  .map((one) => one.responseEnd)"""


def first_picture(page: Page, port: int, path: str = "") -> float:
    """Seconds from opening the page to its first slice."""
    page.open("about:blank")
    began = time.perf_counter()
    page.open(f"http://127.0.0.1:{port}/view/demo/{path}")
    page.until(SHOWN)
    return time.perf_counter() - began


def some_picture(page: Page) -> float:
    """Seconds from opening the page to the arrival of its first tile, which is a coarse one."""
    return float(page.evaluate(f"Math.min(...{PICTURES})")) / 1000


def first(on: Stage) -> None:
    """Cold and warm."""
    cold, coarse, warm, sizes = [], [], [], []
    for turn in range(TURNS):
        port, process = on.gateway(
            f"cold{turn}", cache_directory=f"cold{turn}", index_url=f"sqlite:///cold{turn}.sqlite"
        )
        with browser(on.place / f"browser{turn}") as page:
            page.resize(1440, 900)
            cold.append(first_picture(page, port))
            coarse.append(some_picture(page))
            sizes.append(page.evaluate(BYTES) / 1000)
        with browser(on.place / f"browser{turn}w") as page:  # one that has nothing in its own cache
            page.resize(1440, 900)
            warm.append(first_picture(page, port))
        on.stop(process)
    told("cold: a coarse picture of the slice", coarse, "s", bound="2.0")
    told("cold: the slice as a whole", cold, "s")
    told("warm: the slice as a whole", warm, "s", bound="1.0")
    told("compressed, before the first tile", sizes, "kB", bound="150")


def fly(on: Stage) -> None:
    """The full stop is held."""
    port, _ = on.gateway("fly")
    for z in range(FIRST, LAST):
        for tile in ("0_0_5", "0_0_4", "0_1_4", "1_0_4", "1_1_4"):
            get(port, f"/demo/{z}/{tile}.png")
    rates = []
    for turn in range(TURNS):
        with browser(on.place / f"fly{turn}") as page:
            page.resize(1440, 900)
            first_picture(page, port, f"?z={FIRST}")
            before, began = page.evaluate("ocpproxy.shownSlices"), time.perf_counter()
            page.key(".", hold=HOLD)
            rates.append((page.evaluate("ocpproxy.shownSlices") - before) / (time.perf_counter() - began))
    told(f"slices shown whole while a key is held for {HOLD:g} s", rates, "1/s", bound="24")


@contextmanager
def open_pages(port: int, count: int) -> Iterator[list[int]]:
    """So many streams of the status page, all of which are read; the bytes of all of them."""
    received = [0]
    chooser = selectors.DefaultSelector()
    clients = []
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(b"GET /status.events HTTP/1.1\r\nHost: x\r\n\r\n")
        client.setblocking(False)
        chooser.register(client, selectors.EVENT_READ)
        clients.append(client)
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            for key, _ in chooser.select(0.1):
                received[0] += len(key.fileobj.recv(2**16))  # type: ignore[union-attr]

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield received
    finally:
        ended.set()
        thread.join()
        for client in clients:
            client.close()


def late(port: int, seconds: float) -> float:
    """The 99th percentile of hits, one every five milliseconds, in milliseconds."""
    taken, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        get(port, "/demo/512/0_0_5.png")
        taken.append(time.perf_counter() - began)
        time.sleep(0.005)
    return 1000 * quantile(taken, 0.99)


def live(on: Stage) -> None:
    """200 pages."""
    port, _ = on.gateway("live")
    get(port, "/demo/512/0_0_5.png")
    quiet, busy, alone, beside = [], [], [], []
    for _ in range(TURNS):
        spent = on.processor_seconds(port)
        time.sleep(10)
        quiet.append(10 * (on.processor_seconds(port) - spent))
        alone.append(late(port, 8))
        with open_pages(port, PAGES) as received:
            time.sleep(3)
            spent = on.processor_seconds(port)
            time.sleep(10)
            busy.append(10 * (on.processor_seconds(port) - spent))
            beside.append(late(port, 8))
            if not received[0]:
                raise SystemExit("the pages got nothing")
    told("processor of a quiet daemon", quiet, "%")
    told(f"processor with {PAGES} open pages", busy, "%", bound="5")
    told("99th percentile of hits, quiet", alone, "ms")
    told(f"99th percentile of hits, {PAGES} open pages", beside, "ms", alone, bound="unmoved")


def main() -> None:
    """Print the figures."""
    parts = {"first": first, "fly": fly, "live": live}
    for name in sys.argv[1:] or list(parts):
        with stage() as on:
            Path(on.place).mkdir(exist_ok=True)
            parts[name](on)


if __name__ == "__main__":
    main()
