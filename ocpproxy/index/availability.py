"""Whether the database is available: the state and its waiters."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed

from ocpproxy.log import Logger


class Availability:
    """The state of one database.

    :param report: called with each change of state, the first one included.
    """

    _log = Logger()

    def __init__(self, report: Callable[[bool], None]) -> None:
        self._report = report
        self.available = False
        self.reason = "it has not answered yet"
        """Why it is unavailable, for people."""
        self._listeners: list[Callable[[], None]] = []
        self._waiting: list[Deferred[None]] = []
        self._stopped = False

    def when_available(self, call: Callable[[], None]) -> None:
        """Call `call` each time that the database becomes available, the first time included."""
        self._listeners.append(call)

    def wait(self) -> Deferred[None]:
        """Return a Deferred that fires as soon as the database is available."""
        if self.available:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def up(self) -> None:
        """Note that the database answers."""
        self.available, self.reason = True, ""
        self._report(True)
        self._log.info("the index database is available")
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)
        for call in self._listeners:
            call()

    def down(self, reason: str) -> None:
        """Note that the database does not answer. The same reason is logged once, and none once all is stopped."""
        if self._stopped:
            return
        if self.available or self.reason != reason:
            self._log.warn("the index database is unavailable: {reason}", reason=reason)
        if self.available:
            self.available = False
            self._report(False)
        self.reason = reason

    def start(self) -> None:
        """Report the first state: unavailable, until the schema is checked."""
        self._report(False)

    def stop(self) -> None:
        """Refuse all work from now on."""
        self._stopped = True
        self.available, self.reason = False, "the gateway is stopping"
