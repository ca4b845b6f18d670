"""The connections of clients: how many there may be, and what they may hold.

Each connection takes a descriptor, and one whose client does not read takes memory. Anybody can open connections, so
both are bounded. When there are as many connections as there may be, the one that has been idle for longest is closed
for each new one. A connection is idle while it waits for a request, for the rest of one, or for its client to read. One
whose first request has arrived and was not read is not idle: it is this process that is slow.
When none has been idle for `_YOUNG` seconds, new ones are not accepted for as long: a request may be on its way. So
whoever opens connections to hold them loses them first, and nobody else waits for longer than that.
"""

from __future__ import annotations

import resource
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ocpproxy.log import Logger

_UNSENT = 64 * 2**20
"""Bytes of answers that wait for clients who do not read, all together."""
_YOUNG = 0.5
"""Seconds that a connection is idle at least before it is closed for another one."""
_OVERSHOOT = 64
"""Connections beyond the bound that are kept: Twisted accepts that many before it can be stopped."""
_WARN_EVERY = 60.0
_OTHERS = 48
"""Descriptors that are left for files, upstreams and the database, at least."""


class Connection(Protocol):
    """A connection, as this module sees it."""

    def close(self) -> None:
        """Close it, in a moment at most."""

    def abort(self) -> None:
        """Close it at once."""

    def unsent_bytes(self) -> int:
        """Return the bytes of answers that its client has not taken."""

    def is_unheard(self) -> bool:
        """Return whether its client has sent something, and nothing has been read from it yet."""


class Pausable(Protocol):
    """A listening socket."""

    def pauseProducing(self) -> None:
        """Accept no connections for now."""

    def resumeProducing(self) -> None:
        """Accept connections again."""


def most_connections(wanted: int | None) -> int:
    """Return how many connections there may be: `wanted`, but no more than descriptors allow.

    :param wanted: None for as many as are sensible.
    """
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        descriptors = 2**16
    possible = max(1, descriptors - max(_OTHERS, descriptors // 4))
    return min(possible, wanted or 4096)


class Connections:
    """The connections of one process.

    :param most: how many there may be.
    """

    _log = Logger()

    def __init__(self, most: int, clock: IReactorTime) -> None:
        self._most = most
        self._clock = clock
        self._idle: OrderedDict[Connection, float] = OrderedDict()
        """Those that wait for no answer of ours, and since when; the longest idle first."""
        self._busy: set[Connection] = set()
        self._closing: set[Connection] = set()
        """Those that were closed, and still have a descriptor."""
        self._unsent: OrderedDict[Connection, None] = OrderedDict()
        self._guessed = 0
        """Bytes that are unsent at most."""
        self._timer: IDelayedCall | None = None
        """Runs while no connections are accepted."""
        self._warned = -_WARN_EVERY
        self.ports: Sequence[Pausable] = ()
        """The sockets where they come from."""

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy) + len(self._closing)

    def opened(self, connection: Connection) -> None:
        """Add a new connection; close an idle one if there are too many, or this one if there are far too many."""
        self._idle[connection] = self._clock.seconds()
        if self._open > self._most and not self._close_idle() and len(self) > self._most + _OVERSHOOT:
            self._close(connection)
        if self._open >= self._most and self._longest_idle() is None:
            self._pause()

    @property
    def _open(self) -> int:
        """The connections that are not being closed."""
        return len(self._idle) + len(self._busy)

    def _longest_idle(self) -> Connection | None:
        """Return the connection that has been idle for longest; None when none has been so for long."""
        now = self._clock.seconds()
        for _ in range(len(self._idle)):
            oldest, since = next(iter(self._idle.items()))
            if now - since < _YOUNG:
                break
            if not oldest.is_unheard():
                return oldest
            self.used(oldest)
        return None

    def _close_idle(self) -> bool:
        """Close the connection that has been idle for longest; return False when none has been so for long."""
        oldest = self._longest_idle()
        if oldest is None:
            return False
        self._close(oldest)
        return True

    def _close(self, connection: Connection) -> None:
        del self._idle[connection]
        self._closing.add(connection)
        connection.close()

    def closed(self, connection: Connection) -> None:
        """Forget a connection, whose descriptor is free again."""
        self._idle.pop(connection, None)
        self._busy.discard(connection)
        self._closing.discard(connection)
        self._unsent.pop(connection, None)
        self._resume()

    def used(self, connection: Connection) -> None:
        """Note that an idle connection has sent a whole request, and has its answer, or is to be read at once."""
        if connection in self._idle:
            self._idle[connection] = self._clock.seconds()
            self._idle.move_to_end(connection)

    def answering(self, connection: Connection) -> None:
        """Note that a connection waits for an answer."""
        if connection in self._idle:
            del self._idle[connection]
            self._busy.add(connection)

    def answered(self, connection: Connection) -> None:
        """Note that a connection has its answer, or all of it that its client takes."""
        if connection in self._busy:
            self._busy.remove(connection)
            self._idle[connection] = self._clock.seconds()

    def left_unsent(self, connection: Connection, size: int) -> None:
        """Note that so many bytes wait for a client; close the connections that have been waiting for longest."""
        self._guessed += size
        self._unsent.setdefault(connection)
        if connection.unsent_bytes() <= size:  # its client had read everything before
            self._unsent.move_to_end(connection)
        if self._guessed <= _UNSENT:
            return
        waiting = {one: one.unsent_bytes() for one in self._unsent}
        self._guessed = sum(waiting.values())
        self._unsent = OrderedDict.fromkeys(one for one, unsent in waiting.items() if unsent)
        if self._guessed <= _UNSENT:
            return
        while self._guessed > _UNSENT // 2 and len(self._unsent) > 1:
            slow, _ = self._unsent.popitem(last=False)
            self._guessed -= waiting[slow]
            slow.abort()

    def _pause(self) -> None:
        if self._timer is None:
            now = self._clock.seconds()
            if now - self._warned >= _WARN_EVERY:
                self._warned = now
                self._log.warn("{count} connections are open: others wait until one can be closed", count=len(self))
            for port in self.ports:
                port.pauseProducing()
            self._timer = self._clock.callLater(_YOUNG, self._look_again)

    def _look_again(self) -> None:
        while self._open >= self._most and self._close_idle():
            pass
        if self._open < self._most:
            self._timer = None
            self._accept()
        else:
            self._timer = self._clock.callLater(_YOUNG, self._look_again)

    def _resume(self) -> None:
        if self._timer is not None and self._open < self._most:
            timer, self._timer = self._timer, None
            if timer.active():
                timer.cancel()
            self._accept()

    def _accept(self) -> None:
        for port in self.ports:
            port.resumeProducing()
