"""The HTTP client of upstreams, in memory: name look-ups that hang, bodies, redirects, cookies."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from random import Random
from typing import Any, cast

from treq.client import HTTPClient
from treq.testing import RequestTraversalAgent, StubTreq
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHostnameResolver, IHostResolution, IReactorPluggableNameResolver
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent
from twisted.web.resource import Resource
from twisted.web.server import Request
from zope.interface import implementer

from ocpproxy.concurrency.progress import Progress
from ocpproxy.upstream.base import NotSent, UnknownToken, UpstreamBroken, UpstreamDown, UpstreamFailure, UpstreamSlow
from ocpproxy.upstream.http import HostClient, HttpClient, HttpResponse, status_failure
from ocpproxy.upstream.plain_treq import make_treq


@implementer(IHostResolution)
class _Lookup:
    """A look-up of a name that never ends."""

    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """Do nothing, as the resolver of Twisted's thread pool."""


@implementer(IHostnameResolver)
class _HangingResolver:
    """A resolver that never answers."""

    def __init__(self) -> None:
        self.lookups: list[str] = []

    def resolveHostName(self, resolutionReceiver: Any, hostName: str, *_: Any, **__: Any) -> _Lookup:
        """Begin a look-up that never ends."""
        self.lookups.append(hostName)
        lookup = _Lookup(hostName)
        resolutionReceiver.resolutionBegan(lookup)
        return lookup


