"""What a worker and its parent send each other: AMP commands on a pair of sockets."""

from __future__ import annotations

import zlib

from twisted.protocols import amp

LINK, FIRST_SOCKET = 3, 4
"""Descriptors of a worker: the link to its parent, and the first listening socket."""
_PART = 60_000
"""Bytes; AMP carries values of 65,535."""
ANSWER_WITHIN = 2.0
"""Seconds for the metrics of one worker."""


class CompressedText(amp.Argument):
    """A text that shrinks to 64 KiB, which is as much as AMP carries."""

    def toString(self, inObject: bytes) -> bytes:
        """Return the bytes for the wire."""
        return zlib.compress(inObject)

    def fromString(self, inString: bytes) -> bytes:
        """Return the text of bytes from the wire."""
        return zlib.decompress(inString)


class GetMetrics(amp.Command):
    """The parent asks a worker for its metrics."""

    response = [(b"text", CompressedText())]  # noqa: RUF012


class GetAllMetrics(amp.Command):
    """A worker asks its parent for the metrics of all workers."""

    response = [(b"text", CompressedText())]  # noqa: RUF012


class UseDatasets(amp.Command):
    """The parent has read the configuration again; a worker uses the upstreams and datasets in its text.

    A part of the compressed text is sent at a time (`in_parts`).
    """

    arguments = [(b"part", amp.String()), (b"last", amp.Boolean())]  # noqa: RUF012


def in_parts(text: bytes) -> list[bytes]:
    """Return a text, compressed, in parts that AMP carries."""
    packed = zlib.compress(text)
    return [packed[start : start + _PART] for start in range(0, len(packed), _PART)]


class ReloadConfiguration(amp.Command):
    """A worker asks its parent to read the configuration again; the outcome is JSON."""

    response = [(b"outcome", CompressedText())]  # noqa: RUF012


class WorkerReady(amp.Command):
    """A worker accepts requests."""
