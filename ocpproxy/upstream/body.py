"""The bodies of responses, read within bounds."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss

from ocpproxy.concurrency.progress import Progress
from ocpproxy.upstream.base import ResponseTooLarge, UpstreamDown


class ResponseBody(Protocol):
    """The body of one response, as it arrives.

    :param limit: bytes that it may have.
    :param cut: cut off a longer body; otherwise it is an error.
    """

    def __init__(self, limit: int, its_progress: Progress, *, cut: bool) -> None:
        self.finished: Deferred[bytes] = Deferred(lambda _: self._hang_up())
        self._parts: list[bytes] = []
        self._left = limit
        self._progress = its_progress
        self._cut = cut

    def _hang_up(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Take the next part."""
        if self.finished.called:
            return
        if not self._parts:
            self._progress.report()
        self._left -= len(data)
        self._parts.append(data)
        if self._left < 0:
            if self._cut:
                self.finished.callback(b"".join(self._parts)[: self._left])
            else:
                self.finished.errback(ResponseTooLarge("the response is longer than expected"))
            self._hang_up()

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        """Finish the body, or fail when it is incomplete."""
        if self.finished.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):  # the latter: no length was given, so decoding must find out
            self.finished.callback(b"".join(self._parts))
        else:
            self.finished.errback(UpstreamDown(f"the connection was lost in the middle: {reason.getErrorMessage()}"))


class HangUp(Protocol):
    """The reader of a body that is too large: it reads nothing."""

    def makeConnection(self, transport: ITransport) -> None:
        """Close the connection."""
        super().makeConnection(transport)
        transport.loseConnection()
