"""Coroutines run from a command line."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import react

T = TypeVar("T")


def run_in_reactor(work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in the reactor until it ends, and return its result.

    :param work: takes the reactor.
    :raises SystemExit: the coroutine failed; the traceback is printed.
    """
    results: list[T] = []

    async def main(reactor: Any) -> None:
        results.append(await work(reactor))

    try:
        react(lambda reactor: Deferred.fromCoroutine(main(reactor)), [])
    except SystemExit:
        if not results:
            raise
    return results[0]
