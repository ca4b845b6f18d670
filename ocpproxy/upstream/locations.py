"""Where volumes are: one address for each channel of a token.

What holds one volume at each address (precomputed, N5, Zarr, a tile server) is told its addresses by the operator, with
``{token}`` and ``{channel}`` in them, or one for each channel by name.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from ocpproxy.concurrency.gather import gather
from ocpproxy.upstream.http import HostClient

Addresses = Sequence[tuple[str | None, str]]
"""(channel, address): None for the only one, whose name is that of what it holds."""


def channel_addresses(addresses: Addresses, channels: Sequence[tuple[str, str]]) -> dict[str | None, str]:
    """The address of each channel; ``{token}`` is still in it.

    :param channels: (name here, name there) of each channel that ``{channel}`` stands for.
    """
    if len(addresses) == 1 and addresses[0][0] is None:
        address = addresses[0][1]
        if not channels:
            return {None: address}
        return {name: address.replace("{channel}", there) for name, there in channels}
    return {name: address.replace("{channel}", name or "") for name, address in addresses}


def public_url(address: str) -> str:
    """The https address of what a public bucket's s3:// or gs:// names; others stay as they are."""
    scheme, _, rest = address.partition("://")
    bucket, _, path = rest.partition("/")
    if scheme == "gs":
        return f"https://storage.googleapis.com/{rest}"
    if scheme == "s3":
        # The certificate of s3.amazonaws.com is good for one label before it.
        host = f"s3.amazonaws.com/{bucket}" if "." in bucket else f"{bucket}.s3.amazonaws.com"
        return f"https://{host}/{path}"
    return address


class Location:
    """One address over HTTP.

    :param client: returns a client of a host.
    """

    def __init__(self, address: str, client: Callable[[str], HostClient]) -> None:
        parts = urlsplit(address)
        self.address = address.rstrip("/")
        self.ends_with_slash = address.endswith("/")
        self._path = parts.path.strip("/")
        self.client = client(f"{parts.scheme}://{parts.netloc}")

    def for_token(self, token: str) -> str:
        """The address for a token."""
        return self.address.replace("{token}", token)

    def path(self, token: str, name: str) -> str:
        """The path of a file below it; ``name`` may climb with ``..``, but not to another host."""
        found: list[str] = []
        for part in f"{self._path.replace('{token}', token)}/{name}".split("/"):
            if part == "..":
                del found[-1:]
            elif part not in ("", "."):
                found.append(part)
        return quote("/".join(found), safe="/~!$&'()*+,;=:@%" if "%" in self._path else "/~!$&'()*+,;=:@")


async def for_each_channel(
    names: Iterable[str | None], ask: Callable[[str | None], Coroutine[Any, Any, str]]
) -> dict[str, str]:
    """What is said of each channel, side by side; the one without a name is called ``""``.

    :raises UpstreamFailure: the first there is.
    """
    names = list(names)
    found = await gather([ask(name) for name in names])
    return {name or "": text for name, text in zip(names, found, strict=True)}
