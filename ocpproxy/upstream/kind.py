"""What a kind of upstream consists of: its options and its constructor.

Each kind is one `Kind` value, at the end of its own module, and one line in `ocpproxy.upstream.registry`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.config import UpstreamSettings, values
from ocpproxy.config.options import Option, UpstreamKind
from ocpproxy.upstream.base import Upstream
from ocpproxy.upstream.chunks import MissingChunks
from ocpproxy.upstream.files import FileClient
from ocpproxy.upstream.http import HostClient, HttpClient
from ocpproxy.upstream.locations import Location, ObjectClient, channel_addresses, public_url
from ocpproxy.upstream.tensorstore.reader import TensorStoreReader, TensorStoreReaders

# Options that several kinds have.
CHANNELS = Option(values.channels, "")
MISSING = Option(values.choice("black", "error"), "black")
MISSING_STATUS = Option(values.statuses, "404")
CREDENTIALS = Option(values.switch, "off")


def missing_chunks(settings: UpstreamSettings) -> MissingChunks:
    """Return the policy for missing chunks, by the options `MISSING` and `MISSING_STATUS` where the kind has them."""
    statuses = settings.options.get("missing_status", (404,))
    return MissingChunks(frozenset(statuses), settings.options.get("missing", "black") == "black")


@dataclass(frozen=True)
class UpstreamContext:
    """Dependencies shared by all upstreams of a process."""

    http: HttpClient
    run_in_thread: RunInThread
    read_in_thread: RunInThread
    """Where disks are waited for: a disk that hangs keeps nobody from decoding."""
    reactor: Any
    readers: TensorStoreReaders

    def host_client(self, settings: UpstreamSettings, url: str) -> HostClient:
        """Return a client of the host of `url`."""
        headers = {"Authorization": settings.authorization} if settings.authorization else {}
        return HostClient(
            self.http,
            url,
            settings.timeout,
            settings.connections,
            settings.retries,
            headers,
            frozenset(settings.redirect_hosts),
        )

    def client(self, settings: UpstreamSettings, url: str) -> ObjectClient:
        """Return a client of the host of `url`, or of the files of this machine."""
        if url.startswith("file:"):
            return FileClient(self.read_in_thread, settings.timeout, self.reactor)
        return self.host_client(settings, url)

    def locations(self, settings: UpstreamSettings) -> dict[str | None, Location]:
        """Return the location of each channel; the key None is the only one, which has no name."""
        client = partial(self.client, settings)
        credentials = settings.options.get("credentials", False)
        addresses = channel_addresses(settings.url, settings.options.get("channels", ()))
        return {
            channel: Location(address if credentials else public_url(address), client)
            for channel, address in addresses.items()
        }

    def tensorstore(self, settings: UpstreamSettings) -> TensorStoreReader:
        """Return a TensorStore reader for one upstream."""
        return self.readers.reader(missing_chunks(settings), settings.timeout, settings.max_cutout)


@dataclass(frozen=True, kw_only=True)
class Kind(UpstreamKind):
    """One kind of upstream."""

    build: Callable[[UpstreamSettings, UpstreamContext], Upstream]
    """Returns an upstream of these settings. The configuration is valid: all that `required` names is there."""
    fixed_tokens: tuple[str, ...] = ()
    """The tokens of a kind whose tokens are always the same."""
