"""Several processes on one socket, as their users have them: real processes, and kill -9."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.utils import getProcessOutputAndValue
from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent, HTTPConnectionPool

from ocpproxy import config
from ocpproxy.config import BadConfiguration
from ocpproxy.daemon.gateway import _share
from ocpproxy.daemon.link import GetMetrics
from ocpproxy.daemon.scraping import add_dead, merge_metrics
from ocpproxy.metrics import Metrics
from ocpproxy.upstream.registry import KINDS
from tests import ocpserver
from tests.daemons import Daemon, DaemonCase, DaemonLife, now, pause
from tests.databases import OnDatabase, OnMariaDB, OnSQLite
from tests.mixins import DaemonMixin
from tests.pictures import pixels
from tests.volumes import em, expected_tile


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


class WorkerTests(OnDatabase, DaemonMixin):
    """What several workers do, on either database."""

    async def start_workers(self, service: ocpserver.Service, workers: str = "2", **options: str) -> Daemon:
        """Start a daemon with workers, and return it when all of them are ready."""
        self.index = self.index_url()
        self.config = self.configure(self.serve(service), self.index, server_workers=workers, **options)
        daemon: Daemon = await self.start(self.config)
        await self.ready(daemon, int(workers))
        return daemon

    async def ready(self, daemon: Daemon, workers: int) -> None:
        """Wait until so many workers have reported that they take requests, and that they have the index."""
        for line in (r"worker \d is ready", "the index database is available"):
            while len(re.findall(line, daemon.log)) < workers:
                await pause(0.02)

    async def request_from_all(self, daemon: Daemon, path: str, count: int) -> None:
        """Request a tile on so many new connections at once, and check each answer."""
        fresh = HTTPClient(Agent(reactor, pool=HTTPConnectionPool(reactor, persistent=False)))
        separate = Daemon(daemon.pid, DaemonLife(), fresh.request, daemon.url)
        answers = await gatherResults([Deferred.fromCoroutine(separate.get(path)) for _ in range(count)])
        for code, body, _ in answers:
            self.assertEqual(code, 200)
            self.assertTrue((pixels(body) == expected_tile(em(), 0, 2, 0, 0)).all())

    async def test_one_gateway(self) -> None:
        """The workers share the cache, fetch a cuboid once, and report what all count in one document.

        A killed one comes back, nobody else notices, and what it counted is not lost.
        """
        service = ocpserver.Service(em(), 2, delay=0.3)
        daemon = await self.start_workers(service)
        await self.request_from_all(daemon, "kat/3/0_0_0.png", 24)
        self.assertEqual((service.asked["cutout"], service.asked["info"] <= 2), (1, True))
        await daemon.rest()
        self.assertEqual(await daemon.metric("ocpproxy_tiles_total"), 24)
        self.assertEqual(await daemon.metric("ocpproxy_cache_tiles "), 16)
        fresh = HTTPClient(Agent(reactor, pool=HTTPConnectionPool(reactor, persistent=False)))
        for _ in range(12):  # by any of the workers
            (slow,) = (await (await fresh.get(f"{daemon.url}/status.json")).json())["tables"]["slowest"]
            self.assertEqual((slow["token"], slow["outcome"]), ("kat", "fetched"))
        workers = children(daemon.pid)
        self.assertEqual(len(workers), 2)
        os.kill(workers[0], signal.SIGKILL)
        await self.request_from_survivors(daemon, "kat/3/0_0_0.png", 24)
        await self.ready(daemon, 3)
        self.assertEqual((len(children(daemon.pid)), workers[1] in children(daemon.pid)), (2, True))
        counted = await daemon.metric("ocpproxy_tiles_total")
        self.assertGreaterEqual(counted, 24 + 12)
        await self.request_from_all(daemon, "kat/3/0_0_0.png", 24)
        self.assertEqual(await daemon.metric("ocpproxy_tiles_total"), counted + 24)
        self.assertEqual(service.asked["cutout"], 1)
        self.assertEqual(await daemon.stop(), 0)
        self.assertFalse(any(map(lives, workers)))
        self.assertNotIn("Traceback", daemon.log)

    async def request_from_survivors(self, daemon: Daemon, path: str, count: int) -> None:
        """Request a tile again and again while a worker is killed; only a connection to that one may fail."""
        for _ in range(count):
            while True:
                try:
                    code, _, _ = await daemon.get(path)
                except Exception:  # the connection of the dead
                    continue
                self.assertEqual(code, 200)
                break

    async def test_term(self) -> None:
        """TERM while a tile is being fetched: it is answered, and no process is left."""
        service = ocpserver.Service(em(), 2, delay=0.7)
        daemon = await self.start_workers(service)
        await daemon.get("kat/")
        workers = children(daemon.pid)
        answer = Deferred.fromCoroutine(daemon.get("kat/3/0_0_0.png"))
        while not service.asked["cutout"]:
            await pause(0.01)
        os.kill(daemon.pid, signal.SIGTERM)
        code, body, _ = await answer
        self.assertEqual(code, 200)
        self.assertTrue((pixels(body) == expected_tile(em(), 0, 2, 0, 0)).all())
        self.assertEqual(await daemon.stop(), 0)
        self.assertFalse(any(map(lives, workers)))
        self.assertEqual(list((self.place / "cache" / "journal").iterdir()), [])

    async def test_orphans(self) -> None:
        """Workers whose parent was killed end by themselves, and leave nothing behind."""
        daemon = await self.start_workers(ocpserver.Service(em(), 2))
        await daemon.get("kat/3/0_0_0.png")
        workers = children(daemon.pid)
        await daemon.stop(signal.SIGKILL)
        deadline = now() + 300
        while any(map(lives, workers)):
            self.assertLess(now(), deadline)
            await pause(0.05)
        self.assertEqual(list((self.place / "cache" / "journal").iterdir()), [])


class SQLiteWorkerTests(OnSQLite, WorkerTests, DaemonCase):
    """The same with SQLite."""


class MariaDBWorkerTests(OnMariaDB, WorkerTests, DaemonCase):
    """The same with MariaDB."""


class WorkerCommandTests(DaemonCase):
    """How workers are started."""

    async def test_back_off(self) -> None:
        """Workers that die at once are started again with growing pauses, and not in a loop."""
        config_ = self.configure(self.serve(ocpserver.Service(em(), 2)), server_workers="2")
        daemon = await self.start(config_)
        (self.place / "cache" / "journal").rename(self.place / "cache" / "elsewhere")
        (self.place / "cache" / "journal").write_text("no directory")
        for pid in children(daemon.pid):
            os.kill(pid, signal.SIGKILL)
        began = now()
        while daemon.log.count("has died after") < 8:
            await pause(0.05)
        self.assertGreater(now() - began, 0.1 + 0.2 + 0.4)
        for pause_ in ("in 0.1 s", "in 0.2 s", "in 0.4 s", "in 0.8 s"):
            self.assertIn(pause_, daemon.log)
        self.assertEqual(await daemon.stop(), 0)

    async def test_daemonised(self) -> None:
        """A daemon in the background has its workers' messages in its log."""
        taken = socket.socket()
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.close()
        config_ = self.configure(
            self.serve(ocpserver.Service(em(), 2)),
            server_listen=f"tcp:{port}:interface=127.0.0.1",
            server_workers="2",
        )
        twistd = str(Path(sys.executable).parent / "twistd")
        arguments = ["--pidfile=d.pid", "--logfile=d.log", "ocpproxy", "--config", str(config_)]
        _, err, code = await getProcessOutputAndValue(twistd, arguments, {**os.environ}, str(self.place))
        self.assertEqual(code, 0, err)
        log, pid = self.place / "d.log", int((self.place / "d.pid").read_text())
        self.addCleanup(lambda: os.kill(pid, signal.SIGKILL) if lives(pid) else None)
        while "worker 1 is ready" not in log.read_text():
            await pause(0.05)
        daemon = Daemon(pid, DaemonLife(), self.client.request, f"http://127.0.0.1:{port}")
        code, _, _ = await daemon.get("kat/3/0_0_0.png")
        self.assertEqual(code, 200)
        while "GET /kat/3/0_0_0.png HTTP/1.1" not in log.read_text():
            await pause(0.05)
        os.kill(pid, signal.SIGTERM)
        while (self.place / "d.pid").exists():
            await pause(0.02)
        self.assertIn("Server Shut Down", log.read_text())
        self.assertNotIn("Traceback", log.read_text())

    async def test_socket_activation(self) -> None:
        """The socket comes from systemd: connections that came before the workers are answered."""
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        self.addCleanup(listening.close)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        service = ocpserver.Service(em(), 2)
        config_ = self.configure(
            self.serve(service), server_listen="systemd:domain=INET:name=ocpproxy", server_workers="2"
        )
        life = DaemonLife()
        early = Deferred.fromCoroutine(Daemon(0, life, self.client.request, url).get("kat/3/0_0_0.png"))
        shell = 'LISTEN_PID=$$ exec "$0" "$@"'
        twistd = str(Path(sys.executable).parent / "twistd")
        command = ["sh", "-c", shell, twistd, "-n", "--pidfile=", "ocpproxy", "--config", str(config_)]
        process = reactor.spawnProcess(
            life,
            "/bin/sh",
            command,
            env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "ocpproxy"},
            path=str(self.place),
            childFDs={0: "w", 1: "r", 2: "r", 3: listening.fileno()},
        )
        daemon = Daemon(int(process.pid or 0), life, self.client.request, url)
        code, body, _ = await early
        self.assertEqual(code, 200, life.log)
        self.assertTrue((pixels(body) == expected_tile(em(), 0, 2, 0, 0)).all())
        await life.ready
        self.assertEqual(await daemon.stop(), 0)

    async def test_cannot_store(self) -> None:
        """A cache directory that cannot be used keeps the daemon from starting, with workers as without."""
        (self.place / "cache").write_text("no directory")
        for workers in ("1", "2"):
            config_ = self.configure("http://127.0.0.1:9", server_workers=workers)
            twistd = str(Path(sys.executable).parent / "twistd")
            _, _, code = await getProcessOutputAndValue(
                twistd, ["-n", "--pidfile=", "ocpproxy", "--config", str(config_)], {**os.environ}, str(self.place)
            )
            self.assertNotEqual(code, 0)


