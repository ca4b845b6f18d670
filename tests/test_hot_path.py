"""The hot path beside the ordinary way: the same bytes, whatever a client sends."""

from __future__ import annotations

import re
import sqlite3
import time
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.web.front import Front
from ocpproxy.web.site import HotChannel
from tests import ocpserver
from tests.daemons import DaemonCase, pause
from tests.hot_gateway import CHUNKS, TARGETS, TILES, HotCase, without_date
from tests.volumes import em


def header_blocks() -> st.SearchStrategy[bytes]:
    """Return a strategy for header blocks, mostly well formed."""
    etag = st.sampled_from([b"*", b'"x"', b'W/"y", "z"', b"ETAG", b"W/ETAG", b'"a",ETAG', b"", b'"\xff"'])
    date = st.sampled_from([b"Fri, 01 Jan 2100 00:00:00 GMT", b"Fri, 01 Jan 1999 00:00:00 GMT", b"yesterday", b""])
    line = st.one_of(
        st.sampled_from(
            [
                *(b"Host: x", b"host:x", b"Connection: keep-alive", b"Connection: close", b"connection: Close"),
                *(b"Connection: keep-alive, close", b"Connection: upgrade", b"Accept: image/png", b"X: \t y \t"),
                *(b"Content-Length: 0", b"Content-Length: 3", b"Content-Length: x", b"Transfer-Encoding: chunked"),
                *(b"Expect: 100-continue", b"Expect: x", b"Range: bytes=0-10", b"Cookie: a=b", b"Upgrade: h2c"),
                *(b"No colon", b": empty", b"Bad name: x", b" folded", b"\tfolded", b"X: \x00", b"X: \xe9", b"X: a\rb"),
                *(b"X: " + b"y" * 9000, b"X: " + b"y" * 17000, b"Accept-Encoding: gzip, br"),
            ]
        ),
        st.builds(lambda value: b"If-None-Match: " + value, etag),
        st.builds(lambda value: b"if-modified-since:" + value, date),
        st.binary(max_size=20).filter(lambda text: b"\n" not in text),
    )
    plain = st.sampled_from([b"Referer: x", b"Accept: image/png,*/*;q=0.8", b"Connection: keep-alive"])
    either = st.one_of(st.lists(plain, max_size=3), st.lists(plain, max_size=3), st.lists(line, max_size=4))
    return st.builds(lambda lines: b"".join(one + b"\r\n" for one in lines), either)


def requests() -> st.SearchStrategy[bytes]:
    """Return a strategy for requests: those of viewers, and odd ones."""
    target = st.one_of(st.sampled_from(TILES), st.sampled_from(CHUNKS), st.sampled_from(TARGETS))
    odd_host = (b"", b"Host: x\r\nhost: y\r\n", b"Host: a b\r\n", b"host: [::1]:80\r\n")
    host = st.sampled_from([*[b"Host: x\r\n"] * 16, *odd_host])
    sane = st.builds(lambda *parts: b"GET %b HTTP/1.1\r\n%b%b\r\n" % parts, target, host, header_blocks())
    method = st.sampled_from([b"GET", b"GET", b"HEAD", b"OPTIONS", b"POST", b"get", b"", b"G T"])
    version = st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"", b"HTTP/1.1 "])
    start = st.sampled_from([b"", b"", b"\r\n", b"\r\n\r\n", b"\n"])
    end = st.sampled_from([b"\r\n", b"\r\n", b"", b"\n", b"\r\nabc"])
    odd = st.builds(
        lambda *parts: b"%b%b %b %b\r\nHost: x\r\n%b%b" % parts, start, method, target, version, header_blocks(), end
    )
    return st.one_of(sane, sane, odd)


