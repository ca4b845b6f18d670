"""Which tile a request's target means.

The grammar of addresses has many spellings of each tile, and parsing one takes longer than everything else that a hit
needs. So the first request for a target goes through the resource tree, which remembers here which tile it means. The
next requests are answered by the hot path.

What a target means changes only with its token's entry in the catalogue. When that is replaced, or is due to be
refreshed, its routes are dropped, and requests go through the tree again. Anyone can make up targets, so their number
is bounded; the oldest go first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.cache.tiles import LocatedChunk, LocatedTile
from ocpproxy.model.chunks import AnyCuboid, View
from ocpproxy.model.stack import Tile
from ocpproxy.web.access_log import quote

_ROUTES = 50_000
_LONGEST_TARGET = 512
"""Bytes; a longer target is parsed each time."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a target means."""

    stack: View
    tile: Tile
    cuboid: AnyCuboid | None
    """What the tile is cut from, where that is known."""
    entry: CatalogueEntry
    expires: float | None
    """When the tile is fetched again, None for never; seconds since 1970."""
    is_private: bool
    """Whether only some may see the dataset."""
    logged: bytes
    """The request line as the access log has it."""


class RouteCache:
    """Tiles by the targets of requests."""

    def __init__(self) -> None:
        self._routes: OrderedDict[bytes, Route] = OrderedDict()

    def remember(self, target: bytes, located: LocatedTile | LocatedChunk) -> None:
        """Remember what the target means."""
        if located.tile is not None and len(target) <= _LONGEST_TARGET:
            logged = quote(b"GET %b HTTP/1.1" % target)
            is_private = bool(located.entry.source.allowed)
            self._routes[target] = Route(
                located.stack, located.tile, located.cuboid, located.entry, located.expires, is_private, logged
            )
            if len(self._routes) > _ROUTES:
                self._routes.popitem(last=False)

    def find(self, target: bytes, now: float) -> Route | None:
        """Return what the target means at the time `now`, or None when it has to be parsed."""
        route = self._routes.get(target)
        if route is None:
            return None
        if now > route.entry.refresh_at or (route.expires is not None and now > route.expires):
            del self._routes[target]
            return None
        return route
