"""The real daemon in a process of its own, for tests that use it as a person would."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import treq
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool

from ocpproxy.config import IndexUrl
from tests import doubles
from tests.databases import START_WITHIN, as_option
from tests.forked import ForkedDaemon

ROOT = Path(__file__).parent.parent
SLACK = 1.5
"""How many times longer than it should a thing may take: processes on one machine share more than its cores."""


def now() -> float:
    """Return the time in seconds."""
    return reactor.seconds()


async def pause(seconds: float) -> None:
    """Let the reactor run for a while, because another process has to do something first."""
    await deferLater(reactor, seconds)


def quantile(values: list[float], share: float) -> float:
    """Return the value below which that share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Stopwatch:
    """Seconds of real time, less those in which a watched process could have run and had to wait for a core.

    So a bound holds on a machine that is busy with other things too. This process, in which the doubles are, is always
    watched. The time that threads wait is the second number of ``/proc/PID/task/TID/schedstat``, in nanoseconds
    (Linux, Documentation/scheduler/sched-stats.rst).
    """

    def __init__(self, *pids: int) -> None:
        self._pids = (os.getpid(), *pids)
        self._waited = self._delays()
        self._began = time.monotonic()

    def _delays(self) -> dict[Path, int]:
        """Return the nanoseconds that each thread of each process has waited in its life."""
        delays: dict[Path, int] = {}
        for pid in self._pids:
            for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):  # the thread has ended
                    delays[path] = int(path.read_text().split()[1])
        return delays

    @property
    def waited(self) -> float:
        """Seconds that threads of the processes have waited for a core since the start."""
        return sum(delay - self._waited.get(path, 0) for path, delay in self._delays().items()) / 1e9

    @property
    def elapsed(self) -> float:
        """Seconds since the start, less `waited`."""
        return time.monotonic() - self._began - self.waited