class DifferentialTests(HotCase):
    """Both ways are driven in memory, on transports that take everything."""

    def connect(self) -> tuple[Any, HotChannel]:
        """Return a transport and a channel, as the hot path sees them on a socket."""
        channel: HotChannel = self.site.buildProtocol(None)
        transport = _Wire()
        channel.makeConnection(transport)
        channel.socket = transport
        self.addCleanup(channel.setTimeout, None)
        return transport, channel

    def drive(self, pieces: list[bytes], etag: bytes) -> bytes:
        """Return what a connection answers to these pieces."""
        transport, channel = self.connect()
        for piece in pieces:
            if not transport.disconnecting:
                channel.dataReceived(piece.replace(b"ETAG", etag))
        channel.connectionLost(Failure(ConnectionDone()))
        sent: bytes = transport.sent.replace(b"chunked", b"")
        return sent

    def compare(self, pieces: list[bytes], etag: bytes) -> bytes:
        """Check that both ways answer the same, and return the answers."""
        hot = self.drive(pieces, etag)
        with self.ordinary():
            slow = self.drive(pieces, etag)
        self.assertEqual(without_date(hot), without_date(slow), pieces)
        return hot

    async def test_odd_requests(self) -> None:
        """Thousands of odd requests, pipelined and in pieces: byte for byte the same answers."""
        etag = re.search(rb"ETag: ([^\r]+)", self.drive([b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % TILES[0]], b""))
        assert etag is not None
        before = self.hot_answers()

        @settings(max_examples=3000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.integers(0, 400), max_size=4))
        def agree(requests: list[bytes], cuts: list[int]) -> None:
            whole = b"".join(requests)
            marks = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
            self.compare([whole[a:b] for a, b in pairwise(marks)], etag[1])

        agree()
        self.assertGreater(self.hot_answers() - before, 500, "the hot path had its part in it")

    async def test_split_at_every_byte(self) -> None:
        """Two pipelined requests, cut in two at every byte, and byte by byte."""
        requests = (
            b"GET %b HTTP/1.1\r\nHost: x\r\n\r\nGET %b HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n\r\n" % TILES[:2]
        )
        whole = self.compare([requests], b"")
        self.assertEqual((whole.count(b"200 OK"), whole.count(b"304 Not")), (1, 1))
        for cut in range(1, len(requests)):
            self.assertEqual(without_date(self.compare([requests[:cut], requests[cut:]], b"")), without_date(whole))
        one_by_one = self.compare([requests[n : n + 1] for n in range(len(requests))], b"")
        self.assertEqual(without_date(one_by_one), without_date(whole))

    async def test_empty_lines(self) -> None:
        """The empty lines between requests that Twisted forgives are forgiven beside hot answers too."""
        one = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % TILES[0]
        for pieces in ([b"\r\n", one, b"\r\n", one, one], [one + b"\r\n", one, b"\r\n", one, one]):
            self.assertEqual(self.compare(pieces, b"").count(b"200 OK"), b"".join(pieces).count(b"GET"))

    async def test_all_spellings_get_routes(self) -> None:
        """Each spelling of a tile is answered at once from its second request on; other targets never are."""
        spellings = [(TARGETS[3], 1), (TARGETS[4], 1), (TARGETS[5], 1), (TARGETS[6], 1), (TARGETS[7], 0)]
        for target, hot in (*spellings, *((chunk, 1) for chunk in CHUNKS), (TARGETS[-2], 1), (TARGETS[-1], 0)):
            before = self.hot_answers()
            self.drive([b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target], b"")
            self.assertEqual(self.hot_answers() - before, hot, target)

    def hot_answers(self) -> int:
        """Return the number of answers by the hot path."""
        return self.sent_hot

    sent_hot = 0

    async def setUp(self) -> None:  # type: ignore[override]
        """Count what the hot path answers."""
        await super().setUp()
        answer = self.site.hot_path.answer

        def counted(*args: Any) -> Any:
            found = answer(*args)
            self.sent_hot += found is not None
            return found

        self.site.hot_path.answer = counted

    async def test_routes_expire(self) -> None:
        """A route is forgotten when the description of its token is due, and remembered again."""
        requests = [b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % TILES[0]]
        known = self.site.hot_path._routes._routes[TILES[0]].entry
        known.refresh_at = 0
        before = self.hot_answers()
        self.drive(requests, b"")
        self.assertEqual(self.hot_answers(), before)
        self.assertGreater(known.refresh_at, 0, "the ordinary way has asked again")
        self.drive(requests, b"")
        self.assertEqual(self.hot_answers(), before + 1)


