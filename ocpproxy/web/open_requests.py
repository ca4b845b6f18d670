"""The requests that are being answered."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime


class OpenRequests(Service):
    """Counts the requests that are being answered. Stopping waits for them, for `patience` seconds at most."""

    def __init__(self, clock: IReactorTime, patience: float) -> None:
        self._clock = clock
        self._patience = patience
        self._count = 0
        self._drained: Deferred[None] | None = None
        self.draining = False
        """True once the gateway is stopping."""

    def begin(self) -> None:
        """Count a request that has come."""
        self._count += 1

    def end(self) -> None:
        """Count a request that is answered, or whose client has left."""
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
