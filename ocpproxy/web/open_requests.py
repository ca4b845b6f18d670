"""The requests that are being answered."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime


class OpenRequests(Service):
    """The count of the requests that are being answered. `stopService` waits for them, at most `patience` seconds."""

    def __init__(self, clock: IReactorTime, patience: float) -> None:
        self._clock = clock
        self._patience = patience
        self._count = 0
        self._drained: Deferred[None] | None = None
        self.draining = False
        """True once the gateway is stopping."""

    def begin(self) -> None:
        """Count a new request."""
        self._count += 1

    def end(self) -> None:
        """Stop counting a request: it is answered, or its client has disconnected."""
        self._count -= 1
        if not self._count and self._drained is not None:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def stopService(self) -> Deferred[None] | None:
        """Wait until every request is answered."""
        super().stopService()
        self.draining = True
        if not self._count:
            return None
        self._drained = Deferred()
        return self._drained.addTimeout(self._patience, self._clock, lambda *_: None)
