"""The hot path beside the ordinary way: the same bytes, whatever a client sends and however little it reads."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ocpproxy import config
from ocpproxy.daemon import gateway
from ocpproxy.daemon.services import ListeningPorts
from ocpproxy.metrics import Metrics
from ocpproxy.upstream.registry import KINDS
from ocpproxy.web.channel import PromptChannel
from ocpproxy.web.site import HotChannel
from tests import doubles, ocpserver
from tests.daemons import DaemonCase
from tests.test_daemon import pause
from tests.volumes import em

TILES = (b"/kat/3/0_0_0.png", b"/kat/4/0_1_0.png", b"/ocpcatmaid/kat/image/xy/5/1_0_0.png")
TARGETS = (
    *TILES,
    b"/ocpcatmaid/tilecache/kat/3/0_0_0.png",
    b"/k%61t/3/0_0_0.png",
    b"/kat/3/0_0_0.png?nocache=1&x=<script>",
    b"/kat/xy/?x=512&y=0&width=512&height=512&row=y&col=x&scale=1&z=4",
    b"/kat/3/0_0_0.png?min=10&max=200",
    b"/kat/0/0_0_0.png",
    b"/kat/9999/0_0_0.png",
    b"/kat/3/0_0_0.jpg",
    b"/nope/3/0_0_0.png",
    b"/healthz",
    b"//kat/3/0_0_0.png",
    b"kat/3/0_0_0.png",
    b"*",
    b"/kat/3/0_0_0.png#x",
)
DATE = re.compile(rb"\r\n(?:Date|Cache-Status): [^\r]*")


def without_date(said: bytes) -> bytes:
    """An answer without the two headers that may differ."""
    return DATE.sub(b"", said)


class HotCase(TestCase):
    """A gateway in this process, and connections to it that are driven by hand."""

    timeout = 600
    memory = "64"

    async def setUp(self) -> None:  # type: ignore[override]
        """A gateway whose cache has three tiles."""
        self.place = Path(self.mktemp()).absolute()
        self.place.mkdir()
        url = doubles.serve(self, ocpserver.Service(em(), 2))
        text = (
            "[server]\nlisten = tcp:0:interface=127.0.0.1\naccess_log = off\n"
            f"[cache]\ndirectory = cache\nmemory = {self.memory}\n[index]\nurl = sqlite:///index.sqlite\n"
            f"[upstream]\nurl = {url}\n"
        )
        self.gateway = gateway.make_gateway(config.parse(text, self.place, os.environ, KINDS), reactor, Metrics())
        self.gateway.services.privilegedStartService()
        self.gateway.services.startService()
        self.addCleanup(self.stop)
        listening = next(part for part in self.gateway.services if isinstance(part, ListeningPorts))
        self.port = listening.ports[0].getHost().port
        self.site: Any = self.gateway.site
        self.store = self.gateway.storage.store
        for target in TARGETS:
            await deferToThread(self.ask, b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
        while len(self.store.pending) or len(list((self.place / "cache/tiles").rglob("*.png"))) < 48:
            await pause(0.02)
        for tile in (self.place / "cache/tiles").rglob("*.png"):
            tile.read_bytes()  # into the page cache

    async def stop(self) -> None:
        """End it."""
        await self.gateway.services.stopService()
        self.gateway.storage.database.close()

    def ask(self, said: bytes) -> bytes:
        """What the gateway answers on one connection, until it closes it. (In a thread.)"""
        with socket.create_connection(("127.0.0.1", self.port), timeout=300) as client:
            client.sendall(said)
            answer = b""
            while part := client.recv(2**18):
                answer += part
        return answer

    @contextmanager
    def ordinary(self) -> Iterator[None]:
        """For the time of a block nothing is answered by the hot path."""
        answer, self.site.hot_path.answer = self.site.hot_path.answer, lambda *_: None
        try:
            yield
        finally:
            self.site.hot_path.answer = answer


def header_blocks() -> st.SearchStrategy[bytes]:
    """Header lines, mostly well formed."""
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
    plain = st.sampled_from([b"Host: x", b"Accept: image/png,*/*;q=0.8", b"Connection: keep-alive"])
    either = st.one_of(st.lists(plain, max_size=3), st.lists(plain, max_size=3), st.lists(line, max_size=4))
    return st.builds(lambda lines: b"".join(one + b"\r\n" for one in lines), either)


def requests() -> st.SearchStrategy[bytes]:
    """One request: a viewer's, or one of any sanity."""
    target = st.one_of(st.sampled_from(TILES), st.sampled_from(TARGETS))
    sane = st.builds(lambda *said: b"GET %b HTTP/1.1\r\n%b\r\n" % said, target, header_blocks())
    method = st.sampled_from([b"GET", b"GET", b"HEAD", b"OPTIONS", b"POST", b"get", b"", b"G T"])
    version = st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"", b"HTTP/1.1 "])
    start = st.sampled_from([b"", b"", b"\r\n", b"\r\n\r\n", b"\n"])
    end = st.sampled_from([b"\r\n", b"\r\n", b"", b"\n", b"\r\nabc"])
    odd = st.builds(
        lambda *said: b"%b%b %b %b\r\nHost: x\r\n%b%b" % said, start, method, target, version, header_blocks(), end
    )
    return st.one_of(sane, sane, odd)


