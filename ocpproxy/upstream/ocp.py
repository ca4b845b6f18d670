"""The Open Connectome / ndstore services, generations 1, 2 and 3.

======== =====================================================================================
info     ``{url}/ca/{token}/info/``                                             (all generations)
cutout 1 ``{url}/ca/{token}/npz/[{channel}/]{level}/{x0},{x1}/{y0},{y1}/{z0},{z1}/``
cutout 2 ``{url}/ca/{token}/{channel}/{npz|blosc}/{level}/{x0},{x1}/{y0},{y1}/{z0},{z1}/[{t0},{t1}/]``
======== =====================================================================================

blosc came in September 2015: generation 1 is asked for npz, whatever is configured.

Ranges are half-open, in voxels of the level, and the last slash is needed. A box that only partly overlaps the image is
refused by the server, so boxes come clipped. Arrays are (z, y, x) in generation 1 and (channel, z, y, x) later, with a
time axis before z when a time was asked for.

The server's errors are text in a 404: a token that does not exist, a range outside the image, and a MySQL error tuple
when its database is down. Only the first means that there is nothing.
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
from ocpproxy.upstream.documents import checks, ocp_info
from ocpproxy.upstream.http import HostClient, HttpResponse, status_failure
from ocpproxy.upstream.kind import Kind, UpstreamContext

_LONGEST_INFO = 2 * 2**20
_OUTAGE = re.compile(r"['\"]*\(\d{4}, ")
_ABSENT = re.compile(r"does not exist|not found|did not find", re.IGNORECASE)
_OUTSIDE = re.compile(r"illegal range|check cube|scaling level|illegal arguments", re.IGNORECASE)


def _failure(answer: HttpResponse, otherwise: type[UpstreamFailure]) -> UpstreamFailure | None:
    """What an answer means; `otherwise` is for a 404 that does not say why."""
    if answer.status == 404:
        text = answer.body.decode("utf-8", "replace").strip()
        if _OUTAGE.match(text):
            return UpstreamDown(answer.summary)
        if _OUTSIDE.search(text):
            return OutOfRange(answer.summary)
        return (UnknownToken if _ABSENT.search(text) else otherwise)(answer.summary)
    return status_failure(answer)


class OpenConnectome(VoxelsOnly):
    """One Open Connectome server.

    :param run_in_thread: runs the decoding of a cutout.
    :param format: how cutouts are asked for: ``npz`` or ``blosc``.
    """

    def __init__(self, client: HostClient, run_in_thread: RunInThread, format: str = "npz") -> None:
        self._client = client
        self._in_thread = run_in_thread
        self._format = format
        self.origin = f"ocp {client.url}"

    async def describe(self, token: str) -> str:
        """As `Upstream.describe`: the info document."""
        answer = await self._client.get(
            f"ca/{token}/info/", _LONGEST_INFO, lambda answer: _failure(answer, UnknownToken)
        )
        with checks.parsing(f"the info of {token}"):
            return checks.decode_text(content_encoding.decode_content(answer.body, answer.encoding, _LONGEST_INFO))

    def dataset(self, token: str, description: str) -> Dataset:
        """As `Upstream.dataset`."""
        return ocp_info.parse_info(token, description)

    async def cutout(self, cutout: Cutout) -> Voxels:
        """As `Upstream.cutout`."""
        first = cutout.dataset.upstream_data == 1
        word = "npz" if first else self._format
        form = {"npz": npz, "blosc": blosc_array}[word]
        path = self._first_path(cutout) if first else self._path(cutout, word)
        limit = form.max_encoded_size(cutout.nbytes)
        answer = await self._client.get(path, limit, lambda answer: _failure(answer, OutOfRange))

        def decoded() -> Voxels:
            body = content_encoding.decode_content(answer.body, answer.encoding, limit)
            found: Voxels = form.decode(body, cutout.channel.dtype, self._shape(cutout))
            return found

        voxels: Voxels = await self._in_thread(decoded)
        return voxels

    def _first_path(self, cutout: Cutout) -> str:
        channel = cutout.channel
        chosen = f"{channel.number}/" if channel.kind == "channels" else _times(cutout)
        return f"ca/{cutout.dataset.upstream_token}/npz/{chosen}{_ranges(cutout)}"

    def _path(self, cutout: Cutout, word: str) -> str:
        return f"ca/{cutout.dataset.upstream_token}/{cutout.channel.name}/{word}/{_ranges(cutout)}{_times(cutout)}"

    def _shape(self, cutout: Cutout) -> tuple[int, ...]:
        time = (1,) if cutout.channel.kind == "timeseries" else ()
        listed = cutout.dataset.upstream_data != 1 or cutout.channel.kind == "channels"
        return ((1,) if listed else ()) + time + cutout.box.shape


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