class DiskDifferentialTests(DifferentialTests):
    """The same with nothing in memory: answers are sent from files."""

    memory = "0"


class _Wire(StringTransport):
    """A transport and its socket in one: what is sent past the transport, and through it, in the order it goes out."""

    offset = 0
    TLS = False
    dataBuffer = b""
    _tempDataBuffer = b""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""

    def write(self, data: bytes) -> None:
        """Send through the transport."""
        self.sent += data

    def writeSequence(self, data: list[bytes]) -> None:
        """Send pieces through the transport."""
        self.sent += b"".join(data)

    def sendmsg(self, parts: Any, ancillary: Any = (), flags: int = 0) -> int:
        """Send past the transport."""
        if flags:
            return 0  # as if it were full: files are sent by the transport here
        data = b"".join(parts)
        self.sent += data
        return len(data)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing."""


class HotDaemonTests(DaemonCase):
    """Through the daemon: what else a hit has to do."""

    async def test_log_metrics_uses(self) -> None:
        """A hot hit is in the access log and the metrics, and its use is written down."""
        daemon = await self.start(self.configure(self.serve(ocpserver.Service(em(), 2))))
        await daemon.get("kat/3/0_0_0.png")
        await daemon.rest()
        for _ in range(2):
            await daemon.get("kat/3/0_0_0.png")
        self.assertEqual(await daemon.metric('ocpproxy_tiles_total{result="hit_memory"}'), 2)
        while daemon.log.count('"GET /kat/3/0_0_0.png HTTP/1.1" 200') < 3:
            await pause(0.05)
        lines = [line for line in daemon.log.splitlines() if '"GET /kat/3/0_0_0.png HTTP/1.1" 200' in line]
        self.assertEqual([line.split('"')[7] for line in lines[1:]], ["ocpproxy; hit; detail=memory"] * 2)
        self.assertEqual(len({re.sub(r".*GET| [0-9a-f]+-[0-9a-f]+ ", "", line) for line in lines[1:]}), 1)
        await daemon.stop()
        index = sqlite3.connect(self.place / "index.sqlite")
        used = [name for (name,) in index.execute("SELECT filename FROM contents ORDER BY reftime DESC LIMIT 1")]
        index.close()
        self.assertEqual([name.rpartition("/")[2] for name in used], ["3.png"])

    async def test_beyond_the_index(self) -> None:
        """A tile whose numbers the index cannot hold is refused each time; it gets no route."""
        service_ = ocpserver.Service(em(), 2, offset=(0, 0, 9_000_000))
        daemon = await self.start(self.configure(self.serve(service_)))
        for _ in range(3):
            code, body, _ = await daemon.get("kat/9000001/0_0_0.png")
            self.assertEqual((code, b"beyond the index" in body), (404, True))
        self.assertNotIn("Traceback", daemon.log)


class BlockTests(SynchronousTestCase):
    """Header blocks as the hot path reads them."""

    def test_bounds(self) -> None:
        """More than a hundred lines, or folded ones, go the ordinary way."""
        from ocpproxy.web.hot_path import _read_headers

        self.assertIsNotNone(_read_headers(b"Host: b\r\n" + b"A: b\r\n" * 99 + b"\r\n", Front()))
        self.assertIsNone(_read_headers(b"Host: b\r\n" + b"A: b\r\n" * 100 + b"\r\n", Front()))
        self.assertIsNone(_read_headers(b"Host: b\r\nA: b\r\n c\r\n\r\n", Front()))

    def test_linear(self) -> None:
        """No block of the longest size takes long to be read, whatever it is made of."""
        from ocpproxy.web.hot_path import _read_headers

        for part in (b" ", b"a ", b"\t ", b"a"):
            block = b"a: \r\n" * 22 + b"A: " + part * (7000 // len(part)) + b"\x00\r\n\r\n"
            began = time.process_time()
            self.assertIsNone(_read_headers(block, Front()))
            self.assertLess(time.process_time() - began, 0.5)
