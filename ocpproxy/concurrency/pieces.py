"""Long work in pieces, between which the event loop does other things."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

T = TypeVar("T")
_PIECE = 0.01
"""Seconds of work without a pause."""


async def in_pieces(items: Iterable[T], clock: IReactorTime) -> list[T]:
    """Return the items, each of which takes a moment to make."""
    made: list[T] = []
    began = perf_counter()
    for item in items:
        made.append(item)
        if perf_counter() - began > _PIECE:
            await deferLater(clock, 0)
            began = perf_counter()
    return made
