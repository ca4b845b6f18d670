"""Signals that supervisors and logrotate send."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue

from tests import ocpserver
from tests.daemons import ROOT, DaemonCase, DaemonLife, pause
from tests.test_workers import children, lives
from tests.volumes import em


class SignalTests(DaemonCase):
    """HUP and USR1 never kill; TERM ends with 0."""

    async def test_without_a_log_file(self) -> None:
        """A daemon that logs to its standard output has nothing to open again, and goes on; so do workers."""
        for workers in ("1", "2"):
            service = ocpserver.Service(em(), 2)
            daemon = await self.start(self.configure(self.serve(service), server_workers=workers))
            while workers == "2" and len(re.findall(r"worker \d is ready", daemon.log)) < 2:
                await pause(0.05)
            processes = [daemon.pid, *(children(daemon.pid) if workers == "2" else [])]
            for pid in processes:
                os.kill(pid, signal.SIGHUP)
                os.kill(pid, signal.SIGUSR1)
            while daemon.log.count("there is no log file") < 2 * len(processes):
                await pause(0.05)
            code, _, _ = await daemon.get("healthz")
            self.assertEqual((code, all(map(lives, processes))), (200, True))
            self.assertEqual(await daemon.stop(), 0)

    async def test_log_file(self) -> None:
        """HUP opens a log file again that was moved away; USR1 begins a new one."""
        config = self.configure("http://127.0.0.1:1", server_listen=f"unix:{os.path.relpath(self.place)}/s")
        log, pidfile = self.place / "log", self.place / "pid"
        command = ["-c", "from twisted.scripts.twistd import run; run()", f"--pidfile={pidfile}", f"--logfile={log}"]
        out, err, code = await getProcessOutputAndValue(
            sys.executable, [*command, "ocpproxy", "--config", str(config)], env=os.environ, reactor=reactor
        )
        self.assertEqual(code, 0, out + err)
        while not (pidfile.exists() and log.exists() and "answers at" in log.read_text()):
            await pause(0.05)
        pid = int(pidfile.read_text())
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end(pid)))
        await pause(0.2)
        log.rename(self.place / "old")
        os.kill(pid, signal.SIGHUP)
        while not log.exists():
            await pause(0.05)
        os.kill(pid, signal.SIGUSR1)
        while not (self.place / "log.1").exists():
            await pause(0.05)
        self.assertTrue(lives(pid))

    async def test_at_once(self) -> None:
        """A HUP that comes while the daemon starts, as systemd runs it, does not end it; the next one is obeyed."""
        config = self.configure(self.serve(ocpserver.Service(em(), 2)))
        unit = (ROOT / "etc" / "ocpproxy.service").read_text()
        (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
        command = shlex.split(line.replace("/etc/ocpproxy/ocp.ini", str(config)))
        life = DaemonLife()
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        process = reactor.spawnProcess(life, command[0], command, environment, str(self.place))
        life.ready.addErrback(lambda _: None)
        sent = 0
        while not life.ready.called and not life.ended.called:
            words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b"/twistd") for word in words):  # the shell has become twistd
                process.signalProcess("HUP")
                sent += 1
            await pause(0.02)
        self.assertFalse(life.ended.called, life.log)
        self.assertGreater(sent, 3)
        before = life.log.count("read again")
        process.signalProcess("HUP")
        while life.log.count("read again") == before:
            await pause(0.05)
        process.signalProcess("TERM")
        self.assertEqual(await life.ended, 0)

    async def end(self, pid: int) -> None:
        """End a daemon that is nobody's child."""
        os.kill(pid, signal.SIGTERM)
        while os.path.exists(f"/proc/{pid}") and lives(pid):
            await pause(0.05)
