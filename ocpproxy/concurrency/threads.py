"""Threads for one kind of work, with lanes.

Rendering, files and the database have threads of their own, so that one kind cannot starve another, and the reactor's
pool is left to name look-ups (ten busy renders there delay a connect by seconds).

Jobs queue by the lane of the `work` that they belong to. Within a lane they have priorities: a view of 30 tiles misses
30 cuboids, and each brings 15 more tiles than were asked for. An idle thread takes the first job of the first queue
that has one. The pool hands out only as many jobs more than it has threads, so that no thread waits for the event loop,
and urgent jobs wait for jobs in progress only. Of the jobs that are not interactive, fewer are in progress than there
are threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from threading import Thread
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from ocpproxy.concurrency import work
from ocpproxy.concurrency.work import Claim, Lane
from ocpproxy.log import Logger

T = TypeVar("T")
P = ParamSpec("P")

RunInThread = Callable[Concatenate[Callable[..., Any], ...], Deferred[Any]]
"""`LanedThreadPool.run`, or for tests a function that does the work at once."""

_STUCK = 10.0
"""Seconds after which a job is given up when everything stops."""


class Priority(IntEnum):
    """What goes first within a lane: the lower priority."""

    URGENT = 0
    """Somebody waits for the result."""
    NORMAL = 1
    """Somebody waits for something that needs the result."""
    AHEAD = 2
    """Nobody waits for it yet."""


class _Job:
    """A call that waits in the queue of its lane and priority."""

    def __init__(self, pool: LanedThreadPool, call: Callable[[], Any], priority: Priority) -> None:
        self.call = call
        self.priority = priority
        self.lane = Lane.PREFETCH
        self.result: Deferred[Any] = Deferred(lambda _: pool.drop(self))
        self._pool = pool
        self._work = work.current()

    def enqueue(self) -> None:
        """Wait, in the lane of its work."""
        self.lane = self._work.lane
        self._work.listen(self._claimed)
        self._pool.queue(self).append(self)

    def dequeue(self) -> None:
        """Wait no more."""
        self._work.forget(self._claimed)
        self._pool.queue(self).remove(self)

    def _claimed(self, claim: Claim) -> None:
        if claim.lane < self.lane:
            self.dequeue()
            self.enqueue()


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
        self._queues: dict[tuple[Lane, Priority], deque[_Job]] = {
            (lane, priority): deque() for lane in Lane for priority in Priority
        }
        self._handed_out = 0
        self._ahead = 0
        """Those of them that are not interactive."""
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
        for queue in self._queues.values():
            for job in list(queue):
                self._hand_out(job)
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

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Return the result of a call, made in a thread.

        Cancelling drops a call that has not begun, and the result of one that has: a thread cannot be stopped.
        """
        return self._start(Priority.NORMAL, partial(call, *args, **kwargs))

    def at(self, priority: Priority) -> RunInThread:
        """Return a function like `run` whose calls have a priority."""

        def run(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
            return self._start(priority, partial(call, *args, **kwargs))

        return run

    def _start(self, priority: Priority, call: Callable[[], T]) -> Deferred[T]:
        job = _Job(self, call, priority)
        job.enqueue()
        self._hand_out_next()
        return job.result

    def queue(self, job: _Job) -> deque[_Job]:
        """Return the queue of a job's lane and priority."""
        return self._queues[job.lane, job.priority]

    def drop(self, job: _Job) -> None:
        """Drop a job that has not begun."""
        if job in self.queue(job):
            job.dequeue()

    def _hand_out_next(self) -> None:
        while (queue := next(filter(None, self._queues.values()), None)) is not None and self._may_begin(queue[0]):
            self._hand_out(queue[0])

    def _may_begin(self, job: _Job) -> bool:
        if job.lane is Lane.INTERACTIVE:
            return self._handed_out < 2 * self.size
        return self._handed_out < self.size and self._ahead < max(1, self.size - 1)

    def _hand_out(self, job: _Job) -> None:
        job.dequeue()
        ahead = job.lane is not Lane.INTERACTIVE
        self._handed_out += 1
        self._ahead += ahead
        deferToThreadPool(self._reactor, self._threads, job.call).addBoth(self._finished, job.result, ahead)

    def _finished(self, outcome: Any, result: Deferred[Any], ahead: bool) -> None:
        self._handed_out -= 1
        self._ahead -= ahead
        self._hand_out_next()
        if self._idle is not None and not self._handed_out and not self._idle.called:
            self._idle.callback(None)
        if not result.called:
            result.callback(outcome)

    def queued(self) -> int:
        """Return how many jobs wait for a thread."""
        return sum(map(len, self._queues.values())) + max(0, self._handed_out - self.size)
