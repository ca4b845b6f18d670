"""N5, Zarr, OME-Zarr and sharded precomputed volumes, read by TensorStore: ``pip install 'ocpproxy[tensorstore]'``.

What a volume is like is read by us (`ocpproxy.upstream.documents`), by polite HTTP where it is at a web server; its
voxels are read by TensorStore, which has its own threads, connections and retries. They are held to what holds for
every upstream:

* it may not be used before a fork, and twistd forks after everything is made: so it is imported and opened by the first
  request;
* it would try 32 times, with pauses up to 32 s, and wait for a silent server for ever: it is told how often and how
  long, and there is a deadline after which its work is cancelled;
* a chunk that is not there is background, as these formats say, or an error where the operator wants to know.

What cannot be held: how much a server sends for one chunk. TensorStore reads that without bound, so a server that is
not trusted can make it take as much memory as comes before the deadline.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote

import numpy as np
from cachetools import TTLCache
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from ocpproxy.geometry import Box, Cutout, Dataset
from ocpproxy.imagery import Voxels
from ocpproxy.upstream import (
    UnknownToken,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamDown,
    UpstreamFailure,
    UpstreamRefused,
    UpstreamSlow,
    VoxelsOnly,
    documents,
    precomputed,
)
from ocpproxy.upstream.chunks import Grid, clipped, pasted
from ocpproxy.upstream.codecs import stored
from ocpproxy.upstream.documents import mapping, multiscale, word
from ocpproxy.upstream.documents.multiscale import Array
from ocpproxy.upstream.documents.pyramids import Volume, assembled
from ocpproxy.upstream.http import failure
from ocpproxy.upstream.places import Site, of_each, public

INSTALL = "pip install 'ocpproxy[tensorstore]'"
_LONGEST = 2 * 2**20
"""Bytes of a document."""
_MEMORY = 32 * 2**20
"""Bytes that TensorStore may keep: the indices of shards, mostly."""
_OPEN_FOR = 600.0
"""Seconds that an array stays open; then its metadata is read again."""


def installed() -> bool:
    """Whether TensorStore is there; it is not imported to tell so."""
    return find_spec("tensorstore") is not None


class Reader:
    """TensorStore, opened by the first who needs it.

    :param timeout: seconds for everything.
    :param connections: requests at a time.
    :param credentials: buckets are read with what the environment says of credentials, not by their public addresses.
    :param authorization: the value of a header for web servers.
    :param black: a chunk that is not there is background.
    """

    def __init__(
        self,
        reactor: Any,
        timeout: float,
        connections: int,
        retries: int,
        *,
        credentials: bool = False,
        authorization: str | None = None,
        black: bool = True,
    ) -> None:
        self._reactor = reactor
        self._timeout = timeout
        self._connections = connections
        self._retries = retries
        self._credentials = credentials
        self._authorization = authorization
        self._black = black
        self._context: Any = None
        self._open: TTLCache[str, Any] = TTLCache(256, _OPEN_FOR, reactor.seconds)

    def _library(self) -> Any:
        if not installed():
            raise UpstreamBroken(f"TensorStore is not installed, which reads this volume: {INSTALL}")
        # A silent server is given up by TensorStore itself too, so that its connections do not pile up.
        os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(max(1, round(self._timeout))))
        os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
        import tensorstore

        if self._context is None:
            self._context = tensorstore.Context(
                {
                    "cache_pool": {"total_bytes_limit": _MEMORY},
                    "data_copy_concurrency": {"limit": os.cpu_count() or 1},
                    "http_request_concurrency": {"limit": self._connections},
                    "http_request_retries": {
                        "max_retries": self._retries + 1,
                        "initial_delay": "100ms",
                        "max_delay": "1s",
                    },
                }
            )
        return tensorstore

    def is_web(self, address: str) -> bool:
        """Whether an address is that of a web server."""
        return self._at(address).startswith(("http://", "https://"))

    def _at(self, address: str) -> str:
        return address if self._credentials else public(address)

    def _store(self, address: str) -> dict[str, Any]:
        """The key-value store at an address, in TensorStore's words."""
        address = self._at(address)
        scheme, _, rest = address.partition("://")
        if scheme in ("http", "https"):
            headers = [f"Authorization: {self._authorization}"] if self._authorization else []
            return {"driver": "http", "base_url": address + "/", "headers": headers}
        if scheme == "file":
            return {"driver": "file", "path": unquote(rest) + "/"}
        bucket, _, path = rest.partition("/")
        return {"driver": {"s3": "s3", "gs": "gcs"}[scheme], "bucket": bucket, "path": path + "/"}

    async def document(self, address: str, name: str) -> str | None:
        """The text of a document below an address that is no web server's, or None when there is none."""
        library = self._library()
        store = await self._done(library.KvStore.open(self._store(address), context=self._context))
        found = await self._done(store.read(name))
        if found.state == "missing":
            return None
        if len(found.value) > _LONGEST:
            raise UpstreamBroken(f"{name} has {len(found.value)} bytes, expected at most {_LONGEST}")
        with documents.reading(name):
            return documents.text(bytes(found.value))

    async def box(
        self, address: str, driver: str, path: str, more: Mapping[str, Any], index: Sequence[Any], order: Sequence[int]
    ) -> Voxels:
        """Part of an array.

        :param path: below the address.
        :param more: members of TensorStore's spec beside driver and kvstore.
        :param index: for each axis of the array a slice, or a number for one that is not wanted.
        :param order: the axes that are left, in the order in which they are wanted.
        :raises UpstreamFailure:
        """
        work = Deferred.fromCoroutine(self._box(address, driver, path, more, index, order))
        try:
            return await work.addTimeout(self._timeout, self._reactor)
        except DeferredTimeout:
            # A request that has been sent is not called off by cancelling, and who wants the same joins it: begin anew.
            self._context = None
            self._open.clear()
            raise UpstreamSlow(f"no complete answer within {self._timeout:g} s") from None

    async def _box(
        self, address: str, driver: str, path: str, more: Mapping[str, Any], index: Sequence[Any], order: Sequence[int]
    ) -> Voxels:
        library = self._library()
        spec = {
            "driver": driver,
            "kvstore": self._store(f"{address}/{path}" if path else address),
            "recheck_cached_data": "open",
            "fill_missing_data_reads": self._black,
            **more,
        }
        key = json.dumps(spec, sort_keys=True)
        array = self._open.get(key)
        try:
            if array is None:
                opening = library.open(spec, context=self._context, open=True, read=True)
                array = self._open[key] = await self._done(opening)
            part = array[tuple(index)].transpose(list(order))
            found: Voxels = await self._done(part.read(order="C"))
        except (IndexError, ValueError) as error:  # it is not as its documents say
            self._open.pop(key, None)
            raise UpstreamBroken(f"the array is not as it was described: {_said(error)}") from None
        except UpstreamFailure:  # what TensorStore keeps of it (the index of a shard) may be what is broken
            self._open.pop(key, None)
            raise
        return found

    def _done(self, future: Any) -> Deferred[Any]:
        """The result of a future of TensorStore's; cancelling cancels its work."""
        done: Deferred[Any] = Deferred(lambda _: future.cancel())

        def deliver() -> None:
            if done.called:
                return
            try:
                result = future.result()
            except Exception as error:
                done.errback(_failure(error))
            else:
                done.callback(result)

        future.add_done_callback(lambda _: self._reactor.callFromThread(deliver))
        return done


