"""The admin endpoint: what the commands of ``ocpproxy`` ask a running daemon for, as JSON over HTTP.

It is never on a public port. On a unix socket the permissions of the file are its guard; on any other, each request has
``Authorization: Bearer`` with the token of ``[admin] token``. docs/admin.md describes the protocol, whose version is
the first segment of every path.

==============================================  ====================================================================
``GET /v1/``                                    versions of the daemon and of the protocol
``POST /v1/jobs``                               a `jobs.spec` starts a job: 201; with ``?dry_run=1`` 200, and no job
``GET /v1/jobs``                                all jobs, the newest first
``GET /v1/jobs/ID``                             one job, with what it fetches and what has failed
``POST /v1/jobs/ID/pause|resume|cancel|retry``  200 with the job
``POST /v1/flushes``                            tiles are forgotten (`jobs.flushing`): 201 when they are gone; with
                                                ``?dry_run=1`` 200 and how many there are
``GET /v1/flushes``                             the flushes whose files are being removed
``GET /v1/usage?by=token|plane|level``          what is stored, and how large it is
``POST /v1/pins``                               a part is never evicted from now on (`jobs.pinning`): 201
``GET /v1/pins``                                what is never evicted
``DELETE /v1/pins/ID``                          it may be evicted again
``GET /v1/trace?target=…&fetch=0|1``            what is done with a request, step by step (`web.tracing`)
``POST /v1/reload``                             the configuration is read again; 422 when it has faults
==============================================  ====================================================================

A failure is ``{"error": "…"}`` with the status 400 (bad request), 401, 404, 405, 409 (not possible now), 413, 422 (the
job or flush makes no sense), 502 (the dataset is not described), 503 (the index is unavailable) or 507 (the disk
refuses).
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from ocpproxy import __version__
from ocpproxy.cache.entries import Undescribed
from ocpproxy.config import BadConfiguration
from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.index.jobs import Job
from ocpproxy.jobs.flushing import Flushing
from ocpproxy.jobs.pinning import NoSuchPin, Pinning, TooMuchPinned
from ocpproxy.jobs.progress import JobProgress
from ocpproxy.jobs.service import Jobs, NoSuchJob, NotPossible, does_not_fit
from ocpproxy.jobs.space import BY, SpaceReport
from ocpproxy.jobs.spec import BadJob, read_json, read_text
from ocpproxy.log import Logger
from ocpproxy.store.flushing.flushes import TooManyFlushes
from ocpproxy.web import answers
from ocpproxy.web.answers import Reply
from ocpproxy.web.tracing import Tracer

VERSION = 1
_LONGEST_BODY = 15 * 2**20
"""Bytes: MySQL takes texts of 16 MiB."""
_MOST_FAILURES = 1000
"""Failures of a job that are sent."""
_IDLE = 60
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (BadJob, 422),
    (NoSuchJob, 404),
    (NotPossible, 409),
    (Undescribed, 502),
    (DatabaseUnavailable, 503),
    (TooManyFlushes, 409),
    (TooMuchPinned, 409),
    (BadConfiguration, 422),
    (NoSuchPin, 404),
    (OSError, 507),
)
Answer = tuple[int, Mapping[str, Any]]


class AdminRequest(Request):
    """A request whose body is bounded, and kept in memory."""

    too_long = False
    body: BytesIO

    def gotLength(self, length: int | None) -> None:
        """Keep the body, unless it is too long."""
        self.too_long = length is not None and length > _LONGEST_BODY
        self.content = self.body = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Keep a part of the body."""
        self.too_long = self.too_long or self.body.tell() + len(data) > _LONGEST_BODY
        if not self.too_long:
            self.body.write(data)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.getvalue().decode("utf-8", "replace")

    def text_of(self, name: str) -> str:
        """Return a parameter of the query, or an empty text."""
        value: bytes = self.args.get(name.encode(), [b""])[0]
        return value.decode("utf-8", "replace")

    @property
    def is_dry_run(self) -> bool:
        """True if nothing is to be done."""
        return self.text_of("dry_run") not in ("", "0")


@dataclass(frozen=True)
class AdminParts:
    """What the endpoint gives access to."""

    jobs: Jobs
    flushing: Flushing
    space: SpaceReport
    pinning: Pinning
    tracer: Tracer
    reload: Callable[[], Awaitable[dict[str, Any]]]
    """Reads the configuration again, and returns what has changed."""


