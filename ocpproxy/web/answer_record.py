"""The record of all answers, of the hot path and of the resources: counters and the access log."""

from __future__ import annotations

from ocpproxy.cache.lookup import Result
from ocpproxy.log import Logger
from ocpproxy.metrics import Metrics

_HITS = (Result.HIT_MEMORY.value, Result.HIT_DISK.value)
"""The results that are counted most often: their counters are looked up once."""


class AnswerRecord:
    """The counters of answers to requests for tiles, by result, and the log of every answer.

    :param access_log: whether answers are logged.
    """

    _log = Logger()

    def __init__(self, metrics: Metrics, *, access_log: bool) -> None:
        self._tiles = metrics.tiles
        self._counters = {result: metrics.tiles.labels(result) for result in _HITS}
        self._access_log = access_log

    def record(
        self, client: str, method: bytes, target: bytes, status: int, size: int, cache: bytes, result: str | None
    ) -> None:
        """Record an answer.

        :param size: bytes of its body.
        :param cache: its ``Cache-Status``.
        :param result: the result of a tile, None for any other answer.
        """
        if result is not None:
            (self._counters.get(result) or self._tiles.labels(result)).inc()
        if self._access_log:
            self._log.info(
                "{client} {method} {uri} {status} {bytes} {cache}",
                client=client,
                method=method.decode("latin-1"),
                uri=target.decode("latin-1"),
                status=status,
                bytes=size,
                cache=cache.decode("latin-1"),
            )
