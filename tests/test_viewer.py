"""The pages in a browser: what is on the screen, keys, places, failures, and how accessible they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest

from tests import ocpserver
from tests.browser import CHROMIUM, Page, browser
from tests.channels import Array, ViewsCase, channels
from tests.daemons import Daemon
from tests.volumes import em

AXE = Path(__file__).parent / "page" / "node_modules" / "axe-core" / "axe.min.js"
_SERIOUS = """axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations
  .filter((one) => ['serious', 'critical'].includes(one.impact))
  .map((one) => `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 200)).join(' | ')}`))"""
SHOWN = "globalThis.ocpproxy && ocpproxy.shownSlices > 0 && !document.querySelector('.panel.loading')"
CHANNELS = "[...document.querySelectorAll('.channel')]"
USABLE = """[...document.querySelectorAll('a[href], button:not([disabled]), select, summary, .map, ' +
  'input:not([type=radio]):not([disabled]), input[type=radio]:checked')].filter((one) => one.checkVisibility())"""
WIDE, NARROW = (1440, 900), (390, 844)


class ViewerTests(ViewsCase):
    """Slices of real electron micrographs with ids, before a real daemon."""

    async def look(self, work: Callable[[Page], None], path: str = "view/kat/", **options: Any) -> Daemon:
        """Start a daemon, and open one of its pages in a browser for `work`, which runs in a thread."""
        if CHROMIUM is None:
            raise SkipTest("chromium is not installed")
        served = {name: channels()[name] for name in ("em", "ids64", "moving")}
        self.service = ocpserver.Service(em(), 2, channels=served, side=64, depth=4)
        self.daemon = daemon = await self.view(self.service, "[dataset kat]\n", **options)

        def run() -> None:
            with browser(self.place) as page:
                page.resize(*WIDE)
                page.open(f"{daemon.url}/{path}")
                try:
                    work(page)
                except BaseException:
                    (self.place / "page.png").write_bytes(page.png())
                    raise
                self.assertEqual(page.messages, [])

        await deferToThread(run)
        return daemon

    # -- pixels

    def expected(self, page: Page, slice_: Array) -> tuple[Array, Array]:
        """Return what is on the screen of one panel, and what should be, where the slice is. (In a thread.)"""
        left, top = page.evaluate(
            "(() => { const v = ocpproxy._panels[0]._view(); return [v.left / v.scale, v.top / v.scale]; })()"
        )
        box = page.evaluate("(({x, y}) => [x, y])(document.querySelector('.panel').getBoundingClientRect())")
        x, y = int(box[0] + round(-left)), int(box[1] + round(-top))
        rows, columns = slice_.shape[:2]
        seen = page.screenshot()[y : y + rows, x : x + columns]
        return seen, slice_[: seen.shape[0], : seen.shape[1]]

    def assert_shows(self, page: Page, slice_: Array) -> None:
        """Check that a panel shows a slice pixel by pixel; a cross and a scale bar are over it. (In a thread.)"""
        seen, want = self.expected(page, slice_)
        self.assertGreater(seen.shape[0], 400)
        differs = np.abs(seen - (want[..., None] if want.ndim == 2 else want)).max(axis=2) > 1
        self.assertLess(differs.mean(), 0.004)

    async def test_pixels(self) -> None:
        """At one pixel for a voxel the screen shows the voxels; place and plane come from the address."""

        def work(page: Page) -> None:
            page.until(SHOWN)
            self.assertEqual(page.evaluate("ocpproxy.place.voxel"), [100, 299, 8])
            self.assert_shows(page, em()[7])
            page.key(".")
            page.until("ocpproxy.place.voxel[2] === 9")
            page.until(SHOWN)
            self.assert_shows(page, em()[8])
            for key, z in ((",", 8), ("<", 1), (">", 11), (".", 12)):
                page.key(key, modifiers=8 if key in "<>" else 0)
                page.until(f"ocpproxy.place.voxel[2] === {z}")
            page.until("location.search.includes('z=12')")
            page.open(page.evaluate("location.href"))
            page.until(f"{SHOWN} && ocpproxy.place.voxel[2] === 12")
            self.assert_shows(page, em()[11])
            page.open(f"{self.daemon.url}/view/kat/?x=100&y=299&z=8&scale=1&plane=xz")
            page.until(SHOWN)
            self.assertEqual(page.evaluate("document.querySelectorAll('.panel').length"), 1)
            page.key("4")
            page.until(f"document.querySelectorAll('.panel').length === 3 && {SHOWN}")
            voxels = page.evaluate("ocpproxy._panels.map((one) => ocpproxy.place.slice(one.plane))")
            self.assertEqual(voxels, [8, 299, 100])

        await self.look(work, "view/kat/?x=100&y=299&z=8&scale=1&show=em")

    async def test_layers(self) -> None:
        """Ids lie over the micrograph by their opacity; contrast, colour and time change what is seen."""

        def work(page: Page) -> None:
            page.until(SHOWN)
            grey = page.screenshot()[100:800, 300:800]
            self.assertLess((grey.max(2) - grey.min(2)).max(), 3)
            page.evaluate(f"{CHANNELS}.find((one) => one.textContent.includes('ids64')).querySelector('input').click()")
            page.until(f"{SHOWN} && ocpproxy._channels.visible.length === 2")
            both = page.screenshot()[100:800, 300:800]
            self.assertGreater(((both.max(2) - both.min(2)) > 20).mean(), 0.01)
            page.open(f"{self.daemon.url}/view/kat/?x=300&y=299&z=8&scale=1&show=em&look-em=1,0.25,0.75,grey")
            page.until(SHOWN)
            stretched = np.clip((em()[7] / 255 - 0.25) / 0.5, 0, 1) * 255
            seen, want = self.expected(page, stretched)
            self.assertLess((np.abs(seen[..., 0] - want) > 4).mean(), 0.02)
            page.open(f"{self.daemon.url}/view/kat/?x=300&y=299&z=8&scale=1&show=em&look-em=1,0,1,red")
            page.until(SHOWN)
            seen, want = self.expected(page, em()[7])
            self.assertLess((np.abs(seen[..., 0] - want) > 2).mean(), 0.01)
            self.assertLess((seen[..., 1] > 10).mean(), 0.01)
            outside = page.screenshot()[100:800, 5:200]
            self.assertEqual(outside.max(), 0)
            page.open(f"{self.daemon.url}/view/kat/?x=300&y=299&z=8&scale=1&show=moving&t=3")
            page.until(SHOWN)
            self.assert_shows(page, np.roll(em(), 120, 2)[7])

        await self.look(work, "view/kat/?x=300&y=299&z=8&scale=1&show=em")

    async def test_bounds(self) -> None:
        """Pictures that are wanted are no more than are kept; panels that are closed leave nothing behind."""

        def work(page: Page) -> None:
            page.until(SHOWN)
            for _ in range(5):
                page.key("4")
                page.until(f"document.querySelectorAll('.panel').length === 3 && {SHOWN}")
                page.key("1")
                page.until(f"document.querySelectorAll('.panel').length === 1 && {SHOWN}")
            self.assertEqual(page.evaluate("ocpproxy._pictures._lists.size"), 1)
            paths = "Array.from({length: 1000}, (_, n) => `ocpcatmaid/kat/em/xy/${n % 20 + 1}/0_0_0.png?n=${n}`)"
            page.evaluate(f"ocpproxy._pictures.want({{}}, {paths})")
            page.until("!ocpproxy._pictures._loading.size && ocpproxy._pictures._kept.size > 190")
            # Nothing that is wanted is missing, so nothing is asked for: else it would go round for ever.
            self.assertEqual(page.evaluate("(ocpproxy._pictures._load(), ocpproxy._pictures._loading.size)"), 0)
            self.assertLess(page.evaluate("ocpproxy._pictures._kept.size"), 300)

        await self.look(work, "view/kat/?x=300&y=299&z=8&scale=1&show=em")

    async def test_flight_ends(self) -> None:
        """The flight ends with the key, whatever its character is by then; shift goes by ten on any keyboard."""

        def work(page: Page) -> None:
            page.until(SHOWN)
            event = "dispatchEvent(new KeyboardEvent('{}', {{key: '{}', code: 'Period', shiftKey: {}}}))"
            page.evaluate(event.format("keydown", ":", "true"))
            page.evaluate(event.format("keyup", ".", "false"))
            page.until("ocpproxy.place.voxel[2] === 12")
            page.evaluate(event.format("keydown", ".", "false"))
            page.evaluate(event.format("keyup", ":", "true"))
            page.until("ocpproxy.place.voxel[2] === 13")
            self.assertEqual(page.evaluate("ocpproxy._flight._by"), 0)
            self.assertEqual(page.evaluate("ocpproxy.place.voxel[2]"), 13)

        await self.look(work, "view/kat/?x=300&y=299&z=2&scale=1&show=em")

    async def test_failures(self) -> None:
        """Tiles that fail are marked, with the reason; when the upstream is back they are shown."""

        def work(page: Page) -> None:
            page.until(SHOWN)
            self.service.mode = "busy"
            page.evaluate("ocpproxy.place.goTo(2, 17)")
            page.until("document.querySelector('.message')?.textContent.includes('the upstream does not answer')")
            self.service.mode = "well"
            retry = "document.querySelector('.message button').click()"
            page.until(f"({retry}, document.querySelector('.message').hidden) && {SHOWN}")  # the breaker has a pause
            self.assert_shows(page, em()[16])
            page.messages = [one for one in page.messages if "503" not in one]

        await self.look(work, "view/kat/?x=300&y=299&z=8&scale=1&show=em", upstream_retries="0")

    # -- use

    async def test_keyboard_alone(self) -> None:
        """Tab reaches everything that can be used, in the order in which it is seen."""

        def work(page: Page) -> None:
            page.until(SHOWN)
            page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            wanted = page.evaluate(f"{USABLE}.length")
            reached = set()
            for _ in range(2 * wanted):
                page.key("Tab")
                reached.add(page.evaluate(f"{USABLE}.indexOf(document.activeElement)"))
            self.assertEqual(reached - {-1}, set(range(wanted)))
            page.evaluate("document.querySelector('.map').focus()")
            before = page.evaluate("ocpproxy.place.point")
            page.key("ArrowRight")
            page.until(f"ocpproxy.place.point[0] > {before[0]}")
            page.key("+")
            page.until("ocpproxy.place.scale < 1")

        await self.look(work, "view/kat/?x=300&y=299&z=8&scale=1&show=em")

    async def test_drag_and_touch(self) -> None:
        """The mouse drags the slice; a finger does, and two fingers zoom; buttons step through slices."""

        def work(page: Page) -> None:
            page.until(SHOWN)
            mouse = {"button": "left", "buttons": 1, "clickCount": 1}
            page.call("Input.dispatchMouseEvent", type="mousePressed", x=500, y=400, **mouse)
            for x in range(490, 390, -10):
                page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=400, **mouse)
            page.call("Input.dispatchMouseEvent", type="mouseReleased", x=400, y=400, **mouse)
            page.until("Math.abs(ocpproxy.place.voxel[0] - 400) < 60")
            page.resize(*NARROW)
            page.until("document.querySelector('.toggle').checkVisibility()")
            scale = page.evaluate("ocpproxy.place.scale")
            fingers = [[{"x": 150 - n, "y": 300}, {"x": 200 + n, "y": 300}] for n in range(0, 60, 10)]
            page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=fingers[0])
            for both in fingers[1:]:
                page.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=both)
            page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
            page.until(f"ocpproxy.place.scale < {0.8 * scale}")
            page.evaluate("document.querySelector('.toggle').click()")
            page.until("document.querySelector('.step').checkVisibility()")
            z = page.evaluate("ocpproxy.place.voxel[2]")
            page.evaluate("[...document.querySelectorAll('.step')].at(-1).click()")
            page.until(f"ocpproxy.place.voxel[2] === {z + 1}")

        await self.look(work, "view/kat/?x=300&y=299&z=8&scale=1&show=em")

    async def test_accessible(self) -> None:
        """axe finds nothing serious on any page, dark or light, wide or narrow, and nothing sticks out."""
        if not AXE.exists():
            raise SkipTest("npm is not installed: run npm ci in tests/page")
        script = AXE.read_text(encoding="utf-8")

        def work(page: Page) -> None:
            for path in ("view/kat/?show=em,ids64&plane=all", "", "status", "view/kat/catmaid", "view/nothing/"):
                for size in (WIDE, NARROW):
                    page.resize(*size)
                    page.open(f"{self.daemon.url}/{path}")
                    page.until("document.readyState === 'complete' && document.querySelector('main')")
                    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
                    if size == NARROW and "plane" in path:
                        page.evaluate("document.querySelector('.toggle').click()")
                    page.evaluate(script)
                    for theme in ("dark", "light"):
                        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
                        self.assertEqual(page.evaluate(_SERIOUS), [], (path, size, theme))
                    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                    self.assertLessEqual(wide, 0, (path, size))
            page.messages = [one for one in page.messages if "404" not in one]

        await self.look(work)

    async def test_status(self) -> None:
        """The status page shows the numbers of the metrics, in words and units, and goes on by itself."""

        def work(page: Page) -> None:
            page.until("document.getElementById('connection').textContent === 'Live'")
            shown = "document.querySelector('[data-key=misses]').textContent"
            self.assertEqual(page.evaluate(shown), "0")
            page.evaluate("fetch('kat/3/0_0_0.png').then((one) => one.blob())")
            page.until(f"{shown} === '1'")
            page.until("document.querySelector('#table-usage td a')?.textContent === 'kat'")
            page.until("document.querySelector('#table-slowest td a')")
            page.until("document.querySelector('.plot path.line').getAttribute('d')")
            state = json.loads(page.evaluate("fetch('status.json').then((one) => one.text())"))
            tiles = page.evaluate("document.querySelector('[data-key=tiles]').textContent")
            self.assertEqual(tiles, str(int(state["figures"]["tiles"])))

        await self.look(work, "status")

    async def test_theme_and_search(self) -> None:
        """The theme is kept; pictures of datasets are shown, and the one that fails says so."""

        def work(page: Page) -> None:
            page.until("document.querySelector('.thumbnail img')?.naturalWidth > 0")
            page.evaluate("document.getElementById('theme').click()")
            page.open(f"{self.daemon.url}/status")
            page.until("document.getElementById('connection')?.textContent")
            self.assertEqual(page.evaluate("document.documentElement.dataset.theme"), "light")

        await self.look(work, "")
