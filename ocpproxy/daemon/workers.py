"""Several processes on the same sockets (``[server] workers``).

The **parent** (`WorkerPool`) opens the sockets, or takes them from systemd, and serves nobody. It spawns the workers, hands
them the sockets, starts those anew that die, with pauses that grow, passes TERM on, and waits until all have drained.
A **worker** (``python -m ocpproxy.daemon.workers``) is a whole gateway for its share of the memory; what the
processes have in common, they have in the cache directory and in the index, as
daemons of their own would: leases see to it that a cuboid is fetched once and that one reclaims.

A worker is told everything on its standard input: the text of the configuration, so that one that is started later is
not another gateway than its siblings because somebody has edited the file. Beside the sockets it has a link to its
parent. On it the workers' metrics are collected, for a scrape reaches any of them and is to tell of all: the parent
adds up what the living say and the counts of the dead as they were last heard. When the link is gone the parent is
dead, and the worker ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import Factory, ProcessProtocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver
from twisted.protocols import amp
from twisted.python.failure import Failure

from ocpproxy import config
from ocpproxy.config import Settings
from ocpproxy.daemon.gateway import WorkerSlot, make_gateway
from ocpproxy.daemon.services import CleanExit, address
from ocpproxy.metrics import Metrics, merged, retired
from ocpproxy.store.files import TileFiles
from ocpproxy.upstream.registry import KINDS

_LINK, _FIRST_SOCKET = 3, 4
"""Descriptors of a worker."""
_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
"""Seconds before a dead worker is started anew: at first, and at most; it doubles for each that lived shortly."""
_LONG = 30.0
"""Seconds of life after which a death says nothing about the next one."""
_LISTEN_EVERY = 5.0
"""Seconds between questions for the workers' metrics; that much of the counts of one that is killed may be lost."""
_TELL_WITHIN = 2.0
_DRAIN = 45.0
"""Seconds beyond ``[server] patience`` that a worker has to stop; more than all that it may wait for."""


class CompressedText(amp.Argument):
    """A text of any length that shrinks to 64 KiB, which is as much as AMP takes."""

    def toString(self, inObject: bytes) -> bytes:
        """For the wire."""
        return zlib.compress(inObject)

    def fromString(self, inString: bytes) -> bytes:
        """From it."""
        return zlib.decompress(inString)


class GetMetrics(amp.Command):
    """The parent asks a worker for its metrics."""

    response = [(b"text", CompressedText())]  # noqa: RUF012


class GetAllMetrics(amp.Command):
    """A worker asks its parent for everybody's."""

    response = [(b"text", CompressedText())]  # noqa: RUF012


class WorkerReady(amp.Command):
    """A worker takes requests."""


# -- the parent


class _WorkerConnection(amp.AMP):
    """The parent's end of the link to a worker."""

    def __init__(self, crew: WorkerPool, number: int) -> None:
        super().__init__()
        self._crew = crew
        self._number = number

    @WorkerReady.responder
    def ready(self) -> dict[str, Any]:
        """It takes requests."""
        self._crew.ready(self._number)
        return {}

    @GetAllMetrics.responder
    def tell_all(self) -> Deferred[dict[str, bytes]]:
        """It asks for everybody's metrics."""
        return Deferred.fromCoroutine(self._crew.told()).addCallback(lambda text: {"text": text})


class _WorkerProcess(ProcessProtocol):
    """One worker, as its parent sees it."""

    transport: Any

    def __init__(self, crew: WorkerPool, number: int, began: float) -> None:
        self.number = number
        self.began = began
        self.said = b""
        """Its metrics, as they were last heard."""
        self.link = _WorkerConnection(crew, number)
        self.ended: Deferred[None] = Deferred()
        self._crew = crew

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """What it logs, where it does not write to our standard output itself."""
        for line in data.decode("utf-8", "replace").splitlines():
            self._crew.relay(self.number, line)

    def processEnded(self, reason: Failure) -> None:
        """It is gone."""
        self._crew.ended(self, reason)
        self.ended.callback(None)


