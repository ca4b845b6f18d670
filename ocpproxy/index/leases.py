"""Leases: of all processes on one index, one at a time does the work that a lease names.

A lease is a row of ``fetching``: a name, its owner, and when it expires. Its owner renews it while it holds it, and
deletes it when the work is done. Should the owner die, anyone can take the lease over as soon as it has expired. So
nothing is locked for longer than the term, whatever crashes.

Time is the database's: every process sees the same. While the database is unavailable there are no leases:
`Leases.acquire` raises, and a process then works as if it were alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from ocpproxy.index.database import Database, DatabaseUnavailable, OutcomeUnknown
from ocpproxy.index.dialect import Transaction
from ocpproxy.log import Logger

PATIENCE = 0.5
"""Seconds that a miss waits for a database that answers nothing, before it goes on without a lease."""
_SLOW = 2.5
"""Seconds that it waits for a database that answers others: to fetch a cuboid twice costs more than that."""


class LeaseHolder(Protocol):
    """A holder of leases, as the code that needs one sees it."""

    async def acquire(self, name: str) -> bool:
        """Acquire the lease if it is free; return whether it is ours now. Then `release` must follow.

        :raises DatabaseUnavailable: the state of the lease is unknown.
        """

    async def release(self, name: str) -> None:
        """Release the lease. While the database is unavailable that is not possible: then the lease expires."""


class LeaseOutcome(Enum):
    """Who holds a lease after somebody tried to acquire it."""

    OURS = "ours"
    ANOTHERS = "another's"


# -- interactions


def acquire(tx: Transaction, name: str, owner: str, term: int) -> LeaseOutcome:
    """Insert the row of a lease, or take over one that has expired. `term` is in microseconds."""
    now = tx.dialect.now
    row = tx.maybe(f"SELECT owner, expires <= {now} FROM fetching WHERE url = ?" + tx.dialect.for_update, name)
    if row is None:
        insert = f"{tx.dialect.insert_new} fetching (url, owner, expires) VALUES (?, ?, {now} + ?)"
        inserted = tx.run(insert, name, owner, term)
        return LeaseOutcome.OURS if inserted else LeaseOutcome.ANOTHERS  # another process was faster by a moment
    if row[0] != owner and not row[1]:
        return LeaseOutcome.ANOTHERS
    tx.run(f"UPDATE fetching SET owner = ?, expires = {now} + ? WHERE url = ?", owner, term, name)
    return LeaseOutcome.OURS


def release(tx: Transaction, name: str, owner: str) -> None:
    """Delete the row of a lease, if it is still the owner's."""
    tx.run("DELETE FROM fetching WHERE url = ? AND owner = ?", name, owner)


def holder(tx: Transaction, name: str) -> tuple[str, float] | None:
    """Return the owner of a lease, and for how many seconds it holds; None for a lease that is free."""
    now = tx.dialect.now
    row = tx.maybe(f"SELECT owner, expires - {now} FROM fetching WHERE url = ? AND expires > {now}", name)
    return None if row is None else (str(row[0]), int(row[1]) / 1e6)


def renew(tx: Transaction, held: dict[str, str], term: int) -> None:
    """Put off the expiry of leases, given as owners by name. `term` is in microseconds."""
    for name, owner in held.items():
        tx.run(f"UPDATE fetching SET expires = {tx.dialect.now} + ? WHERE url = ? AND owner = ?", term, name, owner)


def release_all(tx: Transaction, process: str) -> int:
    """Delete the leases of a dead process, and return their number."""
    prefix = f"{process}#"
    return tx.run("DELETE FROM fetching WHERE SUBSTR(owner, 1, ?) = ?", len(prefix), prefix)


def delete_expired(tx: Transaction) -> list[str]:
    """Delete the leases that have expired and that nobody took over; return their names."""
    names = [str(row[0]) for row in tx.many(f"SELECT url FROM fetching WHERE expires <= {tx.dialect.now}")]
    for name in names:
        tx.run(f"DELETE FROM fetching WHERE url = ? AND expires <= {tx.dialect.now}", name)
    return names


@dataclass
class Leases(Service):
    """The leases of this process.

    The owner in a row is this process and a number that is new each time. So a lease that was acquired for somebody who
    has left, or that is released late, is never mistaken for the next one of the same name.

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
        """Start to renew what is held, three times a term."""
        super().startService()
        self._renewing.start(self.term / 3, now=False)

    def stopService(self) -> Deferred[None]:
        """Release everything that is held."""
        super().stopService()
        self._renewing.stop()
        return Deferred.fromCoroutine(self._release_held())

    async def _release_held(self) -> None:
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

    async def acquire(self, name: str) -> bool:
        """Acquire the lease if it is free; return whether it is ours now. Then `release` must follow.

        :raises DatabaseUnavailable: when the database answers nothing within `PATIENCE`.
        """
        owner = f"{self.owner}#{next(self._numbers)}"

        def too_late(outcome: LeaseOutcome | None) -> None:
            if outcome is LeaseOutcome.OURS:
                Deferred.fromCoroutine(self._release(name, owner)).addErrback(
                    lambda failure: self._log.failure("releasing {name}", failure, name=name)
                )

        asking = Deferred.fromCoroutine(
            self.database.run_within(_SLOW, too_late, acquire, name, owner, self._microseconds)
        )
        outcome = await _unless_silent(asking, self.database, self.reactor)
        if outcome is LeaseOutcome.OURS:
            self._held[name] = owner
        return outcome is LeaseOutcome.OURS

    async def holder(self, name: str) -> str:
        """Return who holds a lease, for people.

        :raises DatabaseUnavailable: nobody can tell.
        """
        found = await self.database.read(holder, name)
        if found is None:
            return "is free"
        owner, seconds = found
        process = "this process" if self._held.get(name) == owner else f"another process, {owner.partition('#')[0]}"
        return f"is held by {process}, for {seconds:.1f} s unless it is renewed"

    async def release(self, name: str) -> None:
        """Release the lease. While the database is unavailable that is not possible: then the lease expires."""
        owner = self._held.pop(name, None)
        if owner is not None:
            await self._release(name, owner)

    async def _release(self, name: str, owner: str) -> None:
        try:
            await self.database.run(release, name, owner)
        except DatabaseUnavailable:
            self._log.debug("{name} could not be released; it expires", name=name)


async def _unless_silent(asking: Deferred[LeaseOutcome], database: Database, clock: IReactorTime) -> LeaseOutcome:
    """Return the answer to a question, unless the database answers no other question either.

    :raises OutcomeUnknown: when it has been silent for `PATIENCE`.
    """
    silent = False

    def listen() -> Deferred[None]:
        return Deferred.fromCoroutine(database.answers(PATIENCE / 2)).addCallback(end)

    def end(answers: bool) -> None:
        nonlocal silent
        if not answers and not asking.called:
            silent = True
            asking.cancel()

    check = clock.callLater(PATIENCE / 2, listen)
    try:
        return await asking
    except CancelledError:
        if silent:
            raise OutcomeUnknown(f"no answer within {PATIENCE:g} s") from None
        raise
    finally:
        if check.active():
            check.cancel()
