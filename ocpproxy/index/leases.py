"""Leases: who may do what, among all processes on one index.

A lease is a row of ``fetching``: a name, its owner, and when it expires. It is renewed while it is held and given back
when it is done; should its owner die, it can be taken by anyone as soon as it has expired. So nothing is ever locked
for longer than the term, whatever crashes.

Time is the database's, because every process sees the same one. While the database is away there are no leases:
`Leases.take` raises, and a process then works as if it were alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from ocpproxy.index.database import Database, DatabaseUnavailable
from ocpproxy.index.dialect import Transaction

PATIENCE = 0.5
"""Seconds that a miss waits for the database before it goes on without a lease."""


class Lease(Protocol):
    """A way to have something done by one process at a time."""

    async def take(self, name: str) -> bool:
        """Return whether the lease is ours now; then `release` must follow.

        :raises DatabaseUnavailable: nobody can tell.
        """

    async def release(self, name: str) -> None:
        """Let go."""


class LeaseOutcome(Enum):
    """What a look at a lease tells."""

    OURS = "ours"
    ANOTHERS = "another's"


def take(tx: Transaction, name: str, owner: str, term: int) -> LeaseOutcome:
    """Insert the row, or take it over when it has expired. `term` is in microseconds."""
    now = tx.dialect.now
    row = tx.maybe(f"SELECT owner, expires <= {now} FROM fetching WHERE url = ?" + tx.dialect.for_update, name)
    if row is None:
        if tx.run(
            f"{tx.dialect.insert_new} fetching (url, owner, expires) VALUES (?, ?, {now} + ?)", name, owner, term
        ):
            return LeaseOutcome.OURS
        return LeaseOutcome.ANOTHERS  # somebody was faster by a moment
    if row[0] != owner and not row[1]:
        return LeaseOutcome.ANOTHERS
    tx.run(f"UPDATE fetching SET owner = ?, expires = {now} + ? WHERE url = ?", owner, term, name)
    return LeaseOutcome.OURS


def release(tx: Transaction, name: str, owner: str) -> None:
    """Delete the row, if it is still the owner's."""
    tx.run("DELETE FROM fetching WHERE url = ? AND owner = ?", name, owner)


def renew(tx: Transaction, held: dict[str, str], term: int) -> None:
    """Put off the expiry of these leases: owners by name."""
    for name, owner in held.items():
        tx.run(f"UPDATE fetching SET expires = {tx.dialect.now} + ? WHERE url = ? AND owner = ?", term, name, owner)


def forget(tx: Transaction, process: str) -> int:
    """Delete all rows of a process that is dead."""
    prefix = f"{process}#"
    return tx.run("DELETE FROM fetching WHERE SUBSTR(owner, 1, ?) = ?", len(prefix), prefix)


def expired(tx: Transaction) -> list[str]:
    """Delete the rows that expired and that nobody took; their names."""
    names = [str(row[0]) for row in tx.many(f"SELECT url FROM fetching WHERE expires <= {tx.dialect.now}")]
    for name in names:
        tx.run(f"DELETE FROM fetching WHERE url = ? AND expires <= {tx.dialect.now}", name)
    return names


@dataclass
class Leases(Service):
    """The leases of this process.

    The owner of a row is this process and a number that is new each time: so a lease that is taken for somebody who has
    left, or given back late, is never mistaken for the next one of the same name.

    :param term: seconds that a lease holds without being renewed.
    """

    database: Database
    owner: str
    term: float
    reactor: Any
    _held: dict[str, str] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    _log = Logger()

    def __post_init__(self) -> None:
        self._renewing = LoopingCall(self._renew)
        self._renewing.clock = self.reactor
        self._microseconds = int(self.term * 1_000_000)

    def startService(self) -> None:
        """Begin to renew what is held."""
        super().startService()
        self._renewing.start(self.term / 3, now=False)

    def stopService(self) -> Deferred[None]:
        """Give everything back."""
        super().stopService()
        self._renewing.stop()
        return Deferred.fromCoroutine(self._give_back_all())

    async def _give_back_all(self) -> None:
        for name in list(self._held):
            await self.release(name)

    async def _renew(self) -> None:
        try:
            if self._held:
                await self.database.run(renew, dict(self._held), self._microseconds)
        except DatabaseUnavailable:
            pass
        except CancelledError:
            raise
        except Exception:
            self._log.failure("leases could not be renewed")

    async def take(self, name: str) -> bool:
        """Whether the lease is ours now; if it is, `release` must follow.

        :raises DatabaseUnavailable: when the database does not answer at once.
        """
        owner = f"{self.owner}#{next(self._numbers)}"

        def too_late(held: LeaseOutcome | None) -> None:
            """The database answered when nobody waited any more."""
            if held is LeaseOutcome.OURS:
                Deferred.fromCoroutine(self._give_back(name, owner)).addErrback(
                    lambda failure: self._log.failure("giving back {name}", failure, name=name)
                )

        held = await self.database.run_within(PATIENCE, too_late, take, name, owner, self._microseconds)
        if held is LeaseOutcome.OURS:
            self._held[name] = owner
        return held is LeaseOutcome.OURS

    async def release(self, name: str) -> None:
        """Let go of what is held. When the database is away the lease expires by itself."""
        owner = self._held.pop(name, None)
        if owner is not None:
            await self._give_back(name, owner)

    async def _give_back(self, name: str, owner: str) -> None:
        try:
            await self.database.run(release, name, owner)
        except DatabaseUnavailable:
            self._log.debug("{name} could not be given back; it expires", name=name)
