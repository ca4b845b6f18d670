"""Circuit breakers: an upstream that fails is left alone for a moment. So it can recover, and nobody waits in vain.

There is a breaker for each channel of each dataset: one that is sick does not shut out the others. After a few failures
in a row it opens: requests fail at once. After a pause one request is let through, the probe. When it succeeds the
breaker closes; when it fails the next pause is longer, up to `_LONGEST`, so that an upstream that comes back is used
again within two seconds. A probe that takes long is followed by another. An upstream that asks for time
(``Retry-After``) gets it when the breaker opens, which it does at once for a long time.

Only failures of the upstream itself count, such as that it is unreachable, overloaded or late, or that its answer makes
no sense. That it does not know a token, or refuses it, is an answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import IntEnum
from itertools import count
from typing import TypeVar

from cachetools import LRUCache
from twisted.internet.interfaces import IReactorTime

from ocpproxy.log import Logger
from ocpproxy.model.chunks import NativeChunks
from ocpproxy.model.dataset import Channel, Cutout, Dataset
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream import trail
from ocpproxy.upstream.base import (
    NotSent,
    Picture,
    Upstream,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamDown,
    UpstreamFailure,
    UpstreamSlow,
)

T = TypeVar("T")
FAILURES, BROKEN_ANSWERS = 3, 5
"""Failures in a row after which a breaker opens; more of them where there are answers, but none that can be used: the
next cuboid may be a good one."""
_SHORTEST, _LONGEST = 0.25, 1.5
"""Seconds of the first pause, and of later ones; each is twice as long as the one before."""
_PROBE_ALONE = 1.5
"""Seconds after which a probe that has no answer is followed by another one."""
_LONG, _MOST_ASKED_FOR = 30.0, 300.0
"""Seconds that an upstream may ask for: so many that the breaker opens at once, and at most."""
_CACHE_ONLY_FOR = 60.0
"""Seconds after which a client may ask again in maintenance."""
_MOST_BREAKERS = 10_000


class UpstreamResting(UpstreamBusy):
    """The upstream is not asked, for it has failed several times."""

    outcome = "resting"
    fault = "unreachable: the upstream has failed several times"
    transient = False


class NotAsked(UpstreamResting):
    """The upstream is not asked, because the configuration says so."""

    fault = "not asked: the upstream is in maintenance (mode = cache-only)"


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
    if isinstance(failure, NotSent):
        return False
    return isinstance(failure, (UpstreamBroken, UpstreamBusy, UpstreamSlow)) and not failure.lasting


class Breaker:
    """One breaker.

    :param name: which upstream it is for, for the log.
    """

    _log = Logger()

    def __init__(self, name: str, clock: IReactorTime) -> None:
        self._name = name
        self._clock = clock
        self._in_a_row = 0
        self._pause = 0.0
        self._until = 0.0
        self._asked = 0.0
        """The time until which the upstream has asked to be left alone, since it answered last."""
        self._probes = count(1)
        self._probe = 0
        """The number of the probe that counts."""
        self._probe_began = 0.0
        self.state = BreakerState.CLOSED
        self.reason = ""
        """Why it is open, for the log and the administrator."""

    @property
    def is_ready(self) -> bool:
        """True if a request would be let through now."""
        now = self._clock.seconds()
        if self.state is BreakerState.PROBING:
            return now >= self._probe_began + _PROBE_ALONE
        return self.state is BreakerState.CLOSED or now >= self._until

    def admit(self) -> int:
        """Let a request through; return the number of the probe that it is, or 0 if it is none.

        :raises UpstreamResting: the breaker is open.
        """
        now = self._clock.seconds()
        if not self.is_ready:
            due = self._probe_began + _PROBE_ALONE if self.state is BreakerState.PROBING else self._until
            raise UpstreamResting(f"it has failed several times in a row ({self.reason})", max(due - now, _SHORTEST))
        if self.state is BreakerState.CLOSED:
            return 0
        self.state, self._probe_began, self._probe = BreakerState.PROBING, now, next(self._probes)
        return self._probe

    def succeeded(self) -> None:
        """Note that the upstream has answered a request."""
        if self.state is not BreakerState.CLOSED:
            self._log.info("the upstream of {name} answers again", name=self._name)
        self.state = BreakerState.CLOSED
        self._in_a_row, self._pause, self._asked, self._probe, self.reason = 0, 0.0, 0.0, 0, ""

    def failed(self, failure: UpstreamFailure, probe: int) -> None:
        """Note that the upstream has failed.

        :param probe: what `admit` returned.
        """
        self._in_a_row += 1
        self.reason = f"{failure.outcome}: {failure}"[:200]
        self._asked = max(self._asked, self._clock.seconds() + min(failure.retry_after or 0.0, _MOST_ASKED_FOR))
        has_answered = isinstance(failure, UpstreamBroken) and not isinstance(failure, UpstreamDown)
        enough = self._in_a_row >= (BROKEN_ANSWERS if has_answered else FAILURES)
        if self.state is BreakerState.CLOSED and (enough or (failure.retry_after or 0.0) >= _LONG):
            self._log.warn(
                "the upstream of {name} has failed {count} times in a row, and is asked again later: {reason}",
                name=self._name,
                count=self._in_a_row,
                reason=self.reason,
            )
            self._open()
        elif probe and probe == self._probe:
            self._open()
        if self.state is BreakerState.OPEN:
            self._until = max(self._until, self._asked)

    def _open(self) -> None:
        self._pause = min(max(2 * self._pause, _SHORTEST), _LONGEST)
        self._until = self._clock.seconds() + self._pause
        self.state, self._probe = BreakerState.OPEN, 0

    def given_up(self, probe: int) -> None:
        """Note that there is no answer to a request, and no failure: another one may be the probe."""
        if probe and probe == self._probe:
            self.state, self._probe = BreakerState.OPEN, 0


class Breakers:
    """The breakers of one upstream, by dataset and channel.

    :param name: which upstream it is, for the log.
    """

    def __init__(self, name: str, clock: IReactorTime) -> None:
        self._name = name
        self._clock = clock
        self._breakers: LRUCache[tuple[str, str], Breaker] = LRUCache(_MOST_BREAKERS)

    def of(self, cutout: Cutout) -> Breaker:
        """Return the breaker of a cutout's dataset and channel."""
        key = (cutout.dataset.token, cutout.channel.name)
        breaker = self._breakers.get(key)
        if breaker is None:
            breaker = self._breakers[key] = Breaker(f"{key[0]}/{key[1]} ({self._name})", self._clock)
        return breaker

    def state(self, token: str | None = None) -> BreakerState:
        """Return the worst state of all breakers, or of those of a token."""
        states = (one.state for (own, _), one in list(self._breakers.items()) if token in (None, own))
        return max(states, default=BreakerState.CLOSED)


