"""Descriptions of datasets, kept in the index (``datasets``) from one start to the next.

A gateway that is restarted while an upstream is down still knows where each volume begins and ends, and serves what it
has. A row is used only for the upstream that it came from.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from ocpproxy.index.database import Database, DatabaseUnavailable
from ocpproxy.index.dialect import Transaction
from ocpproxy.model.dataset import Dataset, Plane

PATIENCE = 1.0
"""Seconds that the first request for a token waits for the database before the upstream is asked."""


@dataclass(frozen=True, slots=True)
class Description:
    """What an upstream reported of a token, as text, and when (seconds since 1970)."""

    text: str
    read_at: float


def load(tx: Transaction, token: str, origin: str) -> Description | None:
    """Return the description of a token by the upstream `origin`, or None."""
    row = tx.maybe(
        "SELECT info, read_at FROM datasets WHERE dataset = ? AND origin = ? AND info IS NOT NULL", token, origin
    )
    try:
        return None if row is None else Description(str(row[0]), float(row[1]))
    except (TypeError, ValueError):  # it makes no sense: the upstream is asked again
        return None


def save(tx: Transaction, token: str, origin: str, description: Description, historical: tuple[object, ...]) -> None:
    """Keep a description. `historical` are the values of the columns that the old tile cache had."""
    tx.run(
        f"{tx.dialect.insert_new} datasets (dataset, ximagesz, yimagesz, zoffset, zmaxslice, zscale) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        token,
        *historical,
    )
    tx.run(
        "UPDATE datasets SET info = ?, origin = ?, read_at = ?, "
        "ximagesz = ?, yimagesz = ?, zoffset = ?, zmaxslice = ?, zscale = ? WHERE dataset = ?",
        description.text,
        origin,
        int(description.read_at),
        *historical,
        token,
    )


class Descriptions:
    """The descriptions in one index."""

    def __init__(self, database: Database, clock: IReactorTime) -> None:
        self._database = database
        self._clock = clock
        self._unsaved: dict[str, tuple[str, Description, tuple[object, ...]]] = {}
        """The newest description of each token that the index does not have yet, as `save` stores it."""

    async def load(self, token: str, origin: str) -> Description | None:
        """Return the description of a token by the upstream `origin`; None if there is none or the index is down."""
        try:
            if not self._database.available:  # at the start the database becomes available in a moment
                await self._database.wait_available().addTimeout(PATIENCE, self._clock)
            return await self._database.run_within(PATIENCE, None, load, token, origin)
        except (DatabaseUnavailable, DeferredTimeout):
            return None

    async def save(self, dataset: Dataset, origin: str, description: Description) -> None:
        """Keep a description, as soon as the index is available; of one token the newest."""
        finest = dataset.finest
        historical = (
            finest.size[0],
            finest.size[1],
            finest.offset[2],
            finest.end[2] - 1,
            float(finest.z_scale(Plane.XZ)),
        )
        token, is_saving = dataset.token, dataset.token in self._unsaved
        self._unsaved[token] = (origin, description, historical)
        if is_saving:
            return  # that call goes on until the newest is saved
        try:
            while True:
                await self._database.wait_available()
                newest = self._unsaved[token]
                try:
                    await self._database.run(save, token, *newest)
                except DatabaseUnavailable:
                    continue
                if newest is self._unsaved[token]:
                    return
        finally:
            del self._unsaved[token]
