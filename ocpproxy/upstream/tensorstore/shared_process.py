"""A process that runs TensorStore for several upstreams: started by the first request, ended when it is idle.

A request that is late, or too large a response, kills the process if that is what it takes; the requests of others are
then sent once more, to a new one.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.protocol import Factory

from ocpproxy.upstream.base import UpstreamBroken, UpstreamDown, UpstreamSlow
from ocpproxy.upstream.tensorstore.connection import Head, ProcessEnded, ReaderProcess

INSTALL = "pip install 'ocpproxy[tensorstore]'"
_LINK = 3
"""The descriptor of the process's end of the sockets."""
_IDLE = 60.0
"""Seconds without a request after which the process ends."""
_MEMORY = 2**30
"""Bytes of memory that the process may have beside those that cutouts take."""
_CACHE = 32 * 2**20
"""Bytes of decoded chunks that TensorStore may keep."""
_REQUESTS = 64
"""Objects that TensorStore asks for at a time; the client of each host has a cap of its own."""


def installed() -> bool:
    """Return whether TensorStore is installed, without importing it."""
    return find_spec("tensorstore") is not None


class SharedProcess:
    """One process, or none as long as nobody needs it."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._longest_timeout = 1.0
        self._largest_cutout = 0
        self._process: ReaderProcess | None = None
        self._ending: set[ReaderProcess] = set()
        self._idle_call: Any = None

    def admit(self, timeout: float, max_cutout: int) -> None:
        """Note what an upstream needs; this counts from the next start of the process.

        :param timeout: seconds until a response is complete.
        :param max_cutout: bytes of a cutout.
        """
        self._longest_timeout = max(self._longest_timeout, timeout)
        self._largest_cutout = max(self._largest_cutout, max_cutout)

    async def request(
        self, message: Head, timeout: float, waits_for_upstream: Callable[[], bool] = lambda: False
    ) -> tuple[Head, bytes]:
        """Return the head and the body of the response.

        If the process ends meanwhile, the request is sent once more: the response to another request may be the cause.

        :param timeout: seconds until the response is complete.
        :param waits_for_upstream: returns whether objects for this request are still being fetched by the gateway. A
            process that waits for them does no harm; one that does not is killed when the response is late.
        :raises UpstreamSlow: the response is not complete in time.
        :raises UpstreamFailure: TensorStore reports an error, or its process cannot be started or ends both times.
        """
        try:
            return await self._request_once(message, timeout, waits_for_upstream)
        except ProcessEnded:
            pass
        try:
            return await self._request_once(message, timeout, waits_for_upstream)
        except ProcessEnded as error:
            raise UpstreamBroken(str(error)) from None

    async def _request_once(
        self, message: Head, timeout: float, waits_for_upstream: Callable[[], bool]
    ) -> tuple[Head, bytes]:
        process = self._running()
        try:
            return await process.request(message).addTimeout(timeout, self._reactor)
        except DeferredTimeout:
            if self._process is process and not waits_for_upstream():
                self._kill()
            raise UpstreamSlow(f"no complete response within {timeout:g} s") from None

    def _running(self) -> ReaderProcess:
        """Return the process, started if there is none.

        :raises UpstreamBroken: TensorStore is not installed.
        :raises UpstreamDown: the process cannot be started.
        """
        if self._process is None:
            if not installed():
                raise UpstreamBroken(f"this volume needs TensorStore, which is not installed: {INSTALL}")
            self._process = self._start()
        if self._idle_call is not None:
            self._idle_call.cancel()
        self._idle_call = self._reactor.callLater(_IDLE, self._end_if_idle)
        return self._process

    def _start(self) -> ReaderProcess:
        memory = _MEMORY + 4 * self._largest_cutout
        parent_end, child_end = socket.socketpair()
        parent_end.setblocking(False)
        process = ReaderProcess(self._ended, memory)
        command = [sys.executable, "-P", "-m", "ocpproxy.upstream.tensorstore.process", str(_LINK)]
        environment = {**os.environ, **self._environment()}
        with open(os.devnull, "r+b") as null:
            descriptors = {0: null.fileno(), 1: null.fileno(), 2: 2, _LINK: child_end.fileno()}
            try:
                self._reactor.spawnProcess(process, command[0], command, env=environment, childFDs=descriptors)
            except OSError as error:
                parent_end.close()
                raise UpstreamDown(f"TensorStore's process cannot be started: {error.strerror}") from None
            finally:
                child_end.close()
        factory = Factory.forProtocol(lambda: process.connection)
        self._reactor.adoptStreamConnection(parent_end.fileno(), socket.AF_UNIX, factory)
        parent_end.close()
        process.connection.send(_configuration(memory))
        return process

    def _environment(self) -> dict[str, str]:
        """Return variables for the environment of the process.

        Without them, TensorStore would wait for a silent bucket for ever, and ask a proxy for what is on the loopback.
        """
        return {
            "no_proxy": "127.0.0.1",
            "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": str(round(self._longest_timeout) + 1),
            "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def _end_if_idle(self) -> None:
        self._idle_call = None
        if self._process is None:
            return
        if self._process.idle:
            self._kill()
        else:
            self._idle_call = self._reactor.callLater(_IDLE, self._end_if_idle)

    def _kill(self) -> None:
        """Kill the process. Its requests fail when it has ended, and are sent once more."""
        process, self._process = self._process, None
        if process is not None:
            self._ending.add(process)
            process.kill()

    def _ended(self, process: ReaderProcess) -> None:
        self._ending.discard(process)
        if self._process is process:
            self._process = None
        if process.connection.transport is not None:
            process.connection.transport.loseConnection()

    def stop(self) -> Deferred[Any]:
        """End the process, if there is one; its requests fail.

        :returns: fires when it has ended.
        """
        if self._idle_call is not None:
            self._idle_call.cancel()
            self._idle_call = None
        if self._process is not None:
            self._process.fail(UpstreamDown("the gateway is stopping"))
        self._kill()
        return gatherResults([process.ended for process in self._ending])


def _configuration(memory: int) -> dict[str, Any]:
    """Return the first frame that is sent to a process."""
    return {
        "memory": memory,
        "context": {
            "cache_pool": {"total_bytes_limit": _CACHE},
            "data_copy_concurrency": {"limit": os.cpu_count() or 1},
            "http_request_concurrency": {"limit": _REQUESTS},
            "http_request_retries": {"max_retries": 0},  # the client behind the relay tries again
        },
    }
