"""For whom something is done, and how urgent that is.

Each flight has a `Work`, which is a context variable, so all that a flight starts is done for the same: coroutines pass
the context on. Whoever joins a flight adds a claim to its work, and to the work of the flights that this one has
joined. Queues (`fairness.FairSemaphore`, `threads.LanedThreadPool`) look at the claims of the work that waits, and
listen for new ones. So what was begun for nobody in particular gets the turn of the viewer who waits for it now.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from enum import IntEnum
from typing import NamedTuple

from ocpproxy.concurrency.context import assigned


class Lane(IntEnum):
    """How urgent something is: a lower lane always goes first."""

    INTERACTIVE = 0
    """Somebody waits for it."""
    LOOKAHEAD = 1
    """A viewer will want it in a moment, if it goes on as it does."""
    PREFETCH = 2
    """A job wants it in the cache some time."""


class Claim(NamedTuple):
    """One reason why something is done."""

    lane: Lane
    client: str
    """Within a lane, clients take turns. Empty for nobody in particular."""


class Work:
    """Something that is being done, and the claims to it."""

    def __init__(self, *claims: Claim) -> None:
        self.claims = list(claims)
        self._listeners: list[Callable[[Claim], None]] = []

    @property
    def lane(self) -> Lane:
        """The most urgent lane of all claims."""
        return min((claim.lane for claim in self.claims), default=Lane.INTERACTIVE)

    def claim(self, claim: Claim) -> None:
        """Do it for somebody else too."""
        if claim not in self.claims:
            self.claims.append(claim)
            for listener in list(self._listeners):
                if listener in self._listeners:  # one that was called before may have ended another one
                    listener(claim)

    def join(self, other: Work) -> None:
        """Do it for all those that another work is done for, now and later."""
        for claim in other.claims:
            self.claim(claim)
        other.listen(self.claim)

    def leave(self, other: Work) -> None:
        """Do not wait for further claims to another work."""
        other.forget(self.claim)

    def listen(self, listener: Callable[[Claim], None]) -> None:
        """Call `listener` with each claim that is added from now on."""
        self._listeners.append(listener)

    def forget(self, listener: Callable[[Claim], None]) -> None:
        """Do not call `listener` any more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def as_current(self) -> AbstractContextManager[None]:
        """Make this the `current` work of a block."""
        return assigned(_current, self)


_current: ContextVar[Work | None] = ContextVar("work", default=None)


def current() -> Work:
    """Return the work that the caller does; outside of any, one for nobody in particular."""
    return _current.get() or Work(Claim(Lane.INTERACTIVE, ""))


def working_for(client: str, lane: Lane = Lane.INTERACTIVE) -> AbstractContextManager[None]:
    """Let what is begun in a ``with`` block be for this client."""
    return Work(Claim(lane, client)).as_current()
