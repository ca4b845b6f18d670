"""TensorStore, in a process of its own.

What it does cannot be held to what holds for every upstream while it is in the daemon: it reads a server's answer
without bound (an endless one took 2 GB a second), a request that has been sent cannot be called off, and whoever has
used it may not fork. In a process of its own, with a limit on its memory, it can be ended whenever that is the way out,
and nobody else notices. There is one for each upstream that needs one, from its first request until it has been idle
for a while.

The two talk over a pair of sockets (`ocpproxy.upstream.tensorstore.process` is the other end). A frame is four bytes,
big endian, the length of a JSON object; where that says ``bytes``, so many follow.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote

import numpy as np
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.python.failure import Failure

from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import (
    UpstreamBroken,
    UpstreamBusy,
    UpstreamDown,
    UpstreamFailure,
    UpstreamRefused,
    UpstreamSlow,
)
from ocpproxy.upstream.locations import public_url

INSTALL = "pip install 'ocpproxy[tensorstore]'"
_LINK = 3
"""The process's descriptor of its end."""
_IDLE = 60.0
"""Seconds without a request after which the process ends."""
_MEMORY = 2**30
"""Bytes that it may have beside what cutouts take."""
_LONGEST = 2 * 2**20
"""Bytes of a document."""


def installed() -> bool:
    """Whether TensorStore is there; it is not imported to tell so."""
    return find_spec("tensorstore") is not None


class _ProcessEnded(UpstreamBroken):
    """The process has ended."""


