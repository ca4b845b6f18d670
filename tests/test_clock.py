"""A date that is set back makes no time-out longer."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ocpproxy.daemon.services import measure_monotonic
from tests import ocpserver
from tests.daemons import Daemon, DaemonCase, DaemonLife, pause
from tests.volumes import em

_reactor: Any = reactor
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
"""Of Debian's package faketime."""


class _Timed:
    """A reactor with these timers."""

    def __init__(self, *calls: object) -> None:
        self.seconds = time.time
        self._calls = calls

    def getDelayedCalls(self) -> tuple[object, ...]:
        return self._calls


class MonotonicTests(SynchronousTestCase):
    """`measure_monotonic`."""

    def test_reactors(self) -> None:
        """A reactor without timers follows the monotonic clock; one that has some is left as it is."""
        new, used = _Timed(), _Timed("a call")
        measure_monotonic(new)
        measure_monotonic(used)
        self.assertEqual((new.seconds, used.seconds), (time.monotonic, time.time))


class SteppedClockTests(DaemonCase):
    """The real daemon with a clock that is set back by two minutes while it waits."""

    async def test_set_back(self) -> None:
        """A time-out of two seconds is over after two seconds."""
        if not FAKETIME.exists():
            raise SkipTest("no libfaketime: apt-get install faketime")
        service = ocpserver.Service(em(), 2, mode="mute")
        config = self.configure(self.serve(service), upstream_timeout="2")
        offset = self.place / "offset"
        offset.write_text("+0\n")
        environ = {
            **os.environ,
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        run = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "--nodaemon", "--pidfile="]
        life, spawner = DaemonLife(), _reactor
        process = spawner.spawnProcess(life, run[0], [*run, "ocpproxy", "--config", str(config)], environ)
        self.addCleanup(lambda: life.ended)
        self.addCleanup(process.signalProcess, signal.SIGTERM)
        daemon = Daemon(process.pid, life, self.client.request, await life.ready)
        await daemon.get("kat/")
        began = time.monotonic()
        asked = Deferred.fromCoroutine(daemon.get("kat/3/0_0_0.png"))
        while not service.open_now:
            await pause(0.02)
        offset.write_text("-120\n")
        code, _, _ = await asked
        self.assertEqual(code, 504)
        self.assertLess(time.monotonic() - began, 60)
