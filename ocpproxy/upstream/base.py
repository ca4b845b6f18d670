"""The `Upstream` protocol and its failures.

An `Upstream` describes the dataset of a token and returns cutouts of it. Each kind of upstream is one module of this
package and one line in `ocpproxy.upstream.registry`. Whatever goes wrong at an upstream reaches the rest of the gateway
as one of the failures below.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from twisted.internet.defer import CancelledError

from ocpproxy.metrics import Metrics
from ocpproxy.model.chunks import NativeChunks
from ocpproxy.model.dataset import Channel, Cutout, Dataset
from ocpproxy.model.voxels import Voxels

T = TypeVar("T")


class UpstreamFailure(Exception):
    """An upstream could not fulfil a request. The text is for the log and the administrator; viewers do not see it.

    :param retry_after: seconds after which the upstream asks for the next attempt.
    :param public: what viewers may see of the reason, without addresses; by default nothing beyond `fault`.
    """

    outcome = "broken"
    """The value of the label ``outcome`` in the metrics."""
    transient = False
    """True if an immediate retry may succeed."""
    lasting = False
    """True if it does not get better by itself: somebody has to change the configuration, or the volume."""
    fault = "not readable"
    """What kind of fault it is, for people."""

    def __init__(self, reason: str, retry_after: float | None = None, *, public: str = "") -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.public = public

    @property
    def explanation(self) -> str:
        """The kind of fault, and what viewers may see of the reason."""
        return f"{self.fault}: {self.public}" if self.public else self.fault


class UnknownToken(UpstreamFailure):
    """The upstream does not know the token, or there is no volume at its address."""

    outcome = "unknown"
    lasting = True
    fault = "not found there"


class UpstreamRefused(UpstreamFailure):
    """The upstream demands credentials that the gateway does not have."""

    outcome = "refused"
    lasting = True
    fault = "not readable: the upstream does not let this gateway read it"


class UpstreamBroken(UpstreamFailure):
    """The response of the upstream cannot be used."""


class NotUnderstood(UpstreamBroken):
    """A document describes nothing that can be shown. The reason consists of the document, and viewers may see it."""

    lasting = True
    fault = "not understood"

    def __init__(self, reason: str) -> None:
        super().__init__(reason, public=reason)


class RedirectRefused(UpstreamBroken):
    """The upstream redirects to another host, which the configuration does not name, or in a circle."""

    lasting = True


class RequestRejected(UpstreamBroken):
    """The upstream's status says that the request is wrong: the same request will not be answered."""

    lasting = True


class ResponseTooLarge(UpstreamBroken):
    """The response is larger than what was asked for can be."""

    lasting = True


class UpstreamDown(UpstreamBroken):
    """There is no connection, the connection was lost, or the response says that the service is down."""

    outcome = "down"
    transient = True
    fault = "unreachable"


class UpstreamBusy(UpstreamFailure):
    """The upstream is overloaded, or the gateway has too many requests to it already."""

    outcome = "busy"
    transient = True
    fault = "unreachable: the upstream is overloaded"


class UpstreamSlow(UpstreamFailure):
    """The last byte did not arrive before the deadline."""

    outcome = "slow"
    fault = "unreachable: the upstream does not answer in time"


class NotSent(UpstreamSlow):
    """The deadline passed while the request waited for others of the gateway: the upstream was not asked."""


class OutOfRange(UpstreamFailure):
    """The upstream says that the box is outside the dataset: our description of the dataset is out of date."""

    outcome = "out of range"


@dataclass(frozen=True, slots=True)
class Picture:
    """A tile that an upstream has drawn itself."""

    body: bytes
    """A JPEG or PNG file of 512 x 512 pixels (`ocpproxy.imagery.pictures`)."""
    validators: Mapping[str, str]
    """Request headers, such as ``If-None-Match``, by which the upstream can say that the picture is unchanged."""


class Upstream(Protocol):
    """A service that returns voxels."""

    origin: str
    """One line that identifies the upstream. A stored description is used only for the origin it was read from."""

    async def describe(self, token: str) -> str:
        """Return the upstream's description of a token, as text that can be stored.

        :raises UpstreamFailure: `UnknownToken` when the upstream does not know it.
        """

    def dataset(self, token: str, description: str) -> Dataset:
        """Return the dataset that a description describes. Nothing in the description is trusted.

        :raises UpstreamBroken: when the description makes no sense.
        """

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Return the voxels, an array (z, y, x) of exactly the shape and type requested.

        Cancelling stops the work as far as it can be stopped.

        :raises UpstreamFailure: any other exception is a fault in the gateway.
        """

    async def picture(self, cutout: Cutout, known: Picture | None) -> Picture | None:
        """Return the upstream's own picture of a cutout that is one tile of an xy slice.

        None when the upstream does not draw such tiles; the caller then uses `cutout`.

        :param known: the picture that was fetched last; this very value is returned when it is unchanged.
        :raises UpstreamFailure: as `cutout`.
        """

    def native_chunks(self, dataset: Dataset, channel: Channel, level: int) -> NativeChunks | None:
        """Return the chunks of a level that the upstream stores and `chunk` returns as they are.

        None when it stores them otherwise; then chunks are made of `cutout`.
        """

    async def chunk(self, cutout: Cutout) -> bytes:
        """Return the body of a native chunk, whose voxels are those of the cutout, in the encoding of `native_chunks`.

        It is empty for a chunk that is missing, and thus background. It is not damaged.

        :raises UpstreamFailure: as `cutout`.
        """


class NoNativeChunks:
    """Base class of upstreams whose chunks are not served as they are."""

    def native_chunks(self, dataset: Dataset, channel: Channel, level: int) -> NativeChunks | None:
        """Return None; see `Upstream.native_chunks`."""
        return None

    async def chunk(self, cutout: Cutout) -> bytes:
        """Fail: there are no native chunks."""
        raise UpstreamBroken(f"{type(self).__name__} has no chunks that are served as they are")


class VoxelsOnly(NoNativeChunks):
    """Base class of upstreams that give nothing but voxels."""

    async def picture(self, cutout: Cutout, known: Picture | None) -> Picture | None:
        """Return None; see `Upstream.picture`."""
        return None


class InstrumentedUpstream:
    """An upstream whose requests are counted and timed in the metrics."""

    def __init__(self, upstream: Upstream, metrics: Metrics) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self.origin = upstream.origin

    async def describe(self, token: str) -> str:
        """Return a description; see `Upstream.describe`."""
        return await self._measure("info", self._upstream.describe(token))

    def dataset(self, token: str, description: str) -> Dataset:
        """Return a dataset; see `Upstream.dataset`."""
        return self._upstream.dataset(token, description)

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Return voxels; see `Upstream.cutout`."""
        return await self._measure("cutout", self._upstream.cutout(cutout))

    async def picture(self, cutout: Cutout, known: Picture | None) -> Picture | None:
        """Return a picture; see `Upstream.picture`."""
        return await self._measure("picture", self._upstream.picture(cutout, known))

    def native_chunks(self, dataset: Dataset, channel: Channel, level: int) -> NativeChunks | None:
        """Return the chunks that are stored; see `Upstream.native_chunks`."""
        return self._upstream.native_chunks(dataset, channel, level)

    async def chunk(self, cutout: Cutout) -> bytes:
        """Return a chunk; see `Upstream.chunk`."""
        return await self._measure("chunk", self._upstream.chunk(cutout))

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
