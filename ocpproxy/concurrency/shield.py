"""Work that goes on when its caller stops waiting."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ocpproxy.log import Logger

T = TypeVar("T")

_log = Logger()


def shield(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Run the coroutine to its end and return its result.

    Cancelling the Deferred ends the waiting, not the work. A failure that nobody waits for is logged.
    """
    result: Deferred[T] = Deferred(lambda _: None)

    def finished(outcome: Any) -> None:
        if not result.called:
            result.callback(outcome)
        elif isinstance(outcome, Failure):
            _log.failure("nobody waits for this failure", outcome)

    Deferred.fromCoroutine(coroutine).addBoth(finished)
    return result
