"""Requests as clients send them: targets, hosts, deadlines, connections."""

from __future__ import annotations

import os
import resource
import signal
import socket
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers

from ocpproxy.web import target
from ocpproxy.web.connections import Connections, most_connections
from ocpproxy.web.target import RefusedRequest
from tests import ocpserver
from tests.daemons import Daemon, DaemonCase, pause
from tests.memory import MemoryGatewayCase
from tests.volumes import em


def headers(**fields: str | list[str]) -> Headers:
    """Return headers; a list is a header that is there several times."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return Headers({name: value if isinstance(value, list) else [value] for name, value in named.items()})


class TargetTests(SynchronousTestCase):
    """`target.read`."""

    def test_forms(self) -> None:
        """Slashes in a row are one; a whole address is its path, and its host replaces the header."""
        for asked, path in (
            (b"/a/b?c//d", b"/a/b?c//d"),
            (b"//a///b//", b"/a/b/"),
            (b"http://h/a//b", b"/a/b"),
            (b"HTTPS://u@h:80", b"/"),
            (b"http://h?x", b"/?x"),
            (b"*", b"*"),
        ):
            self.assertEqual(target.read(asked, b"HTTP/1.1", headers(host="x")), path)
        found = headers(host="x")
        target.read(b"http://u:p@h:81/a", b"HTTP/1.1", found)
        self.assertEqual(found.getRawHeaders("host"), ["h:81"])

    def test_refused(self) -> None:
        """A host that is missing, repeated or invalid, and a target that is no path."""
        for hosts in ([], ["a", "b"], ["a b"], ["a/b"], ["a@b"], ["[::1"], ["a:b"], ["x" * 300]):
            self.assertRaises(
                RefusedRequest, target.read, b"/a", b"HTTP/1.1", headers(host=hosts) if hosts else Headers()
            )
        for hosts in (["a"], ["a:80"], ["[::1]:80"], ["A-b.c_d"], [""], ["%41"]):
            self.assertEqual(target.read(b"/a", b"HTTP/1.1", headers(host=hosts)), b"/a")
        self.assertEqual(target.read(b"/a", b"HTTP/1.0", Headers()), b"/a")
        for asked in (b"a", b"", b"ftp://h/a", b"h:443"):
            self.assertRaises(RefusedRequest, target.read, asked, b"HTTP/1.1", headers(host="x"))

    def test_close(self) -> None:
        """`close` counts in every place of every field."""
        for fields, closes in (
            (["close"], True),
            (["x, Close"], True),
            (["keep-alive", "x ,close"], True),
            (["closed"], False),
            (["keep-alive"], False),
        ):
            self.assertEqual(target.wants_close(headers(connection=fields)), closes, fields)

    @given(st.binary(max_size=40), st.lists(st.binary(max_size=20), max_size=3))
    def test_anything(self, asked: bytes, hosts: list[bytes]) -> None:
        """Any target is a path or refused."""
        clean = [bytes(b for b in host if b not in b"\r\n\0") for host in hosts]
        try:
            path = target.read(asked, b"HTTP/1.1", Headers({b"host": clean}))
        except RefusedRequest:
            return
        self.assertTrue(path == b"*" or (path.startswith(b"/") and not path.startswith(b"//")))


class _Held:
    """A connection that notes its end."""

    aborted = closed = False

    def __init__(self, unsent: int = 0, *, unheard: bool = False) -> None:
        self.unsent = unsent
        self.unheard = unheard

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def unsent_bytes(self) -> int:
        return self.unsent

    def is_unheard(self) -> bool:
        return self.unheard


class _Port:
    """A socket that notes whether it accepts connections."""

    accepts = True

    def pauseProducing(self) -> None:
        self.accepts = False

    def resumeProducing(self) -> None:
        self.accepts = True


class ConnectionsTests(SynchronousTestCase):
    """`Connections`."""

    def test_longest_idle(self) -> None:
        """The connection that is idle for longest goes; never one that waits for an answer."""
        clock = Clock()
        connections = Connections(3, clock)
        held = [_Held() for _ in range(5)]
        for one in held[:3]:
            connections.opened(one)
            clock.advance(1)
        connections.answering(held[0])
        connections.used(held[1])
        connections.opened(held[3])
        clock.advance(1)
        connections.opened(held[4])
        self.assertEqual([one.closed for one in held], [False, True, True, False, False])

    def test_all_wait(self) -> None:
        """When all wait for answers, no others are accepted until one has had its answer for a moment."""
        clock, port = Clock(), _Port()
        connections = Connections(2, clock)
        connections.ports = (port,)
        held = [_Held(), _Held()]
        for one in held:
            connections.opened(one)
            connections.answering(one)
        self.assertEqual((port.accepts, len(connections)), (False, 2))
        connections.answered(held[0])
        self.assertFalse(port.accepts)
        clock.pump([0.5, 0.5])
        self.assertEqual((port.accepts, held[0].closed, len(connections)), (True, True, 2))
        connections.closed(held[0])
        self.assertEqual((len(connections), clock.getDelayedCalls()), (1, []))

    def test_burst(self) -> None:
        """A burst that is accepted at once does not go far beyond the bound, and leaves one timer."""
        clock = Clock()
        connections = Connections(5, clock)
        held = [_Held() for _ in range(400)]
        for one in held:
            connections.opened(one)
        self.assertLessEqual(sum(not one.closed for one in held), 5 + 64)
        self.assertEqual(len(clock.getDelayedCalls()), 1)

    def test_bytes_are_no_use(self) -> None:
        """A client that sends byte by byte has not used its connection."""
        clock = Clock()
        connections = Connections(2, clock)
        slow, busy = _Held(), _Held()
        for one in (slow, busy):
            connections.opened(one)
        clock.advance(1)
        connections.used(busy)
        connections.opened(_Held())
        self.assertEqual((slow.closed, busy.closed), (True, False))

    def test_unheard(self) -> None:
        """A connection whose request was not read, because this process was busy, is not idle."""
        clock = Clock()
        connections = Connections(3, clock)
        held = [_Held(unheard=n != 1) for n in range(3)]
        for one in held:
            connections.opened(one)
        clock.advance(10)
        connections.opened(_Held())
        self.assertEqual([one.closed for one in held], [False, True, False])
        clock.advance(0.4)
        connections.opened(_Held())
        self.assertEqual([one.closed for one in held], [False, True, False])
        held[2].unheard = False
        clock.advance(0.1)
        self.assertEqual([one.closed for one in held], [False, True, True])

    def test_unsent(self) -> None:
        """What clients do not read is bounded; those go that have not been reading for longest."""
        connections = Connections(1000, Clock())
        held = [_Held(2**20) for _ in range(100)]
        for one in held:
            connections.opened(one)
            connections.left_unsent(one, one.unsent)
        kept = sum(one.unsent for one in held if not one.aborted)
        self.assertLessEqual(kept, 64 * 2**20)
        self.assertTrue(held[0].aborted)
        self.assertFalse(held[-1].aborted)

    def test_readers_stay(self) -> None:
        """A client that has read its answers is not counted."""
        connections = Connections(1000, Clock())
        for _ in range(1000):
            reader = _Held(2**20)
            connections.opened(reader)
            connections.left_unsent(reader, reader.unsent)
            reader.unsent = 0
            self.assertFalse(reader.aborted)

    def test_most(self) -> None:
        """There are fewer connections than descriptors."""
        self.assertLess(most_connections(10**6), 10**6)
        self.assertEqual(most_connections(5), 5)


class DeadlineTests(MemoryGatewayCase):
    """The deadline of a request's head."""

    def test_slow_head(self) -> None:
        """A head that arrives byte by byte is answered 408 after 20 s."""
        self.start(self.serve(ocpserver.Service(em(), 2)))
        assert self.running is not None
        from twisted.internet.testing import StringTransport

        channel: Any = self.running.gateway.site.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        channel.callLater = self.reactor.callLater
        began = self.reactor.seconds()
        for byte in b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 60:
            channel.dataReceived(bytes([byte]))
            self.reactor.advance(1)
            if transport.value():
                break
        self.assertEqual(transport.value()[:12], b"HTTP/1.1 408")
        self.assertIn(b"Access-Control-Allow-Origin: *", transport.value())
        self.assertAlmostEqual(self.reactor.seconds() - began, 20, delta=2)


