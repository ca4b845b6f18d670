"""One process that runs TensorStore, as the gateway sees it: requests, responses, and frames between the two.

A frame is the length of a JSON object, four bytes, big endian, and that object, the head. If the head has a member
``bytes`` that is not 0, so many bytes follow, the body. `ocpproxy.upstream.tensorstore.process` is the other end.

`twisted.protocols.basic.Int32StringReceiver` joins what it has to each part that arrives: 25 s for a body of 64 MiB,
which takes 0.15 s here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol, Protocol
from twisted.python.failure import Failure

from ocpproxy.upstream.base import (
    UpstreamBroken,
    UpstreamBusy,
    UpstreamDown,
    UpstreamFailure,
    UpstreamRefused,
)

Head = Mapping[str, Any]
_PREFIX = 4
"""Bytes of a head's length."""


class FrameConnection(Protocol):
    """The gateway's end of the sockets.

    :param on_frame: called with the head and the body of each frame.
    :param on_too_large: called with the size of a head or a body that is larger than `max_size`. Nothing that arrives
        later is read.
    :param max_size: in bytes.
    """

    def __init__(
        self, on_frame: Callable[[Head, bytes], None], on_too_large: Callable[[int], None], max_size: int
    ) -> None:
        self._on_frame = on_frame
        self._on_too_large = on_too_large
        self._max_size = max_size
        self._parts: list[bytes] = []
        self._received = 0
        self._head: Head = {}
        self._expect(_PREFIX, self._prefix_received)

    def send(self, message: Head) -> None:
        """Send a frame without a body."""
        head = json.dumps(message).encode()
        if self.transport is not None:
            self.transport.write(len(head).to_bytes(_PREFIX, "big") + head)

    def dataReceived(self, data: bytes) -> None:
        """Collect parts until the expected number of bytes is there; join them once."""
        if self._closed:
            return
        self._parts.append(data)
        self._received += len(data)
        while self._received >= self._expected and not self._closed:
            received = b"".join(self._parts)
            piece, rest = received[: self._expected], received[self._expected :]
            self._parts, self._received = [rest], len(rest)
            self._on_piece(piece)

    @property
    def _closed(self) -> bool:
        return self._expected > self._max_size

    def _expect(self, size: int, on_piece: Callable[[bytes], None]) -> None:
        self._expected, self._on_piece = size, on_piece
        if self._closed:
            self._parts = []
            if self.transport is not None:
                self.transport.loseConnection()
            self._on_too_large(size)

    def _prefix_received(self, prefix: bytes) -> None:
        self._expect(int.from_bytes(prefix, "big"), self._head_received)

    def _head_received(self, head: bytes) -> None:
        try:
            self._head = json.loads(head)
        except ValueError:  # the other end is broken, and nothing after it can be understood
            self._expect(self._max_size + 1, self._head_received)
            return
        size = self._head.get("bytes", 0)
        if size:
            self._expect(size, self._body_received)
        else:
            self._body_received(b"")

    def _body_received(self, body: bytes) -> None:
        self._expect(_PREFIX, self._prefix_received)
        self._on_frame(self._head, body)


class ProcessEnded(UpstreamBroken):
    """The process ended before it responded."""


class ReaderProcess(ProcessProtocol):
    """One process, and the requests that it has not responded to.

    :param on_ended: called when the process has ended, before those requests fail.
    :param max_response: bytes of a response.
    """

    def __init__(self, on_ended: Callable[[ReaderProcess], None], max_response: int) -> None:
        self.connection = FrameConnection(self._response_received, self._response_too_large, max_response)
        self.ended: Deferred[None] = Deferred()
        self._on_ended = on_ended
        self._max_response = max_response
        self._pending: dict[int, Deferred[tuple[Head, bytes]]] = {}
        self._last_id = 0

    @property
    def idle(self) -> bool:
        """True if the process has responded to all requests."""
        return not self._pending

    def request(self, message: Head) -> Deferred[tuple[Head, bytes]]:
        """Send a request.

        :returns: fires with the head and the body of the response, or fails with an `UpstreamFailure`. If it is
            cancelled, the process cancels the work, as far as TensorStore can.
        """
        self._last_id += 1
        number = self._last_id

        def cancel(_: object) -> None:
            if self._pending.pop(number, None) is not None:
                self.connection.send({"id": number, "do": "cancel"})

        response: Deferred[tuple[Head, bytes]] = Deferred(cancel)
        self._pending[number] = response
        self.connection.send({**message, "id": number})
        return response

    def _response_received(self, head: Head, body: bytes) -> None:
        response = self._pending.pop(head["id"], None)
        if response is None:
            return  # cancelled
        if "error" in head:
            response.errback(_failure(head["error"]))
        else:
            response.callback((head, body))

    def _response_too_large(self, size: int) -> None:
        limit = self._max_response
        self.fail(ProcessEnded(f"expected at most {limit} bytes from TensorStore's process, not {size}"))
        self.kill()

    def kill(self) -> None:
        """Kill the process. Pending requests fail with `ProcessEnded` when it has ended."""
        if self.transport is not None and self.transport.pid:
            self.transport.signalProcess("KILL")

    def processEnded(self, reason: Failure) -> None:
        """Fail pending requests."""
        how = "" if reason.check(ProcessDone) else f": {reason.getErrorMessage()}"
        self._on_ended(self)  # first, because a waiter may send its request again at once
        self.fail(ProcessEnded(f"TensorStore's process has ended; a hostile response can be the cause{how}"))
        self.ended.callback(None)

    def fail(self, failure: UpstreamFailure) -> None:
        """Fail all pending requests."""
        pending, self._pending = self._pending, {}
        for response in pending.values():
            response.errback(failure)


def _failure(message: str) -> UpstreamFailure:
    """Return the failure for an error of TensorStore, which begins with the name of an Abseil status code."""
    if message.startswith(("PERMISSION_DENIED", "UNAUTHENTICATED")):
        return UpstreamRefused(message)
    if message.startswith("RESOURCE_EXHAUSTED"):
        return UpstreamBusy(message)
    if message.startswith(("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")):
        return UpstreamDown(message)
    return UpstreamBroken(message)
