"""The gateway's own pages, and the tree of resources."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from ocpproxy import __version__
from ocpproxy.catalogue import Catalogue, Known
from ocpproxy.geometry import Dataset
from ocpproxy.web import OpenAnswers, answers
from ocpproxy.web.answers import Reply
from ocpproxy.web.tiles import Page, TokenResource, root_url, told

_EXPORT_PATIENCE = 0.8
"""Seconds; CATMAID's importer waits for one."""


@dataclass(frozen=True)
class State:
    """What the pages tell of the gateway, each looked up when it is asked for."""

    usage: Callable[[], tuple[int, int]]
    """(tiles, bytes) on disk."""
    size: int
    index_up: Callable[[], bool]
    writable: Callable[[], Awaitable[None]]
    """Proves that tiles can be stored; raises OSError."""


class Pages:
    """``/``, ``/healthz``, ``/readyz`` and ``/projects/export``."""

    def __init__(self, catalogue: Catalogue, state: State, open_answers: OpenAnswers, clock: IReactorTime) -> None:
        self._catalogue = catalogue
        self._state = state
        self._open = open_answers
        self._clock = clock

    async def index(self, request: Request) -> Reply:
        """The page for people: datasets and counters."""
        tiles, used = self._state.usage()
        rows = "".join(
            f'<tr><td><a href="/{escape(token)}/">{escape(token)}</a></td>'
            f"<td><code>{escape(root_url(request))}/ocpcatmaid/{escape(token)}/</code></td></tr>"
            for token in self._catalogue.tokens()
        )
        return answers.page(
            f"""<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>ocpproxy</title>
<style>body{{font:16px sans-serif;margin:2em auto;max-width:50em}}
td,th{{text-align:left;padding:.2em 1em .2em 0}}</style>
<h1>ocpproxy {escape(__version__)}</h1>
<p>{tiles:,} tiles on disk, {used / 2**20:,.0f} of {self._state.size / 2**20:,.0f} MiB; the index database is
{"up" if self._state.index_up() else "away"}. <a href="/metrics">Metrics</a>,
<a href="/projects/export">export for CATMAID</a>.</p>
<table><tr><th>Dataset</th><th>Image base for CATMAID (512 x 512, png, tile source type 1)</th></tr>{rows}</table>
"""
        )

    async def healthz(self, request: Request) -> Reply:
        """The process lives."""
        return answers.text(200, "alive")

    async def readyz(self, request: Request) -> Reply:
        """Whether tiles can be served; what is amiss beside that is told."""
        if self._open.draining:
            return answers.text(503, "not ready: stopping", retry_after="5")
        try:
            await self._state.writable()
        except OSError as error:
            return answers.text(503, f"not ready: the cache directory cannot be written: {error.strerror}")
        index = "" if self._state.index_up() else "; the index database is away: its account catches up later"
        return answers.text(200, "ready" + index)

    async def export(self, request: Request) -> Reply:
        """What CATMAID's importer reads: a list of projects, one a dataset that can be described in time."""
        asked = [Deferred.fromCoroutine(self._catalogue.known(token)) for token in self._catalogue.tokens()]
        for one in asked:
            one.addTimeout(_EXPORT_PATIENCE, self._clock)
        found = await DeferredList(asked, consumeErrors=True)
        known = [one for fine, one in found if fine]
        return answers.document(200, [_project(one, root_url(request)) for one in known if isinstance(one, Known)])


def _project(known: Known, root: str) -> dict[str, Any]:
    """One project, after catmaid-contract.md 2: strings where the importer wants strings."""
    dataset = known.dataset
    return {"project": {"title": f"{dataset.token} (ocpproxy)", "stacks": _stacks(dataset, root)}}


def _stacks(dataset: Dataset, root: str) -> list[dict[str, Any]]:
    finest = dataset.levels.get(0)
    if finest is None:
        return []
    x, y, z = finest.size
    first_z = finest.offset[2]
    factors = []
    for n in range(max(dataset.levels) + 1):
        level = dataset.levels.get(n, finest)
        factors.append((2**n, 2**n, 1 if level.size[2] == z else 2**n))
    return [
        {
            "title": f"{dataset.token} {base.split('/')[-3]} XY",
            "orientation": 0,
            # Slices are counted absolutely, as in the tiles' addresses: what is before the first one is blank.
            "dimension": str((x, y, first_z + z)),
            "resolution": "({:g}, {:g}, {:g})".format(*map(float, finest.voxel)),
            "translation": "(0, 0, 0)",
            "downsample_factors": [str(factor) for factor in factors],
            "canary_location": str((x // 2, y // 2, first_z + z // 2)),
            "placeholder_color": "(0, 0, 0, 1)",
            "broken_sections": [],
            "comment": "",
            "description": "",
            "attribution": "",
            "metadata": {},
            "mirrors": [
                {
                    "title": f"ocpproxy {root.partition('://')[2]}",
                    "position": 0,
                    "url": base,
                    "fileextension": "png",
                    "tile_width": 512,
                    "tile_height": 512,
                    "tile_source_type": 1,
                }
            ],
            "stackgroups": [],
        }
        for base in told(dataset, root)["image_bases"]
    ]


class Root(Resource):
    """The tree: a few names of its own, everything else is behind a token."""

    def __init__(self, pages: Pages, metrics: IResource, tokens: TokenResource) -> None:
        super().__init__()
        self._tokens = tokens
        self.putChild(b"", Page(pages.index))
        self.putChild(b"healthz", Page(pages.healthz))
        self.putChild(b"readyz", Page(pages.readyz))
        self.putChild(b"metrics", metrics)
        projects = _Projects(tokens)
        projects.putChild(b"export", Page(pages.export))
        self.putChild(b"projects", projects)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """All that is not the gateway's own."""
        return self._tokens


class _Projects(Resource):
    """``/projects/export``; any other path below is that of a token called "projects"."""

    def __init__(self, tokens: TokenResource) -> None:
        super().__init__()
        self._tokens = tokens

    def getChild(self, path: bytes, request: Request) -> Resource:
        """A token's."""
        return self._tokens

    def render(self, request: Request) -> Any:
        """``/projects``: a token's."""
        return self._tokens.render(request)