def _said(error: Exception) -> str:
    """An error's text for the log, without the whole spec that TensorStore puts behind it: there are headers in it."""
    return str(error).partition("[tensorstore_spec")[0][:300]


def _failure(error: Exception) -> UpstreamFailure:
    """What an error of TensorStore's means: its text begins with a word of the Abseil status codes."""
    said = _said(error)
    if said.startswith(("PERMISSION_DENIED", "UNAUTHENTICATED")):
        return UpstreamRefused(said)
    if said.startswith("RESOURCE_EXHAUSTED"):
        return UpstreamBusy(said)
    if said.startswith(("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")):
        return UpstreamDown(said)
    return UpstreamBroken(said)


class Shards:
    """Scales of precomputed volumes that are in shards: see `ocpproxy.upstream.precomputed.Sharded`."""

    def __init__(self, reader: Reader, sites: Mapping[str | None, Site]) -> None:
        self._reader = reader
        self._sites = sites

    async def scale(self, token: str, scale: precomputed.Scale, box: Box, arriving: Callable[[], None]) -> Voxels:
        """The voxels of a box, axes (z, y, x, component)."""
        address = self._sites[scale.place].at(token)
        return await _within(
            box,
            scale.grid,
            scale.dtype,
            arriving,
            lambda b: self._reader.box(
                address,
                "neuroglancer_precomputed",
                "",
                {"scale_index": scale.number},
                (slice(b.x0, b.x1), slice(b.y0, b.y1), slice(b.z0, b.z1), slice(None)),
                (2, 1, 0, 3),
            ),
        )


