"""The running of jobs in one process.

A daemon runs the jobs of the index that are *running* and that no other process holds a lease for, a few at a time. So
a job goes on by itself when a daemon is started again, whatever ended it. Every second its progress is saved, and its
state is read: when somebody has paused or cancelled it, the run ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater

from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.cache.entries import CatalogueEntry, Undescribed
from ocpproxy.cache.fetches import CuboidFetches
from ocpproxy.concurrency.shield import shield
from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.index.jobs import Job, JobRows, JobState
from ocpproxy.index.leases import LeaseHolder
from ocpproxy.jobs.plan import Estimator
from ocpproxy.jobs.progress import JobProgress
from ocpproxy.jobs.run import Run, RunContext, Stopped
from ocpproxy.jobs.spec import BadJob, JobSpec, read_text
from ocpproxy.log import Logger
from ocpproxy.metrics import Metrics

_LOOK_EVERY = 5.0
"""Seconds between two looks for jobs that nobody runs."""
_SAVE_EVERY = 1.0
_AT_A_TIME = 4
"""Jobs that one process runs."""
_MOST_FAILURES = 100_000
"""Failures of a job that are looked at when it goes on."""
_ASK_AGAIN = 10.0
"""Seconds between questions about a dataset whose upstream does not describe it now."""
_RUNNING = (JobState.RUNNING,)


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


def width(entry: CatalogueEntry) -> int:
    """Return how many cuboids of a dataset a job fetches side by side: as many as may have a slot, and one more."""
    return entry.source.flights // 2 + 1


class JobRunner(Service):
    """The jobs that one process runs."""

    _log = Logger()

    def __init__(self, parts: JobParts, reactor: Any) -> None:
        self._rows = parts.rows
        self._leases = parts.leases
        self._catalogue = parts.catalogue
        self._estimator = parts.estimator
        self._context = parts.run
        self._counted = parts.metrics.job_cuboids
        self._reactor = reactor
        self._running: dict[int, Deferred[None]] = {}
        parts.metrics.jobs_running.set_function(lambda: len(self._running))
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor

    def startService(self) -> None:
        """Look for jobs that go on, as soon as the index is there."""
        super().startService()
        self._loop.start(_LOOK_EVERY, now=False)
        self._rows.database.when_available(self.look_soon)

    def stopService(self) -> Deferred[Any]:
        """Stop running jobs. They stay as they are in the index, and go on at the next start."""
        super().stopService()
        self._loop.stop()
        running = list(self._running.values())
        for one in running:
            one.cancel()
        return gatherResults(running)

    def look_soon(self) -> None:
        """Begin to run what nobody runs."""
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

    async def _run(self, number: int) -> None:
        lease = f"job/{number}"
        if not await self._leases.acquire(lease):
            return  # another process runs it
        try:
            job = await self._rows.load(number)
            if job is not None and job.state is JobState.RUNNING:
                await self._run_job(job)
        except (CancelledError, DatabaseUnavailable):
            raise
        except Exception as error:
            self._log.failure("job {number} stops", number=number)
            await self._finish(number, JobState.STOPPED, f"{type(error).__name__}: {error}")
        finally:
            await shield(self._leases.release(lease))

    async def _run_job(self, job: Job) -> None:
        try:
            spec = read_text(job.text)
            entry = await self._described(job, spec)
            if entry is None:
                return
            plan = await self._estimator.plan(spec, entry)
        except BadJob as error:
            await self._finish(job.id, JobState.FAILED, str(error))
            return
        except Undescribed as error:
            await self._finish(job.id, JobState.STOPPED, str(error))
            return
        now = await self._rows.load(job.id)  # somebody may have changed it meanwhile
        if now is None or now.state is not JobState.RUNNING:
            return
        progress = JobProgress.of(now.progress)
        if progress.fingerprint != plan.fingerprint:  # its tiles have other names
            progress.fingerprint, progress.position = plan.fingerprint, 0
            progress.cuboids, progress.tiles = plan.count
            progress.done_before = progress.failed_before = 0
            await self._rows.forget_failures(job.id)
        progress.done = progress.position
        failed = [failure.cuboid for failure in await self._rows.failures(job.id, _MOST_FAILURES)]
        progress.failed = len(failed)
        run = Run(f"job {job.id}", plan, progress, width(entry), self._context)
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
        except CancelledError:
            raise
        except Exception:
            self._log.failure("the progress of job {number} cannot be saved", number=number)
            run.outcome.give_back(failures, mended)
            return
        if state is not JobState.RUNNING and running is not None:
            running.cancel()

    async def _finish(self, number: int, state: JobState, reason: str) -> None:
        """Put a job that has ended into its last state, as soon as the index takes it."""
        while True:
            try:
                await self._rows.change(number, _RUNNING, state, reason, self._context.now())
                break
            except DatabaseUnavailable:
                await deferLater(self._reactor, _SAVE_EVERY)
        words = {"number": number, "state": state.value, "reason": f": {reason}" if reason else ""}
        self._log.info("job {number} is {state}{reason}", **words)

    async def _described(self, job: Job, spec: JobSpec) -> CatalogueEntry | None:
        """Return the entry of a job's dataset, as soon as its upstream describes it; None when the job rests by then.

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
            now = await self._rows.load(job.id)
            if now is None or now.state is not JobState.RUNNING:
                return None
