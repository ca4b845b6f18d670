"""Several processes on the same sockets (``[server] workers``): the parent.

The parent opens the sockets, or takes them from systemd, and serves nobody. It starts the workers
(`ocpproxy.daemon.worker`), hands them the sockets, restarts those that die, with growing pauses, passes TERM on, and
waits until all have answered their open requests.

A worker gets everything on its standard input: the number of its slot, and the text of the configuration. So a worker
that is started later is the same gateway as the others, though somebody has edited the file. A scrape of ``/metrics``
reaches any worker and has to report all of them. So each worker has a link to the parent, which adds up what the living
workers report and what the dead ones had counted.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, gatherResults, maybeDeferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.internet.task import LoopingCall
from twisted.protocols import amp
from twisted.python.failure import Failure

from ocpproxy.cache.fetch_times import FetchReport
from ocpproxy.config import BadConfiguration, Settings
from ocpproxy.daemon.admin import AdminSocket
from ocpproxy.daemon.link import (
    ANSWER_WITHIN,
    FIRST_SOCKET,
    LINK,
    GetAllFetches,
    GetAllMetrics,
    GetFetches,
    GetMetrics,
    ReloadConfiguration,
    UseDatasets,
    WorkerReady,
)
from ocpproxy.daemon.log_output import LogOutput
from ocpproxy.daemon.reloading import LiveConfiguration
from ocpproxy.daemon.scraping import add_dead, merge_metrics
from ocpproxy.daemon.services import endpoint, listen, url
from ocpproxy.log import Logger
from ocpproxy.store.files import TileFiles
from ocpproxy.store.space.full_disk import is_full

_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
"""Seconds before a dead worker is restarted: at first, and at most. The pause doubles each time that one dies young."""
_LONG_LIFE = 30.0
"""Seconds after which a death is not young, and the pause is the first one again."""
_ASK_EVERY = 5.0
"""Seconds between two requests for the workers' metrics. The last counts of a worker that is killed are lost."""
_FETCHES_WITHIN = 0.3
"""Seconds that a worker has to report its fetches: a page waits for that."""
_LONGEST_LINE = 2**16
"""Bytes of a line of a worker's log; what is longer is cut."""
_USE_WITHIN = 30.0
"""Seconds that a worker has to use another configuration."""
_DRAIN = 45.0
"""Seconds that a worker has to stop, beyond ``[server] patience``: longer than it waits for anything."""


class _WorkerConnection(amp.AMP):
    """The parent's end of the link to a worker."""

    _log = Logger()

    def __init__(self, pool: WorkerPool, number: int) -> None:
        super().__init__()
        self._pool = pool
        self._number = number

    @WorkerReady.responder
    def ready(self) -> dict[str, Any]:
        """Note that the worker accepts requests."""
        self._pool.worker_ready(self._number)
        return {}

    @ReloadConfiguration.responder
    def reload(self) -> Deferred[dict[str, bytes]]:
        """Read the configuration again."""
        return Deferred.fromCoroutine(self._reload())

    async def _reload(self) -> dict[str, bytes]:
        try:
            outcome = await self._pool.configuration.reload()
        except BadConfiguration as bad:
            outcome = {"faults": [astuple(fault) for fault in bad.faults]}
        except Exception:  # any other would end the link, and with it the worker
            self._log.failure("reading the configuration again")
            outcome = {"faults": [("-", "--config", "", "", "it could not be used; the daemon's log has the details")]}
        return {"outcome": json.dumps(outcome).encode()}

    @GetAllMetrics.responder
    def all_metrics(self) -> Deferred[dict[str, bytes]]:
        """Return the metrics of all workers."""
        return Deferred.fromCoroutine(self._pool.all_metrics()).addCallback(lambda text: {"text": text})

    @GetAllFetches.responder
    def all_fetches(self) -> Deferred[dict[str, bytes]]:
        """Return how long the fetches of all workers took."""
        return Deferred.fromCoroutine(self._pool.all_fetches()).addCallback(lambda text: {"text": text})


