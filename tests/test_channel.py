"""Connections: clients that read slowly or not at all, ends of connections, unix sockets and TLS."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from ocpproxy.web.channel import PromptChannel
from ocpproxy.web.site import HotChannel
from tests import ocpserver
from tests.daemons import DaemonCase, pause
from tests.hot_gateway import TILES, HotCase, read_all, without_date
from tests.volumes import em


class SocketTests(HotCase):
    """Real sockets: clients that do not read, and ends of connections."""

    async def flood(self, target: bytes) -> tuple[int, bytes]:
        """Pipeline 2,000 requests, and read nothing until the gateway holds them.

        :returns: the most bytes that the gateway has buffered, and all answers.
        """
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
            client.sendall(todo + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

        sending = deferToThread(send)
        answers: bytes = await deferToThread(read_all, client)
        await sending
        client.close()
        return held, answers

    @staticmethod
    def unsent(reader: Any) -> int:
        """Return the bytes that the gateway's side of a connection has buffered."""
        if not isinstance(getattr(reader, "protocol", None), PromptChannel):
            return 0
        held: int = len(reader.dataBuffer) - reader.offset + reader._tempDataLen
        return held

    async def test_bounded(self) -> None:
        """A client that pipelines 2,000 requests and does not read costs the memory of two answers.

        It gets all of them in the end, whole and in order, on the hot path and on the ordinary way.
        """
        body = without_date(
            await deferToThread(self.exchange, b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % TILES[0])
        )
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
        """A client that never reads is disconnected, though one of its requests is held."""
        self.site.timeOut = 0.5
        client = socket.create_connection(("127.0.0.1", self.port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        client.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % TILES[0] * 300)
        held: list[Any] = []
        while not held:
            await pause(0.02)
            protocols = [getattr(writer, "protocol", None) for writer in reactor.getWriters()]
            held = [one for one in protocols if isinstance(one, HotChannel) and one._held is not None]
        (channel,) = held
        channel.abortTimeout = 0.2
        lost: Deferred[None] = Deferred()
        original = channel.connectionLost

        def connection_lost(reason: Failure) -> None:
            original(reason)
            lost.callback(None)

        channel.connectionLost = connection_lost
        await lost.addTimeout(300, reactor)
        client.close()

    async def test_ends(self) -> None:
        """Connection: close and HTTP/1.0 end the connection after a whole answer; keep-alive does not."""
        for requests, connection in (
            (b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", True),
            (b"GET %b HTTP/1.0\r\n\r\n", False),
            (b"GET %b HTTP/1.1\r\nHost: x\r\n\r\nHEAD /healthz HTTP/1.0\r\n\r\n", False),
        ):
            answer = await deferToThread(self.exchange, requests % TILES[0])
            self.assertIn(b" 200 OK", answer[:20])
            self.assertEqual(b"Connection: close" in answer, connection)
            self.assertIn(b"IEND\xaeB`\x82", answer)


class DiskSocketTests(SocketTests):
    """The same, sent from files."""

    memory = "0"


@contextmanager
def _nothing() -> Iterator[None]:
    yield


class ListeningTests(DaemonCase):
    """The hot path on other sockets than TCP."""

    async def test_unix_socket(self) -> None:
        """A unix socket has the hot path too."""
        config_ = self.configure(self.serve(ocpserver.Service(em(), 2)), server_listen="unix:http.sock")
        await self.start(config_)
        answers = []
        for _ in range(2):
            client = socket.socket(socket.AF_UNIX)
            client.connect(os.path.relpath(self.place / "http.sock"))  # an absolute path may be too long
            client.sendall(b"GET /kat/3/0_0_0.png HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.0\r\n\r\n")
            answers.append(await deferToThread(read_all, client))
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

        tiles = b"GET /kat/3/0_0_0.png HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"GET /healthz HTTP/1.0\r\n\r\n"

        def exchange(requests: bytes = tiles) -> tuple[str | None, bytes]:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2", "http/1.1"])
            with context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=300)) as client:
                client.sendall(requests)
                return client.selected_alpn_protocol(), read_all(client)

        await deferToThread(exchange)
        protocol, answers = await deferToThread(exchange)
        self.assertEqual(protocol, "http/1.1")
        first, second, health = without_date(answers).split(b"HTTP/1.")[1:]
        self.assertEqual(first, second)
        self.assertTrue(first.startswith(b"1 200 OK") and first.endswith(b"IEND\xaeB`\x82"))
        self.assertIn(b"alive", health)
        for refused, status in (
            (b"POST /kat/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc", b" 405 "),
            (b"nonsense\r\n\r\n", b" 400 "),
        ):
            _, answer = await deferToThread(exchange, refused)
            self.assertIn(status, answer[:20])
        self.assertNotIn("Traceback", daemon.log)


def certificate() -> bytes:
    """Return a key and its self-signed certificate, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return private + made.public_bytes(serialization.Encoding.PEM)
