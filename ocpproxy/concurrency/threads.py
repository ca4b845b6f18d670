"""Threads for one kind of work, with lanes.

Rendering, files and the database have threads of their own, so that one kind cannot starve another, and the reactor's
pool is left to name look-ups (ten busy renders there delay a connect by seconds).

Work that somebody waits for must not queue behind work that is done ahead: a view of 30 tiles misses 30 cuboids, and
each brings 15 more tiles than were asked for. So there are lanes, and an idle thread takes the first job of the first
lane that has one. The pool hands out only as many jobs more than it has threads, so that no thread waits for the event
loop, and urgent work waits for jobs in progress only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from threading import Thread
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from ocpproxy.log import Logger

T = TypeVar("T")
P = ParamSpec("P")

RunInThread = Callable[Concatenate[Callable[..., Any], ...], Deferred[Any]]
"""`LanedThreadPool.run`, or for tests a function that does the work at once."""


_STUCK = 10.0
"""Seconds after which a job is given up when everything stops."""


class Lane(IntEnum):
    """The priority of a job: a lower lane goes first."""

    URGENT = 0
    """Somebody waits for the result."""
    NORMAL = 1
    """Somebody waits for something that needs the result."""
    AHEAD = 2
    """Nobody waits for it yet."""


@dataclass(frozen=True, eq=False)
class _Job:
    """A call that waits in a lane."""

    work: Callable[[], Any]
    result: Deferred[Any]


class _DaemonThread(Thread):
    """A thread that ends with the process, if it is stuck by then."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)


class LanedThreadPool(Service):
    """At most `size` threads, started with the service (not before: twistd forks)."""

    _log = Logger()

    def __init__(self, reactor: Any, size: int, name: str) -> None:
        self._reactor = reactor
        self._threads = ThreadPool(0, size, name)
        self._threads.threadFactory = _DaemonThread
        self.size = size
        self._lanes: tuple[deque[_Job], ...] = tuple(deque() for _ in Lane)
        self._handed_out = 0
        self._idle: Deferred[Any] | None = None
        """Fires when all jobs have ended, while everything stops."""
        self.setName(name)

    def startService(self) -> None:
        """Allow threads to be started."""
        super().startService()
        self._threads.start()

    def stopService(self) -> Deferred[None]:
        """Wait for all jobs, which are short, a cuboid each at most. One that is stuck is not waited for."""
        super().stopService()
        self._hand_out(sum(map(len, self._lanes)))
        self._idle = Deferred()
        if not self._handed_out:
            self._idle.callback(None)
        return self._idle.addTimeout(_STUCK, self._reactor, self._give_up).addCallback(self._end_threads)

    def _give_up(self, _: object, seconds: float) -> bool:
        self._log.error("{count} jobs of {name} do not end: they are given up", count=self._handed_out, name=self.name)
        return True

    def _end_threads(self, stuck: bool | None) -> None:
        if not stuck:
            self._threads.stop()

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Return the result of the work, done in a thread.

        Cancelling drops work that has not begun, and the result of work that has: a thread cannot be stopped.
        """
        return self._queue(Lane.NORMAL, partial(work, *args, **kwargs))

    def lane(self, lane: Lane) -> RunInThread:
        """Return a function like `run` that queues in a lane."""

        def run(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
            return self._queue(lane, partial(work, *args, **kwargs))

        return run

    def _queue(self, lane: Lane, work: Callable[[], T]) -> Deferred[T]:
        waiting = self._lanes[lane]

        def drop(_: object) -> None:
            if job in waiting:
                waiting.remove(job)

        job = _Job(work, Deferred(drop))
        waiting.append(job)
        self._hand_out_next()
        return job.result

    def _hand_out_next(self) -> None:
        self._hand_out(2 * self.size - self._handed_out)

    def _hand_out(self, count: int) -> None:
        for _ in range(count):
            lane = next(filter(None, self._lanes), None)
            if lane is None:
                return
            job = lane.popleft()
            self._handed_out += 1
            deferToThreadPool(self._reactor, self._threads, job.work).addBoth(self._finished, job.result)

    def _finished(self, outcome: Any, result: Deferred[Any]) -> None:
        self._handed_out -= 1
        self._hand_out_next()
        if self._idle is not None and not self._handed_out and not self._idle.called:
            self._idle.callback(None)
        if not result.called:
            result.callback(outcome)

    def queued(self) -> int:
        """Return how many jobs wait for a thread."""
        return sum(map(len, self._lanes)) + max(0, self._handed_out - self.size)