class _WorkerProcess(ProcessProtocol):
    """One worker, as its parent sees it."""

    transport: Any

    def __init__(self, pool: WorkerPool, number: int, began: float) -> None:
        self.number = number
        self.began = began
        self.metrics = b""
        """Its latest metrics."""
        self.fetches = b""
        """Its latest `FetchReport`, as JSON."""
        self.connection = _WorkerConnection(pool, number)
        self.ended: Deferred[None] = Deferred()
        self._pool = pool
        self._partial: dict[int, bytes] = {}

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Log the lines of a worker that does not have our standard output."""
        *lines, rest = (self._partial.pop(childFD, b"") + data).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._partial[childFD] = rest
        for line in lines:
            self._pool.relay(self.number, line.decode("utf-8", "replace"))

    def processEnded(self, reason: Failure) -> None:
        """Note that the process has ended."""
        self._pool.worker_ended(self, reason)
        self.ended.callback(None)


class WorkerPool(Service):
    """The workers of one daemon."""

    _log = Logger()

    def __init__(
        self, settings: Settings, reactor: Any, load: Callable[[], Settings], log: LogOutput | None = None
    ) -> None:
        self._settings = settings
        self._datasets = settings.source.text
        self._reactor = reactor
        self._log_output = log
        self.configuration = LiveConfiguration(load, settings, self._use_datasets)
        self._ports: list[Any] = []
        self._admin = AdminSocket(settings.admin.listen)
        self._living: dict[int, _WorkerProcess] = {}
        self._pauses: dict[int, float] = {}
        self._restarts: dict[int, Any] = {}
        self._dead_counts = b""
        self._announced = False
        self._asking = LoopingCall(self._ask_all)
        self._asking.clock = reactor

    # -- life

    def privilegedStartService(self) -> None:
        """Open the sockets, while a port below 1024 may still be opened, without accepting connections.

        :raises CannotListenError: the daemon does not start without one of its sockets.
        """
        for line in self._settings.server.listen:
            port: Any = listen(endpoint(self._reactor, line), Factory())
            port.stopReading()
            self._ports.append(port)

    def startService(self) -> None:
        """Start the workers.

        :raises OSError: the cache directory cannot be written to.
        """
        super().startService()
        try:
            TileFiles(self._settings.cache.directory / "tiles", f"parent-{os.getpid()}").check_writable()
        except OSError as error:
            if not is_full(error):  # on a full disk the workers serve what is there
                raise
        self._admin.startService()
        for number in range(self._settings.server.workers):
            self._start(number)
        self._asking.start(_ASK_EVERY, now=False)

    def stopService(self) -> Deferred[Any]:
        """Close the sockets, pass TERM on, and wait until the workers have ended."""
        super().stopService()
        self._asking.stop()
        for call in self._restarts.values():
            call.cancel()
        workers = list(self._living.values())
        closed = [maybeDeferred(port.stopListening) for port in self._ports]
        self._admin.stopService()
        self._signal(signal.SIGTERM)
        late = self._reactor.callLater(self._settings.server.patience + _DRAIN, self._signal, signal.SIGKILL)
        ended: Deferred[Any] = gatherResults([*closed, *(worker.ended for worker in workers)])

        def end(result: Any) -> Any:
            if late.active():
                late.cancel()
            return result

        return ended.addBoth(end)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._living.values():
            with suppress(ProcessExitedAlready):
                worker.transport.signalProcess(number.name.removeprefix("SIG"))

    # -- processes

    def _start(self, number: int) -> None:
        self._restarts.pop(number, None)
        parent_end, child_end = socket.socketpair()
        for end in (parent_end, child_end):
            end.setblocking(False)
        worker = _WorkerProcess(self, number, self._reactor.seconds())
        try:
            process = self._spawn(worker, child_end)
        except OSError:  # no memory for another process, say
            parent_end.close()
            self._log.failure("worker {number} cannot be started; it is tried again", number=number)
            self._restarts[number] = self._reactor.callLater(_LONGEST_PAUSE, self._start, number)
            return
        finally:
            child_end.close()
        factory = Factory.forProtocol(lambda: worker.connection)
        self._reactor.adoptStreamConnection(parent_end.fileno(), socket.AF_UNIX, factory)
        parent_end.close()
        source = self._settings.source
        task = {
            "text": source.text,
            "datasets": self._datasets,
            "directory": str(source.directory),
            "number": number,
            "sockets": len(self._ports),
            "admin": self._has_admin(number),
        }
        process.writeToChild(0, json.dumps(task).encode())
        process.closeChildFD(0)
        self._living[number] = worker

    def _spawn(self, worker: _WorkerProcess, connection: socket.socket) -> Any:
        """Start a process with the link and the listening sockets as its descriptors."""
        sockets = {FIRST_SOCKET + n: port.fileno() for n, port in enumerate(self._ports)}
        if self._has_admin(worker.number) and self._admin.socket is not None:
            sockets[FIRST_SOCKET + len(sockets)] = self._admin.socket.fileno()
        relayed = "r" if _is_null(1) else None
        descriptors = {0: "w", 1: relayed or 1, 2: relayed or 2, LINK: connection.fileno(), **sockets}
        command = [sys.executable, "-P", "-m", "ocpproxy.daemon.worker"]
        return self._reactor.spawnProcess(worker, command[0], command, env=dict(os.environ), childFDs=descriptors)

    def _has_admin(self, number: int) -> bool:
        """Return whether a worker accepts on the socket of the admin endpoint."""
        return number == 0 and self._admin.socket is not None

    def worker_ready(self, number: int) -> None:
        """Log that a worker accepts requests."""
        self._log.info("worker {number} is ready", number=number)
        if not self._announced:
            self._announced = True
            for port in self._ports:
                self._log.info("ocpproxy answers at {address}", address=url(port))

    async def _use_datasets(self, settings: Settings) -> None:
        """Let all workers use the upstreams and datasets of these settings, and those that are started later."""
        before, self._datasets = self._datasets, settings.source.text
        asked = [Deferred.fromCoroutine(self._send(worker)) for worker in self._living.values()]
        if not all([await one for one in asked]):
            self._datasets = before
            raise RuntimeError("a worker cannot use the configuration that was read again; its log has the reason")

    async def _send(self, worker: _WorkerProcess) -> bool:
        """Let a worker use other datasets; return False if it refuses.

        One that does not answer is killed, and replaced by one that is started with them.
        """
        if worker.connection.transport is None:
            return True
        try:
            asking = worker.connection.callRemote(UseDatasets, text=self._datasets.encode())
            return bool((await asking.addTimeout(_USE_WITHIN, self._reactor))["fine"])
        except Exception:
            self._log.failure("worker {number} does not answer, and is replaced", number=worker.number)
            with suppress(ProcessExitedAlready):
                worker.transport.signalProcess("KILL")
            return True

    def relay(self, number: int, line: str) -> None:
        """Write a line of a worker's log into ours."""
        output = self._log_output
        if output is None or (output.as_json and not line.startswith("{")):
            self._log.info("worker {number}: {line}", number=number, line=line)
        else:
            with suppress(OSError):  # a full disk, which no log can report
                output.write_lines(line.encode() + b"\n")

    def worker_ended(self, worker: _WorkerProcess, reason: Failure) -> None:
        """Restart a worker that has died, after a pause."""
        del self._living[worker.number]
        self._dead_counts = add_dead(self._dead_counts, worker.metrics)
        if not self.running:
            return
        lived = self._reactor.seconds() - worker.began
        pause = _PAUSE if lived > _LONG_LIFE else self._pauses.get(worker.number, _PAUSE)
        self._pauses[worker.number] = min(2 * pause, _LONGEST_PAUSE)
        self._log.error(
            "worker {number} has died after {lived:.1f} s ({reason}); the next one starts in {pause:.1f} s",
            number=worker.number,
            lived=lived,
            reason=reason.getErrorMessage(),
            pause=pause,
        )
        self._restarts[worker.number] = self._reactor.callLater(pause, self._start, worker.number)

    # -- metrics

    async def _ask_all(self) -> None:
        asked = [Deferred.fromCoroutine(self._ask(worker)) for worker in self._living.values()]
        await DeferredList(asked, consumeErrors=True)

    async def _ask(self, worker: _WorkerProcess) -> None:
        if worker.connection.transport is not None:
            answer = await worker.connection.callRemote(GetMetrics).addTimeout(ANSWER_WITHIN, self._reactor)
            worker.metrics = answer["text"]

    async def all_metrics(self) -> bytes:
        """Return the sum of the metrics of all workers, the dead ones included."""
        await self._ask_all()
        return merge_metrics([worker.metrics for worker in self._living.values()], self._dead_counts)

    async def all_fetches(self) -> bytes:
        """Return how long the fetches of all living workers took, as JSON.

        Of a worker that is busy it is what it has reported last.
        """
        workers = [worker for worker in self._living.values() if worker.connection.transport is not None]
        asked = [
            worker.connection.callRemote(GetFetches).addTimeout(_FETCHES_WITHIN, self._reactor) for worker in workers
        ]
        answers = await DeferredList(asked, consumeErrors=True)
        for worker, (answered, answer) in zip(workers, answers, strict=True):
            worker.fetches = answer["text"] if answered else worker.fetches
        return FetchReport.of(worker.fetches for worker in workers if worker.fetches).to_json()


def _is_null(descriptor: int) -> bool:
    """Return whether a descriptor is ``/dev/null``, as in a daemon. Then the parent logs the lines of its workers."""
    return os.path.samestat(os.fstat(descriptor), os.stat(os.devnull))