class WorkerPool(Service):
    """The workers of one daemon."""

    _log = Logger()

    def __init__(self, settings: Settings, reactor: Any) -> None:
        self._settings = settings
        self._reactor = reactor
        self._ports: list[Any] = []
        self._living: dict[int, _WorkerProcess] = {}
        self._pauses: dict[int, float] = {}
        self._coming: dict[int, Any] = {}
        self._dead = b""
        self._announced = False
        self._listening = LoopingCall(self._listen)
        self._listening.clock = reactor

    def privilegedStartService(self) -> None:
        """Open the sockets, while a port below 1024 may still be opened, and let nobody in.

        :raises CannotListenError: the daemon does not start without one of its sockets.
        """
        for line in self._settings.server.listen:
            opening = serverFromString(self._reactor, line).listen(Factory())
            failed: list[Failure] = []
            opening.addCallbacks(self._opened, failed.append)
            if failed:
                failed[0].raiseException()

    def _opened(self, port: Any) -> None:
        port.stopReading()
        self._ports.append(port)

    def startService(self) -> None:
        """Start the workers.

        :raises OSError: the cache directory cannot be written to.
        """
        super().startService()
        TileFiles(self._settings.cache.directory / "tiles", f"parent-{os.getpid()}").writable()
        for number in range(self._settings.server.workers):
            self._start(number)
        self._listening.start(_LISTEN_EVERY, now=False)

    def _start(self, number: int) -> None:
        self._coming.pop(number, None)
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        worker = _WorkerProcess(self, number, self._reactor.seconds())
        sockets = {_FIRST_SOCKET + n: port.fileno() for n, port in enumerate(self._ports)}
        said = "r" if _is_null(1) else None
        childs = {0: "w", 1: said or 1, 2: said or 2, _LINK: theirs.fileno(), **sockets}
        command = [sys.executable, "-P", "-m", "ocpproxy.daemon.workers"]
        try:
            process = self._reactor.spawnProcess(worker, command[0], command, env=dict(os.environ), childFDs=childs)
        except OSError:  # no memory for another process, say
            ours.close()
            self._log.failure("worker {number} cannot be started; it is tried again", number=number)
            self._coming[number] = self._reactor.callLater(_LONGEST_PAUSE, self._start, number)
            return
        finally:
            theirs.close()
        self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: worker.link))
        ours.close()
        source = self._settings.source
        told = {"text": source.text, "here": str(source.directory), "number": number, "sockets": len(sockets)}
        process.writeToChild(0, json.dumps(told).encode())
        process.closeChildFD(0)
        self._living[number] = worker

    def ready(self, number: int) -> None:
        """A worker takes requests."""
        self._log.info("worker {number} is ready", number=number)
        if not self._announced:
            self._announced = True
            for port in self._ports:
                self._log.info("ocpproxy answers at {where}", where=address(port))

    def relay(self, number: int, line: str) -> None:
        """Log what a worker has said."""
        self._log.info("worker {number}: {line}", number=number, line=line)

    def ended(self, worker: _WorkerProcess, reason: Failure) -> None:
        """A worker is gone: start the next one, soon."""
        del self._living[worker.number]
        self._dead = retired(self._dead, worker.said)
        if not self.running:
            return
        lived = self._reactor.seconds() - worker.began
        pause = _PAUSE if lived > _LONG else self._pauses.get(worker.number, _PAUSE)
        self._pauses[worker.number] = min(2 * pause, _LONGEST_PAUSE)
        self._log.error(
            "worker {number} has died after {lived:.1f} s ({reason}); the next one starts in {pause:.1f} s",
            number=worker.number,
            lived=lived,
            reason=reason.getErrorMessage(),
            pause=pause,
        )
        self._coming[worker.number] = self._reactor.callLater(pause, self._start, worker.number)

    async def _listen(self) -> None:
        asked = [self._ask(worker) for worker in self._living.values()]
        await DeferredList([Deferred.fromCoroutine(one) for one in asked], consumeErrors=True)

    async def _ask(self, worker: _WorkerProcess) -> None:
        if worker.link.transport is not None:
            answer = await worker.link.callRemote(GetMetrics).addTimeout(_TELL_WITHIN, self._reactor)
            worker.said = answer["text"]

    async def told(self) -> bytes:
        """The metrics of all workers, the dead included."""
        await self._listen()
        return merged([worker.said for worker in self._living.values()], self._dead)

    def stopService(self) -> Deferred[Any]:
        """Let nobody in any more, pass TERM on, and wait until the workers have drained."""
        super().stopService()
        self._listening.stop()
        for call in self._coming.values():
            call.cancel()
        workers = list(self._living.values())
        closed = [maybeDeferred(port.stopListening) for port in self._ports]
        self._signal(signal.SIGTERM)
        late = self._reactor.callLater(self._settings.server.patience + _DRAIN, self._signal, signal.SIGKILL)
        ended: Deferred[Any] = gatherResults([*closed, *(worker.ended for worker in workers)])
        return ended.addCallback(lambda _: late.active() and late.cancel())

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._living.values():
            with suppress(ProcessExitedAlready):
                worker.transport.signalProcess(number.name.removeprefix("SIG"))


