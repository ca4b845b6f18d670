"""The generation of what is read: voxels of one generation are not shared with another.

Whoever flushes tiles wants their voxels read again, and not those that some layer below still has, or is being sent.
Each flush begins a new generation. A flight runs in a context with the generation in which it began (`contextvars`),
and each memory of voxels below it has the generation in its keys.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar

from ocpproxy.concurrency.context import assigned

_current: ContextVar[int] = ContextVar("generation", default=0)


def current() -> int:
    """Return the generation that the caller works for."""
    return _current.get()


def as_current(generation: int) -> AbstractContextManager[None]:
    """Make this the `current` generation of a block."""
    return assigned(_current, generation)
