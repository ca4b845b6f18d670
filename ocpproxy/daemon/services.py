"""Services that only start and stop something, and know nothing of tiles."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, cast

from twisted.application.service import MultiService, Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.web.client import HTTPConnectionPool

from ocpproxy.daemon.log_output import LogOutput
from ocpproxy.log import Logger
from ocpproxy.metrics import LoopLag
from ocpproxy.web.connections import Pausable
from ocpproxy.web.site import GatewaySite

_BACKLOG = 1024
"""Connections that wait to be accepted. Twisted's 50 are too few for a front that opens hundreds at once."""
_LAG_EVERY = 0.1
_CLOSE_WITHIN = 1.0


class OrderedServices(MultiService):
    """Services that start from the first to the last, and stop from the last to the first, each waited for."""

    _log = Logger()

    def stopService(self) -> Deferred[None]:
        """Stop the services. One that fails does not keep the others from stopping."""
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for service in reversed(list(self)):
            try:
                await maybeDeferred(service.stopService)
            except Exception:
                self._log.failure("while stopping {service}", service=service)


class ListeningPorts(Service):
    """The listening sockets of some endpoints."""

    _log = Logger()

    def __init__(self, endpoints: Sequence[IStreamServerEndpoint], factory: GatewaySite) -> None:
        self._endpoints = endpoints
        self._factory = factory
        self.ports: list[IListeningPort] = []

    def privilegedStartService(self) -> None:
        """Listen, while a port below 1024 may still be opened.

        :raises CannotListenError: the daemon does not start without one of its sockets.
        """
        self.ports = [listen(endpoint, self._factory) for endpoint in self._endpoints]
        self._factory.connections.ports = cast(Sequence[Pausable], self.ports)

    def startService(self) -> None:
        """Log the addresses."""
        super().startService()
        for port in self.ports:
            self._log.info("ocpproxy answers at {address}", address=url(port))

    def stopService(self) -> Deferred[Any]:
        """Accept no more connections."""
        super().stopService()
        return gatherResults([maybeDeferred(port.stopListening) for port in self.ports])


def listen(endpoint: IStreamServerEndpoint, factory: Any) -> IListeningPort:
    """Listen at once and return the port.

    :raises CannotListenError: the socket cannot be opened.
    """
    opened: list[IListeningPort] = []
    failed: list[Any] = []
    endpoint.listen(factory).addCallbacks(opened.append, failed.append)
    if failed:
        failed[0].raiseException()
    return opened[0]


def endpoint(reactor: Any, line: str) -> IStreamServerEndpoint:
    """Return the endpoint of a line of ``[server] listen``, with `_BACKLOG` where the line says nothing else.

    :raises Exception: whatever the parser of endpoint strings raises.
    """
    if re.match(r"(tcp6?|unix|ssl):", line) and ":backlog=" not in line:
        line = f"{line}:backlog={_BACKLOG}"
    made: IStreamServerEndpoint = serverFromString(reactor, line)
    return made


def url(port: IListeningPort) -> str:
    """Return where a socket listens, for people."""
    host = port.getHost()
    return f"http://{host.host}:{host.port}/" if isinstance(host, (IPv4Address, IPv6Address)) else str(host)


class BackgroundTask(Service):
    """A coroutine that runs as long as the service does."""

    _log = Logger()

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._running: Deferred[None] | None = None

    def startService(self) -> None:
        """Start the coroutine."""
        super().startService()
        self._running = Deferred.fromCoroutine(self._work())
        self._running.addErrback(lambda failure: failure.trap(CancelledError) and None)
        self._running.addErrback(lambda failure: self._log.failure("in the background", failure))

    def stopService(self) -> Deferred[None] | None:
        """Cancel the coroutine, and wait for its end."""
        super().stopService()
        if self._running is not None:
            self._running.cancel()
        return self._running


