"""A whole gateway without sockets, threads or real time: what `ocpproxy.daemon.gateway` makes, on a reactor in memory.

Files and the database are real: they are in the directory of the test, and the database is SQLite.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import treq
from treq.client import HTTPClient
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python import threadpool
from twisted.python.failure import Failure
from twisted.test.iosim import ConnectionCompleter, IOPump
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from ocpproxy import config
from ocpproxy.concurrency import threads
from ocpproxy.daemon.gateway import Gateway, make_gateway
from ocpproxy.metrics import Metrics
from ocpproxy.upstream.registry import KINDS
from ocpproxy.web.site import HotChannel
from tests import doubles

T = TypeVar("T")
Reply = tuple[int, bytes, dict[str, str]]
"""Status, body, headers."""
STEPS = 100_000
"""Steps of the loop that are certainly enough for one answer."""


class ImmediateThreadPool(threadpool.ThreadPool):
    """A pool of threads that does all work at once, in the thread of its caller."""

    def callInThreadWithCallback(
        self, onResult: Callable[[bool, Any], object] | None, func: Callable[..., Any], *args: Any, **kw: Any
    ) -> None:
        """Do the work and report its outcome."""
        try:
            succeeded, outcome = True, func(*args, **kw)
        except Exception:
            succeeded, outcome = False, Failure()
        if onResult is not None:
            onResult(succeeded, outcome)


class SocketChannel(HotChannel):
    """A connection in memory with a socket that takes everything, so that the hot path has its part in the answers."""

    def connectionMade(self) -> None:
        """Take the channel itself as its socket."""
        super().connectionMade()
        self.socket = self

    def dataReceived(self, data: bytes) -> None:
        """Keep the connection, as viewers do; treq's agent in memory wants each closed."""
        super().dataReceived(data.replace(b"Connection: close\r\n", b"Connection: keep-alive\r\n", 1))

    def unsent(self) -> bool:
        """Return False: the transport keeps nothing back."""
        return False

    def sendmsg(self, parts: Sequence[bytes | memoryview], ancillary: Sequence[Any] = (), flags: int = 0) -> int:
        """Send all parts, or nothing before a file, whose bytes then go through the transport too."""
        if flags:
            return 0
        data = b"".join(parts)
        self.transport.write(data)
        return len(data)


