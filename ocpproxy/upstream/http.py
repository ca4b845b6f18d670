"""HTTP to upstreams: bounded in every respect, and considerate of the servers.

The client is treq over one `Agent` and one pool of connections (`plain_treq`). This module adds what neither has:

* a cap on the requests to one host at a time (``maxPersistentPerHost`` limits idle connections only), which clients
  take in turn;
* retries that are bounded and spread;
* one deadline from the first wait to the last byte, retries included (treq's ``timeout`` ends at the headers);
* a bound on the body while it is read (treq's ``content()`` has none);
* no redirect to another host, unless the operator trusts it; then without credentials, and never from https to http.
  From http to https of the same host it is followed.

A body stays as it was sent: its reader undoes its encoding in a thread (`codecs.content_encoding`), with a bound on
what comes out. treq would inflate gzip on the event loop, so `make_treq` hides ``Content-Encoding`` from it. Cookies
are neither kept nor sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from urllib.parse import quote, urljoin, urlsplit

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from ocpproxy._version import __version__
from ocpproxy.concurrency import progress
from ocpproxy.concurrency.fairness import FairSemaphore
from ocpproxy.concurrency.progress import Progress
from ocpproxy.log import Logger
from ocpproxy.upstream import trail
from ocpproxy.upstream.base import (
    NotSent,
    RedirectRefused,
    RequestRejected,
    ResponseTooLarge,
    UnknownToken,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamDown,
    UpstreamFailure,
    UpstreamRefused,
    UpstreamSlow,
)
from ocpproxy.upstream.body import HangUp, ResponseBody
from ocpproxy.upstream.endpoints import HeadTooLarge
from ocpproxy.upstream.plain_treq import STORED_ENCODING, Uri

_ERROR_BODY = 4096
"""Bytes that are read of a response whose status is not 200."""
_REDIRECTS = 3
_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_NOT_TRUSTED = "it redirects to another host; redirect_hosts in the configuration names those that are trusted"
_NOT_ENCRYPTED = "it redirects from https to http"
_PAUSE = 0.1
"""Seconds before the first retry; doubled for each, and spread by as much again."""
_NO_ANSWER = (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    ConnectTimeout,
    DNSLookupError,
    ResponseFailed,
    ResponseNeverReceived,
)
_USER_AGENT = f"ocpproxy/{__version__}"
_HEADERS = {
    STORED_ENCODING.encode(): "content-encoding",
    **{name.encode(): name for name in ("etag", "last-modified", "retry-after", "content-range")},
}
"""Headers of an answer that somebody reads, and their names in `HttpResponse.headers`."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A complete response."""

    status: int
    body: bytes
    """The bytes as they were sent, encoded as `encoding` says."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case; only the headers that upstreams use."""

    @property
    def encoding(self) -> str:
        """The value of ``Content-Encoding``, or an empty string."""
        return self.headers.get("content-encoding", "")

    @property
    def retry_after(self) -> float | None:
        """Seconds from ``Retry-After``, where it is a number of seconds."""
        value = self.headers.get("retry-after", "")
        return float(value) if value.isascii() and value.isdigit() and len(value) < 6 else None

    @property
    def summary(self) -> str:
        """The status and the beginning of the body, for the log."""
        return f"{self.status}: {self.body.decode('utf-8', 'replace').strip()[:200]}"


ResponseCheck = Callable[[HttpResponse], UpstreamFailure | None]
"""Returns what is wrong with a response, or None for the response that was expected."""


def status_failure(response: HttpResponse, not_found: type[UpstreamFailure] = UnknownToken) -> UpstreamFailure | None:
    """Return the failure that a status means, None for 200; `not_found` is the one for 404."""
    if response.status == 200:
        return None
    if response.status in (404, 410):
        return not_found(response.summary)
    if response.status in (401, 403):
        return UpstreamRefused(response.summary)
    if response.status in (429, 503):
        return UpstreamBusy(response.summary, response.retry_after)
    if response.status in (502, 504):
        return UpstreamDown(response.summary)
    if 300 <= response.status < 500 and response.status not in (408, 425):
        return RequestRejected(response.summary, public=f"the upstream's status is {response.status}")
    return UpstreamBroken(response.summary)


