"""The record of all answers, of the hot path and of the resources: counters and the access log."""

from __future__ import annotations

from ocpproxy.cache.lookup import Result
from ocpproxy.metrics import Metrics
from ocpproxy.web.access_log import AccessLog, Answered

_HITS = (Result.HIT_MEMORY.value, Result.HIT_DISK.value)
"""The results that are counted most often: their counters are looked up once."""


class AnswerRecord:
    """The counters of answers to requests for tiles, by result, and the log of every answer.

    :param access_log: None where answers are not logged.
    """

    def __init__(self, metrics: Metrics, access_log: AccessLog | None) -> None:
        self._tiles = metrics.tiles
        self._counters = {result: metrics.tiles.labels(result) for result in _HITS}
        self.log = access_log

    def count(self, result: str | None) -> None:
        """Count an answer; None for one that is no tile."""
        if result is not None:
            (self._counters.get(result) or self._tiles.labels(result)).inc()

    def record(self, answered: Answered) -> None:
        """Count an answer, and log it."""
        self.count(answered.result)
        if self.log is not None:
            self.log.add(answered)
