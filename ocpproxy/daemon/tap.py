"""What twistd finds: ``twistd ocpproxy``.

`Options` reads the configuration, and refuses what cannot be used. `makeService` makes one gateway of it, or the parent
of several (`ocpproxy.daemon.workers`).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from twisted.application.service import IService
from twisted.python import usage

from ocpproxy import config
from ocpproxy.config import BadConfiguration, Fault, Settings
from ocpproxy.daemon.gateway import GatewayProcess, make_gateway
from ocpproxy.daemon.log_output import log_for_twistd
from ocpproxy.daemon.reloading import LiveConfiguration
from ocpproxy.daemon.services import OrderedServices, Signals, endpoint, measure_monotonic
from ocpproxy.daemon.workers import WorkerPool
from ocpproxy.metrics import Metrics
from ocpproxy.upstream.registry import KINDS


class Options(usage.Options):
    """The command line of ``twistd ocpproxy``."""

    synopsis = "[options]"
    longdesc = (
        "Answers tile requests of CATMAID and other viewers from a local cache, and fetches what is missing from the "
        "services that hold the volumes. Without --config it serves a built-in demo volume on "
        "http://127.0.0.1:8080/ and keeps its cache under ~/.cache/ocpproxy."
    )
    optParameters = [["config", "c", None, "The configuration file; etc/ocp.ini explains every option."]]  # noqa: RUF012

    def postOptions(self) -> None:
        """Read the configuration; refuse to start with everything that is wrong in it."""
        try:
            self["settings"] = load(self["config"])
        except BadConfiguration as bad:
            raise usage.UsageError(f"the configuration cannot be used:\n{bad}") from None
        of_twistd = {} if self.parent is None else self.parent
        self["log"] = log_for_twistd(of_twistd, as_json=self["settings"].server.log == "json")


def load(path: str | None, *, serves: bool = True) -> Settings:
    """Return the settings of a file, or those of a daemon without one.

    :param serves: False where no socket will be opened: those of systemd are there for its service only.
    :raises BadConfiguration: with everything that is wrong.
    """
    if path is None:
        return config.demo(os.environ, KINDS)
    from twisted.internet import reactor

    settings = config.read(Path(path), KINDS)
    faults = []
    for line in settings.server.listen:
        if not serves and line.startswith("systemd:"):
            continue
        try:
            endpoint(reactor, line)
        except Exception as error:  # endpoint parsers raise what they like
            faults.append(Fault("server", "listen", line, f"an endpoint string that Twisted understands ({error})"))
    if faults:
        raise BadConfiguration(faults)
    return settings


def makeService(options: Options) -> IService:
    """Return what twistd runs."""
    from twisted.internet import reactor

    measure_monotonic(reactor)
    settings: Settings = options["settings"]
    path, log = options["config"], options["log"]

    def load_again() -> Settings:
        return load(None if path is None else os.path.join(started_in, path))

    started_in = os.getcwd()  # a daemon leaves it
    services = OrderedServices()
    if settings.server.workers == 1:
        process = GatewayProcess(log=log, reload=lambda: configuration.reload())
        gateway = make_gateway(settings, reactor, Metrics(), process)
        configuration = LiveConfiguration(load_again, settings, _now(gateway.reload))
        serving: IService = gateway.services
    else:
        serving = pool = WorkerPool(settings, reactor, load_again, log)
        configuration = pool.configuration
    Signals(reactor, log, configuration.reload_soon).setServiceParent(services)
    serving.setServiceParent(services)
    return services


def _now(use: Callable[[Settings], None]) -> Callable[[Settings], Awaitable[None]]:
    async def used(settings: Settings) -> None:
        use(settings)

    return used