class MemoryLoop(MemoryReactorClock):
    """A reactor in memory on which clients find the servers, and whose time passes while there is nothing to do."""

    def __init__(self) -> None:
        super().__init__()
        self.run()
        self.advance(time.time())
        self._completer = ConnectionCompleter(self)
        self._pumps: list[IOPump] = []

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Make the call in the next step, as the outcome of work in a thread comes in a later iteration."""
        self.callLater(0, callable, *args, **kwargs)

    def step(self, flush: Callable[[], Any]) -> None:
        """Move what was written, or make the calls that are due, or let time pass until the next call is due."""
        while (pump := self._completer.succeedOnce()) is not None:
            self._pumps.append(pump)
        flush()
        moved = [pump.flush(advanceClock=False) for pump in self._pumps]
        self._pumps = [pump for pump in self._pumps if not pump.clientIO.disconnected]
        if not any(moved):
            self.advance(max(0.0, min(call.getTime() for call in self.getDelayedCalls()) - self.seconds()))


@dataclass(frozen=True)
class RunningGateway:
    """A gateway, and the client of its site."""

    gateway: Gateway
    agent: RequestTraversalAgent
    client: HTTPClient


class MemoryGatewayCase(SynchronousTestCase):
    """Makes gateways and upstreams in memory, and ends them with the test."""

    def setUp(self) -> None:
        """Make the reactor, and a directory."""
        self.place = Path(self.mktemp()).absolute()
        self.place.mkdir()
        self.reactor = MemoryLoop()
        self.patch(threadpool, "ThreadPool", ImmediateThreadPool)  # adbapi's
        self.patch(threads, "ThreadPool", ImmediateThreadPool)
        self.patch(doubles, "reactor", self.reactor)
        self.running: RunningGateway | None = None
        self.addCleanup(self.stop)

    def serve(self, double: doubles.Double) -> str:
        """Start a double.

        :returns: its address.
        """
        self.reactor.listenTCP(80, Site(doubles._Answer(double), reactor=self.reactor))
        return "http://127.0.0.1:80"

    def start(self, upstream: str, **options: str) -> None:
        """Start a gateway; the one before is stopped.

        :param options: ``section_option = value``.
        """
        self.stop()
        sections = {
            "server": {"listen": "tcp:8080"},
            "cache": {"directory": "cache"},
            "index": {"url": "sqlite:///index.sqlite", "lease": "2"},
            "upstream": {"url": upstream, "timeout": "60", "retries": "0"},
        }
        for name, value in options.items():
            section, _, option = name.partition("_")
            sections[section][option] = value
        lines = [f"[{s}]\n" + "".join(f"{k} = {v}\n" for k, v in values.items()) for s, values in sections.items()]
        gateway = make_gateway(
            config.parse("".join(lines), self.place, {}, KINDS), self.reactor, Metrics(), now=self.reactor.seconds
        )
        gateway.site.protocol = SocketChannel
        agent = RequestTraversalAgent(Resource())
        agent._serverFactory = gateway.site  # the whole server, with the requests and the channel of its own
        self.running = RunningGateway(gateway, agent, HTTPClient(agent))
        gateway.services.privilegedStartService()
        gateway.services.startService()
        self.wait(gateway.storage.database.wait_available())

    def stop(self) -> None:
        """Stop the gateway, as TERM does."""
        if self.running is not None:
            gateway = self.running.gateway
            self.wait(gateway.services.stopService())
            gateway.storage.database.close()
            self.running = None

    def wait(self, deferred: Deferred[T]) -> T:
        """Run the reactor until the Deferred has fired, and return its result."""
        assert self.running is not None
        for _ in range(STEPS):
            if deferred.called and not deferred.paused:
                return self.successResultOf(deferred)
            self.reactor.step(self.running.agent.flush)
        raise AssertionError(f"no result after {STEPS} steps")

    def get(self, path: str, method: str = "GET", **headers: str) -> Reply:
        """Return the answer to a request."""
        assert self.running is not None
        named: dict[bytes | str, bytes | str] = {name.replace("_", "-"): value for name, value in headers.items()}
        response = self.wait(self.running.client.request(method, f"http://gateway/{path}", headers=named))
        body = self.wait(treq.content(response))
        found = {name.decode().lower(): values[0].decode() for name, values in response.headers.getAllRawHeaders()}
        if isinstance(response.length, int):
            found["content-length"] = str(response.length)
        return response.code, body, found

    def head(self, path: str) -> dict[str, str]:
        """Return the headers of the answer to HEAD, as they are sent: Twisted's client hides their Content-Length."""
        assert self.running is not None
        transport = StringTransport()
        channel = self.running.gateway.site.buildProtocol(None)
        channel.makeConnection(transport)
        channel.dataReceived(f"HEAD /{path} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())
        while b"\r\n\r\n" not in transport.value():
            self.reactor.step(self.running.agent.flush)
        channel.setTimeout(None)
        head, _, body = transport.value().partition(b"\r\n\r\n")
        self.assertEqual(body, b"")
        return {name.lower(): value for name, _, value in (s.partition(": ") for s in head.decode().split("\r\n")[1:])}

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples whose lines begin with this text."""
        _, body, _ = self.get("metrics")
        lines = [line for line in body.decode().splitlines() if line.startswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def rest(self) -> None:
        """Wait until nothing is being fetched, and every tile has its row."""
        while self.metric("ocpproxy_flights") or self.metric("ocpproxy_unsettled_tiles"):
            assert self.running is not None
            self.reactor.step(self.running.agent.flush)