class GuardedUpstream:
    """An upstream behind breakers. Descriptions are asked for in any case: they have pauses of their own.

    :param home: names the upstream in the provenance of tiles.
    """

    def __init__(self, upstream: Upstream, breakers: Breakers, home: str = "") -> None:
        self._upstream = upstream
        self.breakers = breakers
        self.home = home
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
        return await self._guard(cutout, lambda: self._upstream.cutout(cutout))

    async def picture(self, cutout: Cutout, known: Picture | None) -> Picture | None:
        """Return a picture; see `Upstream.picture`.

        :raises UpstreamResting: the breaker is open.
        """
        return await self._guard(cutout, lambda: self._upstream.picture(cutout, known))

    def native_chunks(self, dataset: Dataset, channel: Channel, level: int) -> NativeChunks | None:
        """Return the chunks that are stored; see `Upstream.native_chunks`."""
        return self._upstream.native_chunks(dataset, channel, level)

    async def chunk(self, cutout: Cutout) -> bytes:
        """Return a chunk; see `Upstream.chunk`.

        :raises UpstreamResting: the breaker is open.
        """
        return await self._guard(cutout, lambda: self._upstream.chunk(cutout))

    async def _guard(self, cutout: Cutout, ask: Callable[[], Awaitable[T]]) -> T:
        breaker = self.breakers.of(cutout)
        probe = breaker.admit()
        try:
            answer = await ask()
        except UpstreamFailure as failure:
            if counts(failure):
                breaker.failed(failure, probe)
            elif isinstance(failure, NotSent):
                breaker.given_up(probe)
            else:
                breaker.succeeded()
            raise
        except BaseException:
            breaker.given_up(probe)
            raise
        if answer is None:  # it draws no pictures, and nobody was asked
            breaker.given_up(probe)
        else:
            breaker.succeeded()
            trail.note_home(self.home)
        return answer


class CacheOnly:
    """An upstream that is not asked: the gateway serves what it has."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self.origin = upstream.origin

    def _refuse(self) -> NotAsked:
        return NotAsked("nothing of this is cached", _CACHE_ONLY_FOR)

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

    def native_chunks(self, dataset: Dataset, channel: Channel, level: int) -> NativeChunks | None:
        """Return the chunks that are stored, so that those that are cached are found."""
        return self._upstream.native_chunks(dataset, channel, level)

    async def chunk(self, cutout: Cutout) -> bytes:
        """Refuse."""
        raise self._refuse()
