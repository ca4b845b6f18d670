"""The endpoints of upstreams' hosts: made once for each host, with a bound on the heads of responses.

Twisted's `Agent` makes an endpoint for each request, also when it finds an idle connection. Most of that is the IDNA
encoding of the host's name: 14 microseconds, which count when a cuboid is 64 requests.
"""

from __future__ import annotations

import re
from typing import Any

from cachetools import LRUCache
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, BrowserLikePolicyForHTTPS
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

_HOSTS = 256
_LONGEST_HEAD = 64 * 2**10
_INTERIM = re.compile(rb"[^ \n]* +0*1\d\d\b")
"""A status of an interim response, as Twisted reads it: another head follows."""
_HEAD_ENDS = re.compile(rb"\n\r?\n")


@implementer(IAgentEndpointFactory)
class ReusedEndpoints:
    """A factory of endpoints like that of `Agent`: TCP for http; TLS for https, with the certificates browsers trust.

    :param connect_timeout: seconds.
    """

    def __init__(self, reactor: Any, connect_timeout: float) -> None:
        self._reactor = reactor
        self._timeout = connect_timeout
        self._tls = BrowserLikePolicyForHTTPS()
        self._endpoints: LRUCache[tuple[bytes, bytes, int], IStreamClientEndpoint] = LRUCache(_HOSTS)

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """Return the endpoint of the host; see `IAgentEndpointFactory`."""
        key = (uri.scheme, uri.host, uri.port)
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            endpoint = self._endpoints[key] = self._make(*key)
        return endpoint

    def _make(self, scheme: bytes, host: bytes, port: int) -> IStreamClientEndpoint:
        if scheme not in (b"http", b"https"):
            raise SchemeNotSupported(f"expected http or https, not {scheme!r}")
        endpoint: IStreamClientEndpoint = HostnameEndpoint(self._reactor, host, port, self._timeout)
        if scheme == b"https":
            endpoint = wrapClientTLS(self._tls.creatorForNetloc(host, port), endpoint)
        return _BoundedHeads(endpoint)


class HeadTooLarge(ConnectionAborted):
    """The head of a response is longer than `_LONGEST_HEAD`: the connection was closed."""

    def __str__(self) -> str:
        return f"the head of the response has more than {_LONGEST_HEAD} bytes"


@implementer(IStreamClientEndpoint)
class _BoundedHeads:
    """An endpoint whose connections are closed when the head of a response is too long. Twisted reads any number."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, factory: Any) -> Deferred[Any]:
        """Return the factory's protocol, connected; see `IStreamClientEndpoint`."""
        factory.noisy = False
        wrapping = WrappingFactory(factory)
        wrapping.protocol = _HeadCounter
        wrapping.noisy = False
        connected: Deferred[Any] = self._endpoint.connect(wrapping)
        return connected.addCallback(lambda wrapper: wrapper.wrappedProtocol)


class _HeadCounter(ProtocolWrapper):
    """Counts the bytes from a request to the end of the head of its response."""

    transport: Any
    _left: int | None = None
    """Bytes that the head may still have; None while no head is expected."""
    _seen = b""
    """The head as far as it has arrived."""
    _exceeded = False

    def write(self, data: bytes) -> None:
        """Send a part of a request."""
        self._left, self._seen = _LONGEST_HEAD, b""
        super().write(data)

    def writeSequence(self, data: list[bytes]) -> None:
        """Send a part of a request."""
        self.write(b"".join(data))

    def dataReceived(self, data: bytes) -> None:
        """Pass on a part of a response."""
        if self._left is not None:
            self._count(data)
        if not self._exceeded:
            super().dataReceived(data)

    def _count(self, data: bytes) -> None:
        seen = self._seen + data[: _LONGEST_HEAD + 4]
        while (end := _HEAD_ENDS.search(seen)) is not None:
            if not _INTERIM.match(seen):
                self._left, self._seen = None, b""
                return
            seen = seen[end.end() :]
        self._seen = seen
        self._left = (self._left or 0) - len(data)
        if self._left < 0:
            self._exceeded = True
            self._seen = b""
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Say why the connection was lost."""
        super().connectionLost(Failure(HeadTooLarge()) if self._exceeded else reason)
