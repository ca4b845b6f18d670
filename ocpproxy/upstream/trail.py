"""What was asked of upstreams for one purpose, by a context variable: for people, and for the tiles' provenance.

``ocpproxy describe`` shows the documents, ``ocpproxy trace`` the requests. The home that has given voxels is kept with
their tiles. As a parameter this would pass through every upstream, chunk reader and codec, none of which uses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from ocpproxy.concurrency.context import assigned


@dataclass(frozen=True, slots=True)
class DocumentRead:
    """One request for a document."""

    address: str
    outcome: str
    """What came of it, for people: the size of the document, or why there is none."""
    text: str = ""


@dataclass(frozen=True, slots=True)
class RequestMade:
    """One GET with its retries."""

    address: str
    outcome: str
    """What came of it, for people: the status and the size, or the failure."""
    seconds: float
    """From the wait for a connection to the last byte."""


@dataclass(eq=False, slots=True)
class Trail:
    """What was asked for within a block, in the order of the answers."""

    documents: list[DocumentRead] = field(default_factory=list)
    requests: list[RequestMade] = field(default_factory=list)
    homes: list[str] = field(default_factory=list)
    """The homes that have given voxels (`breaker.GuardedUpstream.home`)."""
    outer: Trail | None = None
    """The trail of the block around it, which has the same and more."""

    def all(self) -> Iterator[Trail]:
        """Yield this trail, and those around it."""
        trail: Trail | None = self
        while trail is not None:
            yield trail
            trail = trail.outer


_trail: ContextVar[Trail | None] = ContextVar("trail", default=None)


@contextmanager
def recorded() -> Iterator[Trail]:
    """Record what the coroutines ask for that are started in the block."""
    trail = Trail(outer=_trail.get())
    with assigned(_trail, trail):
        yield trail


def _trails() -> Iterator[Trail]:
    trail = _trail.get()
    return iter(()) if trail is None else trail.all()


def note_document(address: str, outcome: str, text: str = "") -> None:
    """Note what came of a request for a document, if somebody records it."""
    for trail in _trails():
        trail.documents.append(DocumentRead(address, outcome, text))


def note_request(address: str, outcome: str, seconds: float) -> None:
    """Note what came of a request, if somebody records it."""
    for trail in _trails():
        trail.requests.append(RequestMade(address, outcome, seconds))


def note_home(home: str) -> None:
    """Note which home of a volume has given voxels, if somebody records it."""
    for trail in _trails():
        trail.homes.append(home)
