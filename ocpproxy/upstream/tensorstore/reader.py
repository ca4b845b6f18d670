"""The reader of arrays: TensorStore in a process of its own.

In the daemon, TensorStore would break the rules for upstreams: it reads a server's response without a bound (an endless
one took 2 GB of memory a second), a request that was sent cannot be cancelled, and a process that has used it must not
fork. A process of its own has a limit on its memory and can be killed at any time without harm to anything else. Each
upstream that needs TensorStore has one, from its first request until it has been idle for a while.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.protocol import Factory

from ocpproxy.concurrency import progress
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamBroken, UpstreamDown, UpstreamFailure, UpstreamSlow
from ocpproxy.upstream.chunks import MissingChunks, log_all_missing
from ocpproxy.upstream.codecs import content_encoding
from ocpproxy.upstream.documents.encodings import TENSORSTORE, Encoding
from ocpproxy.upstream.locations import Location
from ocpproxy.upstream.tensorstore.connection import Head, ProcessEnded, ReaderProcess
from ocpproxy.upstream.tensorstore.relay import Relay, RelayedArray

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
_SHARD_INDEX = 16 * 2**20
"""Bytes of the index of a shard, at most."""


def installed() -> bool:
    """Return whether TensorStore is installed, without importing it."""
    return find_spec("tensorstore") is not None


def numcodecs_installed() -> bool:
    """Return whether numcodecs is installed, without importing it."""
    return find_spec("numcodecs") is not None


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What a `TensorStoreReader` may use."""

    timeout: float
    """Seconds until a response is complete."""
    connections: int
    """Requests to the servers at a time."""
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
                "http_request_retries": {"max_retries": 0},  # the relay's client does that
            },
        }

    def environment(self) -> dict[str, str]:
        """Return variables for the environment of a process.

        Without them, TensorStore would wait for a silent bucket for ever, and ask a proxy for what is on the loopback.
        """
        return {
            "no_proxy": "127.0.0.1",
            "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": str(max(1, round(self.timeout))),
            "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }


@dataclass(frozen=True, slots=True)
class ArrayPart:
    """A part of an array, and all that a reader has to know of the array."""

    location: Location
    """Where its volume is."""
    token: str
    path: str
    """The path of the array below the volume's address."""
    driver: str
    """The name of TensorStore's driver."""
    encoding: Encoding
    """Its metadata are the members of TensorStore's spec."""
    index: Sequence[range | int]
    """For each axis of the array a range, or a number, which drops the axis."""
    order: Sequence[int]
    """The remaining axes, in the order in which the result has them."""
    chunk_bytes: int
    """Bytes of the voxels of a chunk."""


class TensorStoreReader:
    """TensorStore for one upstream.

    :param relay: where it reads what is not in a bucket that needs credentials.
    :param missing: what it makes of missing chunks.
    """

    def __init__(
        self,
        reactor: Any,
        limits: ReadLimits,
        relay: Relay,
        missing: MissingChunks,
    ) -> None:
        self._reactor = reactor
        self._limits = limits
        self._relay = relay
        self._missing = missing
        self._reported: set[RelayedArray] = set()
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

    async def document(self, location: Location, token: str, name: str) -> bytes | None:
        """Return a document below the address of a bucket that needs credentials, or None if there is none.

        :raises UpstreamFailure: the document cannot be read, or is too large.
        """
        store = _bucket(location.for_token(token), "")
        head, body = await self._request({"do": "document", "store": store, "key": name, "max_size": _MAX_DOCUMENT})
        return None if head["missing"] else body

    async def box(self, part: ArrayPart) -> Voxels:
        """Return a part of an array, read-only.

        :raises UpstreamFailure: the array cannot be opened, or the part cannot be read in time.
        """
        message = {
            "do": "read" if part.encoding.reader == TENSORSTORE else "decode",
            "index": [[one.start, one.stop] if isinstance(one, range) else one for one in part.index],
            "order": list(part.order),
        }
        if part.location.in_bucket:
            store = _bucket(part.location.for_token(part.token), part.path)
            return _voxels(*await self._request({**message, "spec": self._spec(part, store)}))
        limit = _longest_object(part.chunk_bytes)
        address, array = self._relay.array(part.location, part.token, part.path, limit, self._missing)
        present, absent, failed = array.present, array.absent, array.failed
        try:
            spec = self._spec(part, {"driver": "http", "base_url": address})
            voxels = _voxels(*await self._request({**message, "spec": spec}))
        except UpstreamFailure as failure:
            if array.failed > failed and array.failure is not None:  # TensorStore only says that something failed
                raise array.failure.with_traceback(None) from failure
            raise
        progress.current().report()
        if array.present == present and array.absent > absent:
            self._report_missing(part, array)
        return voxels

    def _spec(self, part: ArrayPart, store: Mapping[str, Any]) -> dict[str, Any]:
        """Return TensorStore's spec of an array in a key-value store. The metadata are in it, so it reads none."""
        return {
            "driver": part.driver,
            "kvstore": store,
            "assume_metadata": True,
            "recheck_cached_data": "open",
            "fill_missing_data_reads": self._missing.black,
            **json.loads(part.encoding.metadata),
        }

    def _report_missing(self, part: ArrayPart, array: RelayedArray) -> None:
        """Log once for an array that all chunks of a cuboid are missing: its names may be others, or it is sparse."""
        if array not in self._reported:
            self._reported.add(array)
            log_all_missing(part.token, part.location, part.path)


class TensorStoreReaders(Service):
    """The readers of a gateway, which end with it."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._relay = Relay(reactor)
        self._readers: list[TensorStoreReader] = []

    def reader(self, limits: ReadLimits, missing: MissingChunks) -> TensorStoreReader:
        """Return a new reader."""
        reader = TensorStoreReader(self._reactor, limits, self._relay, missing)
        self._readers.append(reader)
        return reader

    def stopService(self) -> Deferred[Any]:
        """End all processes.

        :returns: fires when they have ended.
        """
        super().stopService()
        ended = [maybeDeferred(reader.stop) for reader in self._readers]
        return gatherResults([*ended, maybeDeferred(self._relay.stop)])


def _bucket(address: str, path: str) -> dict[str, Any]:
    """Return TensorStore's spec of the key-value store below an s3:// or gs:// address."""
    scheme, _, rest = address.partition("://")
    bucket, _, prefix = rest.partition("/")
    return {"driver": {"s3": "s3", "gs": "gcs"}[scheme], "bucket": bucket, "path": f"{prefix}/{path}".strip("/") + "/"}


def _longest_object(nbytes: int) -> int:
    """Return how large an object that holds one chunk may be; the index of a shard may be read whole, too."""
    return max(2 * content_encoding.max_encoded_size(nbytes), _SHARD_INDEX)


def _voxels(head: Head, body: bytes) -> Voxels:
    voxels: Voxels = np.frombuffer(body, head["dtype"]).reshape(head["shape"])
    return voxels
