"""Neuroglancer from the installed package: its page and files, what it opens, and what a browser shows."""

from __future__ import annotations

import json
import re
from typing import Any

from PIL import Image
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest

from ocpproxy.web.voxels.neuroglancer import ClientFiles
from tests import ocpserver
from tests.browser import CHROMIUM, Page, browser
from tests.channels import Array, channels
from tests.daemons import Daemon, DaemonCase
from tests.hot_gateway import HotCase
from tests.raw_http import raw_get
from tests.volumes import em


class NeuroglancerTests(DaemonCase):
    """The page before a real daemon."""

    async def before(self) -> Daemon:
        """Start a daemon with an image, ids, colours, and a time series."""
        served = {name: channels()[name] for name in ("em", "ids64", "rgb", "moving16", "windowed")}
        service = ocpserver.Service(em(), 3, (40, 24, 1), channels=served)
        return await self.start(self.configure(self.serve(service)))

    async def test_page(self) -> None:
        """The address leads to the page, whose files are all there, and to a state with the place that was named."""
        daemon = await self.before()
        code, _, headers = await raw_get(daemon, "neuroglancer/kat?x=100&y=-5.5&z=<script>", {})
        page, hash_, state = headers["location"].partition("#!")
        self.assertEqual((code, hash_), (302, "#!"))
        self.assertEqual(state, f"{daemon.url}/neuroglancer/kat/state?x=100&y=-5.5")
        path = page.removeprefix(f"{daemon.url}/")
        _, body, headers = await raw_get(daemon, path, {})
        self.assertIn("script-src 'self' 'wasm-unsafe-eval';", headers["content-security-policy"])
        names = [name for name in re.findall(r'(?:src|href)="([^"]+)"', body.decode()) if name != "data:,"]
        self.assertEqual(names[0], "no-events.js")
        for name in names:
            code, plain, headers = await raw_get(daemon, path + name, {})
            self.assertEqual(code, 200, name)
            self.assertRegex(headers["content-type"], "text/(javascript|css)")
            code, zipped, headers = await raw_get(daemon, path + name, {"Accept-Encoding": "gzip"})
            self.assertEqual(headers["content-encoding"], "gzip")
            self.assertLessEqual(len(zipped), len(plain))
        for odd in ("nothing.js", "..%2findex.html", "../index.html", "%2e%2e/x.js", "index.html.map"):
            self.assertEqual((await raw_get(daemon, path + odd, {}))[0], 404, odd)
        for odd in ("", "k%2fat", "kat/other", "v"):
            self.assertEqual((await raw_get(daemon, f"neuroglancer/{odd}", {}))[0], 404, odd)
        self.assertIn(b"Apache License", (await raw_get(daemon, "neuroglancer/LICENSE", {}))[1])

    async def test_state(self) -> None:
        """All channels are layers, ids as segmentation; the place is the one that is named, else the middle."""
        daemon = await self.before()
        _, body, _ = await raw_get(daemon, "neuroglancer/kat/state?x=100&z=3", {})
        state = json.loads(body)
        self.assertEqual(state["position"], [100.5, 24 + 300, 3.5])
        layers = {layer["name"]: layer for layer in state["layers"]}
        self.assertEqual(
            {name: layer["type"] for name, layer in layers.items()},
            {"em": "image", "ids64": "segmentation", "rgb": "image", "moving16": "image", "windowed": "image"},
        )
        self.assertEqual(layers["em"]["source"], f"precomputed://{daemon.url}/precomputed/kat/em")
        self.assertEqual(layers["moving16"]["source"], f"zarr3://{daemon.url}/zarr3/kat/moving16")
        self.assertEqual(layers["windowed"]["shaderControls"], {"normalized": {"range": [500, 20000]}})

    async def test_browser(self) -> None:
        """Chromium shows the micrograph with coloured ids over it; nothing that it asks for fails."""
        if CHROMIUM is None:
            raise SkipTest("chromium is not installed")
        served = {name: channels()[name] for name in ("em", "ids64")}
        service = ocpserver.Service(em(), 3, channels=served)
        daemon = await self.start(self.configure(self.serve(service)))
        page = await deferToThread(self.look, f"{daemon.url}/neuroglancer/kat?x=320&y=300&z=4")
        self.assertEqual([one for one in page.messages if "event source connected" not in one], [])
        self.assertEqual({code for _, code in page.answers}, {200})
        asked = re.findall(r'"GET (/\S*) HTTP/1.1" (\d+)', daemon.log)  # its workers' requests too
        for name in ("em", "ids64"):
            self.assertGreater(sum(path.startswith(f"/precomputed/kat/{name}/") for path, _ in asked), 4)
        self.assertLessEqual({code for _, code in asked}, {"200", "302", "304"})

    def look(self, url: str) -> Page:
        """Open Neuroglancer, and wait until it shows a micrograph with ids over it. (In a thread.)"""

        def shows_both(pixels: Array) -> bool:
            panel = pixels[60:400, 20:600]
            coloured = (panel.max(2) - panel.min(2) > 30).mean()
            return bool(panel.std() > 20 and 0.005 < coloured < 0.7)

        with browser(self.place, webgl=True) as page:
            page.open(url)
            seen = page.wait(shows_both)
            Image.fromarray(seen.astype("uint8")).save(self.place / "page.png")
            self.assertTrue(shows_both(seen), page.messages)
            return page


class NotInstalledTests(HotCase):
    """A gateway without the package."""

    async def test_sentence(self) -> None:
        """The answer names the command that installs it."""
        resource: Any = self.site.resource.children[b"neuroglancer"]
        resource._files = ClientFiles(None)
        for path in (b"/neuroglancer/kat", b"/neuroglancer/v/kat/", b"/neuroglancer/v/kat/main.js"):
            request = b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path
            answer = await deferToThread(self.exchange, request)
            self.assertTrue(answer.startswith(b"HTTP/1.1 501 "), answer[:80])
            self.assertIn(b"pip install 'ocpproxy[neuroglancer]'", answer)
