"""The Open Connectome / ndstore services, generations 1, 2 and 3.

======== =====================================================================================
info     ``{url}/ca/{token}/info/``                                             (all generations)
cutout 1 ``{url}/ca/{token}/npz/[{channel}/]{level}/{x0},{x1}/{y0},{y1}/{z0},{z1}/``
cutout 2 ``{url}/ca/{token}/{channel}/{npz|blosc}/{level}/{x0},{x1}/{y0},{y1}/{z0},{z1}/[{t0},{t1}/]``
======== =====================================================================================

Servers know blosc since September 2015: requests to generation 1 are for npz, whatever is configured.

Ranges are half-open, in voxels of the level, and the last slash is needed. The server refuses a box that overlaps the
image only in part, so callers clip boxes. Arrays are (z, y, x) in generation 1 and (channel, z, y, x) later, with a
time axis before z when a time was requested.

The server reports errors as text in a 404: an unknown token, a range outside the image, or a MySQL error tuple when its
database is down. Only the first means that there is no such token.
"""

from __future__ import annotations

import re

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.config import UpstreamSettings, values
from ocpproxy.config.options import HTTP_SCHEMES, Option
from ocpproxy.model.dataset import Cutout, Dataset
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import OutOfRange, UnknownToken, UpstreamDown, UpstreamFailure, VoxelsOnly
from ocpproxy.upstream.codecs import blosc_array, content_encoding, npz
from ocpproxy.upstream.documents import ocp_info
from ocpproxy.upstream.fetch import fetch_document
from ocpproxy.upstream.http import HostClient, HttpResponse, status_failure
from ocpproxy.upstream.kind import Kind, UpstreamContext

_OUTAGE = re.compile(r"['\"]*\(\d{4}, ")
_ABSENT = re.compile(r"does not exist|not found|did not find", re.IGNORECASE)
_OUTSIDE = re.compile(r"illegal range|check cube|scaling level|illegal arguments", re.IGNORECASE)


def _failure(response: HttpResponse, default: type[UpstreamFailure]) -> UpstreamFailure | None:
    """Return the failure that a response means, None for 200; `default` is for a 404 that gives no known reason."""
    if response.status == 404:
        text = response.body.decode("utf-8", "replace").strip()
        if _OUTAGE.match(text):
            return UpstreamDown(response.summary)
        if _OUTSIDE.search(text):
            return OutOfRange(response.summary)
        return (UnknownToken if _ABSENT.search(text) else default)(response.summary)
    return status_failure(response)


class OpenConnectome(VoxelsOnly):
    """One Open Connectome server.

    :param run_in_thread: decodes cutouts in a thread.
    :param format: the format of cutouts, ``npz`` or ``blosc``.
    """

    def __init__(self, client: HostClient, run_in_thread: RunInThread, format: str = "npz") -> None:
        self._client = client
        self._in_thread = run_in_thread
        self._format = format
        self.origin = f"ocp {client.url}"

    async def describe(self, token: str) -> str:
        """Return the info document of a token; see `Upstream.describe`."""
        return await fetch_document(
            self._client, f"ca/{token}/info/", lambda response: _failure(response, UnknownToken)
        )

    def dataset(self, token: str, description: str) -> Dataset:
        """Return a dataset; see `Upstream.dataset`."""
        return ocp_info.parse_info(token, description)

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Return voxels; see `Upstream.cutout`."""
        first_generation = cutout.dataset.upstream_data == 1
        format_ = "npz" if first_generation else self._format
        codec = {"npz": npz, "blosc": blosc_array}[format_]
        path = _first_generation_path(cutout) if first_generation else _path(cutout, format_)
        limit = codec.max_encoded_size(cutout.nbytes)
        response = await self._client.get(path, limit, lambda response: _failure(response, OutOfRange))

        def decode() -> Voxels:
            body = content_encoding.decode_content(response.body, response.encoding, limit)
            voxels: Voxels = codec.decode(body, cutout.channel.dtype, _shape(cutout))
            return voxels

        voxels: Voxels = await self._in_thread(decode)
        return voxels


def _first_generation_path(cutout: Cutout) -> str:
    channel = cutout.channel
    part = f"{channel.number}/" if channel.kind == "channels" else _times(cutout)
    return f"ca/{cutout.dataset.upstream_token}/npz/{part}{_ranges(cutout)}"


def _path(cutout: Cutout, format_: str) -> str:
    return f"ca/{cutout.dataset.upstream_token}/{cutout.channel.name}/{format_}/{_ranges(cutout)}{_times(cutout)}"


def _shape(cutout: Cutout) -> tuple[int, ...]:
    """Return the shape of the array that the server sends for a cutout."""
    time = (1,) if cutout.channel.kind == "timeseries" else ()
    has_channel_axis = cutout.dataset.upstream_data != 1 or cutout.channel.kind == "channels"
    return ((1,) if has_channel_axis else ()) + time + cutout.box.shape


def _ranges(cutout: Cutout) -> str:
    box = cutout.box
    return f"{cutout.level}/{box.x0},{box.x1}/{box.y0},{box.y1}/{box.z0},{box.z1}/"


def _times(cutout: Cutout) -> str:
    return f"{cutout.time},{cutout.time + 1}/" if cutout.channel.kind == "timeseries" else ""


def _build(settings: UpstreamSettings, context: UpstreamContext) -> OpenConnectome:
    client = context.host_client(settings, settings.url[0][1].rstrip("/"))
    return OpenConnectome(client, context.run_in_thread, settings.options["format"])


KIND = Kind(
    name="ocp",
    options={"format": Option(values.choice("npz", "blosc"), "npz")},
    schemes=HTTP_SCHEMES,
    has_address=False,
    build=_build,
)
