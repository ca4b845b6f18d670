"""What commands do in the cache itself, where no daemon answers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.cli.admin_client import COULD_NOT_RUN
from ocpproxy.cli.settings import load_settings
from ocpproxy.config import Settings
from ocpproxy.daemon import describing
from ocpproxy.daemon.storage import CannotOpen, Storage, opened
from ocpproxy.jobs.flushing import Flushing
from ocpproxy.jobs.pinning import NoSuchPin, PinContext, Pinning, TooMuchPinned
from ocpproxy.jobs.plan import Estimate, Estimator, Plan
from ocpproxy.jobs.space import SpaceReport
from ocpproxy.jobs.spec import BadJob, JobSpec
from ocpproxy.store.flushing.cleaning import Cleaning
from ocpproxy.store.flushing.flushes import TooManyFlushes


class OfflineCache:
    """The cache of a daemon that does not run, or has no admin endpoint."""

    def __init__(self, settings: Settings, storage: Storage, reactor: Any) -> None:
        self._settings = settings
        self._reactor = reactor
        self._flushing = Flushing(storage.store, self._describe, time.time)
        self._space = SpaceReport(storage.store, settings.quotas)
        self._estimator = Estimator(storage.store, storage.files.run, reactor, settings.quotas)
        self._pinning = Pinning(storage.store, PinContext(self._describe, self._estimate, settings.quotas, time.time))
        self._cleaning = Cleaning(storage.store, storage.leases, reactor, pause=0)

        self._running: Deferred[None] | None = None

    async def _describe(self, token: str) -> CatalogueEntry:
        (report,) = await describing.describe(self._reactor, self._settings, [token])
        if report.entry is None:
            raise BadJob(f"{token} is not described: {report.failure}")
        return report.entry

    async def _estimate(self, spec: JobSpec) -> tuple[Plan, Estimate]:
        plan = await self._estimator.plan(spec, await self._describe(spec.token))
        return plan, await self._estimator.estimate(plan, seconds_each=0, side_by_side=1)

    async def count_flushed(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return the ``title`` of a flush, and the ``tiles`` and ``bytes`` that it would forget."""
        flush = await self._flushing.read(wanted)
        usage = await self._flushing.count(flush)
        return {"title": str(flush.part), "tiles": usage.tiles, "bytes": usage.bytes}

    async def flush(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a flush, and return what is known of it. Nobody else removes the files, so that is done, too.

        Where daemons run that this command cannot ask, they are waited for, and do the rest.
        """
        begun = await self._flushing.begin(await self._flushing.read(wanted))
        carried_out = not begun.silent and await self._cleaning.clean()
        if not carried_out and self._running is None:
            self._running = Deferred.fromCoroutine(self._cleaning.run())
            self._running.addErrback(lambda failure: failure.trap(CancelledError) and None)
        return {**asdict(begun), "carried_out": carried_out}

    def close(self) -> None:
        """Do nothing any more."""
        if self._running is not None:
            self._running.cancel()

    async def flushes(self) -> list[dict[str, Any]]:
        """Return the flushes whose files are being removed."""
        return [asdict(one) for one in await self._flushing.all()]

    async def usage(self, by: str) -> list[dict[str, Any]]:
        """Return what each part of what is stored takes."""
        return [asdict(one) for one in await self._space.usage(by)]

    async def pin(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Pin a part, and return what is known of the pin."""
        return await self._pinning.pin(wanted)

    async def unpin(self, number: int) -> dict[str, Any]:
        """Let a part be evicted again, and return what is known of its pin."""
        return await self._pinning.unpin(number)

    async def pins(self) -> list[dict[str, Any]]:
        """Return all pins."""
        return await self._pinning.all()


async def work_offline(
    command: str,
    config: str | None,
    reactor: Any,
    work: Callable[[OfflineCache], Coroutine[Any, Any, int]],
) -> int:
    """Run a command on the cache itself, and return its exit code: `COULD_NOT_RUN` after the reason has been printed.

    :param command: its name, for messages.
    :param config: the file of the daemon; None for a daemon without one.
    """
    settings = load_settings(config)
    if settings is None:
        return COULD_NOT_RUN
    try:
        async with opened(settings, reactor) as storage:
            with closing(OfflineCache(settings, storage, reactor)) as cache:
                return await work(cache)
    except (CannotOpen, BadJob, TooManyFlushes, TooMuchPinned, NoSuchPin) as error:
        print(f"ocpproxy {command}: {error}", file=sys.stderr)
        return COULD_NOT_RUN
