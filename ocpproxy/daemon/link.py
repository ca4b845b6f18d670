"""What a worker and its parent send each other: AMP commands on a pair of sockets."""

from __future__ import annotations

import zlib
from itertools import count, takewhile
from typing import Any

from twisted.protocols import amp

LINK, FIRST_SOCKET = 3, 4
"""Descriptors of a worker: the link to its parent, and the first listening socket."""
_PART = 60_000
"""Bytes of one value."""
ANSWER_WITHIN = 2.0
"""Seconds for the metrics of one worker."""


class CompressedText(amp.Argument):
    """A text of any length: compressed, and in as many values as it needs, for AMP's have 65,535 bytes at most."""

    def toBox(self, name: bytes, strings: Any, objects: Any, proto: Any) -> None:
        """Put the text into a box."""
        packed = zlib.compress(objects[name.decode()])
        for n, start in enumerate(range(0, len(packed), _PART)):
            strings[_part(name, n)] = packed[start : start + _PART]

    def fromBox(self, name: bytes, strings: Any, objects: Any, proto: Any) -> None:
        """Take the text from a box."""
        parts = takewhile(bool, (strings.get(_part(name, n)) for n in count()))
        objects[name.decode()] = zlib.decompress(b"".join(parts))


def _part(name: bytes, n: int) -> bytes:
    return b"%b.%d" % (name, n)


class GetMetrics(amp.Command):
    """The parent asks a worker for its metrics."""

    response = [(b"text", CompressedText())]  # noqa: RUF012


class GetAllMetrics(amp.Command):
    """A worker asks its parent for the metrics of all workers."""

    response = [(b"text", CompressedText())]  # noqa: RUF012


class GetFetches(amp.Command):
    """The parent asks a worker for its `cache.fetch_times.FetchReport`, as JSON."""

    response = [(b"text", CompressedText())]  # noqa: RUF012


class GetAllFetches(amp.Command):
    """A worker asks its parent for those of all workers, as one."""

    response = [(b"text", CompressedText())]  # noqa: RUF012


class UseDatasets(amp.Command):
    """The parent has read the configuration again; a worker uses the upstreams and datasets in its text."""

    arguments = [(b"text", CompressedText())]  # noqa: RUF012
    response = [(b"fine", amp.Boolean())]  # noqa: RUF012
    """False if the worker goes on with those that it had; its log has the reason."""


class ReloadConfiguration(amp.Command):
    """A worker asks its parent to read the configuration again; the outcome is JSON."""

    response = [(b"outcome", CompressedText())]  # noqa: RUF012


class WorkerReady(amp.Command):
    """A worker accepts requests."""
