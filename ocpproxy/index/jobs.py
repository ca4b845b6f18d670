"""Prefetch jobs in the index: what is to be fetched, how far that is, and what failed.

A job is *running* until it is *paused* or *cancelled* by somebody, *stopped* by one of its own limits, or has ended:
*done* when everything is in the cache, else *failed*. Whoever runs a job holds a lease for it. The state in the row
is what people want: the runner reads it each time that it saves its progress.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from twisted.internet.defer import TimeoutError as DeferredTimeout

from ocpproxy.index.database import Database
from ocpproxy.index.dialect import Row, Transaction

_KEPT = 1000
"""Ended jobs that are kept; older ones are deleted."""
_LONGEST_REASON = 250
_COLUMNS = "id, state, reason, progress, created, changed"


class JobState(Enum):
    """Where a job is."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    FAILED = "failed"
    DONE = "done"


ENDED = (JobState.CANCELLED, JobState.FAILED, JobState.DONE)
"""What a job does not resume from."""


@dataclass(frozen=True)
class Job:
    """One job."""

    id: int
    state: JobState
    reason: str
    """Why it is in this state, for people."""
    progress: Mapping[str, Any]
    created: float
    """Seconds since 1970."""
    changed: float
    text: str = field(default="", repr=False)
    """Its `JobSpec` as JSON; empty in lists."""


@dataclass(frozen=True)
class Failure:
    """A cuboid that could not be fetched."""

    cuboid: str
    reason: str
    at: float
    """Seconds since 1970."""


def _job(row: Row, text: str = "") -> Job:
    number, state, reason, progress, created, changed = row
    try:
        known = json.loads(str(progress))
        found, times = JobState(str(state)), (float(created), float(changed))
    except (TypeError, ValueError, RecursionError):  # somebody has written into the table
        known, found, times, reason = {}, JobState.FAILED, (0.0, 0.0), "its row in the index makes no sense"
    return Job(int(number), found, str(reason), known if isinstance(known, dict) else {}, *times, text)


def insert(tx: Transaction, text: str, progress: str, now: float) -> int:
    """Insert a running job, and return its id; forget the oldest of those that have ended."""
    tx.maybe("SELECT numtiles FROM metadata" + tx.dialect.for_update)  # one after another
    row = tx.one("SELECT COALESCE(MAX(id), 0) + 1 FROM jobs")
    number = int(row[0])
    tx.run(
        "INSERT INTO jobs (id, spec, state, reason, progress, created, changed) VALUES (?, ?, ?, '', ?, ?, ?)",
        number,
        text,
        JobState.RUNNING.value,
        progress,
        int(now),
        int(now),
    )
    marks = ", ".join("?" for _ in ENDED)
    ended = [state.value for state in ENDED]
    for (old,) in tx.many(f"SELECT id FROM jobs WHERE state IN ({marks}) ORDER BY id DESC", *ended)[_KEPT:]:
        tx.run("DELETE FROM job_failures WHERE job = ?", old)
        tx.run("DELETE FROM jobs WHERE id = ?", old)
    return number


def load(tx: Transaction, number: int) -> Job | None:
    """Return a job, or None."""
    row = tx.maybe(f"SELECT spec, {_COLUMNS} FROM jobs WHERE id = ?", number)
    return None if row is None else _job(row[1:], str(row[0]))


def load_all(tx: Transaction) -> list[Job]:
    """Return all jobs, the newest first, without what they fetch."""
    return [_job(row) for row in tx.many(f"SELECT {_COLUMNS} FROM jobs ORDER BY id DESC")]


def running(tx: Transaction) -> list[int]:
    """Return the ids of the jobs that somebody should be running."""
    return [int(row[0]) for row in tx.many("SELECT id FROM jobs WHERE state = ? ORDER BY id", JobState.RUNNING.value)]


