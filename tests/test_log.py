"""The log: what clients and upstreams say is escaped."""

from __future__ import annotations

import re
import socket
from io import StringIO

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.threads import deferToThread
from twisted.logger import textFileLogObserver
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.log import Logger, escape
from tests import ocpserver
from tests.daemons import DaemonCase
from tests.volumes import em

ODD = "a\n2026-11-25T20:00:00+0000 [-] forged\r\x1b[31m\x85\u2028\u202e\x9b\x00z"


class LoggerTests(SynchronousTestCase):
    """`Logger`."""

    def lines(self, text: str, *, fail: bool) -> list[str]:
        """Return the lines of an event in a log file."""
        out = StringIO()
        log = Logger("test", observer=textFileLogObserver(out))
        if fail:
            try:
                raise ValueError(text)
            except ValueError:
                log.failure("failed: {what}", Failure(), what=text)
        else:
            log.warn("{what} and {error}", what=text, error=ValueError(text))
        return out.getvalue().split("\n")

    @given(st.text())
    def test_one_line(self, text: str) -> None:
        """An event is one line, and its traceback lines that begin with a tab; no line has a control character."""
        for fail in (False, True):
            first, *rest = self.lines(text + ODD, fail=fail)
            self.assertTrue(all(line.startswith("\t") or not line for line in rest), rest)
            if not fail:
                self.assertEqual(rest, [""])
            for line in (first, *rest):
                self.assertIsNone(re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]", line))

    def test_readable(self) -> None:
        """What is escaped can be read; letters of all languages stay."""
        self.assertEqual(escape("a\nb\x1b\u2028 \u00e9\u795e\t"), "a\\nb\\u001b\\u2028 \u00e9\u795e\t")


class DaemonLogTests(DaemonCase):
    """The log of the real daemon."""

    async def test_forged_lines(self) -> None:
        """Neither a target nor an upstream's words can begin a line."""
        service = ocpserver.Service(em(), 2)
        daemon = await self.start(self.configure(self.serve(service)))

        def ask(target: bytes) -> bytes:
            with socket.create_connection(("127.0.0.1", int(daemon.url.rpartition(":")[2])), timeout=60) as client:
                client.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return client.recv(100)

        for target in (b"/kat/\x1b[31m/\x85\xe2\x80\xa8", b"/%0a%0dforged/0/0_0_0.png", b"/\x9b\x7f\x00/"):
            await deferToThread(ask, target)
        service.mode = "html200"
        await daemon.get("kat/3/0_0_0.png")
        self.assertIsNone(re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028]", daemon.log))
        begins = re.compile(r"\d{4}-\d\d-\d\d[T ]|127\.0\.0\.1 - - \[|\t|$")  # ours, and the access log's
        self.assertTrue(all(map(begins.match, daemon.log.split("\n"))), daemon.log)
