"""A circuit breaker: an upstream that fails is left alone for a moment. So it can recover, and nobody waits in vain.

After a few failures in a row the breaker opens: requests fail at once. After a pause one request at a time is let
through, the probe. When it succeeds the breaker closes; when it fails the next pause is longer, up to `_LONGEST`, so
that an upstream that comes back is used again within two seconds. An upstream that asks for more time
(``Retry-After``) gets it.

Only failures of the upstream itself count, such as that it is unreachable, overloaded or late, or that its answer makes
no sense. That it does not know a token, or refuses it, is an answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import TypeVar

from twisted.internet.interfaces import IReactorTime

from ocpproxy.log import Logger
from ocpproxy.model.dataset import Cutout, Dataset
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import (
    Picture,
    Upstream,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamFailure,
    UpstreamSlow,
)

T = TypeVar("T")
FAILURES = 3
"""Failures in a row after which the breaker opens."""
_SHORTEST, _LONGEST = 0.25, 1.5
"""Seconds of the first pause, and of later ones; each is twice as long as the one before."""
_MOST_ASKED_FOR = 300.0
"""Seconds that an upstream may ask for."""
_CACHE_ONLY_FOR = 60.0
"""Seconds after which a client may ask again in maintenance."""


class UpstreamResting(UpstreamBusy):
    """The upstream is not asked, for it has failed several times, or because the configuration says so."""

    outcome = "resting"
    transient = False


class BreakerState(IntEnum):
    """What a breaker does with requests; the numbers are those of the metric."""

    CLOSED = 0
    """It lets them through."""
    PROBING = 1
    """It has let one through, and refuses the others."""
    OPEN = 2
    """It refuses them."""


def counts(failure: UpstreamFailure) -> bool:
    """Return whether a failure says something about the health of the upstream."""
    return isinstance(failure, (UpstreamBroken, UpstreamBusy, UpstreamSlow)) and not failure.lasting


class Breaker:
    """The breaker of one upstream.

    :param name: which upstream it is, for the log.
    """

    _log = Logger()

    def __init__(self, name: str, clock: IReactorTime) -> None:
        self._name = name
        self._clock = clock
        self._in_a_row = 0
        self._pause = 0.0
        self._until = 0.0
        self.state = BreakerState.CLOSED
        self.reason = ""
        """Why it is open, for the log and the administrator."""

    @property
    def is_ready(self) -> bool:
        """True if a request would be let through now."""
        due = self.state is BreakerState.OPEN and self._clock.seconds() >= self._until
        return self.state is BreakerState.CLOSED or due

    def admit(self) -> bool:
        """Let a request through; return whether it is the probe.

        :raises UpstreamResting: the breaker is open.
        """
        if not self.is_ready:
            left = max(self._until - self._clock.seconds(), _SHORTEST)
            raise UpstreamResting(f"it has failed {FAILURES} times in a row ({self.reason})", left)
        if self.state is BreakerState.CLOSED:
            return False
        self.state = BreakerState.PROBING
        return True

    def succeeded(self) -> None:
        """Note that the upstream has answered a request."""
        if self.state is not BreakerState.CLOSED:
            self._log.info("the upstream of {name} answers again", name=self._name)
        self.state = BreakerState.CLOSED
        self._in_a_row, self._pause, self.reason = 0, 0.0, ""

    def failed(self, failure: UpstreamFailure, *, probe: bool) -> None:
        """Note that the upstream has failed."""
        self._in_a_row += 1
        self.reason = f"{failure.outcome}: {failure}"[:200]
        if self.state is BreakerState.CLOSED and self._in_a_row >= FAILURES:
            self._log.warn(
                "the upstream of {name} has failed {count} times in a row, and is asked again later: {reason}",
                name=self._name,
                count=self._in_a_row,
                reason=self.reason,
            )
            self._open(failure)
        elif probe:
            self._open(failure)

    def _open(self, failure: UpstreamFailure) -> None:
        self._pause = min(max(2 * self._pause, _SHORTEST), _LONGEST)
        wanted = min(failure.retry_after or 0.0, _MOST_ASKED_FOR)
        self._until = self._clock.seconds() + max(self._pause, wanted)
        self.state = BreakerState.OPEN

    def given_up(self, *, probe: bool) -> None:
        """Note that nobody wants the answer to a request any more: another one may be the probe."""
        if probe and self.state is BreakerState.PROBING:
            self.state = BreakerState.OPEN


class GuardedUpstream:
    """An upstream behind a breaker. Descriptions are asked for in any case: they have pauses of their own."""

    def __init__(self, upstream: Upstream, breaker: Breaker) -> None:
        self._upstream = upstream
        self.breaker = breaker
        self.origin = upstream.origin

    async def describe(self, token: str) -> str:
        """Return a description; see `Upstream.describe`."""
        return await self._upstream.describe(token)

    def dataset(self, token: str, description: str) -> Dataset:
        """Return a dataset; see `Upstream.dataset`."""
        return self._upstream.dataset(token, description)

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Return voxels; see `Upstream.cutout`.

        :raises UpstreamResting: the breaker is open.
        """
        return await self._guard(lambda: self._upstream.cutout(cutout))

    async def picture(self, cutout: Cutout, known: Picture | None) -> Picture | None:
        """Return a picture; see `Upstream.picture`.

        :raises UpstreamResting: the breaker is open.
        """
        return await self._guard(lambda: self._upstream.picture(cutout, known))

    async def _guard(self, ask: Callable[[], Awaitable[T]]) -> T:
        breaker = self.breaker
        probe = breaker.admit()
        try:
            answer = await ask()
        except UpstreamFailure as failure:
            if counts(failure):
                breaker.failed(failure, probe=probe)
            else:
                breaker.succeeded()
            raise
        except BaseException:
            breaker.given_up(probe=probe)
            raise
        breaker.succeeded()
        return answer


class CacheOnly:
    """An upstream that is not asked: the gateway serves what it has."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self.origin = upstream.origin

    def _refuse(self) -> UpstreamResting:
        return UpstreamResting("mode = cache-only: the upstream is not asked", _CACHE_ONLY_FOR, public="maintenance")

    async def describe(self, token: str) -> str:
        """Refuse."""
        raise self._refuse()

    def dataset(self, token: str, description: str) -> Dataset:
        """Return a dataset; see `Upstream.dataset`."""
        return self._upstream.dataset(token, description)

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Refuse."""
        raise self._refuse()

    async def picture(self, cutout: Cutout, known: Picture | None) -> Picture | None:
        """Refuse."""
        raise self._refuse()
