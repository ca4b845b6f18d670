"""The record of all answers, of the hot path and of the resources: counters and the access log."""

from __future__ import annotations

from ocpproxy.metrics import Metrics
from ocpproxy.web.access_log import AccessLog, Answered


class AnswerRecord:
    """The counters of answers to requests for tiles, by result, and the log of every answer.

    :param access_log: None where answers are not logged.
    """

    def __init__(self, metrics: Metrics, access_log: AccessLog | None) -> None:
        self.count = metrics.tiles.observe
        """Counts the answer to a request for a tile: its result, and the seconds that it took."""
        self.log = access_log

    def record(self, answered: Answered) -> None:
        """Count an answer, if it is to a request for a tile, and log it."""
        if answered.result is not None:
            self.count(answered.result, answered.seconds)
        if self.log is not None:
            self.log.add(answered)