class _ReaderConnection(Protocol):
    """Our end: frames in and out."""

    def __init__(self, told: Callable[[Mapping[str, Any], bytes], None]) -> None:
        self._told = told
        self._parts: list[bytes] = []
        self._have, self._need = 0, 4
        self._head: Mapping[str, Any] | None = None
        self._sized = False

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a frame."""
        body = json.dumps(message).encode()
        if self.transport is not None:
            self.transport.write(len(body).to_bytes(4, "big") + body)

    def dataReceived(self, data: bytes) -> None:
        """Take the next part."""
        self._parts.append(data)
        self._have += len(data)
        while self._have >= self._need:
            whole = b"".join(self._parts)
            piece, rest = whole[: self._need], whole[self._need :]
            self._parts, self._have = [rest], len(rest)
            self._take(piece)

    def _take(self, piece: bytes) -> None:
        if self._head is not None:
            head, self._head, self._need = self._head, None, 4
            self._told(head, piece)
        elif not self._sized:
            self._sized, self._need = True, int.from_bytes(piece, "big")
        else:
            head, self._sized, self._need = json.loads(piece), False, 4
            if head.get("bytes"):
                self._head, self._need = head, head["bytes"]
            else:
                self._told(head, b"")


class _ReaderProcess(ProcessProtocol):
    """One process, and what is asked of it."""

    def __init__(self, ended: Callable[[_ReaderProcess], None]) -> None:
        self.link = _ReaderConnection(self._answered)
        self.pending: dict[int, Deferred[tuple[Mapping[str, Any], bytes]]] = {}
        self.ended: Deferred[None] = Deferred()
        self._ended = ended
        self._number = 0

    def ask(self, message: Mapping[str, Any]) -> Deferred[tuple[Mapping[str, Any], bytes]]:
        """Its answer: what it says of it, and bytes. Cancelling calls the work off, as far as that goes."""
        self._number += 1
        number = self._number

        def cancel(_: object) -> None:
            if self.pending.pop(number, None) is not None:
                self.link.send({"id": number, "do": "cancel"})

        answer: Deferred[tuple[Mapping[str, Any], bytes]] = Deferred(cancel)
        self.pending[number] = answer
        self.link.send({**message, "id": number})
        return answer

    def _answered(self, head: Mapping[str, Any], body: bytes) -> None:
        answer = self.pending.pop(head["id"], None)
        if answer is not None and "error" in head:
            answer.errback(_failure(head["error"]))
        elif answer is not None:
            answer.callback((head, body))

    def end(self, failure: UpstreamFailure | None = None) -> None:
        """Kill it; whoever waits gets this failure."""
        self._fail(failure)
        if self.transport is not None and self.transport.pid:
            self.transport.signalProcess("KILL")

    def processEnded(self, reason: Failure) -> None:
        """It is gone."""
        how = "" if reason.check(ProcessDone) else f": {reason.getErrorMessage()}"
        self._ended(self)  # before anybody is told, who may ask again
        self._fail(_ProcessEnded(f"TensorStore's process has ended, which a hostile answer can make it do{how}"))
        self.ended.callback(None)

    def _fail(self, failure: UpstreamFailure | None) -> None:
        pending, self.pending = self.pending, {}
        for answer in pending.values():
            answer.errback(failure or UpstreamDown("the gateway is stopping"))


class TensorStoreReader:
    """TensorStore for one upstream.

    :param timeout: seconds for everything.
    :param connections: requests at a time.
    :param largest: bytes of a cutout.
    :param credentials: buckets are read with what the environment says of credentials, not by their public addresses.
    :param authorization: the value of a header for web servers.
    :param black: a chunk that is not there is background.
    """

    def __init__(
        self,
        reactor: Any,
        timeout: float,
        connections: int,
        retries: int,
        largest: int,
        *,
        credentials: bool = False,
        authorization: str | None = None,
        black: bool = True,
    ) -> None:
        self._reactor = reactor
        self._timeout = timeout
        self._connections = connections
        self._retries = retries
        self._largest = largest
        self._credentials = credentials
        self._authorization = authorization
        self._black = black
        self._process: _ReaderProcess | None = None
        self._leaving: set[_ReaderProcess] = set()
        self._rest: Any = None

    # -- the process

    def _running(self) -> _ReaderProcess:
        if self._process is None:
            if not installed():
                raise UpstreamBroken(f"TensorStore is not installed, which reads this volume: {INSTALL}")
            self._process = self._start()
        if self._rest is not None:
            self._rest.cancel()
        self._rest = self._reactor.callLater(_IDLE, self._idle)
        return self._process

    def _start(self) -> _ReaderProcess:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        process = _ReaderProcess(self._gone)
        silence = {
            # By itself it would wait for a silent server for ever.
            "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": str(max(1, round(self._timeout))),
            "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        said = {
            "memory": _MEMORY + 4 * self._largest,
            "context": {
                "cache_pool": {"total_bytes_limit": 32 * 2**20},
                "data_copy_concurrency": {"limit": os.cpu_count() or 1},
                "http_request_concurrency": {"limit": self._connections},
                "http_request_retries": {
                    "max_retries": self._retries + 1,
                    "initial_delay": "100ms",
                    "max_delay": "1s",
                },
            },
        }
        command = [sys.executable, "-P", "-m", "ocpproxy.upstream.tensorstore.process", str(_LINK)]
        with open(os.devnull, "r+b") as null:
            childs = {0: null.fileno(), 1: null.fileno(), 2: 2, _LINK: theirs.fileno()}
            try:
                self._reactor.spawnProcess(process, command[0], command, env={**os.environ, **silence}, childFDs=childs)
            except OSError as error:
                ours.close()
                raise UpstreamDown(f"TensorStore's process cannot be started: {error.strerror}") from None
            finally:
                theirs.close()
        self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: process.link))
        ours.close()
        process.link.send(said)
        return process

    def _idle(self) -> None:
        self._rest = None
        if self._process is not None and not self._process.pending:
            self._end(None)
        elif self._process is not None:
            self._rest = self._reactor.callLater(_IDLE, self._idle)

    def _end(self, failure: UpstreamFailure | None) -> None:
        process, self._process = self._process, None
        if process is not None:
            self._leaving.add(process)
            process.end(failure)

    def _gone(self, process: _ReaderProcess) -> None:
        self._leaving.discard(process)
        if self._process is process:
            self._process = None
        if process.link.transport is not None:
            process.link.transport.loseConnection()

    def stop(self) -> Deferred[Any]:
        """End its process, if there is one; fires when it has ended."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        self._end(None)
        return gatherResults([process.ended for process in self._leaving])

    async def _ask(self, message: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        """An answer, in time.

        :raises UpstreamFailure:
        """
        try:
            return await self._ask_once(message)
        except _ProcessEnded:  # another's answer may have been what ended it
            pass
        try:
            return await self._ask_once(message)
        except _ProcessEnded as ended:
            raise UpstreamBroken(str(ended)) from None

    async def _ask_once(self, message: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        process = self._running()
        try:
            return await process.ask(message).addTimeout(self._timeout, self._reactor)
        except DeferredTimeout:
            slow = UpstreamSlow(f"no complete answer within {self._timeout:g} s")
            if self._process is process:  # its requests cannot be called off otherwise
                self._end(slow)
            raise slow from None

    # -- what it reads

    def is_web(self, address: str) -> bool:
        """Whether an address is that of a web server."""
        return self._at(address).startswith(("http://", "https://"))

    def _at(self, address: str) -> str:
        return address if self._credentials else public_url(address)

    def _store(self, address: str) -> dict[str, Any]:
        """The key-value store at an address, in TensorStore's words."""
        address = self._at(address)
        scheme, _, rest = address.partition("://")
        if scheme in ("http", "https"):
            headers = [f"Authorization: {self._authorization}"] if self._authorization else []
            return {"driver": "http", "base_url": address + "/", "headers": headers}
        if scheme == "file":
            return {"driver": "file", "path": unquote(rest) + "/"}
        bucket, _, path = rest.partition("/")
        return {"driver": {"s3": "s3", "gs": "gcs"}[scheme], "bucket": bucket, "path": path + "/"}

    async def document(self, address: str, name: str) -> bytes | None:
        """A document below an address that is no web server's, or None when there is none.

        :raises UpstreamFailure:
        """
        head, body = await self._ask({"do": "document", "store": self._store(address), "key": name, "most": _LONGEST})
        return None if head["missing"] else body

    async def box(
        self, address: str, driver: str, path: str, more: Mapping[str, Any], index: Sequence[Any], order: Sequence[int]
    ) -> Voxels:
        """Part of an array.

        :param path: below the address.
        :param more: members of TensorStore's spec beside driver and kvstore.
        :param index: for each axis of the array a range, or a number for one that is not wanted.
        :param order: the axes that are left, in the order in which they are wanted.
        :raises UpstreamFailure:
        """
        spec = {
            "driver": driver,
            "kvstore": self._store(f"{address}/{path}" if path else address),
            "recheck_cached_data": "open",
            "fill_missing_data_reads": self._black,
            **more,
        }
        wanted = [[one.start, one.stop] if isinstance(one, range) else one for one in index]
        head, body = await self._ask({"do": "read", "spec": spec, "index": wanted, "order": list(order)})
        voxels: Voxels = np.frombuffer(body, head["dtype"]).reshape(head["shape"])
        return voxels


def _failure(said: str) -> UpstreamFailure:
    """What an error of TensorStore's means: its text begins with a word of the Abseil status codes."""
    if said.startswith(("PERMISSION_DENIED", "UNAUTHENTICATED")):
        return UpstreamRefused(said)
    if said.startswith("RESOURCE_EXHAUSTED"):
        return UpstreamBusy(said)
    if said.startswith(("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")):
        return UpstreamDown(said)
    return UpstreamBroken(said)


class TensorStoreReaders(Service):
    """All readers of a gateway: they end with it."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._all: list[TensorStoreReader] = []

    def reader(self, timeout: float, connections: int, retries: int, largest: int, **how: Any) -> TensorStoreReader:
        """A `TensorStoreReader`."""
        made = TensorStoreReader(self._reactor, timeout, connections, retries, largest, **how)
        self._all.append(made)
        return made

    def stopService(self) -> Deferred[Any]:
        """End them."""
        super().stopService()
        return gatherResults([reader.stop() for reader in self._all])
