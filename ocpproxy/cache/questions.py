"""Places for questions about tokens that have no section in the configuration.

Anybody can make up such tokens, and an upstream may take long to say that it does not know one. So few questions are
asked at a time, in turns of the clients, and the queue has an end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from ocpproxy.concurrency.fairness import FairSemaphore, TooManyWaiting
from ocpproxy.upstream.base import UpstreamBusy

_PATIENCE = 10.0
"""Seconds that a question waits for its turn."""
_MOST = 512
"""Questions that wait; an eighth of them for one client."""


class Questions:
    """The questions to one upstream.

    :param at_a_time: how many are asked at a time.
    """

    def __init__(self, at_a_time: int, clock: IReactorTime) -> None:
        self._places = FairSemaphore(at_a_time, clock, most=_MOST)
        self._clock = clock

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place for the time of a block.

        :raises UpstreamBusy: too many questions wait.
        """
        try:
            claim = await self._places.acquire().addTimeout(_PATIENCE, self._clock)
        except (TooManyWaiting, DeferredTimeout):
            raise UpstreamBusy("too many tokens without a section are asked for", _PATIENCE / 2) from None
        try:
            yield
        finally:
            self._places.release(claim)
