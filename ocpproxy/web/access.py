"""Who may see a dataset: the groups of ``[dataset] allow``, in a header that a trusted front sets.

A front that has logged somebody in names their groups in the header ``[server] auth_header``, with commas between them.
Anybody can send such a header, so it counts only from a front that is trusted (`front`). An answer about a dataset with
``allow`` is for one visitor: no shared cache may keep it. A signed link (`signed_links`) lets whoever has it see one
dataset.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.cache.entries import DatasetSource
from ocpproxy.upstream.base import UnknownToken
from ocpproxy.web.answers import NotAllowed
from ocpproxy.web.request import GatewayRequest


class Visitor(NamedTuple):
    """What decides which datasets somebody may see."""

    groups: frozenset[str]
    granted: str | None
    """The dataset of their signed link."""


def visitor_of(request: GatewayRequest) -> Visitor:
    """Return whoever sends a request."""
    return Visitor(request.groups, request.granted)


class Access:
    """The rules of all datasets."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def may_see(self, token: str, visitor: Visitor) -> bool:
        """Return whether somebody may see a dataset; nobody sees what is not served any more."""
        source = self._source(token)
        return source is not None and (token == visitor.granted or allows(source, visitor.groups))

    def mark(self, request: GatewayRequest) -> None:
        """Mark the answer to a request as private if some dataset is not for everybody."""
        self.visible(self._catalogue.tokens(), request)

    def check(self, token: str, request: GatewayRequest) -> None:
        """Mark the answer to a request for a dataset as private where it is.

        :raises NotAllowed: whoever asks may not see it.
        """
        source = self._source(token)
        if source is None or not source.allowed:
            return
        request.is_private = True
        if not self.may_see(token, visitor_of(request)):
            raise NotAllowed(token)

    def visible(self, tokens: Iterable[str], request: GatewayRequest) -> list[str]:
        """Return those datasets that whoever asks may see. The answer is private where some dataset is."""
        tokens, visitor = list(tokens), visitor_of(request)
        sources = map(self._source, tokens)
        request.is_private = request.is_private or any(one is not None and one.allowed for one in sources)
        return [token for token in tokens if self.may_see(token, visitor)]

    def _source(self, token: str) -> DatasetSource | None:
        try:
            return self._catalogue.source(token)
        except UnknownToken:
            return None


def allows(source: DatasetSource, groups: frozenset[str]) -> bool:
    """Return whether somebody of these groups may see what comes from a source."""
    return not source.allowed or not source.allowed.isdisjoint(groups)
