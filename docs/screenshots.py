"""Takes pictures of every page and state, at 1440 and 390 pixels: ``python docs/screenshots.py DIRECTORY``.

With ``--manual`` it also replaces the three that the manual shows.
"""

from __future__ import annotations

import sys
import time
from io import BytesIO
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
    "failing": ("view/away/", LOADED),
    "unknown": ("view/nothing/", LOADED),
    "catmaid": ("view/demo/catmaid", LOADED),
    "status": ("status", LIVE),
}
"""Each page and state: its address, and when it is there."""
KEPT = ("datasets", "planes", "status")


def take(page: Page, port: int, place: Path, width: int) -> None:
    """Take all pictures of one width, dark and light."""
    for name, (path, ready) in STATES.items():
        for theme in ("dark", "light"):
            page.open(f"http://127.0.0.1:{port}/{path}")
            page.until(ready)
            page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
            if name == "status":
                time.sleep(8)  # so that its plots have something to show
            if name == "slices" and width < 500:
                page.evaluate("document.querySelector('.toggle').click()")
            suffix = "" if theme == "dark" else "-light"
            (place / f"{name}-{width}{suffix}.png").write_bytes(page.png(whole=name in ("status", "catmaid")))


def main() -> None:
    """Take them."""
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    with stage() as on:
        port, _ = on.gateway(more=SECTIONS)
        for z in range(500, 530):
            get(port, f"/demo/{z}/4_4_2.png")
        with browser(on.place) as page:
            for width, height in WIDTHS:
                page.resize(width, height)
                take(page, port, place, width)
    if "--manual" in sys.argv:
        for name in KEPT:
            with Image.open(BytesIO((place / f"{name}-1440.png").read_bytes())) as image:
                image.convert("RGB").save(HERE / f"page-{name}.jpg", quality=72, optimize=True)


if __name__ == "__main__":
    main()
