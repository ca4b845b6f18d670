"""BossDB: ``{url}`` is ``https://HOST/COLLECTION/EXPERIMENT``.

================  =================================================================================================
documents         ``v1/collection/C/experiment/E``, ``.../channel/CH``, ``v1/coord/F``, ``v1/downsample/C/E/CH/``
cutout            ``v1/cutout/C/E/CH/{res}/{x0}:{x1}/{y0}:{y1}/{z0}:{z1}/[{t0}:{t1}/]``, half-open, absolute
image             ``Accept: application/blosc``: a blosc container of the voxels, (z, y, x) in C order, no header
annotation        ``Accept: application/npygz``: zlib of a ``.npy``; for ids a tenth of the size of blosc
================  =================================================================================================

The gateway never requests ``application/blosc-python``, which is a pickle. It does not use ``v1/tile`` and
``v1/image`` either: they refuse tiles that cross an edge, and return annotations in colours.

At every level the server compares a box with the bounds of level 0. So at a coarse level it pads with zeros beyond the
end, and refuses coordinates below the start. Boxes are clipped to what the server accepts; the rest is background.

A channel whose ``storage_type`` is ``cloudvol`` is a precomputed volume in a public bucket, and is read from there.

A 429 means that the byte quota of the month is used up. It comes without Retry-After, so the gateway sends no request
for an hour.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from twisted.internet.interfaces import IReactorTime

from ocpproxy.concurrency.gather import gather
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.config import UpstreamSettings
from ocpproxy.config.options import HTTP_SCHEMES
from ocpproxy.model.dataset import Box, Cutout, Dataset
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import OutOfRange, UnknownToken, UpstreamBroken, UpstreamBusy, UpstreamFailure, VoxelsOnly
from ocpproxy.upstream.chunks import MissingChunks, read_clipped
from ocpproxy.upstream.codecs import blosc_container, content_encoding, npz
from ocpproxy.upstream.documents import checks, precomputed_info
from ocpproxy.upstream.documents.boss_experiment import (
    BossResolution,
    ChannelDocuments,
    bucket_address,
    make_volume,
    read_document,
    read_frame,
)
from ocpproxy.upstream.documents.checks import CHANNEL_NAME, Unexpected, json_array, json_object, string, unexpected
from ocpproxy.upstream.documents.precomputed_info import PrecomputedScale
from ocpproxy.upstream.documents.pyramids import NOT_UNDERSTOOD, Absent, Volume, build_dataset
from ocpproxy.upstream.fetch import DOCUMENT_LIMIT, fetch_document
from ocpproxy.upstream.http import HttpResponse, status_failure
from ocpproxy.upstream.kind import CHANNELS, Kind, UpstreamContext
from ocpproxy.upstream.locations import Location, public_url
from ocpproxy.upstream.precomputed import Precomputed
from ocpproxy.upstream.tensorstore.sharded import ShardedScales

PUBLIC = "Token public"
"""The authorization that reads public channels."""
_QUOTA_PAUSE = 3600.0
"""Seconds without requests once the quota is used up."""
_MOST_CHANNELS = 64


class QuotaSpent(UpstreamBusy):
    """The quota is used up; the server refuses requests for a long time."""

    transient = False


class _Quota:
    """The quota of one server. No request is sent for a while after it is used up."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._spent_until = 0.0

    def require(self) -> None:
        """Return if a request may be sent.

        :raises QuotaSpent: otherwise.
        """
        left = self._spent_until - self._clock.seconds()
        if left > 0:
            raise QuotaSpent("the quota is used up", left)

    def check(self, not_found: type[UpstreamFailure], response: HttpResponse) -> UpstreamFailure | None:
        """Return what is wrong with a response; `not_found` is the failure for 404."""
        if response.status == 429:
            pause = response.retry_after or _QUOTA_PAUSE
            self._spent_until = self._clock.seconds() + pause
            return QuotaSpent(response.summary, pause)
        if response.status == 400 and not_found is OutOfRange:
            return OutOfRange(response.summary)
        return status_failure(response, not_found)


class BucketReader(Protocol):
    """A reader of precomputed volumes in buckets, such as `precomputed.Precomputed`."""

    async def info(self, token: str, name: str | None) -> str:
        """Return the info document of the volume whose address is `name`."""

    async def scale_cutout(self, cutout: Cutout, scale: PrecomputedScale, component: int) -> Voxels:
        """Return the voxels of a cutout from its scale, axes (z, y, x)."""


