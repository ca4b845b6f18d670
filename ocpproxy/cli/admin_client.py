"""What a command asks a running daemon for, at its admin endpoint (`ocpproxy.web.admin`).

Such a command reads only the ``[admin]`` section of the configuration. So it starts fast, and works while somebody
edits the rest of the file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import treq
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import URI, Agent
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from ocpproxy.cli.reactor import run_in_reactor
from ocpproxy.config import AdminAddress, AdminSettings, BadConfiguration, read_admin

COULD_NOT_RUN = 2
"""The exit code when a command cannot be run, or is refused."""
_CONNECT_WITHIN = 10
_ANSWER_WITHIN = 120.0


class NoDaemon(Exception):
    """No daemon answers. The message says where it should be, and why it does not.

    :param runs: True if one may be running all the same.
    """

    def __init__(self, reason: str, *, runs: bool = True) -> None:
        super().__init__(reason)
        self.runs = runs


class Refused(Exception):
    """The daemon refuses. The message is what it says.

    :param status: the HTTP status.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@implementer(IAgentEndpointFactory)
class _Endpoint:
    """The same endpoint for every address."""

    def __init__(self, reactor: Any, address: AdminAddress) -> None:
        self._reactor = reactor
        self._address = address

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """Return the endpoint."""
        address = self._address
        if address.path:
            return UNIXClientEndpoint(self._reactor, address.path, _CONNECT_WITHIN)
        kind = TCP6ClientEndpoint if ":" in address.host else TCP4ClientEndpoint
        made: IStreamClientEndpoint = kind(self._reactor, address.host, address.port, _CONNECT_WITHIN)
        return made


class AdminClient:
    """The requests of one command.

    :raises NoDaemon: the configuration has no admin endpoint.
    """

    def __init__(self, settings: AdminSettings, reactor: Any) -> None:
        if settings.listen is None:
            raise NoDaemon("[admin] listen is empty, so no daemon can be asked", runs=False)
        self._address = settings.listen
        self._reactor = reactor
        self._http = HTTPClient(Agent.usingEndpointFactory(reactor, _Endpoint(reactor, settings.listen)))
        self._headers: dict[bytes | str, bytes | str] = {}
        self._answered = False
        if settings.token:
            self._headers["Authorization"] = f"Bearer {settings.token}"

    async def ask(self, method: str, path: str, document: Any = None) -> dict[str, Any]:
        """Return the daemon's answer.

        :raises NoDaemon: no daemon answers.
        :raises Refused: the daemon refuses.
        """
        data = None if document is None else json.dumps(document).encode()
        try:
            response = await self._http.request(
                method, f"http://ocpproxy/v1/{path}", headers=self._headers, data=data, timeout=_ANSWER_WITHIN
            )
            answer = json.loads(await treq.content(response))
        except CancelledError:
            raise
        except Exception as error:  # whatever a connection may fail with, or what somebody else answers there
            reason = str(error) or type(error).__name__
            runs = self._answered or not isinstance(error, ConnectError)
            raise NoDaemon(f"no daemon answers at {self._address}: {reason}", runs=runs) from None
        self._answered = True
        if response.code >= 300:
            raise Refused(response.code, str(answer.get("error", response.code)))
        found: dict[str, Any] = answer
        return found


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the daemon which is asked."""
    parser.add_argument("--config", metavar="F", help="of the daemon; without it: a daemon that runs without one")


def ask_daemon(
    command: str,
    config: str | None,
    work: Callable[[Any, AdminClient], Coroutine[Any, Any, int]],
    without: Callable[[Any], Coroutine[Any, Any, int]] | None = None,
) -> int:
    """Run what a command asks of a daemon, and return its exit code: `COULD_NOT_RUN` after the reason has been printed.

    :param command: its name, for messages.
    :param config: the file of the daemon; None for a daemon without one.
    :param work: takes the reactor and the client.
    :param without: takes the reactor, and does the same without a daemon when none runs.
    """
    try:
        settings = read_admin(None if config is None else Path(config), os.environ)
    except BadConfiguration as bad:
        print(bad, file=sys.stderr)
        return COULD_NOT_RUN

    async def asked(reactor: Any) -> int:
        try:
            return await work(reactor, AdminClient(settings, reactor))
        except (NoDaemon, Refused) as error:
            if without is not None and isinstance(error, NoDaemon) and not error.runs:
                return await without(reactor)
            print(f"ocpproxy {command}: {error}", file=sys.stderr)
            return COULD_NOT_RUN

    return run_in_reactor(asked)
