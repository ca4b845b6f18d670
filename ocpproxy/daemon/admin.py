"""The socket of the admin endpoint (`web.admin`), and who accepts on it.

The socket file is made with its permissions before anybody can connect. With several workers the parent opens the
socket, and keeps it; the first worker accepts on it. So connections wait while that worker is restarted. Twisted's own
unix port cannot be shared in this way: it changes the permissions of a socket that it adopts, and removes the file.

A daemon that cannot open the socket logs why, and serves without it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IReadDescriptor
from twisted.web.server import Site
from zope.interface import implementer

from ocpproxy.config import AdminAddress
from ocpproxy.log import Logger

_BACKLOG = 64
_REST = 1.0
"""Seconds without new connections when there are no descriptors left."""
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_log = Logger()


def open_socket(address: AdminAddress | None) -> socket.socket | None:
    """Return the listening socket; None where there is to be none, or it cannot be opened, which is logged."""
    if address is None:
        return None
    try:
        return _open_unix(address) if address.path else _open_tcp(address)
    except OSError as error:
        reason = error.strerror or str(error)
        _log.error("there is no admin endpoint at {address}: {reason}", address=str(address), reason=reason)
        return None


def _open_unix(address: AdminAddress) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(address.path)
        listening.bind(address.path)
        os.chmod(address.path, address.mode)
        listening.setblocking(False)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_stale(path: str) -> None:
    """Remove the socket file of a daemon that was killed.

    :raises OSError: a daemon answers there, or it is no socket.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(None, "there is another file, which is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise FileExistsError(None, "another daemon answers there")


def _open_tcp(address: AdminAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
    listening.setblocking(False)
    return listening


class AdminSocket(Service):
    """The socket, opened with the service and removed with it."""

    def __init__(self, address: AdminAddress | None) -> None:
        self._address = address
        self.socket: socket.socket | None = None

    def startService(self) -> None:
        """Open the socket."""
        super().startService()
        self.socket = open_socket(self._address)
        if self.socket is not None:
            _log.info("the admin endpoint is {address}", address=str(self._address))

    def stopService(self) -> None:
        """Close the socket, and remove its file."""
        super().stopService()
        if self.socket is not None:
            self.socket.close()
            self.socket = None
            if self._address is not None and self._address.path:
                with suppress(OSError):
                    os.unlink(self._address.path)


@implementer(IReadDescriptor)
class AdminServer(Service):
    """Accepts connections on a listening socket, and serves them.

    :param opened: has the socket.
    """

    def __init__(self, opened: AdminSocket, site: Site, reactor: Any) -> None:
        self._opened = opened
        self._site = site
        self._reactor = reactor
        self._listening: socket.socket | None = None

    def startService(self) -> None:
        """Accept connections."""
        super().startService()
        self._listening = self._opened.socket
        if self._listening is not None:
            self._site.doStart()
            self._reactor.addReader(self)

    def stopService(self) -> None:
        """Accept no more."""
        super().stopService()
        if self._listening is not None:
            self._reactor.removeReader(self)
            self._listening = None
            self._site.doStop()

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return -1 if self._listening is None else self._listening.fileno()

    def logPrefix(self) -> str:
        """Return the name for the log."""
        return "admin"

    def doRead(self) -> None:
        """Accept one connection, unless another process has accepted it."""
        if self._listening is None:
            return
        try:
            accepted, _ = self._listening.accept()
            with accepted:
                accepted.setblocking(False)
                self._reactor.adoptStreamConnection(accepted.fileno(), accepted.family, self._site)
        except OSError as error:  # whoever it was has left, or there are no descriptors
            if error.errno in _NO_DESCRIPTORS:
                self._reactor.removeReader(self)
                self._reactor.callLater(_REST, self._accept_again)

    def _accept_again(self) -> None:
        if self._listening is not None:
            self._reactor.addReader(self)

    def connectionLost(self, reason: Any) -> None:
        """Do nothing: a listening socket has no connection."""


class AdoptedSocket(AdminSocket):
    """The socket that the parent has opened, in its worker.

    :param descriptor: None where the parent has none.
    """

    def __init__(self, descriptor: int | None) -> None:
        super().__init__(None)
        self._descriptor = descriptor

    def startService(self) -> None:
        """Take the socket."""
        super().startService()
        if self._descriptor is not None:
            self.socket = socket.socket(fileno=self._descriptor)
            self.socket.setblocking(False)
