"""What the gateway makes of a dataset, document by document: ``ocpproxy describe``, ``check-config --connect``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.cache.entries import CatalogueEntry, make_entry
from ocpproxy.config import Settings
from ocpproxy.daemon.services import OrderedServices
from ocpproxy.daemon.upstreams import make_catalogue, make_sources, open_upstreams
from ocpproxy.index.descriptions import Description
from ocpproxy.metrics import Metrics
from ocpproxy.model.dataset import Dataset
from ocpproxy.upstream import trail
from ocpproxy.upstream.base import UpstreamFailure
from ocpproxy.upstream.trail import DocumentRead


@dataclass(frozen=True)
class DatasetReport:
    """What came of asking for a dataset."""

    token: str
    origin: str
    """The kind of upstream, and its addresses; empty for a token that nothing is configured for."""
    documents: Sequence[DocumentRead]
    """All that was asked for, in the order of the answers."""
    entry: CatalogueEntry | None
    failure: UpstreamFailure | None
    """Why there is no entry."""


async def describe(reactor: Any, settings: Settings, tokens: Sequence[str]) -> list[DatasetReport]:
    """Ask the upstreams of these tokens now, one after another; neither cache nor index is used."""
    upstreams = open_upstreams(settings, reactor)
    sources = make_sources(settings, upstreams.context, Metrics())
    catalogue = make_catalogue(sources, _NoDescriptions(), reactor)
    services = OrderedServices()
    for service in (upstreams.threads, *upstreams.services()):
        service.setServiceParent(services)
    services.startService()
    try:
        return [await _describe(catalogue, token, time.time()) for token in tokens]
    finally:
        await services.stopService()


async def _describe(catalogue: Catalogue, token: str, now: float) -> DatasetReport:
    origin, entry, failed = "", None, None
    with trail.recorded() as asked:
        try:
            source = catalogue.source(token)
            origin = source.origin()
            text = await source.upstream.describe(source.alias_of or token)
            entry = make_entry(source, source.dataset(token, text), now)
        except UpstreamFailure as failure:
            failed = failure
    return DatasetReport(token, origin, asked.documents, entry, failed)


class _NoDescriptions:
    """Nothing is kept."""

    async def load(self, token: str, origin: str) -> Description | None:
        """Return None."""
        return None

    async def save(self, dataset: Dataset, origin: str, description: Description) -> None:
        """Keep nothing."""
