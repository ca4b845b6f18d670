"""BossDB: ``{url}`` is ``https://HOST/COLLECTION/EXPERIMENT``.

================  =================================================================================================
what there is     ``v1/collection/C/experiment/E``, ``.../channel/CH``, ``v1/coord/F``, ``v1/downsample/C/E/CH/``
cutout            ``v1/cutout/C/E/CH/{res}/{x0}:{x1}/{y0}:{y1}/{z0}:{z1}/[{t0}:{t1}/]``, half-open, absolute
image             ``Accept: application/blosc``: a blosc container of the voxels, (z, y, x) in C order, no header
annotation        ``Accept: application/npygz``: zlib of a ``.npy``; a tenth of the other for ids
================  =================================================================================================

``application/blosc-python`` is a pickle and is never asked for; neither are ``v1/tile`` and ``v1/image``, which refuse
tiles that cross an edge and return annotations in colours.

The server compares a box with the bounds of level 0 at every level, so at a coarse one it pads with zeros beyond the
end, and refuses coordinates below the start: boxes come clipped, and what it refuses is background.

A channel whose ``storage_type`` is ``cloudvol`` is a precomputed volume in a public bucket: it is read from there.

429 means that the bytes of a month are used up, and says so without Retry-After: then nothing is asked for an hour.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
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
from ocpproxy.upstream.chunks import Grid, clipped, pasted
from ocpproxy.upstream.codecs import blosc_container, content_encoding, npz
from ocpproxy.upstream.documents import checks, precomputed_info, pyramids
from ocpproxy.upstream.documents.checks import (
    CHANNEL_NAME,
    fraction,
    fraction_triple,
    integer,
    integer_triple,
    json_array,
    json_object,
    string,
    unexpected,
)
from ocpproxy.upstream.documents.precomputed_info import PrecomputedScale
from ocpproxy.upstream.documents.pyramids import Volume, VolumeChannel, VoxelSize, build_dataset
from ocpproxy.upstream.http import HttpResponse, status_failure
from ocpproxy.upstream.kind import CHANNELS, Kind, UpstreamContext
from ocpproxy.upstream.locations import Location, public_url
from ocpproxy.upstream.precomputed import Precomputed
from ocpproxy.upstream.tensorstore.sharded import ShardedScales

PUBLIC = "Token public"
"""The authorization that reads public channels."""
BUCKET = "bossdb-open-data"
"""Where volumes are whose channel names no bucket."""
_LONGEST = 2 * 2**20
_QUOTA_PAUSE = 3600.0
"""Seconds that nothing is asked once the quota is used up."""
_CUBOID = (512, 512, 16)
_MOST_CHANNELS = 64
_DIGITS = 10
"""A resolution is one digit."""
_UNITS = {"nanometers": 1, "micrometers": 10**3, "millimeters": 10**6, "centimeters": 10**7}


class QuotaSpent(UpstreamBusy):
    """Nothing more will be answered for a long time."""

    transient = False


@dataclass(frozen=True, slots=True)
class BossResolution:
    """One level of a channel that is read by cutouts."""

    channel: str
    """What it is called there."""
    number: int
    grid: Grid
    readable: Grid
    """The coordinates that are not refused."""
    annotation: bool
    timed: bool


class BucketReader(Protocol):
    """Precomputed volumes in buckets, as `precomputed.Precomputed`."""

    async def info(self, token: str, name: str | None) -> str:
        """The info document of the volume, whose name is its address."""

    async def scale(self, token: str, scale: PrecomputedScale, box: Box) -> Voxels:
        """The voxels of a box."""


class Boss(VoxelsOnly):
    """Experiments of one Boss.

    :param site: the address of the experiment.
    :param channels: (name here, name there) of those that are shown; all where there are none.
    :param bucket: makes a reader of the precomputed volume at an address ``s3://...``.
    """

    def __init__(
        self,
        site: Location,
        channels: Sequence[tuple[str, str]],
        bucket: Callable[[str], BucketReader],
        run_in_thread: RunInThread,
        clock: IReactorTime,
    ) -> None:
        self._site = site
        self._channels = channels
        self._bucket = bucket
        self._buckets: dict[str, BucketReader] = {}
        self._in_thread = run_in_thread
        self._clock = clock
        self._spent_until = 0.0
        chosen = ",".join(f"{here}:{there}" for here, there in channels)
        self.origin = f"boss {site.address} {chosen}".strip()

    # -- HTTP

    async def _get(self, path: str, limit: int, accept: str, absent: type[UpstreamFailure]) -> HttpResponse:
        left = self._spent_until - self._clock.seconds()
        if left > 0:
            raise QuotaSpent("the quota is used up", left)

        def judged(answer: HttpResponse) -> UpstreamFailure | None:
            if answer.status == 429:
                pause = answer.retry_after or _QUOTA_PAUSE
                self._spent_until = self._clock.seconds() + pause
                return QuotaSpent(answer.summary, pause)
            if answer.status == 400 and absent is OutOfRange:
                return OutOfRange(answer.summary)
            return status_failure(answer, absent)

        return await self._site.client.get(path, limit, judged, {"Accept": accept})

    async def _document(self, path: str, absent: type[UpstreamFailure] = UpstreamBroken) -> str:
        answer = await self._get(path, _LONGEST, "application/json", absent)
        with checks.parsing(path):
            return checks.decode_text(content_encoding.decode_content(answer.body, answer.encoding, _LONGEST))

    def _place(self, token: str) -> tuple[str, str, str]:
        """(what is before it with a slash, collection, experiment)."""
        prefix, _, rest = f"/{self._site.path(token, '')}".rpartition("/")
        prefix, _, collection = prefix.rpartition("/")
        return (prefix.removeprefix("/") + "/v1").removeprefix("/"), collection, rest

    # -- what there is

    async def describe(self, token: str) -> str:
        """As `Upstream.describe`: the documents of experiment, coordinate frame and channels."""
        api, collection, experiment = self._place(token)
        at = f"{api}/collection/{collection}/experiment/{experiment}"
        said = await self._document(at + "/", UnknownToken)
        with checks.parsing(f"the experiment {experiment}"):
            told = json_object("an experiment", checks.parse_json(said))
            frame = string("coord_frame", told.get("coord_frame"))
            names = [
                string("a channel", name) for name in json_array("channels", told.get("channels"), max_length=10_000)
            ]
            if not self._channels and len(names) > _MOST_CHANNELS:
                expected = f"at most {_MOST_CHANNELS} channels, or in the configuration those that are meant"
                raise unexpected(expected, len(names))
            if not CHANNEL_NAME.fullmatch(frame):
                raise unexpected("the name of a coordinate frame", frame)
        wanted = list(dict.fromkeys(there for _, there in self._channels))
        wanted = wanted or [name for name in names if CHANNEL_NAME.fullmatch(name)]

        async def channel(name: str) -> dict[str, str]:
            text = await self._document(f"{at}/channel/{name}/")
            found = {"channel": text}
            with checks.parsing(f"the channel {name}"):
                document = json_object("a channel", checks.parse_json(text))
                address = _address(document)
            if address is not None:
                found["info"] = await self._at(address).info(token, address)
            elif document.get("downsample_status") == "DOWNSAMPLED":
                found["downsample"] = await self._document(f"{api}/downsample/{collection}/{experiment}/{name}/")
            return found

        where = await self._document(f"{api}/coord/{frame}/")
        found = await gather([channel(name) for name in wanted])
        return json.dumps({"experiment": said, "frame": where, "channels": dict(zip(wanted, found, strict=True))})

    def _at(self, address: str) -> BucketReader:
        if address not in self._buckets:
            self._buckets[address] = self._bucket(address)
        return self._buckets[address]

    def dataset(self, token: str, description: str) -> Dataset:
        """As `Upstream.dataset`."""
        with checks.parsing(f"the experiment of {token}"):
            told = json_object("the documents", checks.parse_json(description))
            experiment, frame = (
                json_object(name, checks.parse_json(string(name, told.get(name), max_length=_LONGEST)))
                for name in ("experiment", "frame")
            )
            channels = json_object("channels", told.get("channels"))
            volumes: dict[str | None, Volume[Any]] = {}
            for here, there in self._channels or [(name, name) for name in channels]:
                said = json_object("a channel", channels.get(there))
                document = json_object(
                    "a channel", checks.parse_json(string(there, said.get("channel"), max_length=_LONGEST))
                )
                address = _address(document)
                if address is not None:
                    info = string("an info", said.get("info"), max_length=precomputed_info.MAX_INFO)
                    volumes[here] = precomputed_info.parse_info(address, info, address)
                else:
                    where = f"{self._site.for_token(token)}/{there}"
                    volumes[here] = _volume(there, experiment, frame, document, said.get("downsample"), where)
            return build_dataset(token, volumes)

    # -- voxels

    async def cutout(self, cutout: Cutout) -> Voxels:
        """As `Upstream.cutout`."""
        number, scales = cutout.dataset.upstream_data[cutout.channel.name]
        scale: BossResolution | PrecomputedScale | None = scales[cutout.level]
        token = cutout.dataset.upstream_token
        if isinstance(scale, PrecomputedScale):
            voxels = await self._at(scale.channel or "").scale(token, scale, cutout.box)
            return voxels if voxels.ndim == 3 else np.ascontiguousarray(voxels[..., number])
        inner = None if scale is None else clipped(cutout.box, scale.readable)
        if scale is None or inner is None:
            return np.zeros(cutout.box.shape, cutout.channel.dtype)
        voxels = await self._read(token, scale, cutout, inner)
        return voxels if inner == cutout.box else pasted(cutout.box, [(inner, voxels)], cutout.channel.dtype)

    async def _read(self, token: str, scale: BossResolution, cutout: Cutout, box: Box) -> Voxels:
        api, collection, experiment = self._place(token)
        dtype = cutout.channel.dtype
        shape = (1, *box.shape) if scale.timed else box.shape
        nbytes = int(np.prod(shape, dtype=np.int64)) * cutout.channel.itemsize
        form = "application/npygz" if scale.annotation else "application/blosc"
        limit = npz.max_encoded_size(nbytes) if scale.annotation else blosc_container.max_encoded_size(nbytes)
        time = f"{cutout.time}:{cutout.time + 1}/" if scale.timed else ""
        path = (
            f"{api}/cutout/{collection}/{experiment}/{scale.channel}/{scale.number}/"
            f"{box.x0}:{box.x1}/{box.y0}:{box.y1}/{box.z0}:{box.z1}/{time}"
        )
        answer = await self._get(path, limit, form, OutOfRange)

        def decoded() -> Voxels:
            body = content_encoding.decode_content(answer.body, answer.encoding, limit)
            if scale.annotation:
                return npz.decode(body, dtype, shape)
            raw = blosc_container.decompress(body, nbytes, nbytes)
            return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).reshape(box.shape)

        voxels: Voxels = await self._in_thread(decoded)
        return voxels


def _address(channel: Mapping[str, Any]) -> str | None:
    """Where the voxels of a channel are, when they are a precomputed volume."""
    if channel.get("storage_type") != "cloudvol":
        return None
    bucket = string("bucket", channel.get("bucket") or BUCKET)
    path = string("cv_path", channel.get("cv_path")).strip("/")
    if not bucket.replace("-", "").replace(".", "").isalnum() or not path.isascii() or set(path) & set(" ?#{}\\"):
        raise unexpected("a bucket and the path of a volume in it", (bucket, path))
    return f"s3://{bucket}/{path}"


def _volume(
    name: str,
    experiment: Mapping[str, Any],
    frame: Mapping[str, Any],
    channel: Mapping[str, Any],
    downsample: object,
    where: str,
) -> Volume[BossResolution]:
    """A channel that is read by cutouts."""
    kind = string("type", channel.get("type"), "image", "annotation")
    unit = _UNITS[string("voxel_unit", frame.get("voxel_unit"), *_UNITS)]
    edges = [fraction(f"{axis}_voxel_size", frame.get(f"{axis}_voxel_size")) * unit for axis in "xyz"]
    start = [integer(f"{axis}_start", frame.get(f"{axis}_start"), 0, checks.MAX_EXTENT) for axis in "xyz"]
    stop = [integer(f"{axis}_stop", frame.get(f"{axis}_stop"), 1, checks.MAX_EXTENT) for axis in "xyz"]
    if any(a >= b for a, b in zip(start, stop, strict=True)):
        raise unexpected("a coordinate frame that is not empty", (start, stop))
    base = integer("base_resolution", channel.get("base_resolution", 0), 0, _DIGITS - 1)
    many = integer("num_hierarchy_levels", experiment.get("num_hierarchy_levels"), 1, 100)
    numbers = range(base, min(base + (many if downsample is not None else 1), _DIGITS))
    deep = string("hierarchy_method", experiment.get("hierarchy_method"), "isotropic", "anisotropic") == "isotropic"
    times = integer("num_time_samples", experiment.get("num_time_samples", 1), 1, 2**20)
    readable = Grid((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]), _CUBOID)
    text = "{}" if downsample is None else string("downsample", downsample, max_length=_LONGEST)
    tells = json_object("downsample", checks.parse_json(text))
    extents, sizes = (json_object(name, tells.get(name, {})) for name in ("extent", "voxel_size"))
    scales: list[tuple[VoxelSize, BossResolution]] = []
    for n in numbers:
        # The rule of the hierarchy, where the server does not tell what has come of it.
        steps: list[Fraction] = [Fraction(2**n), Fraction(2**n), Fraction(2**n if deep else 1)]
        if str(n) in sizes:
            there = fraction_triple("voxel_size", sizes[str(n)])
            steps = [size * unit / edge for size, edge in zip(there, edges, strict=True)]
        x0, y0, z0 = (int(a / step) for a, step in zip(start, steps, strict=True))
        ends = [-int(-b // step) for b, step in zip(stop, steps, strict=True)]
        x1, y1, z1 = integer_triple("extent", extents.get(str(n), ends), 1)
        a, b, c = (edge * step for edge, step in zip(edges, steps, strict=True))
        if x0 >= x1 or y0 >= y1 or z0 >= z1:
            raise unexpected("an extent that is not empty", (n, x1, y1, z1))
        grid = Grid((x0, y0, z0), (x1, y1, z1), _CUBOID)
        scales.append(((a, b, c), BossResolution(name, n, grid, readable, kind == "annotation", times > 1)))
    told = [where, {name: channel.get(name) for name in ("type", "datatype", "base_resolution", "storage_type")}]
    dtype = string("datatype", channel.get("datatype"))
    labels = kind == "annotation"
    return Volume(labels, dtype, [VolumeChannel("", 0)], scales, pyramids.version(told), times, writable=labels)


_NOT_FOUND = (404,)
"""The statuses by which a bucket says that a chunk is missing."""


def _build(settings: UpstreamSettings, context: UpstreamContext) -> Boss:
    anonymous = replace(settings, authorization=None)  # the authorization is not for buckets
    known = replace(settings, authorization=settings.authorization or PUBLIC)

    def bucket(address: str) -> Precomputed:
        location = Location(public_url(address), partial(context.host_client, anonymous))
        locations: dict[str | None, Location] = {address: location}
        sharded = ShardedScales(context.tensorstore(anonymous), locations)
        return Precomputed(locations, context.run_in_thread, context.reactor, _NOT_FOUND, sharded)

    url = settings.url[0][1].replace("bossdb://", "https://api.bossdb.io/")
    location = Location(url, partial(context.host_client, known))
    return Boss(location, settings.options["channels"], bucket, context.run_in_thread, context.reactor)


KIND = Kind(name="boss", options={"channels": CHANNELS}, schemes=(*HTTP_SCHEMES, "bossdb"), build=_build)
