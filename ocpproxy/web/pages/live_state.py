"""The state of the gateway, sent to every open page as it changes: server-sent events (the HTML standard, 9.2).

The figures are read once every `_EVERY` seconds, however many pages are open, and not at all while none is. What is
sent is made once too. The pages get it one after the other, a few in each turn of the event loop: two hundred at once
would delay every tile that somebody asks for in that moment.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater

from ocpproxy.log import Logger
from ocpproxy.web import answers
from ocpproxy.web.access import Access, Visitor, visitor_of
from ocpproxy.web.answers import Reply
from ocpproxy.web.front import network
from ocpproxy.web.pages.figures import MOST_ROWS, PLOTS, Reading, StateSources, figures
from ocpproxy.web.request import GatewayRequest

_EVERY = 2.0
_LONG_AGO = 3 * _EVERY
"""Seconds after which an earlier reading says nothing of what happens now."""
_HISTORY = 300
"""Readings whose figures are kept for the plots."""
_MOST_PAGES, _MOST_OF_ONE = 1000, 50
"""Pages that are open at a time: of all, and of one client."""
_LONGEST = 600.0
"""Seconds after which a stream ends, and the page opens another: its visitor may have other groups by now."""
_AT_ONCE = 8
"""Pages that get an event in one turn of the event loop."""
_PAUSE = 0.005
_BY_TOKEN = ("usage", "jobs", "breakers", "slowest")
"""Tables whose rows are about one dataset."""
HEADERS = {
    b"content-type": b"text/event-stream; charset=utf-8",
    b"cache-control": b"no-store",
    b"x-accel-buffering": b"no",  # nginx would keep events back
}


class _State(NamedTuple):
    """All that a page shows."""

    at: float
    figures: dict[str, float | None]
    tables: dict[str, list[dict[str, Any]]]

    def visible(self, may_see: Callable[[str], bool]) -> dict[str, Any]:
        """Return it as JSON, without the rows of datasets that somebody may not see."""
        tables = {
            name: [row for row in rows if name not in _BY_TOKEN or may_see(str(row["token"]))][:MOST_ROWS]
            for name, rows in self.tables.items()
        }
        return {"at": self.at, "figures": self.figures, "tables": tables}


class _OpenPage(NamedTuple):
    """A page that is open somewhere."""

    visitor: Visitor
    client: str
    """What stands for the client in bounds (`web.front.network`)."""
    until: float
    """When the stream ends, by the clock."""


class LiveState(Service):
    """The state, and the pages that show it."""

    _log = Logger()

    def __init__(self, sources: StateSources, access: Access, clock: IReactorTime) -> None:
        self._sources = sources
        self._access = access
        self._clock = clock
        self._before: Reading | None = None
        self._history: deque[tuple[float, dict[str, float | None]]] = deque(maxlen=_HISTORY)
        self._pages: dict[GatewayRequest, _OpenPage] = {}
        self._loop = LoopingCall(self._tick)
        self._loop.clock = clock

    def stopService(self) -> None:
        """End all streams: they would never end by themselves."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        while self._pages:
            self._end(next(iter(self._pages)))

    def _end(self, request: GatewayRequest) -> None:
        del self._pages[request]
        request.finish()

    async def read(self, request: GatewayRequest) -> dict[str, Any]:
        """Return the state as it is now, as JSON, for whoever asks."""
        self._access.mark(request)
        return (await self._read(await self._sources.read())).visible(self._sees(visitor_of(request)))

    def open(self, request: GatewayRequest) -> Reply | None:
        """Send events to a page from now on. Return an answer where there are too many pages already."""
        client = network(request.client_host)
        of_one = sum(page.client == client for page in self._pages.values())
        if not self.running or len(self._pages) >= _MOST_PAGES or of_one >= _MOST_OF_ONE:
            return answers.text(503, "too many pages are open, or the gateway is stopping; try again", retry_after="30")
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        self._pages[request] = _OpenPage(visitor_of(request), client, self._clock.seconds() + _LONGEST)
        request.notifyFinish().addBoth(lambda _: self._pages.pop(request, None))
        request.write(b"retry: 5000\n" + _event(self._past(), b"history"))
        if not self._loop.running:
            self._loop.start(_EVERY)
        return None

    def _sees(self, visitor: Visitor) -> Callable[[str], bool]:
        return lambda token: self._access.may_see(token, visitor)

    async def _read(self, reading: Reading) -> _State:
        before = self._before
        if before is not None and reading.at - before.at > _LONG_AGO:
            before = None
        return _State(reading.at, figures(reading, before), await self._sources.tables(reading))

    async def _tick(self) -> None:
        if not self._pages:
            self._loop.stop()
            return
        try:
            reading = await self._sources.read()
            state = await self._read(reading)
            self._before = reading
            self._history.append((state.at, {plot.key: state.figures[plot.key] for plot in PLOTS}))
            await self._send(state)
        except Exception:  # for once the pages show nothing new
            self._log.failure("while the pages were shown the state")

    async def _send(self, state: _State) -> None:
        made: dict[Visitor, bytes] = {}
        for n, (request, page) in enumerate(list(self._pages.items())):
            if n and n % _AT_ONCE == 0:
                await deferLater(self._clock, _PAUSE)
            if request not in self._pages:  # it was closed meanwhile
                continue
            if self._clock.seconds() > page.until:
                self._end(request)
                continue
            event = made.get(page.visitor)
            if event is None:
                event = made[page.visitor] = _event(state.visible(self._sees(page.visitor)))
            channel: Any = request.channel
            if not channel.behind:  # who does not read gets the next one
                request.write(event)

    def _past(self) -> dict[str, Any]:
        values = {plot.key: [kept[plot.key] for _, kept in self._history] for plot in PLOTS}
        return {"at": [at for at, _ in self._history], "figures": values}


def _event(value: Mapping[str, Any], name: bytes = b"message") -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, json.dumps(value, separators=(",", ":")).encode())
