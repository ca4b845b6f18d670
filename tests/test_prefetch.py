"""``ocpproxy prefetch`` and ``jobs`` with the real daemon, real kills and every exit code."""

from __future__ import annotations

import json
import os
import signal
import sys

from twisted.internet.utils import getProcessOutputAndValue

from tests.daemons import ROOT, pause
from tests.prefetching import Command, PrefetchCase


class PrefetchTests(PrefetchCase):
    """Jobs from their first line to their exit code."""

    async def test_everything(self) -> None:
        """All levels as asked for; then everything is a hit, a second job fetches nothing, and metrics count both."""
        daemon = await self.begin()
        code, out = await self.command("prefetch", "kat", "--levels", "0-2")
        self.assertEqual(code, 0, out)
        lines = out.splitlines()
        self.assertIn("24 cuboids, 384 tiles, none of them cached", lines[0])
        self.assertIn("assumed", lines[0])
        self.assertIn("job 1 done, 24 of 24 cuboids", lines[-1])
        self.assertNotIn("\r", out)
        self.assertEqual(self.service.asked["cutout"], 24)
        await self.all_hits(daemon, (0, 1, 2))
        code, out = await self.command("prefetch", "kat/image", "--levels", "0-2", "--json")
        first, *_, last = map(json.loads, out.splitlines())
        self.assertEqual((code, first["estimate"]["cached_tiles"]), (0, 384))
        self.assertGreater(first["estimate"]["measured_on"], 0)
        self.assertEqual((last["job"]["state"], last["job"]["progress"]["cached"]), ("done", 24))
        self.assertEqual(self.service.asked["cutout"], 24)
        self.assertEqual(await daemon.metric('ocpproxy_job_cuboids_total{result="fetched"}'), 24)
        self.assertEqual(await daemon.metric('ocpproxy_job_cuboids_total{result="cached"}'), 24)
        code, out = await self.command("jobs")
        self.assertEqual((code, len(out.splitlines())), (0, 2))

    async def test_dry_run(self) -> None:
        """A dry run asks the upstream for no voxels, and starts no job; what cannot fit is refused with the numbers."""
        await self.begin(cache_size="3MiB")
        code, out = await self.command("prefetch", "kat", "--levels", "2-2", "--dry-run")
        self.assertEqual(code, 2, out)
        code, out = await self.command("prefetch", "kat", "--levels", "2-2", "--slices", "0-7", "--dry-run")
        self.assertEqual((code, "1 cuboids, 16 tiles" in out), (0, True), out)
        code, out = await self.command("prefetch", "kat", "--levels", "0-1")
        self.assertEqual(code, 2)
        self.assertIn("does not fit", out)
        self.assertRegex(out, "its 320 tiles take about 48 MiB, and 3 MiB may be there")
        code, out = await self.command("jobs")
        self.assertEqual((code, out), (0, "there are no jobs\n"))
        self.assertEqual(self.service.asked["cutout"], 0)

    async def test_failures(self) -> None:
        """What the upstream does not give is listed with the reason, exit 1; retry fetches the rest."""
        daemon = await self.begin()
        self.service.bad = frozenset({"/0/0,512/0,512/0,16/", "/0/512,640/512,600/48,64/"})
        code, out = await self.command("prefetch", "kat", "--levels", "0")
        self.assertEqual(code, 1, out)
        self.assertIn("job 1 failed, 16 of 16 cuboids, 2 failed", out)
        self.assertEqual(out.count("500: for the test"), 2)
        job = await self.job()
        self.assertEqual([failure["reason"][:12] for failure in job["failures"]], ["not readable"] * 2)
        self.service.bad = frozenset()
        code, out = await self.command("jobs", "retry", "1")
        self.assertEqual(code, 0, out)
        while (await self.job())["state"] == "running":
            await pause(0.1)
        job = await self.job()
        self.assertEqual((job["state"], job["failures"], job["progress"]["failed"]), ("done", [], 0))
        self.assertEqual(self.service.asked["cutout"], 16 + 2)
        await self.all_hits(daemon)

    async def test_killed(self) -> None:
        """Killed with -9, daemon and command, twice: no cuboid is fetched twice beyond those in flight."""
        daemon = await self.begin(upstream_connections="2")
        self.service.delay = 0.2
        command = Command(self.config, "prefetch", "kat", "--levels", "0-2")
        for at_least in (4, 12):
            while self.service.asked["cutout"] < at_least:
                await pause(0.02)
            await daemon.stop(signal.SIGKILL)
            if command.process.pid is not None:
                command.process.signalProcess("KILL")
                await command.ended
            daemon = await self.start_again(upstream_connections="2")
        while (await self.job())["state"] == "running":
            await pause(0.1)
        self.assertEqual((await self.job())["state"], "done")
        cutouts = self.service.cutouts
        self.assertEqual(len(set(cutouts)), 24)
        self.assertLessEqual(len(cutouts), 24 + 2 * 3, "three cuboids are fetched side by side")
        await self.all_hits(daemon, (0, 1, 2))
        code, out = await self.command("prefetch", "kat", "--levels", "0-2")
        self.assertEqual(code, 0, out)

    async def test_daemon_away(self) -> None:
        """A command whose daemon is killed says so, and waits for the next one; Ctrl-C ends the command only."""
        daemon = await self.begin(upstream_connections="1")
        self.service.delay = 0.3
        command = Command(self.config, "prefetch", "kat", "--levels", "0")
        while self.service.asked["cutout"] < 2:
            await pause(0.02)
        await daemon.stop(signal.SIGKILL)
        while "no daemon answers" not in command.output:
            await pause(0.05)
        await self.start_again(upstream_connections="1")
        self.service.delay = 0
        self.assertEqual(await command.ended, 0, command.output)
        self.service.delay = 30
        command = Command(self.config, "prefetch", "kat", "--levels", "1")
        while "cuboids" not in command.output or (await self.job(2))["state"] != "running":
            await pause(0.05)
        await pause(0.5)
        command.process.signalProcess("INT")
        self.assertEqual(await command.ended, 3)
        self.assertIn("job 2 goes on without this command; ocpproxy jobs 2 shows", command.output)
        self.assertEqual((await self.job(2))["state"], "running")

    async def test_pause(self) -> None:
        """Pause, resume, cancel; what is not possible is refused."""
        await self.begin(upstream_connections="1")
        self.service.delay = 0.2
        code, out = await self.command("prefetch", "kat", "--levels", "0-1", "--detach")
        self.assertEqual((code, "job 1 has begun" in out), (0, True), out)
        code, out = await self.command("jobs", "pause", "1")
        self.assertEqual((code, "job 1 paused" in out), (0, True), out)
        await pause(2.5)
        asked = self.service.asked["cutout"]
        await pause(1)
        self.assertEqual(self.service.asked["cutout"], asked)
        self.assertEqual((await self.command("jobs", "retry", "9"))[0], 2)
        self.service.delay = 0
        self.assertEqual((await self.command("jobs", "resume", "1"))[0], 0)
        while (await self.job())["state"] == "running":
            await pause(0.1)
        self.assertEqual(((await self.job())["state"], len(set(self.service.cutouts))), ("done", 20))
        code, out = await self.command("jobs", "cancel", "1")
        self.assertEqual((code, out), (2, "ocpproxy jobs: job 1 is done: it cannot be cancelled\n"))
        self.service.delay = 30
        await self.command("prefetch", "kat", "--levels", "2", "--detach")
        self.assertEqual((await self.command("jobs", "cancel", "2"))[0], 0)
        self.assertEqual((await self.job(2))["state"], "cancelled")

    async def test_limits(self) -> None:
        """Bytes stop a job with exit 3; resumed, it goes on from there."""
        await self.begin(upstream_connections="1")
        code, out = await self.command("prefetch", "kat", "--levels", "0", "--max-bytes", "4MB")
        self.assertEqual(code, 3, out)
        self.assertIn("job 1 stopped", out)
        asked = self.service.asked["cutout"]
        self.assertLess(asked, 16)
        for _ in range(20):
            if (await self.job())["state"] == "done":
                break
            await self.command("jobs", "resume", "1")
            while (await self.job())["state"] == "running":
                await pause(0.1)
        self.assertEqual(((await self.job())["state"], self.service.asked["cutout"]), ("done", 16))

    async def test_shapes(self) -> None:
        """A skeleton, points, other planes, and the historical spelling."""
        daemon = await self.begin()
        (self.place / "n.swc").write_text("1 0 10 10 20 1 -1\n2 0 100 30 700 1 1\n")
        (self.place / "p.csv").write_text("x,y,z\n600,560,400\n")
        for words, cuboids in (
            (("--swc", f"{self.place}/n.swc", "--radius", "50nm", "--levels", "0"), 4),
            (("--points", f"{self.place}/p.csv", "--radius", "1nm", "--levels", "0-1"), 2),
            (("--box", "0:512,0:512,0:16", "--levels", "0", "--plane", "xy,xz,yz,zy"), 4),
            (("2/0,160/0,150/0,16",), 1),
            (("0/0,512/0,512/0,16",), 3),
        ):
            code, out = await self.command("prefetch", "kat", *words, "--dry-run", "--json")
            self.assertEqual(code, 0, out)
            self.assertEqual(json.loads(out)["estimate"]["cuboids"], cuboids, words)
        code, out = await self.command("prefetch", "kat", "0/0,512/0,512/0,16")
        self.assertEqual(code, 0, out)
        for level in range(3):
            _, _, headers = await daemon.get(f"kat/15/0_0_{level}.png")
            self.assertIn("hit", headers["cache-status"], level)

    async def test_could_not_run(self) -> None:
        """Exit 2 for what makes no sense, with what was expected; and where no daemon answers."""
        daemon = await self.begin()
        for words, expected in (
            (("prefetch", "nothing"), "not found there"),
            (("prefetch", "kat/nothing"), "has no channel nothing"),
            (("prefetch", "kat", "--levels", "0-9"), "kat has no level 3; it has 0, 1, 2"),
            (("prefetch", "kat", "--box", "0:9,0:9"), "expected x0:x1,y0:y1,z0:z1"),
            (("prefetch", "kat", "--box", "9000:9999,0:9,0:9"), "nothing of the volume is in this region"),
            (("prefetch", "kat", "--swc", "/nowhere", "--radius", "2um"), "No such file"),
            (("prefetch", "kat", "--swc", "/dev/null"), "expected --radius"),
            (("prefetch", "kat", "--plane", "yx"), "expected some of xy, xz, yz, zy"),
            (("prefetch", "kat", "--until", "noon"), "expected a time HH:MM"),
            (("prefetch", "kat", "--rate", "0"), "rate: expected a number from"),
            (("jobs", "7"), "there is no job 7"),
            (("jobs", "pause"), "expected nothing, the number of a job"),
        ):
            code, out = await self.command(*words)
            self.assertEqual((code, expected in out, "Traceback" in out), (2, True, False), out)
        await daemon.stop()
        self.assertFalse((self.short / "admin.sock").exists())
        code, out = await self.command("jobs")
        self.assertEqual((code, "no daemon answers at unix:" in out), (2, True), out)
        for name in ("check-config", "describe", "fsck", "prefetch", "jobs"):
            out, _, code = await getProcessOutputAndValue(
                sys.executable, ["-m", "ocpproxy.cli", name, "--help"], os.environ, str(ROOT)
            )
            self.assertEqual((code, f"usage: ocpproxy {name}" in out.decode()), (0, True))
            if name in ("prefetch", "jobs"):
                self.assertIn("Exit code 0", " ".join(out.decode().split()))

    async def test_full_of_used_tiles(self) -> None:
        """A job evicts what was not used since it began, and nothing else; when that is not enough it stops: exit 3."""
        daemon = await self.begin()
        await self.command("prefetch", "kat", "--levels", "0", "--slices", "0-31")
        nbytes = int(await daemon.metric("ocpproxy_cache_bytes"))
        await daemon.stop()
        size = f"{nbytes * 19 // 10 // 2**20}MiB"  # for both halves it would have to be more than twice as large
        daemon = await self.start_again(cache_size=size, cache_memory="0", cache_lookahead="off")
        job = Command(self.config, "prefetch", "kat", "--levels", "0", "--slices", "32-63", "--rate", "0.3")
        asked = self.service.asked["cutout"]
        while self.service.asked["cutout"] == asked:  # there is space for the first ones
            await pause(0.05)
        used = [f"kat/{slice_}/{n // 2}_{n % 2}_0.png" for slice_ in range(32) for n in range(4)]
        for path in used:
            await daemon.get(path)
        self.assertEqual(await job.ended, 3, job.output)
        self.assertIn("the cache is full of what was used since the job began", job.output)
        asked = self.service.asked["cutout"]
        for path in used:
            _, _, headers = await daemon.get(path)
            self.assertIn("hit", headers["cache-status"], path)
        self.assertEqual(self.service.asked["cutout"], asked)
        await self.command("jobs", "cancel", "2")
        code, out = await self.command("prefetch", "kat", "--levels", "0", "--slices", "32-63")
        self.assertEqual(code, 0, out)  # by now nobody has used the others since it began
        self.assertLess(await daemon.metric("ocpproxy_cache_bytes"), nbytes * 1.9)