class DaemonLife(ProcessProtocol):
    """What is known of a daemon: its output, its address, its end."""

    def __init__(self) -> None:
        self.log = ""
        self.ready: Deferred[str] = Deferred()
        self.ended: Deferred[int] = Deferred()

    def output_received(self, data: bytes) -> None:
        """Keep a part of the output, and find the address in it."""
        self.log += data.decode("utf-8", "replace")
        found = re.search(r'ocpproxy answers at (\S+?)/?[\s"]', self.log)
        if found and not self.ready.called:
            self.ready.callback(found[1])

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Keep a part of the output, of a daemon that the reactor has started."""
        self.output_received(data)

    def processEnded(self, reason: Failure) -> None:
        """Report the end of a daemon that the reactor has started."""
        code = getattr(reason.value, "exitCode", None)
        self.process_ended(-int(getattr(reason.value, "signal", 0) or 0) if code is None else code)

    def process_ended(self, code: int) -> None:
        """Report the exit code, or the failure to start."""
        if not self.ready.called:
            self.ready.errback(RuntimeError(f"the daemon did not start:\n{self.log}"))
        self.ended.callback(code)


class Daemon:
    """A running daemon."""

    def __init__(
        self,
        pid: int,
        life: DaemonLife,
        get: Callable[..., Any],
        url: str = "",
        read_output: Callable[[], None] = lambda: None,
    ) -> None:
        self.url = url
        self.pid = pid
        self._life = life
        self._read_output = read_output
        self._get = get

    @property
    def log(self) -> str:
        """The output of the process so far: what it logged before it answered is there, however busy the machine is."""
        self._read_output()
        return self._life.log

    async def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and headers of the answer to a request."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = await self._get(method, f"{self.url}/{path}", headers=named)
        body = await treq.content(response)
        found = {name.decode().lower(): values[0].decode() for name, values in response.headers.getAllRawHeaders()}
        if isinstance(response.length, int):
            found["content-length"] = str(response.length)
        return response.code, body, found

    async def metric(self, name: str) -> float:
        """Return the sum of a metric's samples whose lines begin with this text."""
        _, body, _ = await self.get("metrics")
        lines = [line for line in body.decode().splitlines() if line.startswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    async def stop(self, number: signal.Signals = signal.SIGTERM, within: float = START_WITHIN) -> int:
        """Send a signal and wait for the end.

        :returns: the exit code, or the number of the signal that ended the process, negative.
        :raises TimeoutError: the process has not ended within so many seconds.
        """
        if not self._life.ended.called:
            os.kill(self.pid, number)
        ended: Deferred[int] = Deferred()

        def note(code: int) -> int:
            ended.callback(code)
            return code

        self._life.ended.addCallback(note)
        return await ended.addTimeout(within, reactor)

    async def end(self) -> None:
        """End the process at once; under ``make coverage``, as soon as it has written what it ran."""
        if self._life.ended.called:
            return
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(self.pid, signal.SIGCONT)
        if "COVERAGE_PROCESS_CONFIG" in os.environ:
            await self._end_readers()
            with contextlib.suppress(TimeoutError):
                await self.stop(within=20)
        if not self._life.ended.called:
            await self.stop(signal.SIGKILL)

    async def _end_readers(self) -> None:
        """Terminate TensorStore's processes, which the daemon would kill."""
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            command = Path(f"/proc/{child}/cmdline")
            with contextlib.suppress(OSError):  # it has ended
                if b"tensorstore.process" in command.read_bytes():
                    os.kill(int(child), signal.SIGTERM)
                    while command.read_bytes():
                        await deferLater(reactor, 0.02)

    async def rest(self) -> None:
        """Wait until nothing is being fetched, and every tile has its row."""
        while await self.metric("ocpproxy_flights") or await self.metric("ocpproxy_unsettled_tiles"):
            await deferLater(reactor, 0.02)


class DaemonCase(TestCase):
    """Starts daemons and doubles, and ends them with the test."""

    timeout = 600

    def setUp(self) -> None:
        """Make a client and a directory."""
        self.place = Path(self.mktemp()).absolute()
        self.place.mkdir()
        self.pool = HTTPConnectionPool(reactor)
        self.pool.maxPersistentPerHost = 100
        self.pool.retryAutomatically = False
        self.client = HTTPClient(Agent(reactor, pool=self.pool))
        self.addCleanup(self.pool.closeCachedConnections)

    def serve(self, service: doubles.Double) -> str:
        """Start a double, and return its address."""
        return doubles.serve(self, service)

    def configure(self, upstream: str, index: IndexUrl | None = None, name: str = "ocp.ini", **options: str) -> Path:
        """Write an ini file with ``section_option = value`` for each option, and return its path."""
        url = as_option(index) if index else "sqlite:///index.sqlite"
        sections = {
            "server": {"listen": "tcp:0:interface=127.0.0.1"},
            "cache": {"directory": "cache"},
            "index": {"url": url, "lease": "2"},
            "admin": {"listen": ""},
            "upstream": {"url": upstream, "timeout": "60", "retries": "0"},
        }
        for option, value in options.items():
            section, _, key = option.partition("_")
            sections[section][key] = value
        path = self.place / name
        lines = [f"[{s}]\n" + "".join(f"{k} = {v}\n" for k, v in values.items()) for s, values in sections.items()]
        path.write_text("".join(lines))
        return path

    async def start(self, config: Path | None, *arguments: str, **environ: str) -> Daemon:
        """Start a daemon, and return it when it answers."""
        life = DaemonLife()
        words = ["--nodaemon", "--pidfile=", *arguments, "ocpproxy"]
        if config is not None:
            words += ["--config", str(config)]
        forked = ForkedDaemon(words, {**os.environ, **environ}, self.place, life.output_received, life.process_ended)
        daemon = Daemon(forked.pid, life, self.client.request, read_output=forked.read_output)
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.end()))
        daemon.url = await life.ready.addTimeout(START_WITHIN, reactor)
        return daemon