class ManyConnectionsTests(DaemonCase):
    """The real daemon, and more clients than it has connections."""

    async def start_small(self) -> Daemon:
        """Start a daemon with few connections."""
        self.service = ocpserver.Service(em(), 2)
        return await self.start(self.configure(self.serve(self.service), server_connections="20"))

    async def test_idle_hoard(self) -> None:
        """Connections that send nothing, half a request, or read nothing keep nobody out."""
        daemon = await self.start_small()
        code, _, _ = await daemon.get("kat/3/0_0_0.png")
        self.assertEqual(code, 200)
        port = int(daemon.url.rpartition(":")[2])
        hoard = []
        for n in range(120):
            client = socket.create_connection(("127.0.0.1", port), timeout=60)
            self.addCleanup(client.close)
            sends = (b"", b"GET /kat/3/0_", b"GET /kat/3/0_0_0.png HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
            client.sendall(sends[n % 3])
            hoard.append(client)
        fresh = HTTPClient(Agent(reactor, pool=HTTPConnectionPool(reactor, persistent=False)))
        for path in ("healthz", "kat/3/0_0_0.png", "kat/9/0_0_0.png"):
            answer = await fresh.get(f"{daemon.url}/{path}")
            self.assertEqual(answer.code, 200, path)
        self.assertNotIn("Traceback", daemon.log)

    async def test_all_connections_wait(self) -> None:
        """While all connections wait for one slow cuboid, others wait in the queue of the socket, and are answered."""
        daemon = await self.start_small()
        await daemon.get("kat/")
        self.service.delay = 1.0
        port = int(daemon.url.rpartition(":")[2])
        os.kill(daemon.pid, signal.SIGSTOP)  # so that all requests are there before the first connection is accepted
        clients = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(60)]
        for client in clients:
            self.addCleanup(client.close)
            client.sendall(b"GET /kat/9/0_0_0.png HTTP/1.1\r\nHost: x\r\n\r\n")
        os.kill(daemon.pid, signal.SIGCONT)
        answers = await gatherResults([deferToThread(client.recv, 12) for client in clients])
        self.assertEqual(answers, [b"HTTP/1.1 200"] * 60)
        await pause(0)
        self.assertNotIn("Traceback", daemon.log)

    async def test_no_descriptors(self) -> None:
        """A daemon that has no descriptors left answers 503, not with a traceback, and goes on when it has some."""
        self.service = ocpserver.Service(em(), 2)
        daemon = await self.start(self.configure(self.serve(self.service), cache_memory="0"))
        await daemon.get("kat/1/0_0_0.png")
        await daemon.rest()
        used, last = 0, -1
        while used != last:  # the index opens its files when it needs them
            last, used = used, max(used, len(os.listdir(f"/proc/{daemon.pid}/fd")))
            await pause(0.5)
        before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (used + 4, before[1]))
        asked = [Deferred.fromCoroutine(daemon.get(f"kat/{n % 20 + 1}/{n % 2}_0_0.png")) for n in range(40)]
        for answered, answer in await DeferredList(asked, consumeErrors=True):
            if answered:  # else it could not be accepted
                code, _, headers = answer
                self.assertIn(code, (200, 503))
                self.assertEqual("retry-after" in headers, code == 503)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
        code, _, _ = await daemon.get("kat/1/0_0_0.png")
        self.assertEqual(code, 200)
        self.assertNotIn("Traceback", daemon.log)

    async def test_body(self) -> None:
        """Nobody reads a body: the answer comes at once, and the client has time to read it."""
        daemon = await self.start_small()
        port = int(daemon.url.rpartition(":")[2])

        def exchange(request: bytes) -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.sendall(request)
                answer = b""
                while part := client.recv(2**16):
                    answer += part
                return answer

        for request, status in (
            (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\nabc", b"413"),
            (b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"413"),
            (b"POST /kat/3/0_0_0.png HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", b"405"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"400"),
            (b"nonsense\r\n\r\n", b"400"),
        ):
            answer = await deferToThread(exchange, request)
            self.assertEqual(answer[9:12], status)
            self.assertIn(b"Access-Control-Allow-Origin: *", answer)
        self.assertNotIn("Traceback", daemon.log)
