"""Answers of a whole gateway: the resource tree and the hot path in front of a cache and a double of an upstream."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, ClassVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from ocpproxy import config
from ocpproxy.daemon import gateway as gateway_module
from ocpproxy.daemon.services import ListeningPorts
from ocpproxy.metrics import Metrics
from ocpproxy.store import rows
from ocpproxy.upstream.registry import KINDS
from tests import ocpserver
from tests.daemons import DaemonCase, pause
from tests.memory import MemoryGatewayCase
from tests.pictures import pixels
from tests.volumes import em, expected_tile, shared


class AnswerTests(MemoryGatewayCase):
    """contract.md, line by line, in memory; `DaemonAnswerTests` has what needs a process or a connection."""

    def start_gateway(self, **options: str) -> None:
        """Start a gateway and its double."""
        self.service = ocpserver.Service(em(), 2)
        self.start(self.serve(self.service), **options)

    def test_tile(self) -> None:
        """200, image/png, strong ETag, public max-age, length, Last-Modified, CORS, Cache-Status; also as a hit."""
        self.start_gateway()
        statuses = ["fwd=miss; stored", "hit; detail=memory", "hit; detail=memory"]
        etags = set()
        for status in statuses:
            code, body, headers = self.get("kat/3/0_0_0.png?nocache=123&x=<script>")
            self.assertEqual(code, 200)
            self.assertEqual(headers["content-type"], "image/png")
            self.assertEqual(headers["cache-control"], "public, max-age=86400")
            self.assertEqual(headers["content-length"], str(len(body)))
            self.assertEqual(headers["access-control-allow-origin"], "*")
            self.assertEqual(headers["cache-status"], f"ocpproxy; {status}")
            self.assertRegex(headers["etag"], r'^"[0-9a-f-]+"$')
            self.assertRegex(headers["last-modified"], r"^\w{3}, \d\d \w{3} \d{4} .* GMT$")
            etags.add(headers["etag"])
        self.rest()
        _, body, headers = self.get("ocpcatmaid/tilecache/kat/image/xy/4/0_0_0.png")
        self.assertEqual(headers["cache-status"], "ocpproxy; hit")
        etags.add(headers["etag"])
        self.assertEqual(len(etags), 2, "the same tile has one, another has another")

    def test_conditional(self) -> None:
        """304 for lists, * and weak forms, and for If-Modified-Since; If-None-Match goes first."""
        self.start_gateway()
        _, _, headers = self.get("kat/3/0_0_0.png")
        self.rest()
        etag, modified = headers["etag"], headers["last-modified"]
        future = "Fri, 01 Jan 2100 00:00:00 GMT"
        for asked, code in (
            ({"if_none_match": etag}, 304),
            ({"if_none_match": f"W/{etag}"}, 304),
            ({"if_none_match": f'"a", {etag},"b"'}, 304),
            ({"if_none_match": "*"}, 304),
            ({"if_none_match": '"other"'}, 200),
            ({"if_none_match": '"other"', "if_modified_since": future}, 200),
            ({"if_modified_since": future}, 304),
            ({"if_modified_since": modified}, 304),
            ({"if_modified_since": "Fri, 01 Jan 1999 00:00:00 GMT"}, 200),
            ({"if_modified_since": "yesterday"}, 200),
        ):
            found, body, headers = self.get("kat/3/0_0_0.png", **asked)
            self.assertEqual((found, bool(body)), (code, code == 200), asked)
            self.assertEqual(headers["etag"], etag)
            self.assertEqual(headers["access-control-allow-origin"], "*")
            self.assertIn("max-age", headers["cache-control"])

    def test_head(self) -> None:
        """HEAD answers from what is stored, and never fetches."""
        self.start_gateway()
        code, body, headers = self.get("kat/3/0_0_0.png", "HEAD")
        self.assertEqual((code, body, headers["content-type"]), (200, b"", "image/png"))
        self.assertEqual(self.service.asked["cutout"], 0)
        _, body, got = self.get("kat/3/0_0_0.png")
        headers = self.head("kat/3/0_0_0.png")
        self.assertEqual((headers["content-length"], headers["etag"]), (str(len(body)), got["etag"]))
        for path in ("projects/export", "", "kat/", "healthz", "kat/-1/0_0_0.png"):
            code, body, headers = self.get(path, "HEAD")
            self.assertEqual((code, body), (200, b""), path)

    def test_blank(self) -> None:
        """Row, column, slice, level or time outside: a black tile with the same headers and no upstream call."""
        self.start_gateway()
        self.get("kat/")
        for path in (
            "kat/0/0_0_0",
            "kat/21/0_0_0",
            "kat/-3/0_0_0",
            "kat/3/-1_0_0",
            "kat/3/0_-1_0",
            "kat/3/2_0_0",
            "kat/3/0_2_0",
            "kat/3/0_0_3",
            "kat/3/0_0_-1",
            "kat/image/xy/7/3/0_0_0",
            "kat/999999999/0_0_99",
        ):
            code, body, headers = self.get(path + ".png")
            self.assertEqual((code, headers["cache-status"]), (200, "ocpproxy; detail=out-of-bounds"), path)
            self.assertTrue((pixels(body) == 0).all())
            for name in ("etag", "last-modified", "content-length"):
                self.assertIn(name, headers)
            self.assertIn("max-age", headers["cache-control"])
            code, _, _ = self.get(path + ".png", if_none_match=headers["etag"])
            self.assertEqual(code, 304)
        self.assertEqual((self.service.asked["cutout"], self.service.asked["info"]), (0, 1))
        self.assertEqual(self.metric('ocpproxy_tiles_total{result="blank"}'), 22)

    def test_not_found(self) -> None:
        """404, one sentence of plain text, CORS; an unknown token is requested once."""
        self.start_gateway()
        for path in (
            "nope/3/0_0_0.png",
            "kat/3/0_0_0.jpg",
            "kat/what",
            "kat/nope/xy/3/0_0_0.png",
            "kat/xq/",
            "kat/xw/3/0_0_0.png",
            "mcfc/kat/a,b/xy/3/0_0_0.png",
            "%2e%2e/%2e%2e/etc/passwd",
            "a/b/c/d/e/f",
            "kat/1234567890123/0_0_0.png",
            "projects/x",
            "kat/small.png",
            "%00/",
            "nope/",
        ):
            for _ in range(2):
                code, body, headers = self.get(path)
                self.assertEqual((code, headers["content-type"]), (404, "text/plain; charset=utf-8"), (path, body))
                self.assertEqual((body.count(b"\n"), headers["cache-control"]), (1, "no-store"))
                self.assertEqual(headers["access-control-allow-origin"], "*")
                self.assertIn("cache-status", headers)
        self.assertEqual(self.service.asked["cutout"], 0)
        self.assertEqual(self.metric('ocpproxy_upstream_requests_total{kind="info",outcome="unknown"}'), 1)

    def test_methods(self) -> None:
        """OPTIONS states what may be done from another origin; others are refused with Allow."""
        self.start_gateway()
        code, body, headers = self.get("kat/3/0_0_0.png", "OPTIONS", origin="http://catmaid")
        self.assertEqual((code, body), (204, b""))
        self.assertIn("Authorization", headers["access-control-allow-headers"])
        for method in ("POST", "PUT", "DELETE", "PATCH", "NONSENSE"):
            for path in ("kat/3/0_0_0.png", "", "healthz"):
                code, _, headers = self.get(path, method)
                self.assertEqual((code, headers["allow"]), (405, "GET, HEAD, OPTIONS"), (method, path))
                self.assertEqual(headers["access-control-allow-origin"], "*")

    def test_error_text(self) -> None:
        """error_body = text: the same status, in words."""
        self.start_gateway(server_error_body="text")
        self.get("kat/")
        self.service.mode = "error500"
        code, body, headers = self.get("kat/3/0_0_0.png")
        self.assertEqual((code, headers["content-type"]), (503, "text/plain; charset=utf-8"))
        self.assertEqual((headers["cache-control"], headers["retry-after"]), ("no-store", "1"))
        self.assertNotIn(b"Traceback", body)
        self.service.mode = "refused"
        code, body, _ = self.get("kat/3/0_1_0.png")
        self.assertEqual(code, 403)

    def test_pages(self) -> None:
        """The index, a token's document, the export, health, metrics: each with CORS, none with a path or password."""
        self.start_gateway()
        self.get("kat/3/0_0_0.png")
        for path, kind, content in (
            ("", "text/html", "/kat/"),
            ("kat/", "application/json", '"image_bases"'),
            ("kat", "application/json", '"image_bases"'),
            ("kat/image/xy/", "application/json", '"image_bases"'),
            ("ocpcatmaid/kat/xy/", "application/json", '"image_bases"'),
            ("healthz", "text/plain", "alive"),
            ("readyz", "text/plain", "ready"),
            ("metrics", "text/plain", "ocpproxy_event_loop_lag_seconds"),
            ("projects/export", "application/json", "ocpcatmaid/kat/image/xy/"),
        ):
            code, body, headers = self.get(path)
            self.assertEqual((code, headers["content-type"].partition(";")[0]), (200, kind), path)
            self.assertIn(content, body.decode())
            self.assertNotIn(str(self.place), body.decode())
            self.assertEqual(headers["access-control-allow-origin"], "*")
            self.assertIn("cache-status", headers)
        _, body, _ = self.get("kat/")
        base, *others = json.loads(body)["image_bases"]
        self.assertEqual([one.split("/")[-2] for one in (base, *others)], ["xy", "xz", "yz", "zy"])
        code, body, _ = self.get(base.removeprefix("http://gateway/") + "3/0_0_0.png")
        self.assertTrue((pixels(body) == expected_tile(em(), 0, 2, 0, 0)).all(), "the base in the document works")

    def test_metrics(self) -> None:
        """The names that dashboards rely on."""
        self.start_gateway()
        self.get("kat/3/0_0_0.png")
        self.rest()
        _, body, _ = self.get("metrics")
        for name in (
            *(f'ocpproxy_tiles_total{{result="{r}"}}' for r in ("hit_memory", "hit_disk", "miss", "blank", "error")),
            'ocpproxy_upstream_requests_total{kind="cutout",outcome="ok"} 1.0',
            "ocpproxy_upstream_seconds_bucket",
            "ocpproxy_cache_tiles 16.0",
            "ocpproxy_cache_bytes",
            "ocpproxy_reclaimed_tiles_total",
            "ocpproxy_waiters 0.0",
            'ocpproxy_event_loop_lag_seconds{quantile="0.99"}',
        ):
            self.assertIn("\n" + name, body.decode())

    def test_export_is_what_catmaid_reads(self) -> None:
        """The keys and types of CATMAID's importer, as in a document that its own classes have read."""
        self.start_gateway()
        self.get("kat/")
        _, body, headers = self.get("projects/export", host="gw.example:8080")
        self.assertIn("json", headers["content-type"])
        (project,) = json.loads(body)
        stack, *others = project["project"]["stacks"]
        z, y, x = em().shape
        for other, orientation, dimension in zip(others, (1, 2), ((x, 10 * z, y), (10 * z, y, x)), strict=True):
            self.assertEqual((other["orientation"], other["dimension"]), (orientation, str(dimension)))
            self.assertEqual(other["downsample_factors"], ["(1, 1, 1)", "(2, 2, 2)", "(4, 4, 4)"])
            self.assertEqual(other["resolution"], "(1, 1, 1)")
        self.assertEqual(stack["dimension"], f"({x}, {y}, {z + 1})")
        self.assertEqual(stack["downsample_factors"], ["(1, 1, 1)", "(2, 2, 1)", "(4, 4, 1)"])
        self.assertEqual(stack["mirrors"][0]["url"], "http://gw.example:8080/ocpcatmaid/kat/image/xy/")
        path = shared("fixtures", "catmaid-import-example.json")
        if path is not None:
            (example,) = json.loads(path.read_text())
            theirs = example["project"]["stacks"][0]
            self.assertEqual(stack.keys(), theirs.keys())
            self.assertEqual(stack["mirrors"][0].keys(), theirs["mirrors"][0].keys())
            for key, value in theirs.items():
                self.assertIs(type(stack[key]), type(value), key)

    def test_readiness(self) -> None:
        """A cache directory that cannot be written makes it not ready; tiles are still fetched and answered."""
        self.start_gateway(cache_memory="0")
        self.assertEqual((self.get("readyz"))[0], 200)
        tiles = self.place / "cache" / "tiles"
        tiles.rmdir()
        tiles.write_bytes(b"in the way")
        code, body, _ = self.get("readyz")
        self.assertEqual(code, 503)
        self.assertNotIn(str(self.place).encode(), body)
        code, body, _ = self.get("kat/3/0_0_0.png")
        self.assertEqual(code, 200)
        tiles.unlink()
        code, _, _ = self.get("readyz")
        self.assertEqual(code, 200)


