"""Threads for one kind of work.

Rendering, files and the database have threads of their own, so that one kind cannot starve another, and the
reactor's pool is left to name look-ups (ten busy renders there delay a connect by seconds).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")
P = ParamSpec("P")


class Pool(Service):
    """At most `size` threads, started with the service (not before: twistd forks)."""

    def __init__(self, reactor: Any, size: int, name: str) -> None:
        self._reactor = reactor
        self._threads = ThreadPool(0, size, name)
        self.size = size
        self._pending = 0
        self.setName(name)

    def startService(self) -> None:
        """Let threads be made."""
        super().startService()
        self._threads.start()

    def stopService(self) -> None:
        """Wait for the work in hand: it is short, each piece a cuboid at most."""
        super().stopService()
        self._threads.stop()

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """The result of the work, done in a thread. Cancelling forgets the result; a thread cannot be stopped."""
        self._pending += 1

        def done(result: Any) -> Any:
            self._pending -= 1
            return result

        return deferToThreadPool(self._reactor, self._threads, work, *args, **kwargs).addBoth(done)

    def queued(self) -> int:
        """Pieces of work that wait for a thread."""
        return max(0, self._pending - self.size)


InThread = Callable[Concatenate[Callable[..., Any], ...], Deferred[Any]]
"""`Pool.run`, or for tests something that does the work at once."""