class HttpClient:
    """The HTTP client of the whole process: one treq client, and a cap for each host."""

    def __init__(self, treq: HTTPClient, clock: IReactorTime, random: Random) -> None:
        self.treq = treq
        self.clock = clock
        self.random = random
        self._caps: dict[tuple[str, str], FairSemaphore] = {}
        self._new_limits: dict[tuple[str, str], int] | None = None
        """The limits within a block of `new_limits`."""

    @contextmanager
    def new_limits(self) -> Iterator[None]:
        """Replace the limits of hosts by those of the clients that are made in a block, at the end of the block."""
        self._new_limits = {}
        try:
            yield
            for host, connections in self._new_limits.items():
                self._caps[host].set_limit(connections)
        finally:
            self._new_limits = None

    def cap(self, url: str, connections: int) -> FairSemaphore:
        """Return the cap of the URL's host. All clients of a host share it; the smallest `connections` counts."""
        parts = urlsplit(url)
        host = (parts.scheme, parts.netloc.lower())
        cap = self._caps.setdefault(host, FairSemaphore(connections, self.clock))
        if self._new_limits is None:
            cap.set_limit(min(cap.limit, connections))
        else:
            self._new_limits[host] = min(self._new_limits.get(host, connections), connections)
        return cap


@dataclass
class HostClient:
    """GET requests to one host.

    :param url: scheme and host, or an address below which all paths are.
    :param timeout: seconds for everything, from waiting for a permit to the last byte of the last attempt.
    :param connections: requests to the host at a time.
    :param retries: attempts after the first one.
    :param headers: sent with each request. They may be secrets.
    :param redirect_hosts: other hosts (``host`` or ``host:port``) that redirects may lead to.
    """

    client: HttpClient
    url: str
    timeout: float
    connections: int
    retries: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    redirect_hosts: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.cap = self.client.cap(self.url, self.connections)

    async def get(
        self, path: str, limit: int, check: ResponseCheck, headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """Return the response to GET ``url/path``, or to GET ``url`` where the path is empty.

        The first byte of a body with status 200 or 206 is reported to the current `progress`.

        :param limit: bytes that the body may have, as it is sent.
        :param check: decides whether a response is the one that was expected.
        :raises UpstreamFailure: what `check` returns; `UpstreamSlow` after the deadline, or `NotSent`; `UpstreamDown`
            when there is no connection; `UpstreamBroken` for a body over the limit; `RedirectRefused` for one to
            another host.
        """
        url = f"{self.url}/{path}" if path else self.url
        call = _Call(self, url, limit, check, headers or {})
        began, outcome = self.client.clock.seconds(), "given up"
        try:
            response = await call.start().addTimeout(self.timeout, self.client.clock)
            outcome = f"{response.status}, {len(response.body)} bytes"
            return response
        except DeferredTimeout:
            wait = f"within {self.timeout:g} s"
            late = UpstreamSlow(f"no complete response {wait}") if call.sent else NotSent(f"no connection free {wait}")
            outcome = str(late)
            raise late from None
        except UpstreamFailure as failure:
            outcome = str(failure)
            raise
        finally:
            trail.note_request(url, outcome, self.client.clock.seconds() - began)


class _Call:
    """One GET with its retries.

    Twisted reports a cancelled request by many exceptions, depending on how far it had come: a name look-up that is
    cancelled fails with `DNSLookupError`, like one that finds nothing. So the call records that it was cancelled, by
    its caller or by the deadline; whatever fails from then on is that, and nothing is retried.
    """

    _log = Logger()

    def __init__(
        self, host: HostClient, url: str, limit: int, check: ResponseCheck, headers: Mapping[str, str]
    ) -> None:
        self._host = host
        self._url = url
        self._limit = limit
        self._check = check
        self._headers = {"User-Agent": _USER_AGENT, **headers}
        self._progress = progress.current()
        self._cancelled = False
        self.sent = False
        """True when the upstream has been asked."""

    def start(self) -> Deferred[HttpResponse]:
        """Return the response. Cancelling the Deferred ends it at once, however long the request takes to end."""
        work = Deferred.fromCoroutine(self._with_retries())

        def cancel(_: object) -> None:
            self._cancelled = True
            work.cancel()

        result: Deferred[HttpResponse] = Deferred(cancel)

        def finished(outcome: HttpResponse | Failure) -> None:
            if not result.called:
                result.callback(outcome)  # a Failure becomes an errback
            elif isinstance(outcome, Failure) and not outcome.check(CancelledError, UpstreamFailure):
                self._log.failure("after a request for {url} was given up", outcome, url=self._url)

        work.addBoth(finished)
        return result

    async def _with_retries(self) -> HttpResponse:
        host, clock = self._host, self._host.client.clock
        attempt = 0
        while True:
            try:
                response = await self._attempt()
                failure = self._check(response)
                if failure is None:
                    return response
                raise failure
            except UpstreamFailure as error:
                if not error.transient or attempt >= host.retries:
                    raise
                pause = error.retry_after or _PAUSE * 2**attempt * (1 + host.client.random.random())
                if pause > host.timeout / 2:
                    raise
            attempt += 1
            await deferLater(clock, pause)

    async def _attempt(self) -> HttpResponse:
        claim = await self._host.cap.acquire()
        self.sent = True
        try:
            return await self._follow_redirects()
        except Exception as error:
            if self._cancelled:
                raise CancelledError from error
            if isinstance(error, (CancelledError, UpstreamFailure)):
                raise
            if any(reason.check(HeadTooLarge) for reason in getattr(error, "reasons", ())):
                raise ResponseTooLarge(_reasons(error)) from error
            if isinstance(error, _NO_ANSWER):
                raise UpstreamDown(f"no response: {_reasons(error)}") from error
            raise UpstreamBroken(f"no HTTP: {error}") from error  # a malformed response raises anything
        finally:
            # One reactor iteration later: only then is the connection back in the pool, so that it is used again.
            self._host.client.clock.callLater(0, self._host.cap.release, claim)

    async def _follow_redirects(self) -> HttpResponse:
        url, secrets = self._url, self._host.headers
        for _ in range(_REDIRECTS + 1):
            headers = Headers({name: [value] for name, value in {**secrets, **self._headers}.items()})
            response: IResponse = await self._host.client.treq.get(
                Uri(url), headers=headers, allow_redirects=False, unbuffered=True
            )
            body = await self._read(response)
            target = _header(response, b"location")
            if response.code not in (301, 302, 303, 307, 308) or target is None:
                return HttpResponse(response.code, body, _read_headers(response))
            target = urljoin(url, quote(target, safe=_ASCII, encoding="latin-1"))
            if urlsplit(target)[:2] != urlsplit(url)[:2] and not _only_encrypts(url, target):
                self._check_host(url, target)
                secrets = {}
            url = target
        loop = f"it redirects more than {_REDIRECTS} times"
        raise RedirectRefused(loop, public=loop)

    def _check_host(self, url: str, target: str) -> None:
        """Raise `RedirectRefused` for a redirect to a host that is not trusted, or to one without TLS from one with."""
        host, name = urlsplit(target), urlsplit(target).netloc.rpartition("@")[2][:100].lower()
        trusted = {name, host.hostname, f"[{host.hostname}]"} & self._host.redirect_hosts
        if not trusted or host.scheme not in ("http", "https") or host.username is not None:
            raise RedirectRefused(f"it redirects to another host, {host.scheme}://{name}", public=_NOT_TRUSTED)
        if url.startswith("https:") and host.scheme != "https":
            raise RedirectRefused(f"it redirects from https to http, at {name}", public=_NOT_ENCRYPTED)

    async def _read(self, response: IResponse) -> bytes:
        """Return the body, or the beginning of the body when the status is neither 200 nor 206."""
        if response.code not in (200, 206):
            body = ResponseBody(_ERROR_BODY, Progress(), cut=True)
        elif isinstance(response.length, int) and response.length > self._limit:
            response.deliverBody(HangUp())
            raise ResponseTooLarge(f"the response has {response.length} bytes, expected at most {self._limit}")
        else:
            body = ResponseBody(self._limit, self._progress, cut=False)
        response.deliverBody(body)
        return await body.finished


def _only_encrypts(url: str, target: str) -> bool:
    """Return whether a redirect leads from http to https of the same host."""
    old, new = urlsplit(url), urlsplit(target)
    try:
        same = old.hostname == new.hostname and new.port in (None, 443, old.port) and new.username is None
    except ValueError:  # no port number
        return False
    return same and (old.scheme, new.scheme) == ("http", "https")


def _header(response: IResponse, name: bytes) -> str | None:
    values = response.headers.getRawHeaders(name)
    return values[0].decode("latin-1") if values else None


def _read_headers(response: IResponse) -> dict[str, str]:
    return {name: value for sent, name in _HEADERS.items() if (value := _header(response, sent)) is not None}


def _reasons(error: BaseException) -> str:
    reasons = getattr(error, "reasons", None)
    return "; ".join(reason.getErrorMessage() for reason in reasons) if reasons else str(error)