class DaemonAnswerTests(DaemonCase):
    """The rest of contract.md, through the daemon.

    An ETag has to be the same in another process, the access log is what the process writes, and a viewer leaves by
    closing a real connection.
    """

    async def start_gateway(self, **options: Any) -> None:
        """Start a daemon and its double."""
        self.service = ocpserver.Service(em(), 2)
        self.daemon = await self.start(self.configure(self.serve(self.service), **options))

    async def test_etag_after_restart(self) -> None:
        """A restart does not change the ETag of a tile."""
        await self.start_gateway()
        _, _, before = await self.daemon.get("kat/3/0_0_0.png")
        await self.daemon.rest()
        await self.daemon.stop()
        self.daemon = await self.start(self.place / "ocp.ini")
        _, _, after = await self.daemon.get("kat/3/0_0_0.png")
        self.assertEqual(after["etag"], before["etag"])

    async def test_access_log(self) -> None:
        """The access log is on by default, with fields, and can be turned off."""
        await self.start_gateway()
        await self.daemon.get("kat/3/0_0_0.png")
        await self.daemon.get("healthz")
        await self.daemon.stop()
        self.assertIn('"GET /kat/3/0_0_0.png HTTP/1.1" 200', self.daemon.log)
        await self.start_gateway(server_access_log="off")
        await self.daemon.get("kat/3/0_0_0.png")
        await self.daemon.stop()
        self.assertNotIn("GET /kat", self.daemon.log)

    async def test_client_leaves(self) -> None:
        """A viewer that leaves disturbs nobody: the other one gets the tile, and the fetch is one."""
        await self.start_gateway()
        self.service.delay = 1.0
        await self.daemon.get("kat/")
        leaving = self.client.get(f"{self.daemon.url}/kat/3/0_0_0.png")
        leaving.addErrback(lambda _: None)
        staying = Deferred.fromCoroutine(self.daemon.get("kat/3/0_0_0.png"))
        while await self.daemon.metric("ocpproxy_waiters") < 2:
            await pause(0.01)
        leaving.cancel()
        _, body, _ = await staying
        self.assertTrue((pixels(body) == expected_tile(em(), 0, 2, 0, 0)).all())
        self.assertEqual(self.service.asked["cutout"], 1)
        alone = self.client.get(f"{self.daemon.url}/kat/3/0_1_0.png")
        alone.addErrback(lambda _: None)
        while self.service.asked["cutout"] < 2:
            await pause(0.01)
        alone.cancel()
        while self.service.open_now or await self.daemon.metric("ocpproxy_flights"):
            await pause(0.01)
        self.assertNotIn("Traceback", self.daemon.log)


