"""The daemon as its users have it: real processes, real sockets, real files, real databases."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue

from ocpproxy.config import IndexUrl
from tests import ocpserver
from tests.daemons import ROOT, Daemon, DaemonCase, Stopwatch
from tests.databases import OnMariaDB, OnSQLite, started
from tests.volumes import em, expected_tile, level


def now() -> float:
    """Seconds."""
    return reactor.seconds()  # type: ignore[attr-defined, no-any-return]


async def pause(seconds: float) -> None:
    """Let the reactor run for a while: what is waited for is another process's clock."""
    await deferLater(reactor, seconds)  # type: ignore[arg-type]


def pixels(body: bytes) -> np.ndarray[Any, Any]:
    """The pixels of a tile."""
    image = Image.open(BytesIO(body))
    assert (image.mode, image.size) == ("L", (512, 512))
    return np.array(image)


def quantile(values: list[float], share: float) -> float:
    """The value below which that share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class GatewayTests:
    """What the gateway does, on either database."""

    index_url: Callable[[], IndexUrl]

    async def gateway(self: Any, service: ocpserver.Service, **options: str) -> Daemon:
        """A daemon in front of a service."""
        self.index = self.index_url()
        self.config = self.configure(self.serve(service), self.index, **options)
        daemon: Daemon = await self.start(self.config)
        return daemon

    async def assert_account(self: Any) -> tuple[int, int]:
        """Rows, numtiles, bytes and files agree; (tiles, bytes)."""
        database = await started(self, self.index)
        rows = await database.read(lambda tx: tx.many("SELECT filename, bytes FROM contents"))
        totals = await database.read(lambda tx: tx.one("SELECT numtiles, bytes FROM metadata"))
        tiles = self.place / "cache" / "tiles"
        files = {str(path.relative_to(tiles)): path.stat().st_size for path in tiles.rglob("*") if path.is_file()}
        self.assertEqual({str(name): int(size) for name, size in rows}, files)
        self.assertEqual(tuple(map(int, totals)), (len(files), sum(files.values())))
        return len(files), sum(files.values())

    async def fsck(self: Any) -> tuple[int, str]:
        """(exit code, output) of ``ocpproxy fsck``."""
        out, err, code = await getProcessOutputAndValue(
            sys.executable, ["-m", "ocpproxy.cli", "fsck", "--config", str(self.config)], {**os.environ}, str(ROOT)
        )
        return code, out.decode() + err.decode()

    async def test_every_tile(self: Any) -> None:
        """Every xy tile of every level of three generations equals the voxels; all cuboids are fetched once."""
        services = [ocpserver.Service(em(), generation, (0, 0, 1)) for generation in (1, 2, 3)]
        daemon = await self.gateway(services[0])
        with open(self.config, "a") as file:
            for service, token in zip(services[1:], ("kat2", "kat3"), strict=True):
                file.write(f"[dataset {token}]\nurl = {self.serve(service)}\n")
        await daemon.stop()
        daemon = await self.start(self.config)
        z_end = em().shape[0]
        for service, token in zip(services, ("kat", "kat2", "kat3"), strict=True):
            for number in range(3):
                _, rows, cols = (-(-side // 512) for side in level(em(), number).shape)
                asked = [
                    (z, row, col)
                    for z in range(-1, z_end + 1)
                    for row in range(-1, rows + 1)
                    for col in range(cols + 1)
                ]
                for form in (f"{token}", f"{token}/xy", f"ocpcatmaid/{token}/image/xy")[number::3]:
                    answers = await gatherResults(
                        [
                            Deferred.fromCoroutine(daemon.get(f"{form}/{z + 1}/{row}_{col}_{number}.png"))
                            for z, row, col in asked
                        ]
                    )
                    for (z, row, col), (code, body, headers) in zip(asked, answers, strict=True):
                        self.assertEqual((code, headers["content-type"]), (200, "image/png"))
                        outside = not (0 <= z < z_end and 0 <= row < rows and 0 <= col < cols)
                        said = headers["cache-status"]
                        self.assertEqual(said == "ocpproxy; detail=out-of-bounds", outside, said)
                        expected = 0 if outside else expected_tile(em(), number, z, row, col)
                        self.assertTrue((pixels(body) == expected).all(), (token, number, z, row, col))
            self.assertEqual(len(service.cutouts), len(set(service.cutouts)))
            self.assertEqual(service.asked["info"], 1)
        await daemon.rest()
        await daemon.stop()
        await self.assert_account()

    async def herd(self: Any, service: ocpserver.Service, daemons: list[Daemon], bound: float) -> None:
        """32 clients, in turn at each daemon, on the 16 slices of a cuboid: one cutout, and p95 within the bound.

        There are three cuboids to try: what else the machine does may cost more than waiting for a core.
        """
        for daemon in daemons:
            await daemon.get("kat/")
        figures = []
        for row, col in ((0, 0), (0, 1), (1, 0)):
            answers: list[tuple[float, int, tuple[int, bytes, dict[str, str]]]] = []
            asked, watch = service.asked["cutout"], Stopwatch(*(daemon.pid for daemon in daemons))

            async def one(n: int, tile: str, answers: list[Any] = answers) -> None:
                z, began = n // len(daemons) % 16, now()
                answer = await daemons[n % len(daemons)].get(f"kat/{1 + z}/{tile}.png")
                answers.append((now() - began, z, answer))  # looked at later: this process is the origin too

            tile = f"{row}_{col}_0"
            await gatherResults([Deferred.fromCoroutine(one(n, tile)) for n in range(32)])
            waited = watch.waited
            self.assertEqual(service.asked["cutout"], asked + 1)
            for _, z, (code, body, _headers) in answers:
                self.assertEqual(code, 200)
                self.assertTrue((pixels(body) == expected_tile(em(), 0, z, row, col)).all())
            await gatherResults([Deferred.fromCoroutine(one(n, tile)) for n in range(32)])
            self.assertEqual(service.asked["cutout"], asked + 1, "all 16 are there")
            figures.append(quantile([took for took, _, _ in answers[:32]], 0.95) - waited)
            if figures[-1] < bound:
                return
        raise AssertionError(f"p95 {figures} s, expected under {bound} s")

    async def test_herd(self: Any) -> None:
        """32 clients on the 16 slices of a cuboid, 1 s away: one cutout, p95 soon after it; afterwards none."""
        service = ocpserver.Service(em(), 2, delay=1.0)
        await self.herd(service, [await self.gateway(service)], 1.15)

    async def test_herd_on_two_daemons(self: Any) -> None:
        """The same through two daemons that share cache and index: one cutout in all."""
        service = ocpserver.Service(em(), 2, delay=1.0)
        daemons = [await self.gateway(service, index_lease="30"), await self.start(self.config)]
        await self.herd(service, daemons, 1.6)
        for daemon in daemons:
            await daemon.rest()
            self.assertEqual(await daemon.stop(), 0)
        await self.assert_account()

    async def test_dead_owner(self: Any) -> None:
        """A daemon that is killed in the middle of a fetch locks its cuboid no longer than the lease."""
        service = ocpserver.Service(em(), 2, delay=1.0)
        first = await self.gateway(service)
        second = await self.start(self.config)
        for daemon in (first, second):
            await daemon.get("kat/")
        lost = Deferred.fromCoroutine(first.get("kat/1/0_0_0.png"))
        lost.addErrback(lambda _: None)
        while not service.asked["cutout"]:
            await pause(0.01)
        await first.stop(signal.SIGKILL)
        watch = Stopwatch(second.pid)
        code, body, _ = await second.get("kat/1/0_0_0.png")
        self.assertEqual(code, 200)
        self.assertTrue((pixels(body) == expected_tile(em(), 0, 0, 0, 0)).all())
        self.assertLess(watch.elapsed, 2 + 1 + 1.5)

    async def test_killed_while_filling(self: Any) -> None:
        """Eight kill -9 while filling: never a wrong tile, nothing stays locked, and nothing is left for fsck."""
        service = ocpserver.Service(em(), 2, delay=0.05)
        asked = [(z, row, col) for z in range(20) for row in range(2) for col in range(2)]
        daemon = await self.gateway(service, index_lease="1")

        async def one(daemon: Daemon, z: int, row: int, col: int) -> None:
            code, body, _ = await daemon.get(f"kat/{z + 1}/{row}_{col}_0.png")
            self.assertEqual(code, 200)
            self.assertTrue((pixels(body) == expected_tile(em(), 0, z, row, col)).all())

        for turn in range(8):
            work = [Deferred.fromCoroutine(one(daemon, *tile)) for tile in asked]
            done = gatherResults([d.addErrback(self.died) for d in work])
            await pause(0.03 + 0.04 * turn)
            await daemon.stop(signal.SIGKILL)
            await done
            daemon = await self.start(self.config)
        watch = Stopwatch(daemon.pid)
        await gatherResults([Deferred.fromCoroutine(one(daemon, *tile)) for tile in asked])
        self.assertLess(watch.elapsed, 10)
        await daemon.rest()
        watch = Stopwatch(daemon.pid)
        while left := list((self.place / "cache" / "journal").rglob("tiles")):
            await pause(0.05)  # until what the killed ones have left is reconciled
            self.assertLess(watch.elapsed, 60, f"{left}\n{daemon.log}")
        code, out = await self.fsck()
        self.assertEqual((code, "nothing mended" in out), (0, True), out)
        self.assertEqual(await daemon.stop(), 0)
        code, out = await self.fsck()
        self.assertEqual(code, 0, out)
        await self.assert_account()

    def died(self: Any, failure: Any) -> None:
        """A request to a daemon that was killed may fail, but not with a wrong tile."""
        if failure.check(self.failureException):
            failure.raiseException()

    async def test_fsck(self: Any) -> None:
        """fsck tells what it mends and exits with 1; then there is nothing left, and it exits with 0."""
        daemon = await self.gateway(ocpserver.Service(em(), 2))
        for z in (1, 17):
            await daemon.get(f"kat/{z}/0_0_0.png")
        await daemon.rest()
        await daemon.stop()
        files = sorted((self.place / "cache" / "tiles").rglob("*.png"))
        files[0].unlink()
        files[1].write_bytes(files[1].read_bytes()[:5000])
        files[2].with_name("99.png").write_bytes(files[2].read_bytes())
        code, out = await self.fsck()
        self.assertEqual(code, 1, out)
        for said in ("row without a file", "torn tile", "file without a row"):
            self.assertIn(said, out)
        code, out = await self.fsck()
        self.assertEqual(code, 0, out)
        await self.assert_account()

    async def test_bounded(self: Any) -> None:
        """20 MiB of cache, 60 MiB of tiles: bounded in the burst and at rest, and what is in use is not refetched."""
        part = em()[:, :512, :512]
        turned = [np.rot90(one, n, (1, 2)) for one in (part, part[:, ::-1], 255 - part) for n in range(4)]
        volume = np.concatenate(turned[:9])  # 180 slices
        volume = np.concatenate([volume, volume[::-1]], axis=2)  # two columns of tiles
        service = ocpserver.Service(np.ascontiguousarray(volume), 2, (0, 0, 0), levels=1)
        size = 20 * 2**20
        daemon = await self.gateway(service, cache_size="20", cache_memory="0", cache_reclaim_interval="3600")
        tiles = self.place / "cache" / "tiles"
        most = 0

        def on_disk() -> int:
            total = 0
            for place, _, names in os.walk(tiles):
                for name in names:
                    try:
                        total += os.stat(os.path.join(place, name)).st_size
                    except FileNotFoundError:
                        continue
            return total

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, on_disk())
                await pause(0.02)

        watching = Deferred.fromCoroutine(watch())
        watching.addErrback(lambda _: None)
        steady = [f"kat/{z}/0_0_0.png" for z in (0, 5, 15)]
        for path in steady:
            await daemon.get(path)
        stored = 0
        for z in range(16, 176, 8):
            work = [daemon.get(f"kat/{z + n}/0_{col}_0.png") for n in range(8) for col in range(2)]
            for _, body, _ in await gatherResults([Deferred.fromCoroutine(one) for one in work]):
                stored += len(body)
            for path in steady:
                _, _, headers = await daemon.get(path)
                self.assertEqual(headers["cache-status"], "ocpproxy; hit", path)
        self.assertGreater(stored, 3 * size)
        self.assertEqual(len(service.cutouts), len(set(service.cutouts)), "nothing was fetched twice")
        await daemon.rest()
        while on_disk() > 0.96 * size:
            await pause(0.05)
        watching.cancel()
        self.assertLess(most, 1.9 * size)
        await daemon.stop()
        _, used = await self.assert_account()
        self.assertLess(used, 0.96 * size)

    async def test_one_value(self: Any) -> None:
        """Tiles of a volume where nothing is cost rows and links, not files; they are hits like all others."""
        volume = np.zeros((20, 600, 640), np.uint8)
        volume[18] = em()[18]
        service = ocpserver.Service(volume, 2)
        daemon = await self.gateway(service, cache_memory="0")
        for z in (1, 17):
            await daemon.get(f"kat/{z}/0_0_0.png")
        await daemon.rest()
        for z in range(1, 21):
            code, body, headers = await daemon.get(f"kat/{z}/0_0_0.png")
            self.assertEqual((code, headers["cache-status"]), (200, "ocpproxy; hit"))
            self.assertTrue((pixels(body) == volume[z - 1, :512, :512]).all())
        files = list((self.place / "cache" / "tiles").rglob("*.png"))
        self.assertEqual((len(files), len({path.stat().st_ino for path in files})), (20, 2))
        await daemon.stop()
        self.assertEqual((await self.assert_account())[0], 20)
        code, out = await self.fsck()
        self.assertEqual((code, "nothing mended" in out), (0, True), out)

    async def break_upstream(self: Any, modes: tuple[str, ...], status: int, timeout: int) -> None:
        """Let an upstream fail: a picture, no-store, nothing stored; exact tiles as soon as it is well."""
        service = ocpserver.Service(em(), 2)
        daemon = await self.gateway(service, upstream_timeout=str(timeout), cache_memory="0")
        tiles = self.place / "cache" / "tiles"
        for number, mode in enumerate(modes):
            path = f"kat_{mode}/1/0_0_0.png"  # a token, and so a cuboid, of its own
            while (await daemon.get(f"kat_{mode}/"))[0] != 200:  # on a busy machine a short deadline is missed
                await pause(0.1)
            service.mode = mode
            watch = Stopwatch(daemon.pid)
            code, body, headers = await daemon.get(path)
            took = watch.elapsed
            self.assertEqual(code, status, mode)
            self.assertLess(took, 2.2 * SLACK, mode)
            self.assertTrue((pixels(body) == 0).all())
            self.assertEqual((headers["cache-control"], headers["content-type"]), ("no-store", "image/png"))
            self.assertIn("retry-after", headers)
            self.assertEqual(headers["access-control-allow-origin"], "*")
            self.assertIn("detail=", headers["cache-status"])
            self.assertEqual(len(list(tiles.rglob("*.png"))), 16 * number, mode)
            service.mode, watch = "well", Stopwatch(daemon.pid)
            while code != 200:
                await pause(0.1)
                code, body, headers = await daemon.get(path)
            self.assertLess(watch.elapsed, 2 * SLACK, mode)
            self.assertTrue((pixels(body) == expected_tile(em(), 0, 0, 0, 0)).all(), mode)
            await daemon.rest()
        peak = next(line for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines() if "VmHWM" in line)
        self.assertLess(int(peak.split()[1]) / 1024, 300, "MiB at the most")
        await daemon.stop()
        await self.assert_account()

    async def test_faults(self: Any) -> None:
        """An upstream that answers wrongly: 503, long before its deadline."""
        await self.break_upstream(FAULTS, 503, timeout=60)

    async def test_silent_faults(self: Any) -> None:
        """An upstream that does not answer: 504 after the deadline."""
        await self.break_upstream(("silence", "mute"), 504, timeout=1)

    async def test_term(self: Any) -> None:
        """TERM while a tile is being fetched: it is answered, nothing stays locked, uses are written, exit 0."""
        service = ocpserver.Service(em(), 2, delay=0.7)
        daemon = await self.gateway(service)
        await daemon.get("kat/")
        answer = Deferred.fromCoroutine(daemon.get("kat/1/0_0_0.png"))
        while not service.asked["cutout"]:
            await pause(0.01)
        os.kill(daemon.pid, signal.SIGTERM)
        code, body, _ = await answer
        self.assertEqual(code, 200)
        self.assertTrue((pixels(body) == expected_tile(em(), 0, 0, 0, 0)).all())
        self.assertEqual(await daemon.stop(), 0)
        self.assertEqual((await self.assert_account())[0], 16)
        database = await started(self, self.index)
        self.assertEqual(await database.read(lambda tx: tx.many("SELECT * FROM fetching")), [])
        self.assertEqual(list((self.place / "cache" / "journal").iterdir()), [])
        self.assertNotIn("Traceback", daemon.log)

    async def test_restart_without_upstream(self: Any) -> None:
        """What was known is known after a restart, though the upstream is down: hits flow."""
        service = ocpserver.Service(em(), 2)
        daemon = await self.gateway(service)
        await daemon.get("kat/1/0_0_0.png")
        await daemon.rest()
        await daemon.stop()
        service.mode = "info_error500"
        daemon = await self.start(self.config)
        code, watch = 0, Stopwatch(daemon.pid)
        while code != 200:  # what is known is read from the index as soon as that is there
            code, body, headers = await daemon.get("kat/2/0_0_0.png")
            self.assertLess(watch.elapsed, 10, daemon.log)
        self.assertEqual((code, headers["cache-status"]), (200, "ocpproxy; hit"))
        self.assertTrue((pixels(body) == expected_tile(em(), 0, 1, 0, 0)).all())


FAULTS = (
    *("error500", "html200", "outage", "busy", "reset", "bomb", "endless", "short", "wrong_type"),
    *("half", "half_unsized", "pickle", "elsewhere"),
)
"""What `tests.ocpserver` can answer wrongly."""
SLACK = 1.5
"""How many times longer than it should a thing may take: processes on one machine share more than its cores."""


class SQLiteGatewayTests(OnSQLite, GatewayTests, DaemonCase):
    """With the embedded index."""


class MariaDBGatewayTests(OnMariaDB, GatewayTests, DaemonCase):
    """With a real server."""


class CommandTests(DaemonCase):
    """The command line."""

    async def test_daemonised(self) -> None:
        """twistd without -n: the launcher returns, the daemon answers, TERM ends it and removes its pid file."""
        service = ocpserver.Service(em(), 2)
        config = self.configure(self.serve(service), server_listen="unix:http.sock")
        twistd = str(Path(sys.executable).parent / "twistd")
        arguments = ["--pidfile=d.pid", "--logfile=d.log", "ocpproxy", "--config", str(config)]
        _, err, code = await getProcessOutputAndValue(twistd, arguments, {**os.environ}, str(self.place))
        self.assertEqual(code, 0, err)
        log = self.place / "d.log"
        while "index database is available" not in (log.read_text() if log.exists() else ""):
            await pause(0.05)
        pid = int((self.place / "d.pid").read_text())
        out, _, _ = await getProcessOutputAndValue(
            sys.executable, ["-c", CLIENT, str(self.place / "http.sock"), "/kat/1/0_0_0.png"], {**os.environ}
        )
        self.assertTrue(out.startswith(b"HTTP/1.0 200 OK"), out[:200])
        os.kill(pid, signal.SIGTERM)
        while (self.place / "d.pid").exists():
            await pause(0.02)
        self.assertIn("Server Shut Down", log.read_text())
        self.assertNotIn("Traceback", log.read_text())

    async def test_refuses_a_bad_configuration(self) -> None:
        """All faults, and an exit code that is not 0."""
        config = self.configure("http://h", cache_size="none", upstream_timeout="-1")
        twistd = str(Path(sys.executable).parent / "twistd")
        out, err, code = await getProcessOutputAndValue(
            twistd, ["-n", "--pidfile=", "ocpproxy", "--config", str(config)], {**os.environ}, str(self.place)
        )
        said = (out + err).decode()
        self.assertNotEqual(code, 0)
        self.assertIn("[cache] size = 'none'", said)
        self.assertIn("[upstream] timeout = '-1'", said)
        self.assertNotIn("Traceback", said)

    async def test_port_in_use(self) -> None:
        """A socket that cannot be opened keeps the daemon from starting."""
        taken = self.serve(ocpserver.Service(em(), 2)).rpartition(":")[2]
        config = self.configure("http://h", server_listen=f"tcp:{taken}:interface=127.0.0.1")
        twistd = str(Path(sys.executable).parent / "twistd")
        out, err, code = await getProcessOutputAndValue(
            twistd, ["-n", "--pidfile=", "ocpproxy", "--config", str(config)], {**os.environ}, str(self.place)
        )
        self.assertNotEqual(code, 0)
        self.assertIn(b"Address already in use", out + err)

    async def test_demo(self) -> None:
        """Without a configuration: the demo volume, within a second of the address being told."""
        config = self.place / "demo.ini"
        config.write_text(
            "[server]\nlisten = tcp:0:interface=127.0.0.1\n[cache]\ndirectory = c\n"
            "[index]\nurl = sqlite:///i\n[upstream]\ntype = demo\n"
        )
        daemon = await self.start(config)
        watch = Stopwatch(daemon.pid)
        code, body, _ = await daemon.get("demo/5/1_1_0.png")
        self.assertEqual(code, 200)
        self.assertLess(watch.elapsed, 1.0 * SLACK)
        self.assertGreater(pixels(body).std(), 20)
        code, body, _ = await daemon.get("")
        self.assertIn(b"/demo/", body)


CLIENT = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(f"GET {sys.argv[2]} HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n".encode())
sys.stdout.buffer.write(s.recv(200))
"""