class SharingTests(SynchronousTestCase):
    """What is divided, and what is added up."""

    def test_share(self) -> None:
        """Memory, voxels and connections of the whole are divided among the workers."""
        text = "[server]\nworkers = 3\n[cache]\nmemory = 300\nvoxels = 30\n[dataset a]\nconnections = 2\n"
        settings = config.parse(text, Path("/nowhere"), {}, KINDS)
        share = _share(settings, settings.server.workers)
        self.assertEqual((share.cache.memory, share.cache.voxels), (100 * 2**20, 10 * 2**20))
        self.assertEqual((share.upstream.connections, share.datasets["a"].upstream.connections), (2, 1))
        self.assertIs(_share(settings, 1), settings)

    def test_sockets_that_can_be_shared(self) -> None:
        """Workers are refused where sockets cannot be shared, and numbers that make no sense."""
        for text, expected in (
            ("[server]\nworkers = 2\nlisten = unix:/run/x.sock\n", "which several workers can share"),
            ("[server]\nworkers = 2\nlisten = ssl:443:privateKey=a\n", "which several workers can share"),
            ("[server]\nworkers = 0\n", "a whole number from 1 to 256"),
            ("[server]\nworkers = many\n", "auto, for one a core"),
        ):
            error = self.assertRaises(BadConfiguration, config.parse, text, Path("/nowhere"), {}, KINDS)
            self.assertIn(expected, str(error))
        self.assertEqual(
            config.parse("[server]\nworkers = auto\n", Path("/"), {}, KINDS).server.workers, os.cpu_count()
        )
        config.parse("[server]\nlisten = unix:/run/x.sock\n", Path("/nowhere"), {}, KINDS)

    @given(st.binary(max_size=200), st.integers(0, 3))
    def test_long_answers(self, text: bytes, times: int) -> None:
        """A text of any length comes through the link to the parent."""
        whole = text + random.Random(7).randbytes(65_000 * times)
        box = GetMetrics.makeResponse({"text": whole}, None)
        self.assertEqual(GetMetrics.parseResponse(amp.parseString(box.serialize())[0], None), {"text": whole})

    def test_metrics(self) -> None:
        """Counts are added up, the dead's too; of what is shared the newest counts; the worst lag is the lag."""
        one, two, dead = Metrics(), Metrics(), Metrics()
        for metrics, hits in ((one, 3), (two, 4), (dead, 5)):
            for n in range(hits):
                metrics.tiles.observe("hit_memory", n / 1000)
            metrics.upstream_seconds.labels("cutout").observe(hits)
            metrics.cache_tiles.set(100 * hits)
            metrics.index_up.set(hits == 3)
            metrics.waiters.set(hits)
            metrics.breaker.labels("kat", "1").set(min(2, hits - 2))
            metrics.loop_lag.observe(hits / 10)
        two.upstream_requests.labels('odd "kind"\n', "ok").inc()
        counts = add_dead(add_dead(b"", dead.text()), b"")
        text = merge_metrics([one.text(), two.text()], counts).decode()
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        self.assertEqual(found["ocpproxy_tiles_total", "hit_memory"], 12)
        buckets = [found["ocpproxy_tile_seconds_bucket", bound, "hit_memory"] for bound in ("5e-05", "0.001", "+Inf")]
        self.assertEqual(buckets, [3, 6, 12])
        self.assertEqual(found["ocpproxy_upstream_breaker", "kat", "1"], 2)
        self.assertEqual(found["ocpproxy_upstream_seconds_count", "cutout"], 3)
        self.assertEqual(found["ocpproxy_upstream_seconds_bucket", "cutout", "+Inf"], 3)
        self.assertEqual(found["ocpproxy_upstream_requests_total", 'odd "kind"\n', "ok"], 1)
        self.assertEqual(found["ocpproxy_cache_tiles",], 400)
        self.assertEqual(found["ocpproxy_index_up",], 0)
        self.assertEqual(found["ocpproxy_waiters",], 7)
        self.assertEqual(found["ocpproxy_event_loop_lag_seconds", "0.99"], 0.4)
        self.assertEqual(found["ocpproxy_event_loop_lag_seconds_count",], 3)
        for line in ("# TYPE ocpproxy_tiles_total counter", "# TYPE ocpproxy_cache_tiles gauge"):
            self.assertEqual(text.count(line), 1)