class Boss(VoxelsOnly):
    """Experiments of one Boss.

    :param location: the location of the experiment.
    :param channels: (our name, the server's name) of the channels to show; empty for all channels.
    :param bucket: returns a reader of the precomputed volume at an address ``s3://...``.
    """

    def __init__(
        self,
        location: Location,
        channels: Sequence[tuple[str, str]],
        bucket: Callable[[str], BucketReader],
        run_in_thread: RunInThread,
        clock: IReactorTime,
    ) -> None:
        self._location = location
        self._channels = channels
        self._bucket = bucket
        self._buckets: dict[str, BucketReader] = {}
        self._in_thread = run_in_thread
        self._quota = _Quota(clock)
        names = ",".join(f"{ours}:{boss_name}" for ours, boss_name in channels)
        self.origin = f"boss {location.address} {names}".strip()

    async def _document(self, path: str, not_found: type[UpstreamFailure] = UpstreamBroken) -> str:
        self._quota.require()
        check = partial(self._quota.check, not_found)
        return await fetch_document(self._location.client, path, check, {"Accept": "application/json"})

    def _experiment(self, token: str) -> tuple[str, str, str]:
        """Return the path of the API, and the names of collection and experiment."""
        prefix, _, experiment = f"/{self._location.path(token, '')}".rpartition("/")
        prefix, _, collection = prefix.rpartition("/")
        return (prefix.removeprefix("/") + "/v1").removeprefix("/"), collection, experiment

    # -- descriptions

    async def describe(self, token: str) -> str:
        """Return the documents of experiment, coordinate frame and channels; see `Upstream.describe`."""
        api, collection, experiment = self._experiment(token)
        path = f"{api}/collection/{collection}/experiment/{experiment}"
        experiment_text = await self._document(path + "/", UnknownToken)
        with checks.parsing(f"the experiment {experiment}"):
            frame, names = self._read_experiment(experiment_text)

        async def describe_channel(name: str) -> dict[str, str]:
            text = await self._document(f"{path}/channel/{name}/", UnknownToken)
            documents = {"channel": text}
            with checks.parsing(f"the channel {name}"):
                channel = json_object("a channel", checks.parse_json(text))
                address = bucket_address(channel)
            if address is not None:
                documents["info"] = await self._bucket_at(address).info(token, address)
            elif channel.get("downsample_status") == "DOWNSAMPLED":
                documents["downsample"] = await self._document(f"{api}/downsample/{collection}/{experiment}/{name}/")
            return documents

        frame_text = await self._document(f"{api}/coord/{frame}/")
        channels = await gather([_attempt(describe_channel(name)) for name in names])
        return json.dumps(
            {"experiment": experiment_text, "frame": frame_text, "channels": dict(zip(names, channels, strict=True))}
        )

    def _read_experiment(self, text: str) -> tuple[str, list[str]]:
        """Return the names of the coordinate frame and of the channels to show, from an experiment's document."""
        experiment = json_object("an experiment", checks.parse_json(text))
        frame = string("coord_frame", experiment.get("coord_frame"))
        if not CHANNEL_NAME.fullmatch(frame):
            raise unexpected("the name of a coordinate frame", frame)
        names = [
            string("a channel", name) for name in json_array("channels", experiment.get("channels"), max_length=10_000)
        ]
        if self._channels:
            return frame, list(dict.fromkeys(boss_name for _, boss_name in self._channels))
        if len(names) > _MOST_CHANNELS:
            raise unexpected(f"at most {_MOST_CHANNELS} channels, or the option channels to choose some", len(names))
        return frame, [name for name in names if CHANNEL_NAME.fullmatch(name)]

    def _bucket_at(self, address: str) -> BucketReader:
        if address not in self._buckets:
            self._buckets[address] = self._bucket(address)
        return self._buckets[address]

    def dataset(self, token: str, description: str) -> Dataset:
        """Return a dataset; see `Upstream.dataset`."""
        with checks.parsing(f"the experiment of {token}"):
            documents = json_object("the documents", checks.parse_json(description))
            experiment = read_document("experiment", documents.get("experiment"))
            frame = read_document("frame", documents.get("frame"))
            channels = json_object("channels", documents.get("channels"))
            volumes: dict[str | None, Volume[Any] | Absent] = {}
            for name, boss_name in self._channels or [(name, name) for name in channels]:
                channel_documents = json_object("a channel", channels.get(boss_name))
                if "absent" in channel_documents:
                    volumes[name] = Absent(string("absent", channel_documents["absent"], max_length=4000))
                    continue
                try:
                    volumes[name] = self._volume(token, boss_name, channel_documents, experiment, frame)
                except Unexpected as error:
                    volumes[name] = Absent(f"{NOT_UNDERSTOOD}{error}")
            return build_dataset(token, volumes)

    def _volume(
        self,
        token: str,
        name: str,
        documents: Mapping[str, Any],
        experiment: Mapping[str, Any],
        frame: Mapping[str, Any],
    ) -> Volume[Any]:
        """Return the volume of a channel."""
        channel = read_document(name, documents.get("channel"))
        address = bucket_address(channel)
        if address is not None:
            info = string("an info", documents.get("info"), max_length=DOCUMENT_LIMIT)
            return precomputed_info.parse_info(address, info, address)
        reported = ChannelDocuments(name, channel, experiment, documents.get("downsample"))
        return make_volume(reported, read_frame(frame), f"{self._location.for_token(token)}/{name}")

    # -- voxels

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Return voxels; see `Upstream.cutout`."""
        number, scales = cutout.dataset.upstream_data[cutout.channel.name]
        scale: BossResolution | PrecomputedScale | None = scales[cutout.level]
        if scale is None:
            return np.zeros(cutout.box.shape, cutout.channel.dtype)
        if isinstance(scale, PrecomputedScale):
            reader = self._bucket_at(scale.channel or "")
            return await reader.scale_cutout(cutout, scale, number)
        return await read_clipped(cutout.box, scale.readable, cutout.channel.dtype, partial(self._read, scale, cutout))

    async def _read(self, scale: BossResolution, cutout: Cutout, box: Box) -> Voxels:
        """Return the voxels of a box that the server accepts."""
        api, collection, experiment = self._experiment(cutout.dataset.upstream_token)
        dtype = cutout.channel.dtype
        shape = (1, *box.shape) if scale.timed else box.shape
        nbytes = int(np.prod(shape, dtype=np.int64)) * cutout.channel.itemsize
        accept = "application/npygz" if scale.annotation else "application/blosc"
        limit = npz.max_encoded_size(nbytes) if scale.annotation else blosc_container.max_encoded_size(nbytes)
        time = f"{cutout.time}:{cutout.time + 1}/" if scale.timed else ""
        path = (
            f"{api}/cutout/{collection}/{experiment}/{scale.channel}/{scale.number}/"
            f"{box.x0}:{box.x1}/{box.y0}:{box.y1}/{box.z0}:{box.z1}/{time}"
        )
        self._quota.require()
        check = partial(self._quota.check, OutOfRange)
        response = await self._location.client.get(path, limit, check, {"Accept": accept})

        def decode() -> Voxels:
            body = content_encoding.decode_content(response.body, response.encoding, limit)
            if scale.annotation:
                return npz.decode(body, dtype, shape)
            raw = blosc_container.decompress(body, nbytes, nbytes)
            return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).reshape(box.shape)

        voxels: Voxels = await self._in_thread(decode)
        return voxels


# -- documents


async def _attempt(describing: Coroutine[Any, Any, dict[str, str]]) -> dict[str, str]:
    """Return the documents of a channel, or why there are none and will not be.

    :raises UpstreamFailure: one that may be over in a moment.
    """
    try:
        return await describing
    except UpstreamFailure as failure:
        if not failure.lasting:
            raise
        return {"absent": failure.explanation}


_BUCKET_MISSING = MissingChunks(frozenset({404}))


def _build(settings: UpstreamSettings, context: UpstreamContext) -> Boss:
    anonymous = replace(settings, authorization=None)  # that is for the Boss, not for buckets
    authorized = replace(settings, authorization=settings.authorization or PUBLIC)

    def bucket(address: str) -> Precomputed:
        location = Location(public_url(address), partial(context.host_client, anonymous))
        locations: dict[str | None, Location] = {address: location}
        sharded = ShardedScales(context.tensorstore(anonymous), locations)
        return Precomputed(locations, sharded, _BUCKET_MISSING, context.run_in_thread, context.reactor)

    url = settings.url[0][1].replace("bossdb://", "https://api.bossdb.io/")
    location = Location(url, partial(context.host_client, authorized))
    return Boss(location, settings.options["channels"], bucket, context.run_in_thread, context.reactor)


KIND = Kind(name="boss", options={"channels": CHANNELS}, schemes=(*HTTP_SCHEMES, "bossdb"), build=_build)