class HitTests(DaemonCase):
    """What a hit costs, on the real adbapi, in this process."""

    opened: ClassVar[list[str] | None] = None

    async def test_one_open_and_no_sql(self) -> None:
        """A hit from disk is one open and no interaction; one from memory is neither."""
        service_ = ocpserver.Service(em(), 2)
        path = self.configure(self.serve(service_), cache_memory="0")
        for memory, opens in (("0", 1), ("64", 0)):
            text = path.read_text().replace("memory = 0", f"memory = {memory}")
            gateway = gateway_module.make_gateway(config.parse(text, self.place, os.environ, KINDS), reactor, Metrics())
            gateway.services.privilegedStartService()
            gateway.services.startService()
            try:
                await self.count(gateway, opens)
            finally:
                await gateway.services.stopService()
                gateway.storage.database.close()

    async def count(self, gateway: gateway_module.Gateway, opens: int) -> None:
        """Count opens and interactions of a hit."""
        listening = next(part for part in gateway.services if isinstance(part, ListeningPorts))
        port = listening.ports[0].getHost().port  # type: ignore[attr-defined]
        database: Any = gateway.storage.database
        url = f"http://127.0.0.1:{port}/kat/3/0_0_0.png"
        await (await self.client.get(url)).content()
        while len(gateway.fetches) or len(gateway.storage.store.pending):
            await pause(0.01)
        await (await self.client.get(url)).content()
        asked: list[Any] = []
        run = database._run

        def counted(*args: Any) -> Any:
            if args[3] is not rows.record_uses:  # every two seconds, for all hits together
                asked.append(args[3])
            return run(*args)

        database._run = counted
        before = -1
        while before != len(asked):  # the sweep of the start has to end first
            before = len(asked)
            await pause(0.3)
        asked.clear()
        HitTests.opened = []
        if not getattr(HitTests, "hooked", False):
            sys.addaudithook(_note_open)
            HitTests.hooked = True  # type: ignore[attr-defined]
        for _ in range(5):
            response = await self.client.get(url)
            self.assertEqual(len(await response.content()) > 1000, True)
        opened, HitTests.opened = HitTests.opened, None
        mine = [name for name in opened if str(self.place) in name]
        self.assertEqual(([Path(name).name for name in mine], asked), (["3.png"] * 5 * opens, []))
        del database._run


def _note_open(event: str, args: tuple[object, ...]) -> None:
    if event == "open" and HitTests.opened is not None:
        HitTests.opened.append(str(args[0]))
