"""The pages as they are sent: what they show, what they need, who may see what, and the stream of the state."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import time
from fractions import Fraction
from html.parser import HTMLParser
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.model.dataset import Channel, Dataset, Level
from ocpproxy.web.pages import datasets, layout
from ocpproxy.web.pages.datasets import DatasetHealth, DatasetState
from ocpproxy.web.pages.home import DatasetCard, HomePage
from ocpproxy.web.pages.layout import PageFrame
from tests import ocpserver
from tests.channels import SMALL, ViewsCase, channels
from tests.daemons import Daemon, pause
from tests.raw_http import GZIP, raw_get
from tests.volumes import em

BUDGET = 150_000
"""Bytes, compressed, that a page of slices may take before its first tile."""
HOSTILE = '</script><img src=x onerror="alert(1)">&'


class _Links(HTMLParser):
    """Collects what a page loads, and the texts of its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        found = dict(attrs)
        self.elements.append((tag, found))
        link = found.get("src") if tag in ("script", "img") else found.get("href") if tag == "link" else None
        if link and not link.startswith("data:"):
            self.files.append(link)


def read(page: bytes) -> _Links:
    """Return what is in a page."""
    links = _Links()
    links.feed(page.decode())
    return links


def data_block(page: bytes, name: str) -> Any:
    """Return a JSON document of a page."""
    found = re.search(rb'<script type="application/json" id="%b">(.*?)</script>' % name.encode(), page)
    assert found is not None, page[:500]
    return json.loads(found[1])


