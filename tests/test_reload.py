"""The configuration, read again while the daemon serves."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy import config
from ocpproxy.daemon.reloading import Reloaded
from ocpproxy.upstream.registry import KINDS
from tests import ocpserver
from tests.daemons import pause
from tests.hot_gateway import without_date
from tests.prefetching import SLABS, PickyService, PrefetchCase
from tests.volumes import em

REQUEST = b"GET /kat/3/0_0_0.png HTTP/1.1\r\nHost: x\r\n\r\n"


class DifferenceTests(SynchronousTestCase):
    """What differs between two files."""

    def test_named(self) -> None:
        """New, changed and gone datasets, the upstream of others, and options that need a restart are named."""
        datasets = "[dataset a]\n[dataset b]\n[dataset c]\n"
        old = f"[server]\nmax_age = 1\n[cache]\nsize = 5\n[upstream]\nurl = http://a/ocp\n{datasets}"
        new = old.replace("max_age = 1", "max_age = 2").replace("[dataset a]\n", "") + "gain = 2\n[dataset d]\n"
        before, after = (config.parse(text, Path("/x"), {}, KINDS) for text in (old, new))
        found = Reloaded.between(before, after)
        self.assertEqual(str(found), "new: d; changed: c; gone: a; only after a restart: [server] max_age")
        self.assertEqual(str(Reloaded.between(after, after)), "nothing has changed")
        other = config.parse(new.replace("http://a/", "http://b/"), Path("/x"), {}, KINDS)
        found = Reloaded.between(after, other)
        self.assertEqual((found.changed, found.others), (["b", "c", "d"], True))


class ReloadTests(PrefetchCase):
    """The real daemon."""

    async def reload(self, *, code: int = 0) -> str:
        """Let the daemon read its configuration again; return what the command prints."""
        found, out = await self.command("reload")
        self.assertEqual(found, code, out)
        return out

    def append(self, text: str) -> None:
        """Add lines to the configuration."""
        self.config.write_text(self.config.read_text() + text)

    async def test_datasets(self) -> None:
        """Datasets come, change and go, with one connection open all the time, and nothing of the others is lost."""
        for workers in ("1", "2"):
            daemon = await self.begin(server_workers=workers)
            port = int(daemon.url.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), timeout=300) as client:
                first = await deferToThread(self.exchange, client)
                self.append("[dataset other]\ntoken = kat\nquota = 1GiB\n")
                self.assertEqual(await self.reload(), "new: other\n")
                for _ in range(4):
                    self.assertEqual((await daemon.get("other/3/0_0_0.png"))[0], 200)
                _, _, before = await daemon.get("other/3/0_0_0.png")
                self.append("window = 10,100\n")
                self.assertEqual(await self.reload(), "changed: other\n")
                for _ in range(4):
                    _, _, after = await daemon.get("other/3/0_0_0.png")
                    self.assertNotEqual(after["x-dataset-version"], before["x-dataset-version"])
                self.assertIn("1.0 GiB", (await self.command("usage"))[1])
                text = self.config.read_text()
                self.config.write_text(text.partition("[dataset other]")[0] + "[dataset kat]\nmode = cache-only\n")
                self.assertEqual(await self.reload(), "new: kat; gone: other\n")
                self.assertEqual((await daemon.get("kat/50/0_0_0.png"))[0], 503)
                asked = self.service.asked["cutout"]
                self.assertEqual(await deferToThread(self.exchange, client), first)
                self.assertEqual(self.service.asked["cutout"], asked)
            await daemon.stop()

    def exchange(self, client: socket.socket) -> bytes:
        """Return the answer to a request. (In a thread.)"""
        client.sendall(REQUEST)
        answer = b""
        while b"IEND" not in answer[-12:]:
            part = client.recv(2**18)
            self.assertTrue(part, "the connection was dropped")
            answer += part
        return without_date(answer)

    async def test_faults(self) -> None:
        """A file with faults changes nothing, by command or by HUP, and says what is wrong."""
        daemon = await self.begin()
        self.append("[dataset kat]\nquota = nothing\n")
        self.assertIn("[dataset kat] quota = 'nothing': expected", await self.reload(code=1))
        os.kill(daemon.pid, signal.SIGHUP)
        while daemon.log.count("quota = 'nothing'") < 2:
            await pause(0.05)
        self.assertEqual((await daemon.get("kat/3/0_0_0.png"))[0], 200)
        self.config.write_text(self.config.read_text().replace("= nothing", "= 5MiB"))
        os.kill(daemon.pid, signal.SIGHUP)
        while "the configuration was read again: new: kat" not in daemon.log:
            await pause(0.05)
        self.assertIn("5.0 MiB", (await self.command("usage"))[1])

    async def test_in_flight(self) -> None:
        """What is being fetched is finished by the upstream that it was begun with; the next goes to the new one."""
        daemon = await self.begin()
        await daemon.get("kat/")
        self.service.delay = 2.0
        asked = [Deferred.fromCoroutine(daemon.get(f"kat/{16 * n}/0_0_0.png")) for n in range(SLABS - 1)]
        while self.service.asked["cutout"] < SLABS - 1:
            await pause(0.02)
        other = PickyService(self.service.volume, 3, side=512, depth=16, offset=(0, 0, 0))
        text = self.config.read_text()
        self.config.write_text(text.replace(self.upstream, self.serve(other)))
        self.assertIn("tokens without a section have another upstream", await self.reload())
        self.assertEqual([answer[0] for answer in await gatherResults(asked)], [200] * (SLABS - 1))
        self.assertEqual(other.asked["cutout"], 0)
        _, _, headers = await daemon.get("kat/63/0_0_0.png")
        self.assertEqual((headers["cache-status"], other.asked["cutout"]), ("ocpproxy; fwd=miss; stored", 1))
        code, _, headers = await daemon.get("kat/0/0_0_0.png")
        self.assertEqual((code, headers["cache-status"][:13]), (200, "ocpproxy; hit"))

    async def test_dead_worker(self) -> None:
        """A worker that is started after a reload uses what was read again; of other options what the others use."""
        daemon = await self.begin(server_workers="2")
        text = self.config.read_text().replace("[cache]\n", "[cache]\nmemory = 7\n")
        self.config.write_text(text + "[dataset other]\ntoken = kat\n")
        self.assertEqual(await self.reload(), "new: other; only after a restart: [cache] memory\n")
        for child in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        while daemon.log.count(" is ready") < 4:
            await pause(0.05)
        for _ in range(4):
            self.assertEqual((await daemon.get("other/3/0_0_0.png"))[0], 200)
        self.assertEqual(json.loads((await self.command("reload", "--json"))[1])["after_restart"], ["[cache] memory"])

    async def test_pins(self) -> None:
        """A pin of the configuration that is gone lets its tiles be evicted again."""
        await self.begin()
        self.append("[dataset kat]\npin = 0-\n")
        self.assertEqual(await self.reload(), "new: kat\n")
        self.append("[dataset quiet]\nurl = " + self.serve(ocpserver.Service(em(), 2)) + "\n")
        self.config.write_text(self.config.read_text().replace("pin = 0-\n", ""))
        self.assertEqual(await self.reload(), "new: quiet; changed: kat\n")