class DifferentialTests(HotCase):
    """Both ways are driven in memory, on transports that take everything."""

    def connect(self) -> tuple[Any, HotChannel]:
        """A channel of the site, as the hot path sees one on a socket."""
        channel: HotChannel = self.site.buildProtocol(None)
        transport = _Wire()
        channel.makeConnection(transport)
        channel.socket = transport
        self.addCleanup(channel.setTimeout, None)
        return transport, channel

    def drive(self, pieces: list[bytes], etag: bytes) -> bytes:
        """What a connection answers to these pieces."""
        transport, channel = self.connect()
        for piece in pieces:
            if not transport.disconnecting:
                channel.dataReceived(piece.replace(b"ETAG", etag))
        channel.setTimeout(None)
        return transport.sent.replace(b"chunked", b"")

    def compare(self, pieces: list[bytes], etag: bytes) -> bytes:
        """The same answers either way; returned."""
        hot = self.drive(pieces, etag)
        with self.ordinary():
            slow = self.drive(pieces, etag)
        self.assertEqual(without_date(hot), without_date(slow), pieces)
        return hot

    async def test_odd_requests(self) -> None:
        """Thousands of odd requests, pipelined and in pieces: byte for byte the same answers."""
        etag = re.search(rb"ETag: ([^\r]+)", self.drive([b"GET %b HTTP/1.1\r\n\r\n" % TILES[0]], b""))
        assert etag is not None
        before = self.hot_answers()

        @settings(max_examples=3000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.integers(0, 400), max_size=4))
        def agree(said: list[bytes], cuts: list[int]) -> None:
            whole = b"".join(said)
            marks = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
            self.compare([whole[a:b] for a, b in pairwise(marks)], etag[1])

        agree()
        self.assertGreater(self.hot_answers() - before, 500, "the hot path had its part in it")

    async def test_split_at_every_byte(self) -> None:
        """Two pipelined requests, cut in two at every byte, and byte by byte."""
        said = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\nGET %b HTTP/1.1\r\nIf-None-Match: *\r\n\r\n" % TILES[:2]
        whole = self.compare([said], b"")
        self.assertEqual((whole.count(b"200 OK"), whole.count(b"304 Not")), (1, 1))
        for cut in range(1, len(said)):
            self.assertEqual(without_date(self.compare([said[:cut], said[cut:]], b"")), without_date(whole))
        one_by_one = self.compare([said[n : n + 1] for n in range(len(said))], b"")
        self.assertEqual(without_date(one_by_one), without_date(whole))

    async def test_empty_lines(self) -> None:
        """The empty lines between requests that Twisted forgives are forgiven beside hot answers too."""
        one = b"GET %b HTTP/1.1\r\n\r\n" % TILES[0]
        for pieces in ([b"\r\n", one, b"\r\n", one, one], [one + b"\r\n", one, b"\r\n", one, one]):
            self.assertEqual(self.compare(pieces, b"").count(b"200 OK"), b"".join(pieces).count(b"GET"))

    async def test_all_spellings_are_taught(self) -> None:
        """Each spelling of a tile is answered at once from its second request on; what is no plain tile never is."""
        for target, hot in ((TARGETS[3], 1), (TARGETS[4], 1), (TARGETS[5], 1), (TARGETS[6], 1), (TARGETS[7], 0)):
            before = self.hot_answers()
            self.drive([b"GET %b HTTP/1.1\r\n\r\n" % target], b"")
            self.assertEqual(self.hot_answers() - before, hot, target)

    def hot_answers(self) -> int:
        """How many the hot path has given."""
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

    async def test_what_is_known_changes(self) -> None:
        """What was taught is forgotten when the token is due to be asked for again, and taught anew."""
        said = [b"GET %b HTTP/1.1\r\n\r\n" % TILES[0]]
        known = self.site.hot_path._routes._routes[TILES[0]].entry
        known.refresh_at = 0
        before = self.hot_answers()
        self.drive(said, b"")
        self.assertEqual(self.hot_answers(), before)
        self.assertGreater(known.refresh_at, 0, "the ordinary way has asked again")
        self.drive(said, b"")
        self.assertEqual(self.hot_answers(), before + 1)