def metrics(text: bytes) -> dict[str, float]:
    """Return all samples of a text of Prometheus, by name with labels."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


class PagesTests(ViewsCase):
    """The pages of a daemon with an image and ids."""

    async def before(self, extra: str = "", **options: Any) -> Daemon:
        """Start the daemon."""
        self.service = ocpserver.Service(
            em(), 2, channels={name: channels()[name] for name in ("em", "ids64")}, **SMALL
        )
        return await self.view(self.service, extra, **options)

    async def test_policy_and_files(self) -> None:
        """No page needs anything from elsewhere or an inline script; all its files are there, and few bytes."""
        daemon = await self.before()
        await daemon.get("kat/")
        for path, up in (("", ""), ("view/kat/", "../../"), ("view/kat/catmaid", "../../"), ("status", "")):
            code, page, headers = await daemon.get(path)
            self.assertEqual((code, headers["content-type"]), (200, "text/html; charset=utf-8"), path)
            self.assertNotIn("unsafe", headers["content-security-policy"])
            self.assertTrue(headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; "))
            links = read(page)
            for tag, attributes in links.elements:
                self.assertFalse([name for name in attributes if name.startswith("on") or name == "style"], tag)
                if tag == "script":
                    self.assertTrue("src" in attributes or attributes.get("type") == "application/json")
            size = len(gzip.compress(page))
            for link in links.files:
                self.assertTrue(link.startswith(up), link)
                link = link.removeprefix(up)
                code, body, headers = await raw_get(daemon, link, GZIP)
                self.assertEqual(code, 200, link)
                if link.startswith("static/"):
                    self.assertIn("immutable", headers["cache-control"])
                    self.assertEqual(headers["content-encoding"], "gzip")
                    size += len(body)
            self.assertLess(size, BUDGET, path)

    async def test_static(self) -> None:
        """A file by an old digest is not kept for ever; what is no file of the pages is 404."""
        daemon = await self.before()
        _, page, _ = await daemon.get("")
        (digest,) = set(re.findall(r"static/(\w+)/", page.decode()))
        code, body, headers = await daemon.get(f"static/{digest}/leaflet.js")
        self.assertEqual((code, headers["content-type"]), (200, "text/javascript; charset=utf-8"))
        self.assertIn(b"Leaflet 1.9", body[:200])
        self.assertEqual((await daemon.get("static/old/leaflet.js"))[2]["cache-control"], "no-cache")
        self.assertIn(b"CloudMade", (await daemon.get(f"static/{digest}/licences.txt"))[1])
        for odd in ("", digest, f"{digest}/", f"{digest}/nothing.js", f"{digest}/..%2fviewer.py", "a/b/c.js"):
            self.assertEqual((await daemon.get(f"static/{odd}"))[0], 404, odd)

    async def test_home(self) -> None:
        """Each dataset has a card, which shows no path that may hold a key, and what can be done with it."""
        secret = "[dataset mine]\nurl = http://127.0.0.1:9/secretpath/ocp\n"
        daemon = await self.before(f"[dataset kat]\n{secret}")
        _, page, _ = await daemon.get("")
        text = page.decode()
        self.assertNotIn("secretpath", text)
        self.assertIn("<code>", text)
        self.assertRegex(text, r"em \(image, uint8\), ids64 \(annotation, uint64\)")
        self.assertRegex(text, r"ocp: http://127.0.0.1:\d+<")
        self.assertIn('href="view/kat/"', text)
        self.assertIn('href="neuroglancer/kat"', text)
        self.assertIn(f"{daemon.url}/zarr3/kat/em", text)
        self.assertIn("failing", text)
        overview = next(link for link in read(page).files if link.endswith("small.png"))
        code, picture, _ = await daemon.get(overview)
        self.assertEqual((code, picture[:4]), (200, b"\x89PNG"))

    async def test_view(self) -> None:
        """The page of slices knows what its script needs; a place in its address survives the redirection."""
        daemon = await self.before()
        code, _, headers = await raw_get(daemon, "view/kat?x=3&y=4", {})
        self.assertEqual((code, headers["location"]), (302, "kat/?x=3&y=4"))
        _, page, _ = await daemon.get("view/kat/")
        volume = data_block(page, "volume")
        self.assertEqual([one["name"] for one in volume["channels"]], ["em", "ids64"])
        self.assertEqual([one["kind"] for one in volume["channels"]], ["grey", "labels"])
        plane = volume["channels"][0]["planes"]["xz"]
        self.assertEqual(plane["base"], "ocpcatmaid/kat/em/xz/")
        self.assertEqual((await daemon.get(f"{plane['base']}{plane['dimension'][2] - 1}/0_0_0.png"))[0], 200)

    async def test_refusals(self) -> None:
        """What cannot be shown has a page that says why, and the status that programs see."""
        daemon = await self.before()
        code, page, headers = await daemon.get("view/nothing/")
        self.assertEqual((code, headers["content-type"]), (404, "text/html; charset=utf-8"))
        self.assertIn(b"There is no dataset nothing.", page)
        for odd in ("view/", "view", "view/k%2fat/", "view/kat/other", "view/kat/catmaid/x"):
            self.assertEqual((await daemon.get(odd))[0], 404, odd)

    async def test_figures(self) -> None:
        """Every number of the status page is the metric of the same name at that moment."""
        daemon = await self.before()
        for path in ("kat/3/0_0_0.png", "kat/3/0_0_0.png", "kat/999/0_0_0.png", "kat/3/0_0_0.png?x"):
            await daemon.get(path)
        await daemon.rest()
        _, page, _ = await daemon.get("status")
        state = data_block(page, "state")
        found = metrics((await daemon.get("metrics"))[1])
        shown = {a["data-key"]: a["data-metric"] for _, a in read(page).elements if a.get("data-metric")}
        self.assertGreater(len(shown), 12)
        for key, metric in shown.items():
            self.assertEqual(state["figures"][key], found[str(metric)], metric)
        self.assertEqual(state["figures"]["misses"], 1)
        self.assertAlmostEqual(state["figures"]["hit_ratio"], 2 / 3)
        (usage,) = state["tables"]["usage"]
        self.assertEqual((usage["token"], usage["bytes"]), ("kat", state["figures"]["bytes"]))
        (slow, *_) = state["tables"]["slowest"]
        self.assertEqual((slow["token"], slow["outcome"]), ("kat", "fetched"))
        self.assertEqual((await daemon.get(f"view/kat/?x={slow['place']['x']}"))[0], 200)
        again = json.loads((await daemon.get("status.json"))[1])
        self.assertEqual(again["figures"]["misses"], 1)

    async def test_token_called_status(self) -> None:
        """A dataset may be called status: only the page itself is in its place."""
        daemon = await self.before("[dataset status]\ntoken = kat\n")
        self.assertEqual((await daemon.get("status/3/0_0_0.png"))[2]["content-type"], "image/png")
        self.assertEqual(json.loads((await daemon.get("status/"))[1])["token"], "status")
        self.assertEqual((await daemon.get("status"))[2]["content-type"], "text/html; charset=utf-8")

    async def test_events(self) -> None:
        """Open pages get the same figures, and a daemon that stops ends their streams at once."""
        daemon = await self.before()
        streams = [await deferToThread(self.stream, daemon) for _ in range(20)]
        events = await gatherResults([deferToThread(self.events, one, 2) for one in streams])
        for found in events:
            self.assertEqual([name for name, _ in found], ["history", "message"])
            self.assertIn("hits_memory", found[1][1]["figures"])
        self.assertEqual(await daemon.stop(), 0)
        rest = await gatherResults([deferToThread(one.recv, 2**20) for one in streams])
        self.assertTrue(all(one.endswith(b"0\r\n\r\n") or not one for one in rest))

    async def test_too_many_streams(self) -> None:
        """One client has a bounded number of streams; a daemon that stops opens none."""
        daemon = await self.before()
        streams = [await deferToThread(self.stream, daemon) for _ in range(51)]
        heads = await gatherResults([deferToThread(one.recv, 12) for one in streams])
        self.assertEqual(sorted(heads), 50 * [b"HTTP/1.1 200"] + [b"HTTP/1.1 503"])
        pipelined = b"GET /status.events HTTP/1.1\r\nHost: x\r\n\r\n" * 2
        for one in streams:
            one.sendall(pipelined)
        began = time.monotonic()
        self.assertEqual(await daemon.stop(), 0)
        self.assertLess(time.monotonic() - began, 9)  # it has 10 s for open requests

    def stream(self, daemon: Daemon) -> socket.socket:
        """Open a stream of events. (In a thread.)"""
        client = socket.create_connection(("127.0.0.1", int(daemon.url.rpartition(":")[2])), timeout=60)
        self.addCleanup(client.close)
        client.sendall(b"GET /status.events HTTP/1.1\r\nHost: x\r\n\r\n")
        return client

    def events(self, client: socket.socket, count: int) -> list[tuple[str, Any]]:
        """Read some events. (In a thread.)"""
        data = b""
        while data.count(b"\n\n") < count:
            data += client.recv(2**16)
        self.assertIn(b"Content-Type: text/event-stream; charset=utf-8", data)
        found = re.findall(rb"event: (\w+)\ndata: (.*)\n\n", data)
        return [(name.decode(), json.loads(text)) for name, text in found[:count]]


class AllowTests(ViewsCase):
    """Datasets that only some may see."""

    async def before(self, *, trusted: str = "127.0.0.1") -> Daemon:
        """Start a daemon with an open dataset and one for a group."""
        service = ocpserver.Service(em(), 2, **SMALL)
        extra = "[dataset kat]\n[dataset katzen]\nallow = cats, dogs\n"
        options: dict[str, Any] = {"server_auth_header": "X-Groups", "server_trusted_proxies": trusted}
        self.config = self.configure(self.serve(service), **options)
        # Without [upstream], tokens that have no section are not served.
        before, _, upstream = self.config.read_text().partition("[upstream]\n")
        sections = extra.replace("[dataset kat]\n", f"[dataset kat]\n{upstream}")
        self.config.write_text(before + sections.replace("[dataset katzen]\n", f"[dataset katzen]\n{upstream}"))
        return await self.start(self.config)

    PATHS = (
        "katzen/3/0_0_0.png",
        "katzen/",
        "katzen/image/xz/3/0_0_0.png",
        "katzen/3/small.png",
        "precomputed/katzen/image/info",
        "zarr/katzen/image/0/0/0/0",
        "zarr3/katzen/image/0/c/0/0/0",
        "neuroglancer/katzen/state",
        "view/katzen/",
        "view/katzen/catmaid",
    )

    async def test_groups(self) -> None:
        """Who is in none of its groups gets 403; who is gets what no shared cache keeps, on the hot path too."""
        daemon = await self.before()
        for path in self.PATHS:
            for named in ({}, {"X_Groups": "mice"}, {"X_Groups": "cat"}):
                code, body, headers = await daemon.get(path, **named)
                self.assertEqual((code, headers["cache-control"]), (403, "private, no-store"), path)
                self.assertEqual(body.startswith(b"\x89PNG"), path.endswith(".png"), path)
            for groups in ("mice,cats", "dogs", "mice; dogs"):
                for _ in range(3):  # from the third time on, tiles and chunks come by the hot path
                    code, _, headers = await daemon.get(path, X_Groups=groups)
                    self.assertEqual(code, 200, path)
                    self.assertTrue(headers["cache-control"].startswith("private, "), (path, headers))
            self.assertEqual((await daemon.get(path))[0], 403, path)
        code, _, headers = await daemon.get("kat/3/0_0_0.png")
        self.assertEqual((code, headers["cache-control"][:7]), (200, "public,"))

    async def test_lists(self) -> None:
        """Lists have only what their reader may see."""
        daemon = await self.before()
        await daemon.get("katzen/3/0_0_0.png", X_Groups="cats")
        await daemon.rest()
        for path in ("", "projects/", "projects/export", "status.json"):
            self.assertNotIn(b"katzen", (await daemon.get(path))[1], path)
            _, body, headers = await daemon.get(path, X_Groups="cats")
            self.assertIn(b"katzen", body, path)
            self.assertIn("private", headers["cache-control"], path)
        (project,) = [
            one for one in json.loads((await daemon.get("projects/", X_Groups="cats"))[1]) if "katzen" in one["title"]
        ]
        self.assertEqual((await daemon.get(f"{project['id']}/stacks"))[0], 404)
        self.assertEqual((await daemon.get(f"{project['id']}/stacks", X_Groups="cats"))[0], 200)

    async def test_reload(self) -> None:
        """Groups that are added, changed and removed count from the next request on; what is gone is hidden."""
        daemon = await self.before()
        path = "katzen/3/0_0_0.png"
        await daemon.get(path, X_Groups="cats")
        await daemon.rest()
        text = self.config.read_text()
        for line, anybody, cats, mice in (
            ("allow = mice", 403, 403, 200),
            ("", 200, 200, 200),
            ("allow = cats", 403, 200, 403),
        ):
            self.config.write_text(text.replace("allow = cats, dogs", line))
            await self.reloaded(daemon)
            for _ in range(2):
                codes = [
                    (await daemon.get(path, **named))[0] for named in ({}, {"X_Groups": "cats"}, {"X_Groups": "mice"})
                ]
                self.assertEqual(codes, [anybody, cats, mice], line)
        self.config.write_text(text.partition("[dataset katzen]")[0])
        await self.reloaded(daemon)
        self.assertNotIn(b"katzen", (await daemon.get("status.json", X_Groups="cats"))[1])

    async def reloaded(self, daemon: Daemon) -> None:
        """Let the daemon read its configuration again."""
        count = daemon.log.count("was read again")
        os.kill(daemon.pid, signal.SIGHUP)
        while daemon.log.count("was read again") == count:
            await pause(0.02)

    async def test_untrusted(self) -> None:
        """A header that no trusted front has sent opens nothing."""
        daemon = await self.before(trusted="192.0.2.1")
        for path in self.PATHS:
            self.assertEqual((await daemon.get(path, X_Groups="cats"))[0], 403, path)


class TextTests(SynchronousTestCase):
    """What comes from outside is text in a page, whatever it contains."""

    def test_hostile(self) -> None:
        """Markup in names, reasons and documents is shown, and not obeyed."""
        frame = PageFrame("", "0")
        card = DatasetCard(HOSTILE, DatasetState(DatasetHealth.FAILING, HOSTILE), None)
        content = [
            *HomePage(frame, HOSTILE, neuroglancer=True).content([card]),
            layout.data_block("volume", {"x": HOSTILE}),
        ]
        reply = self.successResultOf(Deferred.fromCoroutine(layout.page(frame, HOSTILE, content)))
        page = bytes(reply.body)
        links = read(page)
        self.assertNotIn("img", [tag for tag, _ in links.elements])
        self.assertFalse([a for _, a in links.elements if any(name.startswith("on") for name in a)])
        self.assertEqual(data_block(page, "volume"), {"x": HOSTILE})

    def test_sizes(self) -> None:
        """Sizes are rounded, and have units."""
        self.assertEqual(
            [datasets.sized(n) for n in (0, 1023, 1536, 2**40, 2**62)],
            ["0 bytes", "1,023 bytes", "1.5 KiB", "1 TiB", "4,096 PiB"],
        )
        level = Level((1000, 1000, 100), (0, 0, 0), (64, 64, 16), (Fraction(4), Fraction(4), Fraction(40)))
        dataset = Dataset("a", {0: level}, (Channel("x", "image", "uint16"),))
        self.assertEqual(datasets.in_voxels(dataset), "1,000 × 1,000 × 100")
        self.assertEqual(datasets.in_bytes(dataset), "191 MiB")
        self.assertEqual(datasets.in_nanometres(dataset), "4 × 4 × 40 nm a voxel, 4 × 4 × 4 µm")
