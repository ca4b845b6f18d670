"""Places that clients take in turn, so that one who wants hundreds of things does not make the others wait.

`working_for` keeps the client of some work in a context variable, which coroutines pass on. `FairSemaphore` gives each
free place to the client who has not had one for longest. While dozens of things that one client wants are waiting, some
places can be kept for others.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from twisted.internet.defer import Deferred, fail, succeed

_MANY = 32
"""More than a screen of tiles."""
_client: ContextVar[str] = ContextVar("client", default="")
"""Empty for work that is for nobody in particular."""


@contextmanager
def working_for(client: str) -> Iterator[None]:
    """Let the work that is begun in a block be for this client."""
    token = _client.set(client)
    try:
        yield
    finally:
        _client.reset(token)


class TooManyWaiting(Exception):
    """The queue is as long as it may be."""


class FairSemaphore:
    """A semaphore whose places are taken in turn by the clients that wait.

    :param limit: the number of places.
    :param most: how many may wait; an eighth of them for one client. None for any number.
    :param kept: places that a client does not get while more than `_MANY` things that it wants are waiting.
    """

    def __init__(self, limit: int, most: int | None = None, kept: int = 0) -> None:
        self.limit = limit
        self._most = most
        self._kept = kept
        self._taken = 0
        self._used: Counter[str] = Counter()
        """Places by the client that has them."""
        self._queues: OrderedDict[str, deque[Deferred[str]]] = OrderedDict()
        """Those that wait, by client; one that has been joined is in several queues."""
        self._waiting = 0
        self._serving = False

    def __len__(self) -> int:
        return self._waiting

    def acquire(self) -> Deferred[str]:
        """Wait for a place, and take it; the result is what `release` wants. Cancel the Deferred to leave.

        :raises TooManyWaiting: at once.
        """
        client = _client.get()
        if not self._queues.get(client) and self._may_have(client):
            self._take(client)
            return succeed(client)
        queue = self._queues.setdefault(client, deque())
        if self._most is not None and (self._waiting >= self._most or len(queue) >= max(1, self._most // 8)):
            if not queue:
                del self._queues[client]
            return fail(TooManyWaiting(f"{self._waiting} are waiting already"))
        waiting: Deferred[str] = Deferred(self._leave)
        queue.append(waiting)
        self._waiting += 1
        return waiting

    def join(self, waiting: Deferred[str]) -> None:
        """Let one that waits be for the current client too: whose turn comes first counts."""
        queue = self._queues.get(_client.get(), ())
        if not waiting.called and waiting not in queue:
            self._queues.setdefault(_client.get(), deque()).append(waiting)
            self._serve()

    def release(self, client: str) -> None:
        """Give a place back, which was taken for this client."""
        self._taken -= 1
        self._used[client] -= 1
        if not self._used[client]:
            del self._used[client]
        self._serve()

    def lower(self, limit: int) -> None:
        """Lower the limit. Places in excess of it are gone when they are given back."""
        self.limit = min(self.limit, limit)

    def _take(self, client: str) -> None:
        self._taken += 1
        self._used[client] += 1

    def _may_have(self, client: str) -> bool:
        """Return whether there is a place for a client."""
        kept = self._kept if len(self._queues.get(client, ())) > _MANY else 0
        return self._taken < self.limit and self._used[client] < self.limit - kept

    def _serve(self) -> None:
        """Give free places to those that wait.

        Who gets one may be done at once, and give it back. That only frees the place: the loop here goes on, and
        thousands in a row take no stack.
        """
        if self._serving:
            return
        self._serving = True
        try:
            while (client := self._next_client()) is not None:
                waiting = self._queues[client][0]
                self._remove(waiting)
                if client in self._queues:
                    self._queues.move_to_end(client)
                self._take(client)
                waiting.callback(client)
        finally:
            self._serving = False

    def _next_client(self) -> str | None:
        """Return whose turn it is; None when there is no place, or nobody may have one."""
        if self._taken >= self.limit:
            return None
        return next((client for client in self._queues if self._may_have(client)), None)

    def _leave(self, waiting: Deferred[str]) -> None:
        self._remove(waiting)

    def _remove(self, waiting: Deferred[str]) -> None:
        """Remove one from all queues that it is in."""
        self._waiting -= 1
        for client, queue in list(self._queues.items()):
            if waiting in queue:
                queue.remove(waiting)
                if not queue:
                    del self._queues[client]
