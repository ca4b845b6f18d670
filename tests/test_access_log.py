"""The access log, request ids and timings."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.web import request_ids
from ocpproxy.web.access_log import AccessLog, Answered, agent_fields, quote
from tests import ocpserver
from tests.daemons import DaemonCase, pause
from tests.volumes import em

COMBINED = re.compile(
    r'(?P<host>\S+) \S+ \S+ \[(?P<time>[^]]+)\] "(?P<line>[^"]*)" (?P<status>\d{3}) (?P<size>\d+|-) '
    r'"(?P<referer>[^"]*)" "(?P<agent>[^"]*)" (?P<id>\S+) "(?P<cache>[^"]*)" (?P<seconds>[\d.]+) (?P<timing>\S+)'
)
"""The combined format as log tools read it, and our own fields."""


def answered(line: bytes = b"GET / HTTP/1.1", agent: bytes = b'"-" "-"') -> Answered:
    """Return an answer."""
    return Answered("192.0.2.7", quote(line), 200, 12, b"ocpproxy; hit", None, agent, b"id-1")


class AccessLogTests(SynchronousTestCase):
    """Lines and batches, on fake time."""

    def setUp(self) -> None:
        """Make a log in memory."""
        self.clock = Clock()
        self.written: list[bytes] = []
        self.refuse = False
        self.log = AccessLog(self.write, self.clock, lambda: 1796034900.0)

    def write(self, lines: bytes) -> None:
        """Keep the lines."""
        if self.refuse:
            raise OSError(28, "for the test")
        self.written.append(lines)

    def test_format(self) -> None:
        """A line has the fields of the combined format, and ours."""
        self.log.add(answered(b"GET /x HTTP/1.1", agent_fields(b"http://a/b", b"Mozilla/5.0 (X11)")))
        self.assertEqual(self.written, [])
        self.clock.advance(0.25)
        found = COMBINED.fullmatch(self.written[0].decode().rstrip("\n"))
        assert found is not None
        self.assertEqual(found["time"], "30/Nov/2026:10:35:00 +0000")
        expected = ["192.0.2.7", "GET /x HTTP/1.1", "http://a/b", "Mozilla/5.0 (X11)", "id-1", "ocpproxy; hit"]
        self.assertEqual([found[key] for key in ("host", "line", "referer", "agent", "id", "cache")], expected)

    @given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
    def test_hostile(self, line: bytes, referer: bytes, agent: bytes) -> None:
        """Whatever a client sends is one line with all fields, in ASCII."""
        self.written.clear()
        self.log.add(answered(line, agent_fields(referer, agent)))
        self.log.flush()
        text = self.written[0].decode("ascii")
        self.assertEqual(text.count("\n"), 1)
        self.assertTrue(COMBINED.fullmatch(text[:-1]), text)
        self.assertTrue(quote(line).decode("ascii").isprintable())

    def test_batches(self) -> None:
        """Many lines are written at once; the rest when it stops; those that the disk refuses later, in order."""
        for n in range(1000):
            self.log.add(answered(b"GET /%d HTTP/1.1" % n))
        self.assertEqual(len(self.written), 1)
        self.refuse = True
        self.clock.advance(0.25)
        self.assertEqual(len(self.flushLoggedErrors()), 0)
        self.refuse = False
        self.log.add(answered(b"GET /last HTTP/1.1"))
        self.log.stopService()
        lines = b"".join(self.written).splitlines()
        self.assertEqual(
            [line.split(b'"')[1].split()[1] for line in lines], [*(b"/%d" % n for n in range(1000)), b"/last"]
        )

    def test_bounded(self) -> None:
        """A disk that refuses for long does not fill the memory."""
        self.refuse = True
        for _ in range(300):
            for _ in range(1000):
                self.log.add(answered(b"GET /" + b"x" * 200 + b" HTTP/1.1"))
            self.clock.advance(1)
        self.assertLess(sum(map(len, self.log._lines)), 2**25)

    @given(st.binary(max_size=200))
    def test_ids(self, sent: bytes) -> None:
        """Only a well-formed id of a client is used; ours differ."""
        own = request_ids.own_id(sent)
        self.assertTrue(own is None or (own == sent and re.fullmatch(rb"[!-~]{1,128}", sent)))
        self.assertNotEqual(request_ids.new_id(), request_ids.new_id())


class AccessLogDaemonTests(DaemonCase):
    """The real daemon."""

    async def test_file(self) -> None:
        """Every answer is in the file, with the id that the client got, and a miss with its times; logrotate works."""
        path = self.place / "logs" / "access.log"
        path.parent.mkdir()
        upstream = self.serve(ocpserver.Service(em(), 2))
        daemon = await self.start(self.configure(upstream, server_access_log=str(path)))
        ids = []
        for n, sent in enumerate(({}, {}, {"X-Request-Id": "mine-1"}, {"X-Request-Id": "no spaces"}, {})):
            code, _, headers = await daemon.get("kat/3/0_0_0.png", User_Agent=f"test/{n}", **sent)
            self.assertEqual(code, 200)
            ids.append(headers["x-request-id"])
            self.assertEqual("server-timing" in headers, n == 0)
            if n == 0:
                parts = re.findall(r"(\w+);dur=([\d.]+)", headers["server-timing"])
                self.assertEqual([name for name, _ in parts], ["queue", "upstream", "render"])
            while n == 3 and not path.exists():
                await pause(0.05)
            if n == 3:
                path.rename(f"{path}.1")
        self.assertEqual((ids[2], len(set(ids))), ("mine-1", 5))
        _, _, headers = await daemon.get("nothing/of/the/kind")
        ids.append(headers["x-request-id"])
        found: list[re.Match[str]] = []
        while len(found) < 6:
            await pause(0.05)
            text = "".join(file.read_text() for file in (Path(f"{path}.1"), path) if file.exists())
            found = [one for one in map(COMBINED.fullmatch, text.splitlines()) if one is not None]
        self.assertEqual([one["id"] for one in found], ids)
        self.assertEqual([one["agent"] for one in found[:5]], [f"test/{n}" for n in range(5)])
        self.assertEqual([one["timing"][:6] for one in found], ["queue;", *["-"] * 5])
        self.assertEqual([one["status"] for one in found], ["200"] * 5 + ["404"])
        self.assertNotIn("GET /kat", daemon.log)
