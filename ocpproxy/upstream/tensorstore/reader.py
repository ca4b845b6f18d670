"""The reader of arrays: TensorStore in processes of its own.

In the daemon, TensorStore would break the rules for upstreams: it reads a server's response without a bound (an endless
one took 2 GB of memory a second), a request that was sent cannot be cancelled, and a process that has used it must not
fork. A process of its own has a limit on its memory and can be killed at any time without harm to anything else. The
upstreams share a few of them (`shared_process`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle
from typing import Any
from urllib.parse import unquote

import numpy as np
from cachetools import LRUCache
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred

from ocpproxy.concurrency import generation, progress
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamFailure
from ocpproxy.upstream.chunks import MissingChunks, log_all_missing
from ocpproxy.upstream.codecs import content_encoding
from ocpproxy.upstream.documents.encodings import TENSORSTORE, Encoding
from ocpproxy.upstream.locations import Location
from ocpproxy.upstream.tensorstore.connection import Head
from ocpproxy.upstream.tensorstore.relay import Relay, RelayedArray
from ocpproxy.upstream.tensorstore.shared_process import SharedProcess

_MAX_DOCUMENT = 2 * 2**20
"""Bytes of a document."""
_PART_OF_SHARD = 64 * 2**20
"""Bytes of a shard that are read at once: its index, or chunks that follow one another."""
_ARRAYS = 1000


def numcodecs_installed() -> bool:
    """Return whether numcodecs is installed, without importing it."""
    return find_spec("numcodecs") is not None


@dataclass(frozen=True, slots=True)
class ArrayPart:
    """A part of an array, and all that a reader has to know of the array."""

    location: Location
    """Where its volume is."""
    token: str
    path: str
    """The path of the array below the volume's address."""
    driver: str
    """The name of TensorStore's driver."""
    encoding: Encoding
    """Its metadata are the members of TensorStore's spec."""
    index: Sequence[range | int]
    """For each axis of the array a range, or a number, which drops the axis."""
    order: Sequence[int]
    """The remaining axes, in the order in which the result has them."""
    chunk_bytes: int
    """Bytes of the voxels of a chunk."""


class TensorStoreReader:
    """TensorStore for one upstream.

    :param process: the process that reads for it, which it shares with others.
    :param relay: where it reads what is not in a bucket that needs credentials.
    :param missing: what it makes of missing chunks.
    :param timeout: seconds until a response is complete.
    """

    def __init__(self, process: SharedProcess, relay: Relay, missing: MissingChunks, timeout: float) -> None:
        self._process = process
        self._relay = relay
        self._missing = missing
        self._timeout = timeout
        self._reported: LRUCache[RelayedArray, None] = LRUCache(_ARRAYS)

    async def document(self, location: Location, token: str, name: str) -> bytes | None:
        """Return a document below the address of a bucket that needs credentials, or None if there is none.

        :raises UpstreamFailure: the document cannot be read, or is too large.
        """
        store = _bucket(location.for_token(token), "")
        message = {"do": "document", "store": store, "key": name, "max_size": _MAX_DOCUMENT}
        head, body = await self._process.request(message, self._timeout)
        return None if head["missing"] else body

    async def box(self, part: ArrayPart) -> Voxels:
        """Return a part of an array, read-only.

        :raises UpstreamFailure: the array cannot be opened, or the part cannot be read in time.
        """
        message: dict[str, Any] = {
            "do": "read" if part.encoding.reader == TENSORSTORE else "decode",
            "generation": generation.current(),
            "index": [[one.start, one.stop] if isinstance(one, range) else one for one in part.index],
            "order": list(part.order),
        }
        if part.location.in_bucket:
            store = _bucket(part.location.for_token(part.token), part.path)
            message["spec"] = self._spec(part, store)
            return _voxels(*await self._process.request(message, self._timeout))
        limit = _longest_object(part.chunk_bytes)
        address, array = self._relay.array(part.location, part.token, part.path, limit, self._missing)
        present, absent, failed = array.present, array.absent, array.failed
        try:
            message["spec"] = self._spec(part, {"driver": "http", "base_url": address})
            voxels = _voxels(*await self._process.request(message, self._timeout, lambda: array.open > 0))
        except UpstreamFailure as failure:
            if array.failed > failed and array.failure is not None:  # TensorStore only says that something failed
                raise array.failure.with_traceback(None) from failure
            raise
        progress.current().report()
        if array.present == present and array.absent > absent and (voxels == voxels.flat[:1]).all():
            self._report_missing(part, array)
        return voxels

    def _spec(self, part: ArrayPart, store: Mapping[str, Any]) -> dict[str, Any]:
        """Return TensorStore's spec of an array in a key-value store. The metadata are in it, so it reads none."""
        return {
            "driver": part.driver,
            "kvstore": store,
            "assume_metadata": True,
            "recheck_cached_data": "open",
            "fill_missing_data_reads": self._missing.black,
            **json.loads(part.encoding.metadata),
        }

    def _report_missing(self, part: ArrayPart, array: RelayedArray) -> None:
        """Log once for an array that all chunks of a cuboid are missing: its names may be others, or it is sparse."""
        if array not in self._reported:
            self._reported[array] = None
            log_all_missing(part.token, part.location, part.path)


class TensorStoreReaders(Service):
    """The readers of a gateway, and their processes: as many as there are cores, however many upstreams there are."""

    def __init__(self, reactor: Any) -> None:
        self._relay = Relay(reactor)
        self._processes = [SharedProcess(reactor) for _ in range(os.cpu_count() or 1)]
        self._next = cycle(self._processes)

    def reader(self, missing: MissingChunks, timeout: float, max_cutout: int) -> TensorStoreReader:
        """Return a new reader.

        :param timeout: seconds until a response is complete.
        :param max_cutout: bytes of a cutout.
        """
        process = next(self._next)
        process.admit(timeout, max_cutout)
        return TensorStoreReader(process, self._relay, missing, timeout)

    def stopService(self) -> Deferred[Any]:
        """End all processes.

        :returns: fires when they have ended.
        """
        super().stopService()
        ended = [maybeDeferred(process.stop) for process in self._processes]
        return gatherResults([*ended, maybeDeferred(self._relay.stop)])


def _bucket(address: str, path: str) -> dict[str, Any]:
    """Return TensorStore's spec of the key-value store below an s3:// or gs:// address."""
    scheme, _, rest = address.partition("://")
    bucket, _, prefix = unquote(rest).partition("/")
    return {"driver": {"s3": "s3", "gs": "gcs"}[scheme], "bucket": bucket, "path": f"{prefix}/{path}".strip("/") + "/"}


def _longest_object(nbytes: int) -> int:
    """Return how large an object that holds one chunk may be, or a part of a shard."""
    return max(2 * content_encoding.max_encoded_size(nbytes), _PART_OF_SHARD)


def _voxels(head: Head, body: bytes) -> Voxels:
    voxels: Voxels = np.frombuffer(body, head["dtype"]).reshape(head["shape"])
    return voxels
