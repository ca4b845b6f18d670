"""What upstreams said of their tokens, kept in the index (``datasets``) from one start to the next.

So a gateway that is restarted while an upstream is down still knows where each volume begins and ends, and serves what
it has. A row is used only by the upstream it came from.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from ocpproxy.index.database import Database, DatabaseUnavailable
from ocpproxy.index.dialect import Transaction
from ocpproxy.model.dataset import Dataset, Plane

PATIENCE = 1.0
"""Seconds that a first request for a token waits for the database before the upstream is asked."""


@dataclass(frozen=True, slots=True)
class Description:
    """What an upstream said, and when (seconds since 1970)."""

    text: str
    read_at: float


def load(tx: Transaction, token: str, origin: str) -> Description | None:
    """The description of the token by this upstream."""
    row = tx.maybe(
        "SELECT info, read_at FROM datasets WHERE dataset = ? AND origin = ? AND info IS NOT NULL", token, origin
    )
    return None if row is None or row[1] is None else Description(str(row[0]), float(row[1]))


def save(tx: Transaction, token: str, origin: str, description: Description, historical: tuple[object, ...]) -> None:
    """Keep it. `historical` are the values of the columns that the old cache had."""
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

    async def load(self, token: str, origin: str) -> Description | None:
        """The description of the token by this upstream, if it is there and the index answers."""
        try:
            if not self._database.up:  # it is looked for just now: at the start that takes a moment
                await self._database.wait_up().addTimeout(PATIENCE, self._clock)
            return await self._database.run_within(PATIENCE, None, load, token, origin)
        except (DatabaseUnavailable, DeferredTimeout):
            return None

    async def save(self, dataset: Dataset, origin: str, description: Description) -> None:
        """Keep it, if the index answers; if not, nothing is lost but a question at the next start."""
        finest = dataset.finest
        historical = (
            finest.size[0],
            finest.size[1],
            finest.offset[2],
            finest.end[2] - 1,
            float(finest.z_scale(Plane.XZ)),
        )
        with contextlib.suppress(DatabaseUnavailable):
            await self._database.run(save, dataset.token, origin, description, historical)
