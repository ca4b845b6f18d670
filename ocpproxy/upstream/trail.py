"""The documents that were asked for while a dataset was described: for ``ocpproxy describe``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DocumentRead:
    """One request for a document."""

    address: str
    outcome: str
    """What came of it, for people: the size of the document, or why there is none."""
    text: str = ""


_trail: ContextVar[list[DocumentRead] | None] = ContextVar("trail", default=None)


@contextmanager
def recorded() -> Iterator[list[DocumentRead]]:
    """Record the requests for documents of the coroutines that are started in the block."""
    trail: list[DocumentRead] = []
    token = _trail.set(trail)
    try:
        yield trail
    finally:
        _trail.reset(token)


def record(address: str, outcome: str, text: str = "") -> None:
    """Note what came of a request for a document, if somebody records it."""
    trail = _trail.get()
    if trail is not None:
        trail.append(DocumentRead(address, outcome, text))