async def _within(box: Box, grid: Grid, dtype: str, arriving: Callable[[], None], read: Callable[[Box], Any]) -> Voxels:
    """What `read` gives for the part of a box that is within a grid, the rest 0."""
    inner = clipped(box, grid)
    if inner is None:
        arriving()
        return np.zeros(box.shape, dtype)
    voxels: Voxels = await read(inner)
    arriving()
    if voxels.dtype != np.dtype(dtype):
        raise UpstreamBroken(f"expected voxels of {dtype}, not {voxels.dtype}")
    return voxels if inner == box else pasted(box, [(inner, voxels)], dtype)


class VolumeStore(VoxelsOnly):
    """Volumes that TensorStore reads: the channels of each token.

    :param sites: the address of each channel.
    :param kinds: what may be there: ``precomputed``, ``zarr``, ``n5``.
    """

    def __init__(
        self, sites: Mapping[str | None, Site], reader: Reader, kinds: Sequence[str] = ("precomputed", "zarr", "n5")
    ) -> None:
        self._sites = sites
        self._reader = reader
        self._kinds = kinds
        self._shards = Shards(reader, sites)
        places = " ".join(f"{name or ''}:{site.address}" for name, site in sites.items())
        self.origin = f"{'/'.join(kinds)} {places}"

    async def describe(self, token: str) -> str:
        """As `Upstream.describe`: the documents of each channel's volume."""

        async def told(channel: str | None) -> str:
            site, refused = self._sites[channel], list[UpstreamRefused]()

            async def look(name: str) -> str | None:
                if not self._reader.is_web(site.address):
                    return await self._reader.document(site.at(token), name)
                try:
                    answer = await site.fetcher.get(site.path(token, name), _LONGEST, failure, lambda: None)
                except UnknownToken:
                    return None
                except UpstreamRefused as error:  # what a bucket says of what is not there, if it may not be listed
                    refused.append(error)
                    return None
                with documents.reading(name):
                    return documents.text(stored.restored(answer.body, answer.encoding, _LONGEST))

            with documents.reading(f"the volume of {token}"):
                found = await multiscale.gathered(look, self._kinds)
            if found is None and refused:
                raise refused[0]
            if found is None:
                raise UnknownToken(f"there is no {' or '.join(self._kinds)} at {site.address}")
            return json.dumps(found)

        return json.dumps(await of_each(self._sites, told))

    def dataset(self, token: str, description: str) -> Dataset:
        """As `Upstream.dataset`."""
        with documents.reading(f"the volume of {token}"):
            told = mapping("the volumes", documents.parsed(description))
            volumes: dict[str | None, Volume[Any]] = {}
            for name, site in self._sites.items():
                text = word("a volume", told.get(name or ""), most=64 * _LONGEST)
                found = {
                    key: word(key, value, most=_LONGEST)
                    for key, value in mapping("documents", documents.parsed(text)).items()
                }
                if "info" in found:
                    volumes[name] = precomputed.parsed(name, found["info"], site.at(token))
                else:
                    volumes[name] = multiscale.parsed(name, found, site.at(token))
            return assembled(token, volumes)

    async def cutout(self, cutout: Cutout, arriving: Callable[[], None]) -> Voxels:
        """As `Upstream.cutout`."""
        number, scales = cutout.dataset.theirs[cutout.channel.name]
        scale: precomputed.Scale | Array | None = scales[cutout.level]
        token = cutout.dataset.there
        if scale is None:
            arriving()
            return np.zeros(cutout.box.shape, cutout.channel.dtype)
        if isinstance(scale, precomputed.Scale):
            voxels = await self._shards.scale(token, scale, cutout.box, arriving)
            return voxels if voxels.ndim == 3 else np.ascontiguousarray(voxels[..., number])
        array, address = scale, self._sites[scale.place].at(token)

        async def read(box: Box) -> Voxels:
            spans = {"x": slice(box.x0, box.x1), "y": slice(box.y0, box.y1), "z": slice(box.z0, box.z1)}
            index = [spans.get(letter, {"c": number, "t": cutout.time}.get(letter, 0)) for letter in array.axes]
            left = [letter for letter in array.axes if letter in "xyz"]
            order = [left.index(letter) for letter in "zyx" if letter in left]
            voxels = await self._reader.box(address, array.driver, array.path, {}, index, order)
            return voxels if "z" in left else voxels[np.newaxis]

        return await _within(cutout.box, array.grid, cutout.channel.dtype, arriving, read)