def _is_null(descriptor: int) -> bool:
    """Whether nobody reads what is written there: so it is in a daemon, and its workers' log goes through its own."""
    return os.path.samestat(os.fstat(descriptor), os.stat(os.devnull))


# -- a worker


class _ParentConnection(amp.AMP):
    """A worker's end of the link to its parent."""

    def __init__(self, metrics: Metrics, reactor: Any) -> None:
        super().__init__()
        self._metrics = metrics
        self._reactor = reactor

    @GetMetrics.responder
    def tell(self) -> dict[str, bytes]:
        """The parent asks for our metrics."""
        return {"text": self._metrics.text()}

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The parent is dead: without it there is nobody to pass TERM on, or to start us anew."""
        super().connectionLost(reason)
        if self._reactor.running:
            self._reactor.stop()

    async def told(self) -> bytes:
        """Everybody's metrics; our own where the parent does not answer."""
        try:
            answer = await self.callRemote(GetAllMetrics).addTimeout(2 * _TELL_WITHIN, self._reactor)
        except CancelledError:
            raise
        except Exception as error:  # whatever AMP makes of a link that is lost
            _log.warn("only this worker's metrics are told: {reason}", reason=str(error))
            return self._metrics.text()
        text: bytes = answer["text"]
        return text


_log = Logger()


def main() -> None:
    """Be a worker."""
    from twisted.internet import reactor as real

    reactor: Any = real
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False)
    said = json.load(sys.stdin)
    settings = config.parse(said["text"], Path(said["here"]), os.environ, KINDS)
    metrics = Metrics()
    link = _ParentConnection(metrics, reactor)
    sockets = range(_FIRST_SOCKET, _FIRST_SOCKET + said["sockets"])
    post = WorkerSlot(said["number"], settings.server.workers, tuple(sockets), link.told)
    gateway = make_gateway(settings, reactor, metrics, post)
    CleanExit(reactor).setServiceParent(gateway)

    def begin() -> None:
        reactor.adoptStreamConnection(_LINK, socket.AF_UNIX, Factory.forProtocol(lambda: link))
        os.close(_LINK)
        gateway.privilegedStartService()
        gateway.startService()
        reactor.addSystemEventTrigger("before", "shutdown", gateway.stopService)
        link.callRemote(WorkerReady)

    failed: list[Failure] = []

    def could_not(failure: Failure) -> None:
        _log.failure("the worker cannot start", failure)
        failed.append(failure)
        reactor.stop()

    reactor.callWhenRunning(lambda: maybeDeferred(begin).addErrback(could_not))
    reactor.run()
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
