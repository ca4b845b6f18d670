"""Places that lanes take in their order, and the clients within a lane in turn.

`FairSemaphore` gives each free place to the most urgent lane in which somebody waits, and there to the client who has
not had one for longest. So one who wants hundreds of things does not make the others wait.

What is done ahead never has all places, if there are several: who comes in a hurry finds one free, and need not wait
for an answer that takes seconds. While somebody interactive has been here a moment ago, a prefetch has an eighth of the
places.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime

from ocpproxy.concurrency import work
from ocpproxy.concurrency.work import Claim, Lane, Work

_MANY = 32
"""More than a screen of tiles."""
_RECENTLY = 5.0
"""Seconds for which somebody interactive counts as being here after the last place that they got."""


class TooManyWaiting(Exception):
    """The queue is as long as it may be."""


class _Waiter:
    """One that waits for a place: in a queue of each of its claims."""

    def __init__(self, places: FairSemaphore, done: Work) -> None:
        self.granted: Deferred[Claim] = Deferred(lambda _: places.leave(self))
        self.queued: list[Claim] = []
        self._places = places
        self._work = done
        self._ended = False
        done.listen(self.joined)

    def joined(self, claim: Claim) -> None:
        """Somebody else wants it too: whose turn comes first counts."""
        if not self._ended:
            self._places.join(self, claim)

    def end(self) -> None:
        """Wait no more."""
        self._ended = True
        self._work.forget(self.joined)


class FairSemaphore:
    """A semaphore whose places are taken by the current `work`.

    :param limit: the number of places.
    :param most: how many may wait; an eighth of them for one client. None for any number.
    :param kept: places that a client does not get while more than `_MANY` things that it wants are waiting.
    """

    def __init__(self, limit: int, clock: IReactorTime, *, most: int | None = None, kept: int = 0) -> None:
        self.limit = limit
        self._clock = clock
        self._most = most
        self._kept = kept
        self._used: Counter[Claim] = Counter()
        """Places by who has them."""
        self._taken: Counter[Lane] = Counter()
        self._queues: dict[Lane, OrderedDict[str, deque[_Waiter]]] = {lane: OrderedDict() for lane in Lane}
        """Those that wait, by client; one with several claims is in several queues."""
        self._waiting = 0
        self._serving = False
        self._interactive_until = -1.0

    def __len__(self) -> int:
        return self._waiting

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._taken.total()

    def acquire(self) -> Deferred[Claim]:
        """Wait for a place, and take it; the result is what `release` wants. Cancel the Deferred to leave.

        :raises TooManyWaiting: at once.
        """
        done = work.current()
        for claim in sorted(done.claims):
            if not self._queue(claim) and self._may_have(claim):
                self._take(claim)
                return succeed(claim)
        if self._most is not None:
            own = max(1, self._most // 8)
            if self._waiting >= self._most or all(len(self._queue(claim)) >= own for claim in done.claims):
                return fail(TooManyWaiting(f"{self._waiting} are waiting already"))
        waiter = _Waiter(self, done)
        for claim in done.claims:
            self._enqueue(waiter, claim)
        self._waiting += 1
        return waiter.granted

    def release(self, claim: Claim) -> None:
        """Give a place back, which was taken for this claim."""
        self._taken[claim.lane] -= 1
        self._used[claim] -= 1
        if not self._used[claim]:
            del self._used[claim]
        self._serve()

    def set_limit(self, limit: int) -> None:
        """Change the limit. Places in excess of it are gone when they are given back."""
        self.limit = limit
        self._serve()

    def join(self, waiter: _Waiter, claim: Claim) -> None:
        """Let one that waits have the turn of another claim too."""
        self._enqueue(waiter, claim)
        self._serve()

    def leave(self, waiter: _Waiter) -> None:
        """Remove one that waits from all queues."""
        waiter.end()
        self._waiting -= 1
        for claim in waiter.queued:
            queue = self._queue(claim)
            queue.remove(waiter)
            if not queue:
                del self._queues[claim.lane][claim.client]

    def _queue(self, claim: Claim) -> deque[_Waiter]:
        return self._queues[claim.lane].get(claim.client) or deque()

    def _enqueue(self, waiter: _Waiter, claim: Claim) -> None:
        waiter.queued.append(claim)
        self._queues[claim.lane].setdefault(claim.client, deque()).append(waiter)

    def _take(self, claim: Claim) -> None:
        self._taken[claim.lane] += 1
        self._used[claim] += 1
        if claim.lane is Lane.INTERACTIVE:
            self._interactive_until = self._clock.seconds() + _RECENTLY

    def _may_have(self, claim: Claim) -> bool:
        """Return whether there is a place for a claim."""
        if any(self._queues[lane] for lane in Lane if lane < claim.lane):
            return False
        if claim.lane is Lane.INTERACTIVE:
            kept = self._kept if len(self._queue(claim)) > _MANY else 0
            return self._taken.total() < self.limit and self._used[claim] < self.limit - kept
        ahead = self._taken[Lane.LOOKAHEAD] + self._taken[Lane.PREFETCH]
        free = self._taken.total() < self.limit and ahead < max(1, self.limit - 1 - self.limit // 16)
        return free and (claim.lane is Lane.LOOKAHEAD or self._taken[Lane.PREFETCH] < self._most_prefetched)

    @property
    def _most_prefetched(self) -> int:
        somebody_is_here = self._clock.seconds() < self._interactive_until
        return max(1, self.limit // (8 if somebody_is_here else 2))

    def _serve(self) -> None:
        """Give free places to those that wait.

        Who gets one may be done at once, and give it back. That only frees the place: the loop here goes on, and
        thousands in a row take no stack.
        """
        if self._serving:
            return
        self._serving = True
        try:
            while (claim := next(filter(self._may_have, self._claims()), None)) is not None:
                waiter = self._queues[claim.lane][claim.client][0]
                self.leave(waiter)
                if claim.client in self._queues[claim.lane]:
                    self._queues[claim.lane].move_to_end(claim.client)
                self._take(claim)
                waiter.granted.callback(claim)
        finally:
            self._serving = False

    def _claims(self) -> Iterator[Claim]:
        """Yield the claims whose turn comes next: by lane, and by client within it."""
        for lane, queues in self._queues.items():
            for client in queues:
                yield Claim(lane, client)
            if queues:
                return
