"""The connection to TensorStore's process; what it reads is tested with the other upstreams."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.upstream.base import UpstreamBroken, UpstreamDown, UpstreamRefused
from ocpproxy.upstream.tensorstore.connection import FrameConnection, ReaderProcess

LIMIT = 1000


def frame(head: dict[str, Any], body: bytes = b"") -> bytes:
    """Return a frame as the process sends it."""
    encoded = json.dumps(head | {"bytes": len(body)}).encode()
    return len(encoded).to_bytes(4, "big") + encoded + body


class FrameTests(SynchronousTestCase):
    """Frames from the process."""

    @given(st.lists(st.binary(max_size=60), max_size=5), st.lists(st.integers(1, 40), max_size=20))
    def test_parts(self, bodies: list[bytes], sizes: list[int]) -> None:
        """Frames are the same in whatever parts they arrive."""
        received: list[tuple[int, bytes]] = []
        connection = FrameConnection(lambda head, body: received.append((head["id"], body)), self.fail, LIMIT)
        stream = b"".join(frame({"id": number}, body) for number, body in enumerate(bodies))
        for size in sizes:
            connection.dataReceived(stream[:size])
            stream = stream[size:]
        connection.dataReceived(stream)
        self.assertEqual(received, list(enumerate(bodies)))

    def test_limit(self) -> None:
        """A frame of the largest size is received; a larger one closes the connection, and nothing later is read."""
        bodies: list[bytes] = []
        too_large: list[int] = []
        for stream, expected in (
            (frame({}, bytes(LIMIT)), []),
            (frame({}, bytes(LIMIT + 1)), [LIMIT + 1]),
            (b"\xff\xff\xff\xff" + frame({}), [2**32 - 1]),
        ):
            too_large.clear()
            transport = StringTransport()
            connection = FrameConnection(lambda head, body: bodies.append(body), too_large.append, LIMIT)
            connection.makeConnection(transport)
            for start in range(0, len(stream), 100):
                connection.dataReceived(stream[start : start + 100])
            self.assertEqual((too_large, transport.disconnecting), (expected, bool(expected)))
        self.assertEqual(bodies, [bytes(LIMIT)])


class ProcessTests(SynchronousTestCase):
    """Requests to a process, without the process."""

    def setUp(self) -> None:
        """Connect a process."""
        self.process = ReaderProcess(lambda _: None, LIMIT)
        self.transport = StringTransport()
        self.process.connection.makeConnection(self.transport)

    def test_responses(self) -> None:
        """Responses are matched to requests by number, in any order; an error is a failure of its kind."""
        first, second, third = (self.process.request({"do": "read"}) for _ in range(3))
        denied = frame({"id": 3, "error": "PERMISSION_DENIED: no"})
        self.process.connection.dataReceived(denied + frame({"id": 2}, b"b") + frame({"id": 1}))
        self.assertEqual((self.successResultOf(first)[1], self.successResultOf(second)[1]), (b"", b"b"))
        self.failureResultOf(third, UpstreamRefused)
        self.assertTrue(self.process.idle)

    def test_cancelled(self) -> None:
        """The work is cancelled in the process; a response that comes anyway is ignored."""
        response = self.process.request({"do": "read"})
        self.transport.clear()
        response.addErrback(lambda _: None)
        response.cancel()
        self.assertEqual(json.loads(self.transport.value()[4:]), {"id": 1, "do": "cancel"})
        self.process.connection.dataReceived(frame({"id": 1}, b"late"))
        self.assertTrue(self.process.idle)

    def test_too_large(self) -> None:
        """A response that is larger than allowed fails all requests, with the reason."""
        responses = [self.process.request({"do": "read"}) for _ in range(2)]
        self.process.connection.dataReceived(frame({"id": 1}, bytes(LIMIT + 1)))
        for response in responses:
            self.assertIn(str(LIMIT + 1), str(self.failureResultOf(response, UpstreamBroken).value))
        self.assertTrue(self.transport.disconnecting)

    def test_end(self) -> None:
        """Pending requests of a process that is ended fail."""
        response = self.process.request({"do": "read"})
        self.process.fail(UpstreamDown("the gateway is stopping"))
        self.failureResultOf(response, UpstreamDown)
