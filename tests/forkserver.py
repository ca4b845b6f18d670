"""The program that forks daemons for `tests.forked`: ``python -m tests.forkserver SOCKET``.

It takes requests from a socket, each with two pipes: the daemon's output, and its life, to which a *keeper*, the parent
of the daemon, writes the daemon's number and at last its exit code. It imports no reactor, which survives no fork.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_REQUEST = 2**20
"""Bytes of a request."""


def _keep(request: Mapping[str, Any], output: int, life: int, requests: socket.socket) -> None:
    """Start a daemon, and report its number and its end. (In a process of its own.)"""
    requests.close()
    pid = os.fork()
    if not pid:
        os.close(life)
        _become(request, output)
    os.close(output)
    os.write(life, b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    os.write(life, b"%d" % os.waitstatus_to_exitcode(status))


def _become(request: Mapping[str, Any], output: int) -> None:
    """Be the daemon."""
    from twisted.scripts import twistd

    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.argv = [str(Path(sys.executable).parent / "twistd"), *request["arguments"]]
    paths = request["environ"].get("PYTHONPATH", "")
    sys.path[:1] = [str(Path(sys.executable).parent), *filter(None, paths.split(os.pathsep))]
    sys.exit(twistd.run())


def _main() -> None:
    """Take requests until the socket is closed."""

    import ocpproxy.daemon.tap  # noqa: F401

    if "twisted.internet.reactor" in sys.modules:
        raise RuntimeError("a reactor does not survive a fork")
    requests = socket.socket(fileno=int(sys.argv[1]))
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, _REQUEST, 2)
        if not message:
            return
        forked = os.fork()
        if not forked:
            if os.fork():
                os._exit(0)  # so that nobody has to wait for the keeper
            _keep(json.loads(message), descriptors[0], descriptors[1], requests)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        os.waitpid(forked, 0)


if __name__ == "__main__":
    _main()