class AdminResource(Resource):
    """All paths of the endpoint.

    :param token: what requests have to show; None where the socket's file guards it.
    """

    isLeaf = True
    _log = Logger()

    def __init__(self, parts: AdminParts, token: str | None) -> None:
        super().__init__()
        jobs = self._jobs = parts.jobs
        self._flushing = parts.flushing
        self._space = parts.space
        self._pinning = parts.pinning
        self._tracer = parts.tracer
        self._reload = parts.reload
        self._token = token
        self._actions: dict[str, Callable[[int], Awaitable[None]]] = {
            "pause": jobs.pause,
            "resume": jobs.resume,
            "cancel": jobs.cancel,
            "retry": jobs.retry,
        }

    def render(self, request: AdminRequest) -> Any:
        """Start to answer. When the client leaves, what it has begun goes on."""
        work = Deferred.fromCoroutine(self._answer(request))
        work.addErrback(lambda failure: self._log.failure("an answer could not be sent", failure))
        return NOT_DONE_YET

    async def _answer(self, request: AdminRequest) -> None:
        try:
            code, document = await self._route(request)
        except CancelledError:
            code, document = 503, {"error": "the daemon stops"}
        except Exception as error:
            code = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
            document = {"error": str(error)}
            if code == 500:
                self._log.failure("while answering {path}", path=request.path.decode("latin-1"))
                document = {"error": "something is wrong with the daemon; its log has the details"}
        reply: Reply = answers.document(code, document)
        gone = request.channel is None
        if not gone:
            reply.send(request)

    async def _route(self, request: AdminRequest) -> Answer:
        if self._token is not None and not self._is_allowed(request):
            return 401, {"error": "expected the token of [admin] token: Authorization: Bearer …"}
        if request.too_long:
            return 413, {"error": f"expected at most {_LONGEST_BODY} bytes"}
        version, *path = request.path.decode("latin-1").removeprefix("/").removesuffix("/").split("/")
        if version != f"v{VERSION}":
            return 404, {"error": f"expected /v{VERSION}/…: this daemon is ocpproxy {__version__}"}
        method = request.method.decode("latin-1")
        match [method, *path]:
            case ["GET"]:
                return 200, {"version": VERSION, "ocpproxy": __version__}
            case ["GET", "trace"]:
                steps = await self._tracer.trace(request.text_of("target"), fetch=request.text_of("fetch") == "1")
                return 200, {"steps": [step._asdict() for step in steps]}
            case ["POST", "reload"]:
                return 200, {"reloaded": await self._reload()}
            case ["GET", "flushes"]:
                return 200, {"flushes": [asdict(one) for one in await self._flushing.all()]}
            case ["POST", "flushes"]:
                return await self._flush(request)
        await self._jobs.wait_for_index()
        match [method, *path]:
            case ["GET", "usage"]:
                return await self._usage(request)
            case ["GET", "pins"]:
                return 200, {"pins": await self._pinning.all()}
            case ["POST", "pins"]:
                return 201, {"pin": await self._pinning.pin(read_json(request.text))}
            case ["DELETE", "pins", number]:
                return 200, {"pin": await self._pinning.unpin(_number(number, "pin"))}
            case ["GET", "jobs"]:
                return 200, {"jobs": [as_json(job) for job in await self._jobs.all()]}
            case ["POST", "jobs"]:
                return await self._submit(request)
            case ["GET", "jobs", number]:
                return 200, {"job": await self._detailed(_number(number))}
            case ["POST", "jobs", number, action] if action in self._actions:
                await self._actions[action](_number(number))
                return 200, {"job": await self._detailed(_number(number))}
        known = not path or path[0] in ("jobs", "flushes", "usage", "pins", "reload", "trace")
        return (405 if known and method not in ("GET", "POST") else 404), {"error": "there is nothing here"}

    def _is_allowed(self, request: AdminRequest) -> bool:
        shown = request.requestHeaders.getRawHeaders(b"authorization", [b""])[0]
        return hmac.compare_digest(shown, f"Bearer {self._token}".encode())

    async def _submit(self, request: AdminRequest) -> Answer:
        text = request.text
        spec = read_text(text)
        if request.is_dry_run:
            _, estimate = await self._jobs.estimate(spec)
            refused = None if estimate.fits else does_not_fit(estimate)
            return 200, {"estimate": estimate.to_json(), "refused": refused}
        number, estimate = await self._jobs.submit(spec, text)
        return 201, {"job": await self._detailed(number), "estimate": estimate.to_json()}

    async def _usage(self, request: AdminRequest) -> Answer:
        by = request.text_of("by") or "token"
        if by not in BY:
            return 400, {"error": "by: expected " + ", ".join(BY)}
        return 200, {"usage": [asdict(one) for one in await self._space.usage(by)]}

    async def _flush(self, request: AdminRequest) -> Answer:
        wanted = await self._flushing.read(read_json(request.text))
        if request.is_dry_run:
            usage = await self._flushing.count(wanted)
            return 200, {"title": str(wanted.part), "tiles": usage.tiles, "bytes": usage.bytes}
        return 201, {"flush": asdict(await self._flushing.begin(wanted))}

    async def _detailed(self, number: int) -> dict[str, Any]:
        job = await self._jobs.job(number)
        failures = await self._jobs.failures(number, _MOST_FAILURES) if job.progress.get("failed") else []
        shown = [{"cuboid": one.cuboid, "reason": one.reason, "at": one.at} for one in failures]
        return as_json(job) | {"failures": shown}


def _number(text: str, what: str = "job") -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise NoSuchJob(f"expected the number of a {what}, not {text[:40]!r}")
    return int(text)


def as_json(job: Job) -> dict[str, Any]:
    """Return a job as JSON."""
    progress = JobProgress.of(job.progress).to_json()
    left, rate = progress["cuboids"] - progress["done"], progress["rate"]
    return {
        "id": job.id,
        "state": job.state.value,
        "reason": job.reason,
        "title": progress.pop("title", ""),
        "created": job.created,
        "changed": job.changed,
        "progress": progress,
        "eta_seconds": left / rate if rate and job.state.value == "running" else None,
    }


class AdminSite(Site):
    """The HTTP server of the endpoint."""

    def __init__(self, parts: AdminParts, token: str | None, reactor: Any) -> None:
        super().__init__(AdminResource(parts, token), requestFactory=AdminRequest, reactor=reactor, timeout=_IDLE)

    def log(self, request: Any) -> None:
        """Log nothing: what is done is logged by whoever does it."""
