"""Polite and suspicious HTTP.

Polite: one pool of connections for the whole process, at most so many to one host at a time, retries that are bounded
and spread. Suspicious: one deadline that covers waiting, retries and the last byte of the body; a bound on the body
while it is read; no redirect to another host.

What Twisted leaves open, and why this is not just ``treq.get``: ``Agent``'s and treq's timeouts end at the headers;
``maxPersistentPerHost`` limits only the connections that are kept idle; treq's ``content()`` reads without bound. treq
also inflates gzip on the event loop, and what it does about addresses and cookies was a third of the time of a cuboid
of 64 chunks, under a profiler. So it is ``Agent``; bodies stay as they were sent, and whoever reads one
undoes its encoding (`ocpproxy.upstream.codecs.content_encoding`) in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import urljoin, urlsplit

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from ocpproxy import __version__
from ocpproxy.upstream.base import (
    UnknownToken,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamDown,
    UpstreamFailure,
    UpstreamRefused,
    UpstreamSlow,
)

_ERROR_BODY = 4096
"""Bytes of an answer other than 200 that are read."""
_REDIRECTS = 3
_PAUSE = 0.1
"""Seconds before the first retry; doubled for each, and spread by as much again."""
_LOST = (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    ConnectTimeout,
    DNSLookupError,
    ResponseFailed,
    ResponseNeverReceived,
)


_NAME = f"ocpproxy/{__version__}"
_KEPT = ("content-encoding", "content-type", "etag", "last-modified", "retry-after")
"""Headers of an answer that somebody looks at."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer."""

    status: int
    body: bytes
    """As it was sent: see ``content-encoding``."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Those of `_KEPT` that there are."""

    @property
    def encoding(self) -> str:
        """How the body is encoded."""
        return self.headers.get("content-encoding", "")

    @property
    def retry_after(self) -> float | None:
        """Seconds, when the upstream said so."""
        said = self.headers.get("retry-after", "")
        return float(said) if said.isascii() and said.isdigit() and len(said) < 6 else None

    @property
    def said(self) -> str:
        """The status and the beginning of the body, for the log."""
        return f"{self.status}: {self.body.decode('utf-8', 'replace').strip()[:200]}"


Judge = Callable[[Answer], UpstreamFailure | None]
"""Says what an answer means: None when it is what was asked for."""


def failure(answer: Answer, absent: type[UpstreamFailure] = UnknownToken) -> UpstreamFailure | None:
    """What an answer means by its status; `absent` is for a 404."""
    if answer.status == 200:
        return None
    if answer.status == 404:
        return absent(answer.said)
    if answer.status in (401, 403):
        return UpstreamRefused(answer.said)
    if answer.status in (429, 503):
        return UpstreamBusy(answer.said, answer.retry_after)
    if answer.status in (502, 504):
        return UpstreamDown(answer.said)
    return UpstreamBroken(answer.said)


