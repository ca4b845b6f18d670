"""What supervisors and Prometheus ask for: ``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE

from ocpproxy.web import answers
from ocpproxy.web.answers import Reply
from ocpproxy.web.open_requests import OpenRequests
from ocpproxy.web.request import GatewayRequest


@dataclass(frozen=True)
class GatewayState:
    """What the answers are made from. Each function is called for each request."""

    index_available: Callable[[], bool]
    check_writable: Callable[[], Awaitable[None]]
    """Writes to the cache directory; raises OSError when that fails."""
    metrics: Callable[[], Awaitable[bytes]]
    """Returns all metrics in the text format of Prometheus."""


class Health:
    """The answers, a coroutine function each."""

    def __init__(self, state: GatewayState, open_requests: OpenRequests) -> None:
        self._state = state
        self._open_requests = open_requests

    async def healthz(self, request: GatewayRequest) -> Reply:
        """Return 200: the process lives."""
        return answers.text(200, "alive")

    async def readyz(self, request: GatewayRequest) -> Reply:
        """Return whether tiles can be served."""
        if self._open_requests.draining:
            return answers.text(503, "not ready: stopping", retry_after="5")
        try:
            await self._state.check_writable()
        except OSError as error:
            sentence = f"not ready: the cache directory cannot be written: {error.strerror}"
            return answers.text(503, sentence, retry_after="30")
        if self._state.index_available():
            return answers.text(200, "ready")
        return answers.text(200, "ready; the index database is unavailable: the rows of new tiles follow later")

    async def metrics(self, request: GatewayRequest) -> Reply:
        """Return what Prometheus scrapes."""
        headers = {b"content-type": CONTENT_TYPE.encode(), b"cache-control": b"no-store"}
        return Reply(200, await self._state.metrics(), headers)
