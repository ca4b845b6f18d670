"""Coroutines side by side, all or nothing."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

T = TypeVar("T")


async def gather(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run the coroutines side by side and return their results, in order.

    :raises: whatever the first one to fail raises; the others are cancelled.
    """
    running = [Deferred.fromCoroutine(coroutine) for coroutine in coroutines]
    try:
        results: list[T] = await gatherResults(running, consumeErrors=True)
    except FirstError as first:
        for deferred in running:
            deferred.cancel()
        first.subFailure.raiseException()
    return results
