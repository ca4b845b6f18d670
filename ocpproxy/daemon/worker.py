"""One worker among several processes on the same sockets: ``python -m ocpproxy.daemon.worker``.

A worker is a whole gateway with its share of the memory. It shares the cache directory and the index with the others,
as separate daemons would: leases see to it that a cuboid is fetched once, and that one process evicts. When its link to
the parent is gone the parent is dead, and the worker ends.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, maybeDeferred
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import globalLogBeginner
from twisted.protocols import amp
from twisted.python.failure import Failure

from ocpproxy import config
from ocpproxy.cache.fetch_times import FetchReport
from ocpproxy.config import BadConfiguration, Fault, Settings
from ocpproxy.daemon.gateway import GatewayProcess, make_gateway
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
from ocpproxy.daemon.services import OrderedServices, Signals, measure_monotonic, stop
from ocpproxy.log import Logger
from ocpproxy.metrics import Metrics
from ocpproxy.upstream.registry import KINDS

_log = Logger()


class _ParentConnection(amp.AMP):
    """A worker's end of the link to its parent."""

    def __init__(
        self,
        metrics: Metrics,
        fetches: Callable[[], FetchReport],
        use_datasets: Callable[[str], None],
        reactor: Any,
    ) -> None:
        super().__init__()
        self._metrics = metrics
        self._fetches = fetches
        self._use_datasets = use_datasets
        self._reactor = reactor

    @UseDatasets.responder
    def use_datasets(self, text: bytes) -> dict[str, bool]:
        """Use the upstreams and datasets of a configuration."""
        try:
            self._use_datasets(text.decode())
        except Exception:  # any would end the link, and with it the worker
            _log.failure("the configuration that was read again cannot be used")
            return {"fine": False}
        return {"fine": True}

    async def reload(self) -> dict[str, Any]:
        """Let the parent read the configuration again.

        :raises BadConfiguration: it has faults.
        """
        answer = json.loads((await self.callRemote(ReloadConfiguration))["outcome"])
        if "faults" in answer:
            raise BadConfiguration([Fault(*one) for one in answer["faults"]])
        found: dict[str, Any] = answer
        return found

    @GetMetrics.responder
    def own_metrics(self) -> dict[str, bytes]:
        """Return the metrics of this worker."""
        return {"text": self._metrics.text()}

    @GetFetches.responder
    def own_fetches(self) -> dict[str, bytes]:
        """Return how long the fetches of this worker took."""
        return {"text": self._fetches().to_json()}

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End: the parent is dead, and nobody would pass TERM on, or restart this worker."""
        super().connectionLost(reason)
        stop(self._reactor)

    async def all_metrics(self) -> bytes:
        """Return the metrics of all workers; where the parent does not answer, those of this one."""
        return await self._of_all(GetAllMetrics, self._metrics.text)

    async def all_fetches(self) -> FetchReport:
        """Return how long the fetches of all workers took; where the parent does not answer, those of this one."""
        return FetchReport.of([await self._of_all(GetAllFetches, lambda: self._fetches().to_json())])

    async def _of_all(self, command: type[amp.Command], own: Callable[[], bytes]) -> bytes:
        try:
            answer = await self.callRemote(command).addTimeout(2 * ANSWER_WITHIN, self._reactor)
        except CancelledError:
            raise
        except Exception as error:  # whatever AMP makes of a link that is lost
            _log.warn("only this worker is reported: {reason}", reason=str(error))
            return own()
        text: bytes = answer["text"]
        return text


def main() -> None:
    """Serve until TERM, or until the parent is dead."""
    from twisted.internet import reactor as real

    reactor: Any = real
    measure_monotonic(reactor)
    task = json.load(sys.stdin)

    def parse(text: str) -> Settings:
        return config.parse(text, Path(task["directory"]), os.environ, KINDS)

    settings = parse(task["text"])
    log = LogOutput(None, as_json=settings.server.log == "json", worker=task["number"])
    globalLogBeginner.beginLoggingTo([log], redirectStandardIO=False)
    metrics = Metrics()
    parent = _ParentConnection(
        metrics, lambda: gateway.times.report(), lambda text: gateway.reload(parse(text)), reactor
    )
    sockets = range(FIRST_SOCKET, FIRST_SOCKET + task["sockets"])
    admin = sockets.stop if task["admin"] else None
    process = GatewayProcess(
        task["number"],
        settings.server.workers,
        tuple(sockets),
        admin,
        parent.all_metrics,
        parent.all_fetches,
        log,
        parent.reload,
    )
    services = OrderedServices()
    Signals(reactor, log).setServiceParent(services)
    gateway = make_gateway(settings.with_datasets_of(parse(task["datasets"])), reactor, metrics, process)
    gateway.services.setServiceParent(services)

    def start() -> None:
        reactor.adoptStreamConnection(LINK, socket.AF_UNIX, Factory.forProtocol(lambda: parent))
        os.close(LINK)
        services.privilegedStartService()
        services.startService()
        reactor.addSystemEventTrigger("before", "shutdown", services.stopService)
        parent.callRemote(WorkerReady)

    failed: list[Failure] = []

    def cannot_start(failure: Failure) -> None:
        _log.failure("the worker cannot start", failure)
        failed.append(failure)
        reactor.stop()

    reactor.callWhenRunning(lambda: maybeDeferred(start).addErrback(cannot_start))
    reactor.run()
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
