"""All jobs of an index, and what people do with them: start, pause, resume, cancel, retry.

Jobs live in the index (`index.jobs`); `runner` runs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from twisted.internet.task import deferLater

from ocpproxy.concurrency.single_flight import REMEMBER_FAILURE
from ocpproxy.concurrency.work import Lane, working_for
from ocpproxy.index.jobs import ENDED, Failure, Job, JobState
from ocpproxy.jobs.plan import Estimate, Plan
from ocpproxy.jobs.progress import JobProgress
from ocpproxy.jobs.runner import JobParts, JobRunner, width
from ocpproxy.jobs.spec import JobSpec, read_text
from ocpproxy.log import Logger
from ocpproxy.model.dataset import Plane
from ocpproxy.model.region import Region

_INDEX_WITHIN = 5.0
"""Seconds that people wait for the index."""
_RESUMABLE = (JobState.PAUSED, JobState.STOPPED)

_WHOLE = 2**40
"""Voxels: a span of a box that is as long as that is the whole axis."""


class NoSuchJob(LookupError):
    """There is no job of this number."""


class NotPossible(Exception):
    """What was asked for is not possible in this state. The message is one sentence for people."""


class Jobs:
    """The jobs of one index, for people."""

    _log = Logger()

    def __init__(self, parts: JobParts, runner: JobRunner) -> None:
        self._rows = parts.rows
        self._catalogue = parts.catalogue
        self._estimator = parts.estimator
        self._fetches = parts.fetches
        self._now = parts.run.now
        self._clock = parts.run.clock
        self._runner = runner

    async def wait_for_index(self) -> None:
        """Wait a moment for an index that is not available, such as that of a daemon that has just started."""
        await self._rows.wait(_INDEX_WITHIN)

    async def estimate(self, spec: JobSpec) -> tuple[Plan, Estimate]:
        """Return what a job comes to.

        :raises BadJob: it comes to nothing.
        :raises Undescribed: its dataset is not described.
        """
        entry = await self._catalogue.entry(spec.token)
        with working_for("planning", Lane.PREFETCH):
            plan = await self._estimator.plan(spec, entry)
        each = self._fetches.expected_seconds(entry.dataset)
        return plan, await self._estimator.estimate(plan, each, width(entry))

    async def submit(self, spec: JobSpec, text: str) -> tuple[int, Estimate]:
        """Start a job; return its number.

        :raises NotPossible: it does not fit into the cache.
        :raises BadJob: it comes to nothing.
        :raises Undescribed: its dataset is not described.
        :raises DatabaseUnavailable: the index does not answer.
        """
        plan, estimate = await self.estimate(spec)
        if not estimate.fits:
            raise NotPossible(does_not_fit(estimate))
        now = self._now()
        progress = JobProgress(
            cuboids=plan.count.cuboids,
            tiles=plan.count.tiles,
            fingerprint=plan.fingerprint,
            began=now,
            deadline=deadline(spec, now),
            title=_title(spec),
        )
        number = await self._rows.insert(text, progress.to_json(), now)
        self._log.info("job {number}: {title}", number=number, title=progress.title)
        self._runner.look_soon()
        return number, estimate

    async def all(self) -> list[Job]:
        """Return all jobs, the newest first."""
        return await self._rows.load_all()

    async def job(self, number: int) -> Job:
        """Return a job.

        :raises NoSuchJob: there is none.
        """
        job = await self._rows.load(number)
        if job is None:
            raise NoSuchJob(f"there is no job {number}")
        return job

    async def failures(self, number: int, at_most: int) -> list[Failure]:
        """Return what has failed of a job."""
        return await self._rows.failures(number, at_most)

    async def pause(self, number: int) -> None:
        """Let a job rest until it is resumed.

        :raises NotPossible: it is not running.
        """
        await self._change(number, "paused", (JobState.RUNNING, JobState.STOPPED), JobState.PAUSED)

    async def cancel(self, number: int) -> None:
        """End a job that has not ended. What is in the cache stays there.

        :raises NotPossible: it has ended.
        """
        await self._change(number, "cancelled", (JobState.RUNNING, *_RESUMABLE), JobState.CANCELLED)

    async def resume(self, number: int) -> None:
        """Let a job go on that was paused, or has stopped at a limit; its limits count from now.

        :raises NotPossible: it was not.
        """
        await self._go_on(number, "resumed", _RESUMABLE, {})

    async def retry(self, number: int) -> None:
        """Let a job fetch again what has failed, or is not in the cache any more.

        :raises NotPossible: it is running.
        """
        job = await self.job(number)
        if job.state is not JobState.RUNNING and self._now() - job.changed <= REMEMBER_FAILURE + 1:  # whole seconds
            await deferLater(self._clock, REMEMBER_FAILURE)  # else what has failed just now fails without being asked
        again = {"position": 0, "done": 0}
        await self._go_on(number, "retried", (*ENDED, *_RESUMABLE), again)

    async def _go_on(self, number: int, what: str, before: tuple[JobState, ...], changed: Mapping[str, Any]) -> None:
        job = await self.job(number)
        progress, now = JobProgress.of(job.progress), self._now()
        changed = {
            **changed,
            "bytes_before": progress.bytes,
            "done_before": changed.get("done", progress.done),
            "failed_before": progress.failed,
            "deadline": deadline(read_text(job.text), now),
            "began": now,
        }
        await self._change(number, what, before, JobState.RUNNING, changed)
        self._runner.look_soon()

    async def _change(
        self,
        number: int,
        what: str,
        before: tuple[JobState, ...],
        after: JobState,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        job = await self.job(number)
        if job.state is after:
            return
        if not await self._rows.change(number, before, after, "", self._now(), progress):
            raise NotPossible(f"job {number} is {job.state.value}: it cannot be {what}")
        self._log.info("job {number} was {what}", number=number, what=what)


def does_not_fit(estimate: Estimate) -> str:
    """Return why a job cannot be started."""
    return (
        f"its {estimate.tiles:,} tiles take about {estimate.bytes / 2**20:,.0f} MiB, and "
        f"{estimate.available / 2**20:,.0f} MiB may be there before tiles are evicted: choose fewer levels or a "
        "smaller region, or raise [cache] size, or quota where the dataset has one"
    )


def deadline(spec: JobSpec, now: float) -> float:
    """Return when it is that time of day next, in local time; 0 without one."""
    if spec.until is None:
        return 0.0
    hour, minute = map(int, spec.until.split(":"))
    today = datetime.fromtimestamp(now).astimezone()
    at = today.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (at if at > today else at + timedelta(days=1)).timestamp()


def _title(spec: JobSpec) -> str:
    """Return what a job fetches, for people."""
    words = [spec.token + ("/" + ",".join(spec.channels) if spec.channels else "")]
    if spec.levels:
        first, last = spec.levels
        words.append(f"levels {first}-{'' if last is None else last}")
    if spec.planes != (Plane.XY,):
        words.append(",".join(plane.value for plane in spec.planes))
    region: Region = spec.region
    if region.box is not None:
        spans = zip("xyz", region.box[::2], region.box[1::2], strict=True)
        words.append(", ".join(f"{axis} {a} to {b}" for axis, a, b in spans if b - a < _WHOLE))
    if region.segments:
        words.append(f"{len(region.segments)} segments within {region.radius:g} nm")
    return " ".join(words)
