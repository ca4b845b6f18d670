"""Takes pictures of every page and state, at 1440 and 390 pixels: ``python docs/screenshots.py DIRECTORY``.

With ``--manual`` it also replaces the three that the manual shows.
"""

from __future__ import annotations

import sys
import time
from io import BytesIO
from itertools import count
from pathlib import Path

from PIL import Image

from benchmarks.stage import get, stage
from tests.browser import Page, browser

HERE = Path(__file__).parent
WIDTHS = ((1440, 900), (390, 844))
SECTIONS = """
[dataset demo]
[dataset away]
type = ocp
url = http://127.0.0.1:9/ocp
retries = 0
"""
FAILING = """
[dataset slow]
type = ocp
url = http://127.0.0.1:{slow}/ocp
token = kat
[dataset gone]
type = ocp
url = http://127.0.0.1:{gone}/ocp
token = kat
retries = 0
"""
SHOWN = "globalThis.ocpproxy && ocpproxy.shownSlices > 0 && !document.querySelector('.panel.loading')"
LOADED = "document.readyState === 'complete'"
LIVE = "document.getElementById('connection')?.textContent === 'Live'"
PLACE = "view/demo/?x=8200&y=8200&z=512&scale=2"
STATES = {
    "datasets": ("", f"{LOADED} && document.querySelector('.thumbnail img')?.naturalWidth"),
    "slices": (PLACE, SHOWN),
    "planes": (f"{PLACE}&plane=all", SHOWN),
    "red": (f"{PLACE}&look-image=1,0.2,0.8,red", SHOWN),
    "loading": ("view/slow/?x=9000&y=9000&z={n}&scale=2", "document.querySelector('.panel.loading')"),
    "failing-tiles": ("view/gone/?x=9000&y=9000&z={n}&scale=2", "document.querySelector('.message')?.hidden === false"),
    "failing": ("view/away/", LOADED),
    "unknown": ("view/nothing/", LOADED),
    "catmaid": ("view/demo/catmaid", LOADED),
    "status": ("status", LIVE),
}
"""Each page and state: its address, and when it is there; {n} is another slice each time."""
NOWHERE = "http://127.0.0.1:9/ocp"
SLICES = count(16, 16)
OF_FAILING = ("loading", "failing-tiles")
"""Those of the gateway with `FAILING`."""
KEPT = ("datasets", "planes", "status")


def take(page: Page, port: int, failing: int, place: Path, width: int) -> None:
    """Take all pictures of one width, dark and light."""
    for name, (path, ready) in STATES.items():
        for theme in ("dark", "light"):
            at = failing if name in OF_FAILING else port
            page.open(f"http://127.0.0.1:{at}/{path.format(n=next(SLICES))}")
            page.until(ready)
            page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
            if name == "status":
                time.sleep(8)  # so that its plots have something to show
            if name == "slices" and width < 500:
                page.evaluate("document.querySelector('.toggle').click()")
            save(page, place / f"{name}-{width}", theme, whole=name in ("status", "catmaid"))


def save(page: Page, place: Path, theme: str, *, whole: bool = False) -> None:
    """Save what is seen."""
    suffix = "" if theme == "dark" else "-light"
    place.with_name(f"{place.name}{suffix}.png").write_bytes(page.png(whole=whole))


def main() -> None:
    """Take them."""
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    with stage() as on:
        slow, gone = on.origin("npz", "4"), on.origin()
        port, _ = on.gateway(more=SECTIONS)
        failing, _ = on.gateway(
            "failing",
            FAILING.format(slow=slow, gone=gone),
            cache_directory="cache-failing",
            index_url="sqlite:///failing.sqlite",
        )
        empty, _ = on.gateway("empty", index_url="sqlite:///empty.sqlite", upstream_type="ocp", upstream_url=NOWHERE)
        get(port, "/demo/512/4_4_2.png")
        for path in ("/slow/", "/gone/"):
            get(failing, path)
        on.stop(on.running[1])  # the upstream of "gone"
        with browser(on.place) as page:
            for width, height in WIDTHS:
                page.resize(width, height)
                page.open(f"http://127.0.0.1:{empty}/")
                page.until(f"{LOADED} && document.querySelector('.empty')")
                save(page, place / f"empty-{width}", "dark")
                take(page, port, failing, place, width)
    if "--manual" in sys.argv:
        for name in KEPT:
            with Image.open(BytesIO((place / f"{name}-1440.png").read_bytes())) as image:
                image.convert("RGB").save(HERE / f"page-{name}.jpg", quality=72, optimize=True)


if __name__ == "__main__":
    main()
