"""Locations of volumes: one address for each channel of a token.

Some kinds of upstream have one volume at each address (precomputed, N5, Zarr, tile servers). The operator gives one
address in which ``{token}`` and ``{channel}`` stand for names, or one address for each channel.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from ocpproxy.concurrency.gather import gather
from ocpproxy.upstream.base import UpstreamFailure
from ocpproxy.upstream.documents import channels
from ocpproxy.upstream.documents.pyramids import Absent
from ocpproxy.upstream.http import HttpResponse, ResponseCheck

Addresses = Sequence[tuple[str | None, str]]
"""(channel, address) pairs. The channel is None for the only address; its name is then that of the volume's kind."""


def channel_addresses(addresses: Addresses, channels: Sequence[tuple[str, str]]) -> dict[str | None, str]:
    """Return the address of each channel, in which ``{token}`` is not yet replaced.

    :param channels: (our name, the upstream's name) of each channel that ``{channel}`` stands for.
    """
    if len(addresses) == 1 and addresses[0][0] is None:
        address = addresses[0][1]
        if not channels:
            return {None: address}
        return {name: address.replace("{channel}", upstream_name) for name, upstream_name in channels}
    return {name: address.replace("{channel}", name or "") for name, address in addresses}


def public_url(address: str) -> str:
    """Return the https address of an s3:// or gs:// address of a public bucket; other addresses are unchanged."""
    scheme, _, rest = address.partition("://")
    bucket, _, path = rest.partition("/")
    if scheme == "gs":
        return f"https://storage.googleapis.com/{rest}"
    if scheme == "s3":
        # The certificate of s3.amazonaws.com covers one label before it, so a bucket with dots goes into the path.
        host = f"s3.amazonaws.com/{bucket}" if "." in bucket else f"{bucket}.s3.amazonaws.com"
        return f"https://{host}/{path}"
    return address


class ObjectClient(Protocol):
    """Reads objects by their paths: `ocpproxy.upstream.http.HostClient`, `ocpproxy.upstream.files.FileClient`."""

    url: str

    async def get(
        self, path: str, limit: int, check: ResponseCheck, headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """Return the object at a percent-encoded path; see `HostClient.get`."""


class Location:
    """One address, and the client of its host.

    :param client: returns the client for ``scheme://host``.
    """

    def __init__(self, address: str, client: Callable[[str], ObjectClient]) -> None:
        parts = urlsplit(address)
        self.address = address.rstrip("/")
        self.ends_with_slash = address.endswith("/")
        self.in_bucket = parts.scheme in ("s3", "gs")
        """True if it can be read with the credentials of a bucket only; then `client` reads nothing."""
        host = parts.hostname or ""
        self.may_have_other_names = not host.endswith((".amazonaws.com", "storage.googleapis.com"))
        """True if objects may lie there as files of a disk, whose names tell how they are compressed."""
        self._path = parts.path.strip("/")
        self.client = client(f"{parts.scheme}://{parts.netloc}")

    def for_token(self, token: str) -> str:
        """Return the address for a token."""
        return self.address.replace("{token}", token)

    def path(self, token: str, name: str) -> str:
        """Return the URL path of a file below the address, percent-encoded.

        ``..`` in `name` leaves a directory; it cannot leave the host.
        """
        kept: list[str] = []
        for part in f"{self._path.replace('{token}', token)}/{name}".split("/"):
            if part == "..":
                del kept[-1:]
            elif part not in ("", "."):
                kept.append(part)
        return quote("/".join(kept), safe="/~!$&'()*+,;=:@%" if "%" in self._path else "/~!$&'()*+,;=:@")


async def describe_channels(
    names: Iterable[str | None], describe: Callable[[str | None], Coroutine[Any, Any, str]]
) -> str:
    """Describe each channel, concurrently, and return the description of the dataset (`documents.channels`).

    :raises UpstreamFailure: all channels fail; or one fails that may be there in a moment, then the others are
        cancelled.
    """

    async def attempt(name: str | None) -> str | UpstreamFailure:
        try:
            return await describe(name)
        except UpstreamFailure as failure:
            if not failure.lasting:
                raise
            return failure

    names = list(names)
    outcomes = dict(zip(names, await gather([attempt(name) for name in names]), strict=True))
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, UpstreamFailure)]
    if len(failures) == len(outcomes):
        raise failures[0]
    return channels.dump(
        {name: text if isinstance(text, str) else Absent(text.explanation) for name, text in outcomes.items()}
    )


def list_addresses(locations: Mapping[str | None, Location]) -> str:
    """Return all channels and addresses in one line, for `Upstream.origin`."""
    return " ".join(f"{channel or ''}:{location.address}" for channel, location in locations.items())
