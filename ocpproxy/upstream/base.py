"""Where voxels come from.

An `Upstream` describes a token and hands out cutouts of it; each kind is one file in this package and one line in the
registry. What they have in common is here: the Protocol, and the failures, which are all that
the rest of the gateway knows of what can go wrong outside.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from twisted.internet.defer import CancelledError

from ocpproxy.metrics import Metrics
from ocpproxy.model.dataset import Cutout, Dataset
from ocpproxy.model.voxels import Voxels

T = TypeVar("T")


class UpstreamFailure(Exception):
    """The upstream did not give what it was asked for. The text may be logged; it is not shown to viewers.

    :param retry_after: seconds after which the upstream asks to be tried again.
    """

    outcome = "broken"
    transient = False
    """Asking again at once may well work."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class UnknownToken(UpstreamFailure):
    """The upstream knows no such token."""

    outcome = "unknown"


class UpstreamRefused(UpstreamFailure):
    """The upstream wants credentials that we do not have."""

    outcome = "refused"


class UpstreamBroken(UpstreamFailure):
    """The upstream answered with something that cannot be used."""


class UpstreamDown(UpstreamBroken):
    """No connection, a connection lost, or an answer that says the service behind it is down."""

    outcome = "down"
    transient = True


class UpstreamBusy(UpstreamFailure):
    """The upstream is overloaded, or too much is being asked of it already."""

    outcome = "busy"
    transient = True


class UpstreamSlow(UpstreamFailure):
    """The last byte was not there in time."""

    outcome = "slow"


class OutOfRange(UpstreamFailure):
    """The upstream says that there is no such box: what we know of the dataset is out of date."""

    outcome = "out of range"


@dataclass(frozen=True, slots=True)
class Picture:
    """A tile as an upstream itself draws it."""

    body: bytes
    """A picture of a tile (`ocpproxy.imagery.pictures`)."""
    validators: Mapping[str, str]
    """Conditions, as headers of a request, under which it need not be sent again."""


class Upstream(Protocol):
    """A service that hands out voxels."""

    origin: str
    """Which upstream this is, in one line: a description read from one is of no use to another."""

    async def describe(self, token: str) -> str:
        """What the upstream says of the token, as text that can be kept.

        :raises UpstreamFailure: `UnknownToken` when there is none such.
        """

    def dataset(self, token: str, description: str) -> Dataset:
        """The dataset that a description tells of. Nothing in it is trusted.

        :raises UpstreamBroken: when it makes no sense.
        """

    async def cutout(self, cutout: Cutout) -> Voxels:
        """The voxels, an array of axes (z, y, x) and just the shape and type that were asked for.

        Cancelling stops the work as far as it can be stopped.

        :raises UpstreamFailure: anything else is a fault in our code.
        """

    async def picture(self, cutout: Cutout, known: Picture | None) -> Picture | None:
        """The tile whose pixels are the voxels of this cutout, one xy slice, as the upstream draws it.

        None when it does not draw such tiles: then `cutout` is asked for.

        :param known: what it was when it was fetched last; what is given again when it is still that.
        :raises UpstreamFailure: as `cutout`.
        """


class VoxelsOnly:
    """An upstream that draws no tiles."""

    async def picture(self, cutout: Cutout, known: Picture | None) -> Picture | None:
        """As `Upstream.picture`: there is none."""
        return None


class InstrumentedUpstream:
    """An upstream whose requests are counted and timed."""

    def __init__(self, upstream: Upstream, metrics: Metrics) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self.origin = upstream.origin

    async def describe(self, token: str) -> str:
        """As `Upstream.describe`."""
        return await self._measure("info", self._upstream.describe(token))

    def dataset(self, token: str, description: str) -> Dataset:
        """As `Upstream.dataset`."""
        return self._upstream.dataset(token, description)

    async def cutout(self, cutout: Cutout) -> Voxels:
        """As `Upstream.cutout`."""
        return await self._measure("cutout", self._upstream.cutout(cutout))

    async def picture(self, cutout: Cutout, known: Picture | None) -> Picture | None:
        """As `Upstream.picture`."""
        return await self._measure("picture", self._upstream.picture(cutout, known))

    async def _measure(self, kind: str, work: Awaitable[T]) -> T:
        outcome, began = "fault", time.perf_counter()
        try:
            result = await work
            outcome = "ok"
            return result
        except UpstreamFailure as failure:
            outcome = failure.outcome
            raise
        except CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self._metrics.upstream_requests.labels(kind, outcome).inc()
            self._metrics.upstream_seconds.labels(kind).observe(time.perf_counter() - began)
