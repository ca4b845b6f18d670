"""Coroutines side by side, all or nothing."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

T = TypeVar("T")


async def side_by_side(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all the work, done side by side.

    :raises: what the first that fails fails with; the others are given up.
    """
    waiting = [Deferred.fromCoroutine(one) for one in work]
    try:
        found: list[T] = await gatherResults(waiting, consumeErrors=True)
    except FirstError as first:
        for one in waiting:
            one.cancel()
        first.subFailure.raiseException()
    return found
