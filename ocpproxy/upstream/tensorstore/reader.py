"""The reader of arrays: TensorStore in a process of its own.

In the daemon, TensorStore would break the rules for upstreams: it reads a server's response without a bound (an endless
one took 2 GB of memory a second), a request that was sent cannot be cancelled, and a process that has used it must not
fork. A process of its own has a limit on its memory and can be killed at any time without harm to anything else. Each
upstream that needs TensorStore has one, from its first request until it has been idle for a while.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote

import numpy as np
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.protocol import Factory

from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamBroken, UpstreamDown, UpstreamFailure, UpstreamSlow
from ocpproxy.upstream.locations import public_url
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
_MAX_DOCUMENT = 2 * 2**20
"""Bytes of a document."""


def installed() -> bool:
    """Return whether TensorStore is installed, without importing it."""
    return find_spec("tensorstore") is not None


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What a `TensorStoreReader` may use."""

    timeout: float
    """Seconds until a response is complete."""
    connections: int
    """Requests to the servers at a time."""
    retries: int
    """How often TensorStore repeats a request that fails."""
    max_cutout: int
    """Bytes of a cutout."""

    @property
    def memory(self) -> int:
        """Bytes of memory that the process may have."""
        return _MEMORY + 4 * self.max_cutout

    def configuration(self) -> dict[str, Any]:
        """Return the first frame that is sent to a process."""
        return {
            "memory": self.memory,
            "context": {
                "cache_pool": {"total_bytes_limit": _CACHE},
                "data_copy_concurrency": {"limit": os.cpu_count() or 1},
                "http_request_concurrency": {"limit": self.connections},
                "http_request_retries": {
                    "max_retries": self.retries + 1,
                    "initial_delay": "100ms",
                    "max_delay": "1s",
                },
            },
        }

    def environment(self) -> dict[str, str]:
        """Return variables for the environment of a process.

        Without them, TensorStore would wait for a silent server for ever.
        """
        return {
            "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": str(max(1, round(self.timeout))),
            "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }


class TensorStoreReader:
    """TensorStore for one upstream.

    :param credentials: whether buckets are read with the credentials of the environment, not by their public addresses.
    :param authorization: the value of the header for web servers.
    :param black: whether a missing chunk is background, and not an error.
    """

    def __init__(
        self,
        reactor: Any,
        limits: ReadLimits,
        *,
        credentials: bool = False,
        authorization: str | None = None,
        black: bool = True,
    ) -> None:
        self._reactor = reactor
        self._limits = limits
        self._credentials = credentials
        self._authorization = authorization
        self._black = black
        self._process: ReaderProcess | None = None
        self._ending: set[ReaderProcess] = set()
        self._idle_call: Any = None

    # -- the process

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
        parent_end, child_end = socket.socketpair()
        parent_end.setblocking(False)
        process = ReaderProcess(self._ended, self._limits.memory)
        command = [sys.executable, "-P", "-m", "ocpproxy.upstream.tensorstore.process", str(_LINK)]
        environment = {**os.environ, **self._limits.environment()}
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
        process.connection.send(self._limits.configuration())
        return process

    def _end_if_idle(self) -> None:
        self._idle_call = None
        if self._process is None:
            return
        if self._process.idle:
            self._end(None)
        else:
            self._idle_call = self._reactor.callLater(_IDLE, self._end_if_idle)

    def _end(self, failure: UpstreamFailure | None) -> None:
        process, self._process = self._process, None
        if process is not None:
            self._ending.add(process)
            process.end(failure)

    def _ended(self, process: ReaderProcess) -> None:
        self._ending.discard(process)
        if self._process is process:
            self._process = None
        if process.connection.transport is not None:
            process.connection.transport.loseConnection()

    def stop(self) -> Deferred[Any]:
        """End the process, if there is one.

        :returns: fires when it has ended.
        """
        if self._idle_call is not None:
            self._idle_call.cancel()
            self._idle_call = None
        self._end(None)
        return gatherResults([process.ended for process in self._ending])

    async def _request(self, message: Head) -> tuple[Head, bytes]:
        """Return the head and the body of the response.

        If the process ends meanwhile, the request is sent once more: the response to another request may be the cause.

        :raises UpstreamSlow: the response is not complete in time.
        :raises UpstreamFailure: TensorStore reports an error, or its process cannot be started or ends both times.
        """
        try:
            return await self._request_once(message)
        except ProcessEnded:
            pass
        try:
            return await self._request_once(message)
        except ProcessEnded as error:
            raise UpstreamBroken(str(error)) from None

    async def _request_once(self, message: Head) -> tuple[Head, bytes]:
        process, timeout = self._running(), self._limits.timeout
        try:
            return await process.request(message).addTimeout(timeout, self._reactor)
        except DeferredTimeout:
            slow = UpstreamSlow(f"no complete response within {timeout:g} s")
            if self._process is process:  # only this cancels the requests that TensorStore has sent
                self._end(slow)
            raise slow from None

    # -- what it reads

    def is_web(self, address: str) -> bool:
        """Return whether an address is that of a web server."""
        return self._resolve(address).startswith(("http://", "https://"))

    def _resolve(self, address: str) -> str:
        return address if self._credentials else public_url(address)

    def _store(self, address: str) -> dict[str, Any]:
        """Return TensorStore's spec of the key-value store at an address."""
        address = self._resolve(address)
        scheme, _, rest = address.partition("://")
        if scheme in ("http", "https"):
            headers = [f"Authorization: {self._authorization}"] if self._authorization else []
            return {"driver": "http", "base_url": address + "/", "headers": headers}
        if scheme == "file":
            return {"driver": "file", "path": unquote(rest) + "/"}
        bucket, _, path = rest.partition("/")
        return {"driver": {"s3": "s3", "gs": "gcs"}[scheme], "bucket": bucket, "path": path + "/"}

    async def document(self, address: str, name: str) -> bytes | None:
        """Return a document below an address that is not that of a web server, or None if there is none.

        :raises UpstreamFailure: the document cannot be read, or is too large.
        """
        store = self._store(address)
        head, body = await self._request({"do": "document", "store": store, "key": name, "max_size": _MAX_DOCUMENT})
        return None if head["missing"] else body

    async def box(
        self,
        address: str,
        spec: Mapping[str, Any],
        index: Sequence[range | int],
        order: Sequence[int],
        path: str = "",
    ) -> Voxels:
        """Return a part of an array, read-only.

        :param address: the address of its volume.
        :param spec: the members of TensorStore's spec of the array, without those of `ReadLimits` and the store.
        :param index: for each axis of the array a range, or a number, which drops the axis.
        :param order: the remaining axes, in the order in which the result has them.
        :param path: the path of the array below the address.
        :raises UpstreamFailure: the array cannot be opened, or the part cannot be read in time.
        """
        complete = {
            "kvstore": self._store(f"{address}/{path}" if path else address),
            "recheck_cached_data": "open",
            "fill_missing_data_reads": self._black,
            **spec,
        }
        parts = [[part.start, part.stop] if isinstance(part, range) else part for part in index]
        head, body = await self._request({"do": "read", "spec": complete, "index": parts, "order": list(order)})
        voxels: Voxels = np.frombuffer(body, head["dtype"]).reshape(head["shape"])
        return voxels


class TensorStoreReaders(Service):
    """The readers of a gateway, which end with it."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._readers: list[TensorStoreReader] = []

    def reader(self, limits: ReadLimits, **options: Any) -> TensorStoreReader:
        """Return a new reader.

        :param options: as for `TensorStoreReader`.
        """
        reader = TensorStoreReader(self._reactor, limits, **options)
        self._readers.append(reader)
        return reader

    def stopService(self) -> Deferred[Any]:
        """End all processes.

        :returns: fires when they have ended.
        """
        super().stopService()
        return gatherResults([reader.stop() for reader in self._readers])
