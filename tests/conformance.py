"""What every upstream does: one suite, which each kind runs against a real local server that holds the real volume."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

import numpy as np
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool

from ocpproxy.concurrency.progress import Progress
from ocpproxy.concurrency.threads import LanedThreadPool
from ocpproxy.config import UpstreamSettings, parse
from ocpproxy.model.address import ImageBase
from ocpproxy.model.dataset import Box, Cutout, Dataset
from ocpproxy.model.stack import Stack
from ocpproxy.upstream.base import (
    RedirectRefused,
    ResponseTooLarge,
    UnknownToken,
    Upstream,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamDown,
    UpstreamFailure,
    UpstreamRefused,
    UpstreamSlow,
)
from ocpproxy.upstream.endpoints import ReusedEndpoints
from ocpproxy.upstream.http import HttpClient
from ocpproxy.upstream.kind import UpstreamContext
from ocpproxy.upstream.plain_treq import make_treq
from ocpproxy.upstream.registry import KINDS, build_upstream
from ocpproxy.upstream.tensorstore.reader import TensorStoreReaders
from tests import doubles
from tests.volumes import Volume, cuboids, em, level


def nothing() -> None:
    """Do not mind."""


async def a_turn() -> None:
    """Return in the event loop's next turn.

    Where a connection is closed and a port opened in one turn, the port may get the connection's descriptor, and what
    epoll has said of that one.
    """
    await deferLater(reactor, 0)  # type: ignore[arg-type]


_Result = TypeVar("_Result")


async def patiently(ask: Callable[[], Awaitable[_Result]]) -> _Result:
    """Ask a healthy server until it has answered within a deadline that is short for another reason."""
    while True:
        try:
            return await ask()
        except UpstreamSlow:
            await a_turn()


def nobody_there() -> str:
    """An address that nobody listens at."""
    return "http://127.0.0.1:9"


class UpstreamCase(TestCase):
    """Threads, and a client of its own for each test."""

    def setUp(self) -> None:
        """Open them."""
        self.pool = LanedThreadPool(reactor, 2, "decode")
        self.pool.startService()
        self.addCleanup(self.pool.stopService)
        self.connections = HTTPConnectionPool(reactor)
        self.connections.maxPersistentPerHost = 8
        self.connections.retryAutomatically = False
        self.addCleanup(self.connections.closeCachedConnections)
        http = HttpClient(
            make_treq(Agent.usingEndpointFactory(reactor, ReusedEndpoints(reactor, 10), self.connections)),
            reactor,
            Random(1),
        )  # type: ignore[arg-type]
        readers = TensorStoreReaders(reactor)
        self.addCleanup(readers.stopService)
        self.context = UpstreamContext(http, self.pool.run, self.pool.run, reactor, readers)

    async def described(self, upstream: Upstream, token: str) -> Dataset:
        """The dataset of a token."""
        return upstream.dataset(token, await upstream.describe(token))

    def serve(self, double: doubles.Double) -> str:
        """Start the double; its address."""
        return doubles.serve(self, double)

    def configured(self, lines: str, **options: object) -> Upstream:
        """The upstream that these lines of a configuration describe."""
        return build_upstream(self.settings(lines, **options), self.context)

    def settings(self, lines: str, **options: object) -> UpstreamSettings:
        """What they say."""
        values = {"timeout": 60, "retries": 0, **options}
        text = "[dataset kat]\n" + lines + "".join(f"{name} = {value}\n" for name, value in values.items())
        return parse(text, self.place(), {}, KINDS).datasets["kat"].upstream

    def place(self) -> Any:
        """A directory."""
        from pathlib import Path

        return Path(self.mktemp()).absolute()


class ConformanceTests:
    """What every upstream does, wherever its voxels come from."""

    token = "kat"
    minimum = 5.0
    """The least deviation of voxels: there is something to see."""

    def upstream(self) -> Upstream:
        """One of the kind, well."""
        raise NotImplementedError

    async def test_voxels(self: Any) -> None:
        """Any cutout has the shape and type that was asked for, and agrees with any other that holds its voxels."""
        upstream = self.upstream()
        dataset = await self.described(upstream, self.token)
        channel = dataset.channel(None)
        for number, shape in dataset.levels.items():
            (ox, oy, oz), (ex, ey, ez) = shape.offset, shape.end
            whole = Box(ox, min(ox + 140, ex), oy, min(oy + 130, ey), oz, min(oz + 16, ez))
            part = Box(ox + 7, ox + 100, oy + 11, oy + 90, oz + 2, min(oz + 9, ez))
            corner = Box(ex - 9, ex, ey - 8, ey, ez - 2, ez)
            found = {}
            for box in (whole, part, corner):
                voxels = await upstream.cutout(Cutout(dataset, channel, 0, number, box))
                self.assertEqual((voxels.shape, voxels.dtype), (box.shape, np.dtype(channel.dtype)))
                found[box] = voxels
            np.testing.assert_array_equal(found[part], found[whole][2:9, 11:90, 7:100])
            self.assertGreater(found[whole].std(), self.minimum)

    async def test_cancel(self: Any) -> None:
        """A cutout that is cancelled ends at once, and the next one works."""
        upstream = self.upstream()
        dataset = await self.described(upstream, self.token)
        box = Box(*(v for o in dataset.finest.offset for v in (o, o + 8)))
        cutout = Cutout(dataset, dataset.channel(None), 0, min(dataset.levels), box)
        work = Deferred.fromCoroutine(upstream.cutout(cutout))
        ended = work.addErrback(lambda failure: failure.trap(CancelledError))
        work.cancel()
        self.assertIs(await ended, CancelledError)
        self.assertEqual((await upstream.cutout(cutout)).shape, (8, 8, 8))

    async def test_hostile_description(self: Any) -> None:
        """A description that makes no sense is a broken upstream, never another error (or is not looked at)."""
        for text in (
            "",
            "null",
            "[]",
            "{}",
            "{" * 5000,
            '{"dataset": {}}',
            '{"": {}}',
            '{"": "[]"}',
            "\ud800",
            "1e999",
        ):
            with contextlib.suppress(UpstreamBroken):
                self.upstream().dataset(self.token, text)


class ServedTests(ConformanceTests):
    """What every upstream does that has a server: the same voxels, the same failures, the same limits."""

    lossy = False
    """Voxels are near those that were written, not equal."""
    least_levels = 2
    faults: dict[str, type[UpstreamFailure]] = {  # noqa: RUF012
        "error500": UpstreamBroken,
        "html200": UpstreamBroken,
        "outage": UpstreamDown,
        "busy": UpstreamBusy,
        "refused": UpstreamRefused,
        "reset": UpstreamDown,
        "bomb": UpstreamBroken,
        "endless": UpstreamBroken,
        "short": UpstreamBroken,
        "silence": UpstreamSlow,
        "mute": UpstreamSlow,
        "half": UpstreamDown,
        "half_unsized": UpstreamBroken,
        "elsewhere": RedirectRefused,
    }
    """What each fault of a server is told as."""

    def double(self) -> doubles.Double:
        """A server of the kind that holds `volume`."""
        raise NotImplementedError

    def at(self, url: str, **options: object) -> Upstream:
        """An upstream there."""
        raise NotImplementedError

    def volume(self) -> Volume:
        """What it holds."""
        return em()

    def level(self, number: int) -> Volume:
        """A level of it."""
        return level(self.volume(), number)

    def upstream(self: Any) -> Upstream:
        """A client of a fresh double."""
        self.served = self.double()
        upstream: Upstream = self.at(self.serve(self.served))
        return upstream

    async def first(self: Any, upstream: Upstream) -> tuple[Cutout, Volume]:
        """A cutout, and its voxels."""
        dataset = await self.described(upstream, self.token)
        number = min(dataset.levels)
        (x, y, z), size = dataset.levels[number].offset, 96
        cutout = Cutout(dataset, dataset.channel(None), 0, number, Box(x, x + size, y, y + size, z, z + 8))
        return cutout, self.level(number)[:8, :size, :size]

    def compare(self: Any, found: Volume, expected: Volume) -> None:
        """They are equal, or as near as they can be."""
        if self.lossy:
            self.assertEqual(found.shape, expected.shape)
            self.assertLess(np.abs(found.astype(int) - expected).mean(), 5)
        else:
            np.testing.assert_array_equal(found, expected)

    async def test_every_cuboid(self: Any) -> None:
        """Every cuboid of every level and plane equals the voxels."""
        upstream = self.upstream()
        dataset = await self.described(upstream, self.token)
        self.assertGreaterEqual(len(dataset.levels), self.least_levels)
        for number in dataset.levels:
            volume = self.level(number)
            self.assertEqual(dataset.levels[number].size, volume.shape[::-1])
            ox, oy, oz = dataset.levels[number].offset
            for cuboid in cuboids(Stack.build(dataset, ImageBase(self.token)), number):
                voxels = await upstream.cutout(cuboid.cutouts()[0])
                b = cuboid.box
                self.compare(voxels, volume[b.z0 - oz : b.z1 - oz, b.y0 - oy : b.y1 - oy, b.x0 - ox : b.x1 - ox])

    async def prepare(self: Any, upstream: Upstream, cutout: Cutout) -> None:
        """Do what takes long the first time, so that a fault meets an upstream that is ready."""

    async def failure(self: Any, mode: str, **options: object) -> UpstreamFailure:
        """What a cutout fails with; a moment later, when the server is well, it works."""
        self.served = self.double()
        upstream = self.at(self.serve(self.served), **options)
        cutout, expected = await patiently(lambda: self.first(upstream))
        await self.prepare(upstream, cutout)
        self.served.mode = mode
        try:
            await upstream.cutout(cutout)
        except UpstreamFailure as failure:
            found = failure
        else:
            raise AssertionError(f"{mode}: it did not fail")
        self.served.mode = "well"
        self.compare(await patiently(lambda: upstream.cutout(cutout)), expected)
        await a_turn()
        return found

    async def test_faults(self: Any) -> None:
        """Each fault is what it is."""
        for mode, kind in self.faults.items():
            with self.subTest(mode=mode):
                # Only what must run into the deadline has a short one: other work on the machine is no fault.
                deadline = 1 if kind is UpstreamSlow else 60
                failure = await Deferred.fromCoroutine(self.failure(mode, timeout=deadline))
                # Which of two bounds a large response meets first, depends on the chunks of a kind.
                found = UpstreamBroken if type(failure) is ResponseTooLarge else type(failure)
                self.assertIs(found, kind, f"{mode}: {failure!r}")

    async def test_no_connection_is_left(self: Any) -> None:
        """After a deadline the server sees the connection closed."""
        double = self.double()
        upstream = self.at(self.serve(double), timeout=0.5)
        cutout, _ = await patiently(lambda: self.first(upstream))
        await self.prepare(upstream, cutout)
        double.mode = "silence"
        with self.assertRaises(UpstreamSlow):
            await upstream.cutout(cutout)
        while double.open_now:
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]


class DescribingTests(ServedTests):
    """What those do beside that whose server tells what it has."""

    async def test_unknown_token(self: Any) -> None:
        """What is not there is told from everything else."""
        with self.assertRaises(UnknownToken):
            await self.at(self.serve(self.double()) + "/nowhere").describe(self.token)

    async def test_faults_of_descriptions(self: Any) -> None:
        """A server that fails to describe is told from one that knows nothing."""
        for mode, kind in (("error500", UpstreamBroken), ("mute", UpstreamSlow), ("endless", UpstreamBroken)):
            double = self.double()
            double.mode = f"info_{mode}"
            upstream = self.at(self.serve(double), timeout=1 if kind is UpstreamSlow else 60)
            with self.assertRaises(kind):
                await self.described(upstream, self.token)
            await a_turn()

    async def test_nobody_there(self: Any) -> None:
        """A port that nobody listens on."""
        with self.assertRaises(UpstreamDown):
            await self.at(nobody_there(), retries=1).describe(self.token)


class PoliteTests(ServedTests):
    """What those do beside that whose voxels come by our own HTTP: its cap, its retries."""

    async def test_progress(self: Any) -> None:
        """The first byte of a cutout is reported to the flight that it is fetched for."""
        upstream = self.upstream()
        dataset = await self.described(upstream, self.token)
        box = Box(*(v for o in dataset.finest.offset for v in (o, o + 8)))
        cutout = Cutout(dataset, dataset.channel(None), 0, min(dataset.levels), box)
        progress = Progress()
        with progress.as_current():
            work = Deferred.fromCoroutine(upstream.cutout(cutout))
        self.assertEqual(progress.receiving, work.called)
        await work
        self.assertTrue(progress.receiving)

    async def test_busy(self: Any) -> None:
        """How long to wait is passed on."""
        self.assertEqual((await Deferred.fromCoroutine(self.failure("busy"))).retry_after, 7)

    async def test_retries(self: Any) -> None:
        """What may pass is asked again, so often and no more; what may not is asked once."""
        for mode, asked in (("outage", 3), ("reset", 3), ("error500", 1), ("short", 1), ("elsewhere", 1)):
            double = self.double()
            upstream = self.at(self.serve(double), retries=2)
            dataset = await self.described(upstream, self.token)
            box = Box(*(v for o in dataset.finest.offset for v in (o, o + 1)))
            double.mode, before = mode, double.asked["cutout"]
            with self.assertRaises(UpstreamFailure):
                await upstream.cutout(Cutout(dataset, dataset.channel(None), 0, min(dataset.levels), box))
            self.assertEqual(double.asked["cutout"] - before, asked, mode)
            await a_turn()

    async def test_cap(self: Any) -> None:
        """Never more than so many requests at one host, whoever asks, and cancelled ones give their place back."""
        double = self.double()
        double.delay = 0.05
        url = self.serve(double)
        one, two = self.at(url, connections=3), self.at(url, connections=5)
        dataset = await self.described(one, self.token)
        o, e = dataset.finest.offset, dataset.finest.end
        boxes = [Box(o[0], o[0] + 64, o[1], o[1] + 64, z, z + 1) for z in range(o[2], e[2])]
        work = [
            Deferred.fromCoroutine(up.cutout(Cutout(dataset, dataset.channel(None), 0, min(dataset.levels), box)))
            for up in (one, two)
            for box in boxes
        ]
        for one_work in work[::3]:
            one_work.addErrback(lambda failure: failure.trap(CancelledError))
        cancel = reactor.callLater(0.06, lambda: [one.cancel() for one in work[::3]])  # type: ignore[attr-defined]
        await gatherResults(work)
        if cancel.active():
            cancel.cancel()
        self.assertLessEqual(double.most_open, 3)
