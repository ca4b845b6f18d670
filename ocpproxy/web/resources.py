"""Resources that are answered by coroutines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from ocpproxy.concurrency.work import working_for
from ocpproxy.log import Logger
from ocpproxy.web import answers
from ocpproxy.web.answers import Reply
from ocpproxy.web.front import network
from ocpproxy.web.request import GatewayRequest

_FAULT = "something is wrong with this gateway; its log has the details"


class AsyncResource(Resource):
    """A resource that answers GET and HEAD by a coroutine. It answers OPTIONS itself, and refuses other methods."""

    isLeaf = True
    _log = Logger()

    async def answer(self, request: GatewayRequest) -> Reply:
        """Return the answer to a GET; to a HEAD only its headers are sent."""
        raise NotImplementedError

    def failure(self, request: GatewayRequest, error: Exception) -> Reply | None:
        """Return the answer when `answer` raises, or None when the error is a fault of the gateway."""
        return None

    def fault(self, request: GatewayRequest) -> Reply:
        """Return the answer to a fault of the gateway."""
        return answers.text(500, _FAULT)

    def render(self, request: GatewayRequest) -> Any:
        """Start to answer. When the client leaves, the coroutine is cancelled."""
        if request.method == b"OPTIONS":
            answers.preflight().send(request)
        elif request.method not in (b"GET", b"HEAD"):
            answers.text(405, "expected GET, HEAD or OPTIONS", allow=answers.ALLOWED.decode()).send(request)
        else:
            left = request.notifyFinish()
            with working_for(network(request.client_host)):
                work = Deferred.fromCoroutine(self._answer(request))
            left.addErrback(lambda _: work.cancel())
            work.addErrback(lambda failure: failure.trap(CancelledError) and None)
            work.addErrback(lambda failure: self._log.failure("an answer could not be sent", failure))
        return NOT_DONE_YET

    async def _answer(self, request: GatewayRequest) -> None:
        try:
            reply = await self.answer(request)
        except CancelledError:
            if request.channel is None:
                raise  # the client has left
            reply = answers.text(503, "the gateway is stopping", retry_after="5")
        except Exception as error:
            found = self.failure(request, error)
            if found is None:
                self._log.failure("while answering {uri}", uri=request.uri.decode("latin-1"))
                found = self.fault(request)
            reply = found
        (reply.as_private() if request.is_private else reply).send(request)


class FunctionResource(AsyncResource):
    """A resource whose answer is made by one coroutine function."""

    def __init__(self, make: Callable[[GatewayRequest], Awaitable[Reply]]) -> None:
        super().__init__()
        self._make = make

    async def answer(self, request: GatewayRequest) -> Reply:
        """Return what the function makes."""
        return await self._make(request)


class PageOverToken(Resource):
    """A page whose name a token may have too: what is below it, and is no child of its own, belongs to the token."""

    def __init__(self, page: FunctionResource, tokens: Resource) -> None:
        super().__init__()
        self._page = page
        self._tokens = tokens

    def getChild(self, path: bytes, request: Any) -> Resource:
        """Return the resource of tokens."""
        return self._tokens

    def render(self, request: Any) -> Any:
        """Answer with the page."""
        return self._page.render(request)
