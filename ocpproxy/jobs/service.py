"""All jobs of an index: the service that runs them, and what people do with them.

Jobs live in the index (`index.jobs`). A daemon runs those that are *running* and that no other process holds a lease
for, a few at a time. So a job goes on by itself when a daemon is started again, whatever ended it, and every second its
progress is saved. What it finds done when it goes on is not fetched again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater

from ocpproxy.cache.catalogue import Catalogue, CatalogueEntry, Undescribed
from ocpproxy.cache.fetches import CuboidFetches
from ocpproxy.concurrency.shield import shield
from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.index.jobs import ENDED, Failure, Job, JobRows, JobState
from ocpproxy.index.leases import LeaseHolder
from ocpproxy.jobs.plan import Estimate, Estimator, Plan
from ocpproxy.jobs.run import JobProgress, Run, RunContext, Stopped
from ocpproxy.jobs.spec import BadJob, JobSpec, read_text
from ocpproxy.log import Logger
from ocpproxy.metrics import Metrics
from ocpproxy.model.dataset import Plane
from ocpproxy.model.region import Region

_LOOK_EVERY = 5.0
"""Seconds between two looks for jobs that nobody runs."""
_SAVE_EVERY = 1.0
_AT_A_TIME = 4
"""Jobs that one process runs."""
_MOST_FAILURES = 100_000
"""Failures of a job that are looked at when it goes on."""
_INDEX_WITHIN = 5.0
"""Seconds that people wait for the index."""
_ASK_AGAIN = 10.0
"""Seconds between questions about a dataset whose upstream does not describe it now."""
_WAITS = (JobState.RUNNING,)
_RESUMABLE = (JobState.PAUSED, JobState.STOPPED)


class NoSuchJob(LookupError):
    """There is no job of this number."""


class NotPossible(Exception):
    """What was asked for is not possible in this state. The message is one sentence for people."""


@dataclass(frozen=True)
class JobParts:
    """What jobs use."""

    rows: JobRows
    leases: LeaseHolder
    catalogue: Catalogue
    estimator: Estimator
    fetches: CuboidFetches
    run: RunContext
    metrics: Metrics


class Jobs(Service):
    """The jobs of one index, as one process runs them."""

    _log = Logger()

    def __init__(self, parts: JobParts, reactor: Any) -> None:
        self._rows = parts.rows
        self._leases = parts.leases
        self._catalogue = parts.catalogue
        self._estimator = parts.estimator
        self._fetches = parts.fetches
        self._context = parts.run
        self._counted = parts.metrics.job_cuboids
        self._reactor = reactor
        self._running: dict[int, Deferred[None]] = {}
        parts.metrics.jobs_running.set_function(lambda: len(self._running))
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor

    # -- life

    def startService(self) -> None:
        """Look for jobs that go on, as soon as the index is there."""
        super().startService()
        self._loop.start(_LOOK_EVERY, now=False)
        self._rows.database.when_available(self._look_soon)

    def stopService(self) -> Deferred[Any]:
        """Stop running jobs. They stay as they are in the index, and go on at the next start."""
        super().stopService()
        self._loop.stop()
        running = list(self._running.values())
        for one in running:
            one.cancel()
        return gatherResults(running)

    def _look_soon(self) -> None:
        Deferred.fromCoroutine(self._look())

    async def _look(self) -> None:
        """Begin to run what nobody runs."""
        try:
            for number in await self._rows.running():
                if self.running and number not in self._running and len(self._running) < _AT_A_TIME:
                    run = Deferred.fromCoroutine(self._run(number))
                    self._running[number] = run
                    run.addErrback(lambda failure: failure.trap(CancelledError, DatabaseUnavailable) and None)
                    run.addErrback(partial(self._log.failure, "running a job"))
                    run.addBoth(partial(self._ended, number))
        except DatabaseUnavailable:
            pass
        except CancelledError:
            raise
        except Exception:
            self._log.failure("looking for jobs")

    def _ended(self, number: int, _: object) -> None:
        self._running.pop(number, None)

    # -- what people ask for

    async def wait_for_index(self) -> None:
        """Wait a moment for an index that is not available, such as that of a daemon that has just started."""
        await self._rows.wait(_INDEX_WITHIN)

    async def estimate(self, spec: JobSpec) -> tuple[Plan, Estimate]:
        """Return what a job comes to.

        :raises BadJob: it comes to nothing.
        :raises Undescribed: its dataset is not described.
        """
        entry = await self._catalogue.entry(spec.token)
        plan = await self._estimator.plan(spec, entry)
        each = self._fetches.expected_seconds(spec.token)
        return plan, await self._estimator.estimate(plan, each, self._width(entry))

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
        now = self._context.now()
        progress = JobProgress(
            cuboids=plan.count.cuboids,
            tiles=plan.count.tiles,
            fingerprint=plan.fingerprint,
            began=now,
            deadline=_deadline(spec, now),
            title=_title(spec),
        )
        number = await self._rows.insert(text, progress.to_json(), now)
        self._log.info("job {number}: {title}", number=number, title=progress.title)
        self._look_soon()
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
        again = {"position": 0, "done": 0}
        await self._go_on(number, "retried", (*ENDED, *_RESUMABLE), again)

    async def _go_on(self, number: int, what: str, before: tuple[JobState, ...], changed: Mapping[str, Any]) -> None:
        job = await self.job(number)
        progress, now = JobProgress.of(job.progress), self._context.now()
        changed = {
            **changed,
            "bytes_before": progress.bytes,
            "done_before": changed.get("done", progress.done),
            "failed_before": progress.failed,
            "deadline": _deadline(_spec(job), now),
            "began": now,
        }
        await self._change(number, what, before, JobState.RUNNING, changed)
        self._look_soon()

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
        if not await self._rows.change(number, before, after, "", self._context.now(), progress):
            raise NotPossible(f"job {number} is {job.state.value}: it cannot be {what}")
        self._log.info("job {number} was {what}", number=number, what=what)

    # -- running

    async def _run(self, number: int) -> None:
        lease = f"job/{number}"
        if not await self._leases.acquire(lease):
            return  # another process runs it
        try:
            job = await self.job(number)
            if job.state is JobState.RUNNING:
                await self._run_job(job)
        except NoSuchJob:
            pass
        finally:
            await shield(self._leases.release(lease))

    async def _run_job(self, job: Job) -> None:
        try:
            spec = _spec(job)
            entry = await self._described(job, spec)
            plan = await self._estimator.plan(spec, entry)
        except BadJob as error:
            await self._finish(job.id, JobState.FAILED, str(error))
            return
        except Undescribed as error:
            await self._finish(job.id, JobState.STOPPED, str(error))
            return
        progress = JobProgress.of(job.progress)
        if progress.fingerprint != plan.fingerprint:  # the dataset was described anew: its tiles have other names
            progress.fingerprint, progress.position = plan.fingerprint, 0
            progress.cuboids, progress.tiles = plan.count
        progress.done = progress.position
        failed = [failure.cuboid for failure in await self._rows.failures(job.id, _MOST_FAILURES)]
        progress.failed = len(failed)
        run = Run(f"job {job.id}", plan, progress, self._width(entry), self._context)
        await self._watch(job.id, run, Deferred.fromCoroutine(run.run(failed)))

    async def _watch(self, number: int, run: Run, running: Deferred[None]) -> None:
        """Save the progress of a run until it ends; end it when somebody has changed the state of the job."""
        state, reason = JobState.DONE, ""
        began = self._reactor.seconds()
        counted = (run.progress.fetched, run.progress.cached, run.progress.failed)
        earlier = run.progress.seconds
        saving = LoopingCall(self._save, number, run, running)
        saving.clock = self._reactor
        ended = saving.start(_SAVE_EVERY, now=False)
        try:
            await running
        except Stopped as stopped:
            state, reason = JobState.STOPPED, str(stopped)
        except CancelledError:
            return  # the daemon stops, or somebody has changed the state
        except Exception as error:
            self._log.failure("job {number} stops", number=number)
            state, reason = JobState.STOPPED, f"{type(error).__name__}: {error}"
        finally:
            if saving.running:
                saving.stop()
            run.progress.seconds = earlier + self._reactor.seconds() - began
            await shield(self._save(number, run, None))
            numbers = (run.progress.fetched, run.progress.cached, run.progress.failed)
            for result, count, start in zip(("fetched", "cached", "failed"), numbers, counted, strict=True):
                self._counted.labels(result).inc(max(0, count - start))
        await ended
        if state is JobState.DONE and run.progress.failed:
            state, reason = JobState.FAILED, f"{run.progress.failed} cuboids failed"
        await self._finish(number, state, reason)

    async def _save(self, number: int, run: Run, running: Deferred[None] | None) -> None:
        failures, mended = run.outcome.take()
        try:
            state = await self._rows.save(number, run.progress.to_json(), failures, mended, self._context.now())
        except DatabaseUnavailable:
            run.outcome.give_back(failures, mended)
            return
        if state is not JobState.RUNNING and running is not None:
            running.cancel()

    async def _finish(self, number: int, state: JobState, reason: str) -> None:
        """Put a job that has ended into its last state, as soon as the index takes it."""
        while True:
            try:
                await self._rows.change(number, _WAITS, state, reason, self._context.now())
                break
            except DatabaseUnavailable:
                await deferLater(self._reactor, _SAVE_EVERY)
        words = {"number": number, "state": state.value, "reason": f": {reason}" if reason else ""}
        self._log.info("job {number} is {state}{reason}", **words)

    async def _described(self, job: Job, spec: JobSpec) -> CatalogueEntry:
        """Return the entry of a job's dataset, as soon as its upstream describes it.

        :raises Undescribed: it does not, and that will not get better by itself.
        """
        while True:
            try:
                return await self._catalogue.entry(spec.token)
            except Undescribed as error:
                if error.failure.lasting:
                    raise
                self._log.info("job {number} waits: {reason}", number=job.id, reason=str(error))
            await deferLater(self._reactor, _ASK_AGAIN)

    @staticmethod
    def _width(entry: CatalogueEntry) -> int:
        """Return how many cuboids are fetched side by side: as many as may have a slot, and one more."""
        return entry.source.flights // 2 + 1


def does_not_fit(estimate: Estimate) -> str:
    """Return why a job cannot be started."""
    return (
        f"its {estimate.tiles} tiles take about {estimate.bytes} bytes, and the cache may hold {estimate.available} "
        "bytes before it evicts: choose fewer levels or a smaller region, or raise [cache] size"
    )


def _spec(job: Job) -> JobSpec:
    return read_text(job.text)


def _deadline(spec: JobSpec, now: float) -> float:
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
        x0, x1, y0, y1, z0, z1 = region.box
        words.append(f"box {x0}:{x1},{y0}:{y1},{z0}:{z1}")
    if region.segments:
        words.append(f"{len(region.segments)} segments within {region.radius:g} nm")
    return " ".join(words)
