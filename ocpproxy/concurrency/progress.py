"""Whether the answer to a request has begun to arrive.

A fetch that nobody waits for any more is cancelled, unless its answer is already arriving: then most of its price is
paid, and it is finished into the cache (`ocpproxy.concurrency.single_flight`). Only the protocol that receives the
first byte knows when that is. Between the two lie upstreams, chunk readers and codecs, which have no use for it.

So it is not passed through their signatures. Each flight runs in a context of its own (`contextvars`) in which
`current` is the flight's `Progress`. `Deferred.fromCoroutine` copies the context, so all that a flight starts reports
to that flight. The methods of a protocol run in the reactor's context: take `current()` when the request is made, and
keep it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar

from ocpproxy.concurrency.context import assigned


class Progress:
    """The progress of one fetch."""

    def __init__(self) -> None:
        self.receiving = False
        """True from the first byte on."""
        self._callbacks: list[Callable[[], None]] = []

    def report(self) -> None:
        """Note that bytes are arriving. The first report calls the callbacks; later ones do nothing."""
        self.receiving = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_first_byte(self, callback: Callable[[], None]) -> None:
        """Call `callback` once at the first report, or now if that has been."""
        if self.receiving:
            callback()
        else:
            self._callbacks.append(callback)

    def as_current(self) -> AbstractContextManager[None]:
        """Make this the `current` progress of a block."""
        return assigned(_current, self)


_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


def current() -> Progress:
    """Return the progress of the fetch that the caller works for; outside of any fetch, one that is ignored."""
    return _current.get() or Progress()