@implementer(IReactorPluggableNameResolver)
class _Reactor(MemoryReactorClock):
    """A reactor in memory with a resolver that hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.resolver = _HangingResolver()
        self.nameResolver: IHostnameResolver = self.resolver

    def installNameResolver(self, resolver: Any) -> Any:
        """Refuse: no test needs it."""
        raise NotImplementedError


class HangingLookupTests(SynchronousTestCase):
    """A name look-up that never ends, which Twisted reports like a name that does not exist."""

    def setUp(self) -> None:
        """Make a client with a deadline of half a second and two retries."""
        self.reactor = _Reactor()
        client = HttpClient(make_treq(Agent(self.reactor, connectTimeout=None)), self.reactor, Random(1))
        self.host = HostClient(client, "http://upstream.example", timeout=0.5, connections=1, retries=2)

    def get(self) -> Deferred[HttpResponse]:
        """Request a document."""
        return Deferred.fromCoroutine(self.host.get("info", 100, status_failure))

    def test_cancel(self) -> None:
        """A cancelled request fails with CancelledError, and is not retried."""
        asked = self.get()
        self.assertEqual(self.reactor.resolver.lookups, ["upstream.example"])
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.reactor.advance(10)
        self.assertEqual(self.reactor.resolver.lookups, ["upstream.example"])

    def test_cancel_leaves_the_next(self) -> None:
        """The permit comes back: the next request is made, and is not failed by the cancelled one."""
        self.get().addErrback(lambda failure: failure.trap(CancelledError)).cancel()
        self.reactor.advance(0)
        asked = self.get()
        self.assertEqual(len(self.reactor.resolver.lookups), 2)
        self.assertNoResult(asked)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)

    def test_deadline(self) -> None:
        """The deadline ends everything at once: one look-up, no retry."""
        asked = self.get()
        self.reactor.advance(0.49)
        self.assertNoResult(asked)
        self.reactor.advance(0.02)
        self.failureResultOf(asked, UpstreamSlow)
        self.reactor.advance(10)
        self.assertEqual(len(self.reactor.resolver.lookups), 1)

    def test_waiting_for_the_permit(self) -> None:
        """A request that waits for a permit is cancelled and runs into its deadline all the same."""
        first, second, third = self.get(), self.get(), self.get()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.reactor.advance(0.6)
        self.failureResultOf(first, UpstreamSlow)
        self.failureResultOf(third, NotSent)


class _Answers(Resource):
    """A server in memory whose answers are functions of the request."""

    isLeaf = True

    def __init__(self, answer: Callable[[Request], bytes]) -> None:
        super().__init__()
        self._answer = answer
        self.requests: list[Request] = []

    def render_GET(self, request: Request) -> bytes:
        """Answer, and remember the request."""
        self.requests.append(request)
        return self._answer(request)


class InMemoryTests(SynchronousTestCase):
    """Answers of servers in memory."""

    def request(
        self, answer: Callable[[Request], bytes], limit: int = 1000, path: str = "info"
    ) -> Deferred[HttpResponse]:
        """Send a request to a server with this answer."""
        self.server = _Answers(answer)
        self.agent = RequestTraversalAgent(self.server)
        return self.get(make_treq(self.agent), limit, path)

    def get(self, treq: HTTPClient, limit: int = 1000, path: str = "info") -> Deferred[HttpResponse]:
        """Send a request by a client."""
        self.clock = Clock()
        host = HostClient(HttpClient(treq, self.clock, Random(1)), "http://h", timeout=5, connections=2, retries=0)
        asked = Deferred.fromCoroutine(host.get(path, limit, status_failure))
        self.agent.flush()
        return asked

    def test_body_as_sent(self) -> None:
        """A body that is stored encoded comes as it was sent, and no encoding is requested."""
        body = gzip.compress(b"voxels" * 100)

        def answer(request: Request) -> bytes:
            request.setHeader(b"content-encoding", b"gzip")
            request.setHeader(b"etag", b'"7"')
            return body

        response = self.successResultOf(self.request(answer))
        self.assertEqual((response.body, response.encoding, response.headers["etag"]), (body, "gzip", '"7"'))
        self.assertIsNone(self.server.requests[0].requestHeaders.getRawHeaders("accept-encoding"))

    def test_cookies(self) -> None:
        """Cookies are neither kept nor sent."""

        def answer(request: Request) -> bytes:
            request.addCookie(b"who", b"you")
            return b""

        self.successResultOf(self.request(answer))
        self.successResultOf(self.get(make_treq(self.agent)))
        self.assertEqual(
            [request.requestHeaders.getRawHeaders("cookie") for request in self.server.requests], [None, None]
        )

    def test_limit(self) -> None:
        """A body of the limit is read; one byte more is an error."""
        self.assertEqual(len(self.successResultOf(self.request(lambda _: bytes(1000))).body), 1000)
        self.failureResultOf(self.request(lambda _: bytes(1001)), UpstreamBroken)

    def test_redirects(self) -> None:
        """Three redirects to the same host are followed, no more, and none to another one."""

        def to(target: bytes) -> Callable[[Request], bytes]:
            def answer(request: Request) -> bytes:
                if request.path == b"/end":
                    return b"here"
                request.redirect(target)
                return b""

            return answer

        self.assertEqual(self.successResultOf(self.request(to(b"/end"))).body, b"here")
        for target in (
            b"/again",
            b"http://other/end",
            b"https://h.other/end",
            b"https://h:8443/end",
            b"https://u@h/end",
        ):
            failure = self.failureResultOf(self.request(to(target)), UpstreamBroken)
            self.assertIn("redirects", str(failure.value))

    def test_progress(self) -> None:
        """The first byte of a body is reported once; an answer that is no success reports nothing."""
        for code, receiving in ((200, True), (404, False)):

            def answer(request: Request, code: int = code) -> bytes:
                request.setResponseCode(code)
                return b"some bytes"

            progress = Progress()
            with progress.as_current():
                asked = self.request(answer)
            if code == 404:
                self.failureResultOf(asked, UnknownToken)
            else:
                self.successResultOf(asked)
            self.assertEqual(progress.receiving, receiving)

    def test_stub(self) -> None:
        """A stub with treq's interface can replace treq."""
        self.server = _Answers(lambda _: b"stub")
        stub = StubTreq(self.server)
        self.agent = cast(Any, stub)
        self.assertEqual(self.successResultOf(self.get(cast(HTTPClient, stub))).body, b"stub")

    def test_malformed(self) -> None:
        """An agent that fails in ways of its own is a broken upstream, or one that is down."""
        from twisted.internet.defer import fail
        from twisted.internet.error import ConnectionRefusedError as Refused

        for error, expected in ((Refused(), UpstreamDown), (ValueError("odd"), UpstreamBroken)):

            class _Failing:
                def request(self, *_: Any, error: Exception = error, **__: Any) -> Deferred[Any]:
                    return fail(error)

            self.agent = cast(Any, _Flushed())
            kind: type[UpstreamFailure] = expected
            self.failureResultOf(self.get(make_treq(cast(Any, _Failing()))), kind)


class _Flushed:
    """An agent without connections to flush."""

    def flush(self) -> None:
        """Do nothing."""


class LimitTests(SynchronousTestCase):
    """The limits of hosts."""

    def test_anew(self) -> None:
        """The smallest limit of a host counts; new ones count together, and only at the end."""
        client = HttpClient(cast(HTTPClient, None), Clock(), Random(1))
        cap = client.cap("http://a/x", 8)
        self.assertIs(client.cap("http://A/y", 2), cap)
        self.assertEqual(cap.limit, 2)
        waiting = [cap.acquire() for _ in range(60)]
        with client.new_limits():
            client.cap("http://a/x", 50)
            self.assertEqual((cap.limit, cap.taken), (2, 2))
            client.cap("http://a/y", 4)
            client.cap("http://b/", 3)
        self.assertEqual((cap.limit, cap.taken), (4, 4))
        self.assertEqual(sum(one.called for one in waiting), 4)
        with self.assertRaises(ValueError), client.new_limits():
            client.cap("http://a/x", 1)
            raise ValueError
        self.assertEqual(cap.limit, 4)
        client.cap("http://a/x", 3)
        self.assertEqual((cap.limit, client.cap("http://b/", 9).limit), (3, 3))
