"""treq without what it does about cookies, encodings and addresses.

treq inflates gzip on the event loop, without a bound, so ``Content-Encoding`` passes it under another name. Cookies of
upstreams are neither kept nor sent. Addresses are not parsed again.
"""

from __future__ import annotations

from hyperlink import EncodedURL
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

STORED_ENCODING = "x-ocpproxy-stored-encoding"
"""The name under which ``Content-Encoding`` passes treq."""


def make_treq(agent: IAgent) -> HTTPClient:
    """Return a treq client over the agent that keeps no cookies and leaves bodies as they were sent."""
    return HTTPClient(_StoredBodies(agent), cookiejar=_NoCookies())


class Uri(EncodedURL):
    """An address that is a URI already: ASCII, with everything quoted.

    treq parses each address, converts it to a URI and writes it again. For ours that changes nothing, and takes more
    than half of treq's time. So this one keeps its text and is never parsed; treq needs no more of it.
    """

    __slots__ = ("_uri",)

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def to_uri(self) -> Uri:
        """Return the address itself."""
        return self

    def to_text(self, with_password: bool = False) -> str:
        """Return the text of the address."""
        return self._uri


class _NoCookies(IndexableCookieJar):
    """A cookie jar that takes none and gives none."""

    def extract_cookies(self, response: object, request: object) -> None:
        """Take no cookies from a response."""

    def add_cookie_header(self, request: object) -> None:
        """Add no cookies to a request."""


@implementer(IAgent)
class _StoredBodies:
    """An agent that asks for no encoding, and hides the encoding of what is stored encoded."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """Send the request; see `IAgent.request`."""
        if headers is not None:
            headers.removeHeader("accept-encoding")  # treq has put its own there
        response: Deferred[IResponse] = self._agent.request(method, uri, headers, bodyProducer)
        return response.addCallback(_hide_encoding)


def _hide_encoding(response: IResponse) -> IResponse:
    encodings = response.headers.getRawHeaders("content-encoding")
    if encodings is not None:
        response.headers.removeHeader("content-encoding")
        response.headers.setRawHeaders(STORED_ENCODING, encodings)
    return response
