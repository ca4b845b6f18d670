"""The files for Prometheus and Grafana, tried with the real Prometheus."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import treq
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from ocpproxy.metrics import Metrics
from tests.daemons import ROOT, DaemonLife, pause
from tests.prefetching import PrefetchCase

ALERTS = ROOT / "etc" / "prometheus-alerts.yml"
ALERT_TESTS = ROOT / "etc" / "prometheus-alerts.test.yml"
RARE = ("ocpproxy_mended_total", "ocpproxy_failed_turns_total")
"""Metrics without samples as long as nothing goes wrong."""
DASHBOARD = ROOT / "etc" / "grafana-dashboard.json"


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str) -> str:
    """Return the path of a program of Prometheus, or skip the test."""
    found = shutil.which(name)
    if found is None:
        raise SkipTest(f"{name} is not installed")
    return found


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard that show something."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def queries() -> Iterator[str]:
    """Yield the queries of the dashboard, with its variables replaced."""
    for panel in panels():
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "10s")
            yield query.replace("$job", "ocpproxy").replace("$instance", ".*")


def alerts() -> list[str]:
    """Return the names of the alerts."""
    return re.findall(r"- alert: (\w+)", ALERTS.read_text())


def known_samples() -> set[str]:
    """Return the names of all samples that a gateway may report."""
    metrics = Metrics()
    metrics.upstream_requests.labels("cutout", "ok").inc()
    metrics.upstream_seconds.labels("cutout").observe(1)
    metrics.breaker.labels("kat", "1").set(0)
    metrics.mended.labels("torn tile").inc()
    metrics.failed_passes.labels("evict").inc()
    families = text_string_to_metric_families(metrics.text().decode())
    return {sample.name for family in families for sample in family.samples}


class FileTests(SynchronousTestCase):
    """What can be seen without Prometheus."""

    def test_metrics_exist(self) -> None:
        """Every metric in a query is reported by the gateway, and every one that it reports is in a query."""
        asked = set(re.findall(r"\bocpproxy_\w+", " ".join([*queries(), ALERTS.read_text()])))
        known = known_samples()
        self.assertEqual(sorted(asked - known), [])
        families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in known if not name.endswith("_created")}
        shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked}
        self.assertEqual(sorted(families - shown), [])

    def test_dashboard(self) -> None:
        """The panels have ids and places of their own, and their variables are defined."""
        document = json.loads(DASHBOARD.read_text())
        ids = [panel["id"] for panel in document["panels"]]
        self.assertEqual(len(ids), len(set(ids)))
        taken: set[tuple[int, int]] = set()
        for panel in document["panels"]:
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            self.assertFalse(taken & cells, panel["title"])
            self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
            taken |= cells
        names = {variable["name"] for variable in document["templating"]["list"]}
        used = set(re.findall(r"\$\{?([a-z]+)\b", json.dumps(document["panels"])))
        self.assertEqual(used, names)

    def test_explained(self) -> None:
        """The manual explains every alert; each alert has two tests."""
        manual, tried = (ROOT / "docs" / "monitoring.md").read_text(), ALERT_TESTS.read_text()
        for name in alerts():
            self.assertIn(f"\n### {name}\n", manual)
            for what in ("fires", "is silent"):
                self.assertIn(f"- name: {name} {what}\n", tried)


class RuleTests(TestCase):
    """promtool."""

    async def test_rules(self) -> None:
        """The rules are clean, and each alert fires when it should and only then."""
        for words in (("check", "rules", ALERTS.name), ("test", "rules", ALERT_TESTS.name)):
            out, err, code = await getProcessOutputAndValue(
                program("promtool"), words, os.environ, str(ALERTS.parent), reactor
            )
            self.assertEqual(code, 0, out + err)
            self.assertIn(b"SUCCESS", out + err)


class PrometheusTests(PrefetchCase):
    """A real Prometheus that scrapes a real daemon."""

    async def test_queries(self) -> None:
        """Every query is answered, and those of the dashboard have values, when everything has happened once."""
        daemon = await self.begin(server_placeholder="none", server_error_body="text")
        await daemon.get("kat/")
        port = free_port()
        place = self.place / "prometheus"
        place.mkdir()
        (place / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
            f"rule_files: ['{ALERTS}']\n"
            "scrape_configs:\n  - job_name: ocpproxy\n"
            f"    static_configs: [{{targets: ['{daemon.url.removeprefix('http://')}']}}]\n"
        )
        self.run_prometheus(place, port)
        address = f"http://127.0.0.1:{port}/api/v1"
        missing = {query for query in queries() if not any(rare in query for rare in RARE)}
        self.service.bad = frozenset({"/0,512/0,512/48,64/"})
        began, n = time.monotonic(), 0
        while missing and time.monotonic() < began + 40:
            for path in (f"kat/{n % 32}/0_0_0.png", "kat/60/0_0_0.png", "kat/999/0_0_0.png"):
                await daemon.get(path)
            n += 5
            await pause(0.5)
            for query in list(missing):
                try:
                    response = await self.client.get(f"{address}/query?query={quote(query, safe='')}")
                    found = json.loads(await treq.content(response))
                except Exception:  # it is not up yet
                    break
                self.assertEqual(found["status"], "success", query)
                if found["data"]["result"]:
                    missing.discard(query)
        self.assertEqual(sorted(missing), [])
        found = json.loads(await treq.content(await self.client.get(f"{address}/rules")))
        health = {rule["name"]: rule["health"] for group in found["data"]["groups"] for rule in group["rules"]}
        self.assertEqual(set(health.values()) - {"ok", "unknown"}, set(), health)
        self.assertEqual(len(health), len(alerts()))

    def run_prometheus(self, place: Path, port: int) -> None:
        """Start Prometheus, and end it with the test."""
        command = [
            program("prometheus"),
            f"--config.file={place}/prometheus.yml",
            f"--storage.tsdb.path={place}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        life = DaemonLife()
        process = reactor.spawnProcess(life, command[0], command, {**os.environ}, str(place))
        life.ready.addErrback(lambda _: None)

        async def end() -> None:
            process.signalProcess("KILL")
            await life.ended

        self.addCleanup(lambda: Deferred.fromCoroutine(end()))