class Signals(Service):
    """The handlers of signals.

    TERM ends the daemon with exit code 0. HUP opens the log file again, which logrotate has moved away, and reads the
    configuration again. USR1 begins a new log file.

    twistd stops on TERM too, but then kills itself with the same signal, which a supervisor takes for a crash. Without
    a log file USR1 does nothing, where Python would let it kill the process.

    :param output: None where twistd logs by itself.
    :param reload: None for a process that has its configuration from its parent.
    """

    _log = Logger()

    def __init__(self, reactor: Any, output: LogOutput | None, reload: Callable[[], object] | None = None) -> None:
        self._reactor = reactor
        self._output = output
        self._reload = reload
        self._stopping = False

    def startService(self) -> None:
        """Install the handlers; that of TERM after the reactor has installed its own."""
        super().startService()
        self._reactor.callWhenRunning(signal.signal, signal.SIGTERM, self._term)
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._hang_up))
        if self._output is not None or signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
            signal.signal(signal.SIGUSR1, lambda *_: self._reactor.callFromThread(self._rotate))

    def _hang_up(self) -> None:
        if self._output is not None and self._output.has_file:
            try:
                self._output.reopen()
            except OSError as error:
                self._log.error("the log file cannot be opened again: {reason}", reason=str(error))
        else:
            self._log.info("SIGHUP: there is no log file to open again")
        if self._reload is not None:
            self._reload()

    def _rotate(self) -> None:
        if self._output is not None and self._output.has_file:
            try:
                self._output.rotate()
            except OSError as error:
                self._log.error("a new log file cannot be begun: {reason}", reason=str(error))
        else:
            self._log.info("SIGUSR1: there is no log file to replace")

    def _term(self, number: int, frame: FrameType | None) -> None:
        if not self._stopping:  # a second TERM does not stop it any faster
            self._stopping = True
            self._reactor.callFromThread(stop, self._reactor)


def stop(reactor: Any) -> None:
    """Stop the reactor, unless it is stopping."""
    with suppress(ReactorNotRunning):
        reactor.stop()


def measure_monotonic(reactor: Any) -> None:
    """Let the reactor's timers follow the clock that nobody sets.

    Twisted's follow the date: where it is set back by two minutes, a time-out of 5 s takes two minutes longer. A
    reactor that has timers already is left as it is.
    """
    if not reactor.getDelayedCalls():
        reactor.seconds = time.monotonic


class ShortSwitchInterval(Service):
    """The short switch interval, by which the event loop gets the interpreter's lock back soon.

    A thread that needs the lock waits for this interval, 5 ms by default, before the thread that has it must release
    it. While threads work on rows or pixels, most late hits are late for this reason. A tenth of the interval slows
    those threads down by about a percent.
    """

    _INTERVAL = 0.0005

    def startService(self) -> None:
        """Set the short interval."""
        super().startService()
        self._before = sys.getswitchinterval()
        sys.setswitchinterval(self._INTERVAL)

    def stopService(self) -> None:
        """Set the interval that was set before."""
        super().stopService()
        sys.setswitchinterval(self._before)


class LagProbe(Service):
    """The measurement of how late the event loop runs a timer, ten times a second."""

    def __init__(self, reactor: Any, lag: LoopLag) -> None:
        self._reactor = reactor
        self._lag = lag
        self._due = 0.0

    def startService(self) -> None:
        """Set the first timer."""
        super().startService()
        self._due = self._reactor.seconds() + _LAG_EVERY
        self._timer = self._reactor.callLater(_LAG_EVERY, self._sample)

    def stopService(self) -> None:
        """Cancel the timer."""
        super().stopService()
        self._timer.cancel()

    def _sample(self) -> None:
        now = self._reactor.seconds()
        self._lag.observe(max(0.0, now - self._due))
        self._due = now + _LAG_EVERY
        self._timer = self._reactor.callLater(_LAG_EVERY, self._sample)


class IdleConnections(Service):
    """The idle connections to upstreams."""

    def __init__(self, pool: HTTPConnectionPool, reactor: Any) -> None:
        self._pool = pool
        self._reactor = reactor

    def stopService(self) -> Deferred[None]:
        """Close the connections."""
        super().stopService()
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed.addTimeout(_CLOSE_WITHIN, self._reactor, lambda *_: None)  # a TLS peer may never close its end
