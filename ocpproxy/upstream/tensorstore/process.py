"""The program of the process that runs TensorStore: see `ocpproxy.upstream.tensorstore.connection` for the frames.

The first frame configures it. It responds to each later one, in any order, and exits when the gateway closes the
socket. The main thread reads requests; TensorStore's threads send responses.
"""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import sys
import time
from collections.abc import Mapping
from threading import Lock, Thread
from typing import Any

import numpy as np

from ocpproxy.upstream.tensorstore import decoding

_RELAY = re.compile(r"http://127\.0\.0\.1:\d+/[0-9a-f]{32}/\d+/")
"""The address of an array at the relay, which holds a secret."""
_REOPEN_AFTER = 600.0
"""Seconds after which the metadata of an array is read again."""
_MAX_OPEN = 64
_CHECK_MEMORY_EVERY = 0.05
"""Seconds."""
_EXIT_TOO_LARGE = 3
"""Exit code of a process that exceeds its memory."""


class ResponseWriter:
    """A writer of responses, for several threads: it sends one at a time."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._lock = Lock()

    def send(self, head: Mapping[str, Any], body: Any = b"") -> None:
        """Send a response; exit if the gateway has closed the socket.

        :param body: bytes, or a buffer of bytes.
        """
        encoded = json.dumps({**head, "bytes": len(body)}).encode()
        try:
            with self._lock:
                self._link.sendall(len(encoded).to_bytes(4, "big") + encoded)
                if len(body):
                    self._link.sendall(body)
        except OSError:
            os._exit(0)

    def fail(self, number: int, error: BaseException) -> None:
        """Send an error, without the spec that TensorStore appends: that holds the headers of requests."""
        message = _RELAY.sub("", str(error).partition("[tensorstore_spec")[0])[:300]
        self.send({"id": number, "error": message or type(error).__name__})


class RequestHandler:
    """The handler of requests for arrays and documents, with its open arrays."""

    def __init__(self, library: Any, context: Any, writer: ResponseWriter) -> None:
        self._library = library
        self._context = context
        self._writer = writer
        self._open: dict[str, tuple[float, Any]] = {}
        self._reading: dict[int, Any] = {}

    def read(self, number: int, request: Mapping[str, Any]) -> None:
        """Start to read a part of an array."""
        key = json.dumps([request["generation"], request["spec"]], sort_keys=True)

        def opened(future: Any) -> None:
            try:
                index = tuple(slice(*part) if isinstance(part, list) else part for part in request["index"])
                part = future.result()[index].transpose(request["order"])
                reading = self._reading[number] = part.read(order="C")
                reading.add_done_callback(done)
            except BaseException as error:
                self._failed(number, key, error)

        def done(future: Any) -> None:
            try:
                voxels = future.result()
            except BaseException as error:
                self._failed(number, key, error)
            else:
                self._reading.pop(number, None)
                head = {"id": number, "dtype": voxels.dtype.str, "shape": voxels.shape}
                self._writer.send(head, voxels.reshape(-1).view("u1").data)

        self._array(key, request["spec"]).add_done_callback(opened)

    def _array(self, key: str, spec: Mapping[str, Any]) -> Any:
        """Return a future with an open array."""
        since, opening = self._open.get(key, (0.0, None))
        if opening is None or time.monotonic() - since > _REOPEN_AFTER:
            if len(self._open) >= _MAX_OPEN:
                self._open.clear()
            opening = self._library.open(spec, context=self._context, read=True)  # open=True would read metadata
            self._open[key] = (time.monotonic(), opening)
        return opening

    def _failed(self, number: int, key: str, error: BaseException) -> None:
        self._reading.pop(number, None)
        self._open.pop(
            key, None
        )  # TensorStore caches parts of an array, such as the index of a shard: they may be damaged
        self._writer.fail(number, error)

    def decode(self, number: int, request: Mapping[str, Any]) -> None:
        """Start to read a part of an array with numcodecs, in a thread of its own."""
        Thread(target=self._decode, args=(number, request), daemon=True).start()

    def _decode(self, number: int, request: Mapping[str, Any]) -> None:
        try:
            spec = request["spec"]
            store = self._library.KvStore.open(spec["kvstore"], context=self._context).result()
            voxels = decoding.read(store.read, spec["metadata"], spec["fill_missing_data_reads"], request["index"])
            voxels = voxels.transpose(request["order"])
            plain = np.ascontiguousarray(voxels.astype(voxels.dtype.newbyteorder("="), copy=False))
        except BaseException as error:
            self._writer.fail(number, error)
        else:
            head = {"id": number, "dtype": plain.dtype.str, "shape": plain.shape}
            self._writer.send(head, plain.reshape(-1).view("u1").data)

    def cancel(self, number: int) -> None:
        """Cancel a read if that is still possible. No response is sent."""
        reading = self._reading.pop(number, None)
        if reading is not None:
            reading.cancel()

    def document(self, number: int, request: Mapping[str, Any]) -> None:
        """Start to read a document."""

        def opened(future: Any) -> None:
            try:
                future.result().read(request["key"]).add_done_callback(done)
            except BaseException as error:
                self._writer.fail(number, error)

        def done(future: Any) -> None:
            try:
                result = future.result()
                missing = result.state == "missing"
                body = b"" if missing else bytes(result.value)
                if len(body) > request["max_size"]:
                    raise ValueError(f"expected at most {request['max_size']} bytes in {request['key']}: {len(body)}")
            except BaseException as error:
                self._writer.fail(number, error)
            else:
                self._writer.send({"id": number, "missing": missing}, body)

        self._library.KvStore.open(request["store"], context=self._context).add_done_callback(opened)


def limit_memory(limit: int) -> None:
    """Exit when the process has more than `limit` bytes in memory.

    A limit of the kernel does not work: TensorStore hangs when an allocation fails.
    """
    page = os.sysconf("SC_PAGESIZE")
    while True:
        with open("/proc/self/statm", "rb") as statm:
            resident = int(statm.read().split()[1]) * page
        if resident > limit:
            os._exit(_EXIT_TOO_LARGE)
        time.sleep(_CHECK_MEMORY_EVERY)


def main() -> None:
    """Respond to requests until the gateway closes the socket, whose descriptor is the first argument."""
    link = socket.socket(fileno=int(sys.argv[1]))
    link.setblocking(True)
    stream = link.makefile("rb")

    def receive() -> Any:
        prefix = stream.read(4)
        return json.loads(stream.read(int.from_bytes(prefix, "big"))) if len(prefix) == 4 else None

    configuration = receive()
    if configuration is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Thread(target=limit_memory, args=(configuration["memory"],), daemon=True).start()
    import tensorstore

    writer = ResponseWriter(link)
    handler = RequestHandler(tensorstore, tensorstore.Context(configuration["context"]), writer)
    while (request := receive()) is not None:
        number = request["id"]
        try:
            if request["do"] == "cancel":
                handler.cancel(number)
            else:
                {"read": handler.read, "decode": handler.decode, "document": handler.document}[request["do"]](
                    number, request
                )
        except Exception as error:
            writer.fail(number, error)
    os._exit(0)  # without waiting for reads in progress


if __name__ == "__main__":
    main()