class _Body(Protocol):
    """Collects a body of at most `limit` bytes; `cut` says whether a longer one is an error or just cut off."""

    def __init__(self, limit: int, cut: bool, arriving: Callable[[], None]) -> None:
        self.finished: Deferred[bytes] = Deferred(lambda _: self._hang_up())
        self._parts: list[bytes] = []
        self._left = limit
        self._cut = cut
        self._arriving = arriving

    def _hang_up(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Take the next part."""
        if self.finished.called:
            return
        if not self._parts:
            self._arriving()
        self._left -= len(data)
        self._parts.append(data)
        if self._left < 0:
            if self._cut:
                self.finished.callback(b"".join(self._parts)[: self._left])
            else:
                self.finished.errback(UpstreamBroken("the answer is longer than what was asked for"))
            self._hang_up()

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        """The end, or a loss."""
        if self.finished.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):  # the latter: no length was given; decoding will tell
            self.finished.callback(b"".join(self._parts))
        else:
            self.finished.errback(UpstreamDown(f"the connection was lost in the middle: {reason.getErrorMessage()}"))


class Places(DeferredSemaphore):
    """So many places, of which there may be fewer later on."""

    _owed = 0

    def lower(self, limit: int) -> None:
        """There are only so many from now on; places that are taken and too many are not given to anybody else."""
        fewer = self.limit - limit
        free = min(fewer, self.tokens)
        self.tokens -= free
        self._owed += fewer - free
        self.limit = limit

    def release(self) -> None:
        """A place comes back."""
        if self._owed:
            self._owed -= 1
        else:
            super().release()


class Http:
    """The HTTP of the whole process: an agent with its pool, and a cap for each host."""

    def __init__(self, agent: IAgent, clock: IReactorTime, random: Random) -> None:
        self.agent = agent
        self.clock = clock
        self.random = random
        self._caps: dict[tuple[str, str], Places] = {}

    def cap(self, url: str, connections: int) -> Places:
        """The places of the host; those who name the same host share them, and the smallest number given counts."""
        parts = urlsplit(url)
        host = (parts.scheme, parts.netloc.lower())
        cap = self._caps.setdefault(host, Places(connections))
        if connections < cap.limit:
            cap.lower(connections)
        return cap


@dataclass
class Fetcher:
    """GET from one host.

    :param timeout: seconds for everything, from asking for a place to the last byte of the last attempt.
    :param headers: sent with each request; they may be secrets.
    """

    http: Http
    url: str
    timeout: float
    connections: int
    retries: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._cap = self.http.cap(self.url, self.connections)

    async def get(
        self,
        path: str,
        limit: int,
        judge: Judge,
        arriving: Callable[[], None],
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer to GET ``url/path``, or to GET ``url`` where the path is empty.

        :param limit: bytes that the body may have, as it is sent.
        :raises UpstreamFailure: what `judge` says, `UpstreamSlow` after the deadline, `UpstreamDown` when there is no
            connection, `UpstreamBroken` for a body over the limit or a redirect to another host.
        """
        url = f"{self.url}/{path}" if path else self.url
        work = Deferred.fromCoroutine(self._insist(url, limit, judge, arriving, {**self.headers, **(headers or {})}))
        try:
            return await work.addTimeout(self.timeout, self.http.clock)
        except DeferredTimeout:
            raise UpstreamSlow(f"no complete answer within {self.timeout:g} s") from None

    async def _insist(
        self, url: str, limit: int, judge: Judge, arriving: Callable[[], None], headers: Mapping[str, str]
    ) -> Answer:
        attempt = 0
        while True:
            try:
                answer = await self._ask(url, limit, arriving, headers)
                wrong = judge(answer)
                if wrong is None:
                    return answer
                raise wrong
            except UpstreamFailure as error:
                if not error.transient or attempt >= self.retries:
                    raise
                pause = error.retry_after or _PAUSE * 2**attempt * (1 + self.http.random.random())
                if pause > self.timeout / 2:
                    raise
            attempt += 1
            await deferLater(self.http.clock, pause)

    async def _ask(self, url: str, limit: int, arriving: Callable[[], None], headers: Mapping[str, str]) -> Answer:
        await self._cap.acquire()
        try:
            return await self._ask_now(url, limit, arriving, headers)
        except CancelledError:
            raise
        except UpstreamFailure:
            raise
        except _LOST as error:
            if _was_cancelled(error):
                raise CancelledError from None
            raise UpstreamDown(f"no answer: {_reasons(error)}") from error
        except Exception as error:  # what else becomes of a malformed answer
            raise UpstreamBroken(f"no HTTP: {error}") from error
        finally:
            # Not now: the connection goes back to the pool (or is closed) only after its answer's end was told to us,
            # and whoever has the place next must not open another one beside it.
            self.http.clock.callLater(0, self._cap.release)

    async def _ask_now(self, url: str, limit: int, arriving: Callable[[], None], headers: Mapping[str, str]) -> Answer:
        told = Headers({"User-Agent": [_NAME], **{name: [value] for name, value in headers.items()}})
        for _ in range(_REDIRECTS + 1):
            response: IResponse = await self.http.agent.request(b"GET", url.encode("ascii"), told.copy())
            fine = response.code == 200
            if fine and isinstance(response.length, int) and response.length > limit:
                _Refused().refuse(response)
                raise UpstreamBroken(f"the answer has {response.length} bytes, expected at most {limit}")
            body = _Body(limit if fine else _ERROR_BODY, not fine, arriving if fine else _nothing)
            response.deliverBody(body)
            content = await body.finished
            target = _header(response, "location")
            if response.code not in (301, 302, 303, 307, 308) or target is None:
                return Answer(response.code, content, _headers(response))
            there = urljoin(url, target)
            if urlsplit(there)[:2] != urlsplit(url)[:2]:
                raise UpstreamBroken("it redirects to another host")
            url = there
        raise UpstreamBroken(f"it redirects more than {_REDIRECTS} times")


class _Refused(Protocol):
    """Reads nothing of a body."""

    def refuse(self, response: IResponse) -> None:
        """Hang up."""
        response.deliverBody(self)

    def makeConnection(self, transport: Any) -> None:
        """The body would begin here."""
        super().makeConnection(transport)
        transport.loseConnection()


def _nothing() -> None:
    pass


def _header(response: IResponse, name: str) -> str | None:
    values = response.headers.getRawHeaders(name.encode())
    return values[0].decode("latin-1") if values else None


def _headers(response: IResponse) -> dict[str, str]:
    return {name: value for name in _KEPT if (value := _header(response, name)) is not None}


def _was_cancelled(error: BaseException) -> bool:
    """Twisted tells a cancel in its own words, depending on how far the request had come."""
    reasons = getattr(error, "reasons", None) or ()
    return isinstance(error, ConnectingCancelledError) or any(
        reason.check(CancelledError, ConnectingCancelledError) for reason in reasons
    )


def _reasons(error: BaseException) -> str:
    reasons = getattr(error, "reasons", None)
    return "; ".join(reason.getErrorMessage() for reason in reasons) if reasons else str(error)