class DiskDifferentialTests(DifferentialTests):
    """The same with nothing in memory: answers are sent from files."""

    memory = "0"


class _Wire(StringTransport):
    """A transport and its socket in one: what is sent past the transport, and through it, in the order it goes out."""

    TLS = False
    dataBuffer = b""
    _tempDataBuffer = b""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""

    def write(self, data: bytes) -> None:
        """Through the transport."""
        self.sent += data

    def writeSequence(self, data: list[bytes]) -> None:
        """The same."""
        self.sent += b"".join(data)

    def sendmsg(self, parts: Any, ancillary: Any = (), flags: int = 0) -> int:
        """Past it."""
        if flags:
            return 0  # as if it were full: files are sent by the transport here
        data = b"".join(parts)
        self.sent += data
        return len(data)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing to do."""


class SocketTests(HotCase):
    """Real sockets: clients that do not read, and ends of connections."""

    async def flood(self, target: bytes) -> tuple[int, bytes]:
        """Pipelines 2,000 requests and reads nothing until the gateway holds; (bytes held in it, all answers)."""
        request = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target
        client = socket.create_connection(("127.0.0.1", self.port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        client.setblocking(False)
        todo, held, still = request * 2000, 0, 0
        while still < 20:
            try:
                todo = todo[client.send(todo) :]
            except BlockingIOError:
                still += 1
            still += not todo
            await pause(0.01)
            held = max(held, *(self.unsent(reader) for reader in reactor.getReaders() + reactor.getWriters()))
        client.setblocking(True)
        client.settimeout(300)

        def send() -> None:
            client.sendall(todo + b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")

        sending = deferToThread(send)
        answers: bytes = await deferToThread(_read_all, client)
        await sending
        client.close()
        return held, answers

    @staticmethod
    def unsent(reader: Any) -> int:
        """Bytes that the gateway's side of a connection has in its buffers."""
        if not isinstance(getattr(reader, "protocol", None), PromptChannel):
            return 0
        return len(reader.dataBuffer) - reader.offset + reader._tempDataLen

    async def test_bounded(self) -> None:
        """A client that pipelines 2,000 requests and does not read costs two answers, and gets all of them in the end,
        whole and in order, on the hot path and on the ordinary way."""
        body = without_date(await deferToThread(self.ask, b"GET %b HTTP/1.1\r\nConnection: close\r\n\r\n" % TILES[0]))
        one = body.replace(b"Connection: close\r\n", b"")
        for way in ("hot", "ordinary"):
            with self.ordinary() if way == "ordinary" else _nothing():
                held, answers = await self.flood(TILES[0])
            self.assertGreater(held, 0, way)
            self.assertLess(held, 2.5 * len(one) + 2**16, way)
            whole = without_date(answers)
            self.assertEqual(whole.count(b"HTTP/1.1 200 OK"), 2001, way)
            self.assertTrue(whole.startswith(one * 2000), way)

    async def test_slow_reader_times_out(self) -> None:
        """One who never reads is cut off, though a request of his is held."""
        self.site.timeOut = 0.5
        client = socket.create_connection(("127.0.0.1", self.port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        client.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % TILES[0] * 300)
        held: list[Any] = []
        while not held:
            await pause(0.02)
            writers = [r.protocol for r in reactor.getWriters() if isinstance(getattr(r, "protocol", 0), HotChannel)]
            held = [channel for channel in writers if channel._held is not None]
        (channel,) = held
        channel.abortTimeout = 0.2
        lost: Deferred[None] = Deferred()
        original = channel.connectionLost
        channel.connectionLost = lambda reason: (original(reason), lost.callback(None))
        await lost.addTimeout(300, reactor)
        client.close()

    async def test_ends(self) -> None:
        """Connection: close and HTTP/1.0 end the connection after a whole answer; keep-alive does not."""
        for said, connection in (
            (b"GET %b HTTP/1.1\r\nConnection: close\r\n\r\n", True),
            (b"GET %b HTTP/1.0\r\n\r\n", False),
            (b"GET %b HTTP/1.1\r\n\r\nHEAD /healthz HTTP/1.0\r\n\r\n", False),
        ):
            answer = await deferToThread(self.ask, said % TILES[0])
            self.assertIn(b" 200 OK", answer[:20])
            self.assertEqual(b"Connection: close" in answer, connection)
            self.assertIn(b"IEND\xaeB`\x82", answer)


class DiskSocketTests(SocketTests):
    """The same, sent from files."""

    memory = "0"


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _read_all(client: socket.socket) -> bytes:
    parts = []
    while part := client.recv(2**20):
        parts.append(part)
    return b"".join(parts)


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
        lines = [line for line in daemon.log.splitlines() if "GET /kat/3/0_0_0.png 200" in line]
        self.assertEqual([line.rpartition("ocpproxy; ")[2] for line in lines[1:]], ["hit; detail=memory"] * 2)
        self.assertEqual(len({re.sub(r".*GET", "", line) for line in lines[1:]}), 1)
        await daemon.stop()
        index = sqlite3.connect(self.place / "index.sqlite")
        used = [name for (name,) in index.execute("SELECT filename FROM contents ORDER BY reftime DESC LIMIT 1")]
        index.close()
        self.assertEqual([name.rpartition("/")[2] for name in used], ["3.png"])

    async def test_beyond_the_index(self) -> None:
        """A tile whose numbers the index cannot hold is refused each time; what is refused is not taught."""
        service_ = ocpserver.Service(em(), 2, offset=(0, 0, 9_000_000))
        daemon = await self.start(self.configure(self.serve(service_)))
        for _ in range(3):
            code, body, _ = await daemon.get("kat/9000001/0_0_0.png")
            self.assertEqual((code, b"beyond the index" in body), (404, True))
        self.assertNotIn("Traceback", daemon.log)

    async def test_unix_socket(self) -> None:
        """A unix socket has the hot path too."""
        config_ = self.configure(self.serve(ocpserver.Service(em(), 2)), server_listen="unix:http.sock")
        await self.start(config_)
        answers = []
        for _ in range(2):
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(self.place / "http.sock"))
            client.sendall(b"GET /kat/3/0_0_0.png HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.0\r\n\r\n")
            answers.append(await deferToThread(_read_all, client))
            client.close()
        self.assertIn(b"hit; detail=memory", answers[1])
        self.assertEqual(
            without_date(answers[0]).partition(b"HTTP/1.0")[0], without_date(answers[1]).partition(b"HTTP/1.0")[0]
        )

    async def test_tls(self) -> None:
        """TLS takes the ordinary way, with the same answers; HTTP/2 is not offered."""
        pem = self.place / "both.pem"
        pem.write_bytes(certificate())
        listen = f"ssl:0:privateKey={pem}:certKey={pem}:interface=127.0.0.1"
        daemon = await self.start(self.configure(self.serve(ocpserver.Service(em(), 2)), server_listen=listen))
        port = int(daemon.url.rpartition(":")[2])

        def ask() -> tuple[str | None, bytes]:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2", "http/1.1"])
            with context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=300)) as client:
                client.sendall(b"GET /kat/3/0_0_0.png HTTP/1.1\r\n\r\n" * 2 + b"GET /healthz HTTP/1.0\r\n\r\n")
                return client.selected_alpn_protocol(), _read_all(client)

        await deferToThread(ask)
        protocol, answers = await deferToThread(ask)
        self.assertEqual(protocol, "http/1.1")
        first, second, health = without_date(answers).split(b"HTTP/1.")[1:]
        self.assertEqual(first, second)
        self.assertTrue(first.startswith(b"1 200 OK") and first.endswith(b"IEND\xaeB`\x82"))
        self.assertIn(b"alive", health)


def certificate() -> bytes:
    """A key, and a certificate signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return private + made.public_bytes(serialization.Encoding.PEM)


class BlockTests(SynchronousTestCase):
    """What the hot path reads of header blocks."""

    def test_bounds(self) -> None:
        """More than a hundred lines, or folded ones, go the ordinary way."""
        from ocpproxy.web.hot_path import _read_headers

        self.assertIsNotNone(_read_headers(b"A: b\r\n" * 100 + b"\r\n"))
        self.assertIsNone(_read_headers(b"A: b\r\n" * 101 + b"\r\n"))
        self.assertIsNone(_read_headers(b"A: b\r\n c\r\n\r\n"))

    def test_linear(self) -> None:
        """No block of the longest size takes long to be read, whatever it is made of."""
        from ocpproxy.web.hot_path import _read_headers

        for part in (b" ", b"a ", b"\t ", b"a"):
            block = b"a: \r\n" * 22 + b"A: " + part * (7000 // len(part)) + b"\x00\r\n\r\n"
            began = time.process_time()
            self.assertIsNone(_read_headers(block))
            self.assertLess(time.process_time() - began, 0.5)
