"""The resource tree."""

from __future__ import annotations

import re
from dataclasses import dataclass

from twisted.web.resource import Resource
from twisted.web.server import Request

from ocpproxy.web.catmaid.projects import CatmaidProjects
from ocpproxy.web.health import Health
from ocpproxy.web.pages.site_pages import SitePages
from ocpproxy.web.resources import FunctionResource, PageOverToken
from ocpproxy.web.tiles import TokenResource
from ocpproxy.web.voxels.neuroglancer import ClientFiles, NeuroglancerResource
from ocpproxy.web.voxels.resource import FORMATS, VoxelResource, VoxelSources

_PROJECT = re.compile(rb"\d{1,10}/(stacks|stack/\d{1,10}/info)")


@dataclass(frozen=True)
class RootParts:
    """What the tree consists of."""

    pages: SitePages
    health: Health
    catmaid: CatmaidProjects
    tokens: TokenResource
    voxels: VoxelSources
    neuroglancer: ClientFiles


class Root(Resource):
    """The tree: a few names of its own; everything else is behind a token."""

    def __init__(self, parts: RootParts) -> None:
        super().__init__()
        tokens = self._tokens = parts.tokens
        health, catmaid, voxels = parts.health, parts.catmaid, parts.voxels
        self.putChild(b"healthz", FunctionResource(health.healthz))
        self.putChild(b"readyz", FunctionResource(health.readyz))
        self.putChild(b"metrics", FunctionResource(health.metrics))
        parts.pages.put_into(self, tokens)
        for voxel_format in FORMATS:
            self.putChild(voxel_format.name.encode(), VoxelResource(voxel_format, voxels))
        self.putChild(b"neuroglancer", NeuroglancerResource(voxels, parts.neuroglancer))
        listing = FunctionResource(catmaid.projects)
        projects = PageOverToken(listing, tokens)  # with and without a slash
        projects.putChild(b"", listing)
        projects.putChild(b"export", FunctionResource(catmaid.export))
        self.putChild(b"projects", projects)
        self._project = FunctionResource(catmaid.project)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return CATMAID's projects, which have numbers, or the resource of tokens."""
        asked = b"/".join([path, *(request.postpath or [])])
        return self._project if _PROJECT.fullmatch(asked) else self._tokens