def change(
    tx: Transaction,
    number: int,
    before: Iterable[JobState],
    after: JobState,
    reason: str,
    progress: Mapping[str, Any],
    now: float,
) -> bool:
    """Put a job into another state, if it is in one of those before; return whether it was.

    :param progress: what changes of its progress.
    """
    states = [state.value for state in before]
    marks = ", ".join("?" for _ in states)
    changed = tx.run(
        f"UPDATE jobs SET state = ?, reason = ?, changed = ? WHERE id = ? AND state IN ({marks})",
        after.value,
        reason[:_LONGEST_REASON],
        int(now),
        number,
        *states,
    )
    if changed and progress:
        row = tx.one(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", number)
        known = json.dumps({**_job(row).progress, **progress})
        tx.run("UPDATE jobs SET progress = ? WHERE id = ?", known, number)
    return changed > 0


def save(
    tx: Transaction, number: int, progress: str, failures: Iterable[Failure], mended: Iterable[str], now: float
) -> JobState | None:
    """Save how far a job is, and return its state; None when it is gone.

    :param mended: cuboids that had failed, and have not failed any more.
    """
    for name in mended:
        tx.run("DELETE FROM job_failures WHERE job = ? AND cuboid = ?", number, name)
    for failure in failures:
        tx.run("DELETE FROM job_failures WHERE job = ? AND cuboid = ?", number, failure.cuboid)
        tx.run(
            "INSERT INTO job_failures (job, cuboid, reason, failed) VALUES (?, ?, ?, ?)",
            number,
            failure.cuboid,
            failure.reason[:_LONGEST_REASON],
            int(failure.at),
        )
    tx.run("UPDATE jobs SET progress = ?, changed = ? WHERE id = ?", progress, int(now), number)
    job = load(tx, number)
    return None if job is None else job.state


def failures(tx: Transaction, number: int, at_most: int) -> list[Failure]:
    """Return what has failed of a job."""
    found = tx.many(
        "SELECT cuboid, reason, failed FROM job_failures WHERE job = ? ORDER BY cuboid LIMIT ?", number, at_most
    )
    return [Failure(str(cuboid), str(reason), float(at)) for cuboid, reason, at in found]


def forget_failures(tx: Transaction, number: int) -> None:
    """Forget what has failed of a job."""
    tx.run("DELETE FROM job_failures WHERE job = ?", number)


class JobRows:
    """The jobs in one index."""

    def __init__(self, database: Database, reactor: Any) -> None:
        self.database = database
        self._reactor = reactor

    async def wait(self, seconds: float) -> None:
        """Wait until the index is available, but no longer than that: at the start it is so in a moment."""
        if not self.database.available:
            with suppress(DeferredTimeout):
                await self.database.wait_available().addTimeout(seconds, self._reactor)

    async def insert(self, text: str, progress: Mapping[str, Any], now: float) -> int:
        """Insert a running job, and return its id.

        :raises DatabaseUnavailable: so do all others.
        """
        return await self.database.run(insert, text, json.dumps(progress), now)

    async def load(self, number: int) -> Job | None:
        """Return a job, or None."""
        return await self.database.read(load, number)

    async def load_all(self) -> list[Job]:
        """Return all jobs, the newest first, without what they fetch."""
        return await self.database.read(load_all)

    async def running(self) -> list[int]:
        """Return the ids of the jobs that somebody should be running."""
        return await self.database.read(running)

    async def change(
        self,
        number: int,
        before: Iterable[JobState],
        after: JobState,
        reason: str,
        now: float,
        progress: Mapping[str, Any] | None = None,
    ) -> bool:
        """Put a job into another state, if it is in one of those before; return whether it was.

        :param progress: what changes of its progress.
        """
        return await self.database.run(change, number, list(before), after, reason, progress or {}, now)

    async def save(
        self, number: int, progress: Mapping[str, Any], failed: list[Failure], mended: list[str], now: float
    ) -> JobState | None:
        """Save how far a job is, and return its state; None when it is gone."""
        return await self.database.run(save, number, json.dumps(progress), failed, mended, now)

    async def forget_failures(self, number: int) -> None:
        """Forget what has failed of a job."""
        await self.database.run(forget_failures, number)

    async def failures(self, number: int, at_most: int) -> list[Failure]:
        """Return what has failed of a job."""
        return await self.database.read(failures, number, at_most)
