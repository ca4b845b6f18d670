"""Daemons that start by a fork of a process that has imported everything: half a second of processor for each is saved.

What runs is what the command ``twistd`` runs, with the arguments, environment and directory that it is given. The tests
of the command itself start it as a person does. The other end is `tests.forkserver`.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.main import CONNECTION_DONE
from zope.interface import implementer

ROOT = Path(__file__).parent.parent


class ForkedDaemon:
    """A daemon of the fork server.

    :param on_output: called with each part of its output.
    :param on_end: called with its exit code, or the number of the signal that ended it, negative.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        directory: Path,
        on_output: Callable[[bytes], None],
        on_end: Callable[[int], None],
    ) -> None:
        output, output_there = os.pipe()
        life, life_there = os.pipe()
        request = {"arguments": list(arguments), "environ": dict(environ), "directory": str(directory)}
        try:
            socket.send_fds(_server(), [json.dumps(request).encode()], [output_there, life_there])
        finally:
            os.close(output_there)
            os.close(life_there)
        self.pid = int(_read_line(life))
        self._left = 2
        self._code = 0
        self._on_end = on_end
        self._output = _Pipe(output, on_output, self._closed)
        _Pipe(life, self._ended, self._closed)

    def read_output(self) -> None:
        """Pass on the output that has come and was not read yet."""
        self._output.read_all()

    def _ended(self, line: bytes) -> None:
        self._code = int(line)

    def _closed(self) -> None:
        self._left -= 1
        if not self._left:
            self._on_end(self._code)


@implementer(IReadDescriptor)
class _Pipe:
    """The reading end of a pipe, in the reactor."""

    def __init__(self, descriptor: int, on_data: Callable[[bytes], None], on_closed: Callable[[], None]) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._on_data = on_data
        self._on_closed = on_closed
        reactor.addReader(self)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def logPrefix(self) -> str:
        """Return the name for the log."""
        return "daemon"

    def doRead(self) -> Any:
        """Pass on what has come; at the end of the pipe the reactor calls `connectionLost`."""
        try:
            data = os.read(self._descriptor, 2**16)
        except BlockingIOError:  # `read_all` was faster
            return None
        if not data:
            return CONNECTION_DONE
        self._on_data(data)
        return None

    def read_all(self) -> None:
        """Pass on all that has come."""
        with suppress(BlockingIOError):
            while self._descriptor >= 0 and (data := os.read(self._descriptor, 2**16)):
                self._on_data(data)

    def connectionLost(self, reason: Any) -> None:
        """Close this end; nobody holds the other one any more."""
        os.close(self._descriptor)
        self._descriptor = -1
        self._on_closed()


def _read_line(descriptor: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(descriptor, 1)
        if not part:
            raise RuntimeError("the fork server does not start daemons")
        line += part
    return line


@cache
def _server() -> socket.socket:
    """Start the program, once for this process; it ends when the socket is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.forkserver", str(theirs.fileno())]
    process = subprocess.Popen(command, cwd=ROOT, env=environ, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours
