"""The resource tree."""

from __future__ import annotations

import re
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import Request

from ocpproxy.web.pages import Pages
from ocpproxy.web.resources import FunctionResource
from ocpproxy.web.tiles import TokenResource
from ocpproxy.web.voxels.neuroglancer import NeuroglancerResource
from ocpproxy.web.voxels.resource import FORMATS, VoxelResource, VoxelSources

_PROJECT = re.compile(rb"\d{1,10}/(stacks|stack/\d{1,10}/info)")


class Root(Resource):
    """The tree: a few names of its own; everything else is behind a token."""

    def __init__(self, pages: Pages, tokens: TokenResource, voxels: VoxelSources) -> None:
        super().__init__()
        self._tokens = tokens
        self.putChild(b"", FunctionResource(pages.index))
        self.putChild(b"healthz", FunctionResource(pages.healthz))
        self.putChild(b"readyz", FunctionResource(pages.readyz))
        self.putChild(b"metrics", FunctionResource(pages.metrics))
        for voxel_format in FORMATS:
            self.putChild(voxel_format.name.encode(), VoxelResource(voxel_format, voxels))
        self.putChild(b"neuroglancer", NeuroglancerResource(voxels))
        listing = FunctionResource(pages.projects)
        projects = _Projects(tokens, listing)
        projects.putChild(b"", listing)
        projects.putChild(b"export", FunctionResource(pages.export))
        self.putChild(b"projects", projects)
        self._project = FunctionResource(pages.project)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return CATMAID's projects, which have numbers, or the resource of tokens."""
        asked = b"/".join([path, *(request.postpath or [])])
        return self._project if _PROJECT.fullmatch(asked) else self._tokens


class _Projects(Resource):
    """``/projects``, ``/projects/`` and ``/projects/export``; other paths below are those of a token "projects"."""

    def __init__(self, tokens: TokenResource, listing: FunctionResource) -> None:
        super().__init__()
        self._tokens = tokens
        self._listing = listing

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return the resource of tokens."""
        return self._tokens

    def render(self, request: Any) -> Any:
        """Answer ``/projects`` like ``/projects/``."""
        return self._listing.render(request)
