"""Threads for one kind of work, with lanes.

Rendering, files and the database have threads of their own, so that one kind cannot starve another, and the
reactor's pool is left to name look-ups (ten busy renders there delay a connect by seconds).

Work that somebody waits for must not queue behind work that is done in advance: a view of 30 tiles misses 30 cuboids,
and each brings 15 tiles more than were asked for. So there are lanes, and a thread that has nothing to do takes the
first piece of the first lane that has one. Only as many pieces more than there are threads are handed to them ahead,
so that none waits for the event loop, and what is urgent waits for pieces in hand only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")
P = ParamSpec("P")


class Lane(IntEnum):
    """What goes first."""

    AWAITED = 0
    """Somebody waits for just this."""
    ARRIVED = 1
    """It is in the way of what somebody waits for."""
    AHEAD = 2
    """Nobody waits for it yet."""


@dataclass(frozen=True, eq=False)
class _Piece:
    work: Callable[[], Any]
    done: Deferred[Any]


class LanedThreadPool(Service):
    """At most `size` threads, started with the service (not before: twistd forks)."""

    def __init__(self, reactor: Any, size: int, name: str) -> None:
        self._reactor = reactor
        self._threads = ThreadPool(0, size, name)
        self.size = size
        self._lanes: tuple[deque[_Piece], ...] = tuple(deque() for _ in Lane)
        self._in_hand = 0
        self.setName(name)

    def startService(self) -> None:
        """Let threads be made."""
        super().startService()
        self._threads.start()

    def stopService(self) -> None:
        """Wait for all the work there is: it is short, each piece a cuboid at most."""
        super().stopService()
        self._hand_over(sum(map(len, self._lanes)))
        self._threads.stop()

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """The result of the work, done in a thread.

        Cancelling forgets the work that has not begun, and the result of what has: a thread cannot be stopped.
        """
        return self._queue(Lane.ARRIVED, partial(work, *args, **kwargs))

    def lane(self, lane: Lane) -> RunInThread:
        """`run` in a lane."""

        def run(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
            return self._queue(lane, partial(work, *args, **kwargs))

        return run

    def _queue(self, lane: Lane, work: Callable[[], T]) -> Deferred[T]:
        waiting = self._lanes[lane]

        def forget(_: object) -> None:
            if piece in waiting:
                waiting.remove(piece)

        piece = _Piece(work, Deferred(forget))
        waiting.append(piece)
        self._next()
        return piece.done

    def _next(self) -> None:
        self._hand_over(2 * self.size - self._in_hand)

    def _hand_over(self, places: int) -> None:
        for _ in range(places):
            lane = next(filter(None, self._lanes), None)
            if lane is None:
                return
            piece = lane.popleft()
            self._in_hand += 1
            deferToThreadPool(self._reactor, self._threads, piece.work).addBoth(self._ended, piece.done)

    def _ended(self, result: Any, done: Deferred[Any]) -> None:
        self._in_hand -= 1
        self._next()
        if not done.called:
            done.callback(result)

    def queued(self) -> int:
        """Pieces of work that wait for a thread."""
        return sum(map(len, self._lanes)) + max(0, self._in_hand - self.size)


RunInThread = Callable[Concatenate[Callable[..., Any], ...], Deferred[Any]]
"""`LanedThreadPool.run`, or for tests something that does the work at once."""
