"""Voxels are fetched once for all who can use them, and nobody's leaving or failing is another's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.cache.shared_cutouts import FetchedVoxels, SharedCutouts
from ocpproxy.concurrency.progress import Progress, current
from ocpproxy.model.dataset import Box, Channel, Cutout, Dataset, Level
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamBroken, VoxelsOnly

LEVEL = Level((100, 100, 100), (0, 0, 0), (16, 16, 16))
IMAGE, OTHER = Channel("image", "image", "uint8"), Channel("other", "image", "uint8")
VOLUME = np.random.default_rng(5).integers(0, 256, (100, 100, 100), np.uint8)
Many = Deferred[list[FetchedVoxels | None]]


def cutout(*box: int, channel: Channel = IMAGE, time: int = 0, token: str = "t", alias_of: str = "") -> Cutout:
    """Return the cutout of a box x0, x1, y0, y1, z0, z1 of the volume."""
    return Cutout(Dataset(token, {0: LEVEL}, (IMAGE, OTHER), alias_of=alias_of), channel, time, 0, Box(*box))


def voxels(box: Box) -> Voxels:
    """Return the voxels of a box."""
    return VOLUME[box.z0 : box.z1, box.y0 : box.y1, box.x0 : box.x1]


class Slow(VoxelsOnly):
    """An upstream that answers when the test says so."""

    origin = "slow"

    def __init__(self) -> None:
        self.asked: list[tuple[Cutout, Callable[[], None], Deferred[Voxels]]] = []
        self.cancelled = 0

    async def describe(self, token: str) -> str:
        """Return an empty description."""
        return ""

    def dataset(self, token: str, description: str) -> Dataset:
        """Fail: no test needs it."""
        raise UpstreamBroken("nothing")

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Return the voxels when the test says so."""

        def cancel(_: Deferred[Voxels]) -> None:
            self.cancelled += 1

        answer: Deferred[Voxels] = Deferred(cancel)
        self.asked.append((cutout, current().report, answer))
        return await answer

    def answer(self, n: int) -> None:
        """Answer the n-th request."""
        asked, _, answer = self.asked[n]
        answer.callback(voxels(asked.box))


class CutoutsTests(SynchronousTestCase):
    """Cutouts that several cuboids share, on fake time."""

    def setUp(self) -> None:
        """Make a pool with space for one large cutout and a little more."""
        self.clock = Clock()
        self.upstream = Slow()
        self.cutouts = SharedCutouts(self.clock, 120_000)
        self.reported: list[str] = []

    def fetch(self, *wanted: Cutout | None, name: str = "") -> Many:
        """Fetch cutouts."""
        progress = Progress()
        progress.on_first_byte(lambda: self.reported.append(name))
        with progress.as_current():
            return Deferred.fromCoroutine(self.cutouts.fetch(self.upstream, wanted))

    def got(self, fetched: Many, *wanted: Cutout | None) -> None:
        """Check that a fetch has returned just the voxels of these cutouts."""
        found = self.successResultOf(fetched)
        self.assertEqual(len(found), len(wanted))
        for one, expected in zip(found, wanted, strict=True):
            if expected is None:
                self.assertIsNone(one)
            else:
                assert one is not None
                np.testing.assert_array_equal(one.voxels, voxels(expected.box))

    def test_failures_are_not_shared(self) -> None:
        """Another upstream of the same volume gets the voxels of a flight, but asks for itself when that fails."""
        whole, other = cutout(0, 64, 0, 64, 0, 16), Slow()
        first = self.fetch(whole)
        joined = Deferred.fromCoroutine(self.cutouts.fetch(other, [whole]))
        self.assertEqual((len(self.upstream.asked), len(other.asked)), (1, 0))
        self.upstream.asked[0][2].errback(UpstreamBroken("for the test"))
        self.failureResultOf(first, UpstreamBroken)
        self.assertEqual(len(other.asked), 1)
        other.answer(0)
        self.got(joined, whole)

    def test_within(self) -> None:
        """Equal boxes, and boxes within another, in flight or a moment old, cost no request; others do."""
        whole, part = cutout(0, 64, 0, 64, 0, 16), cutout(10, 20, 30, 64, 3, 9)
        first, same, inner = self.fetch(whole), self.fetch(whole), self.fetch(part)
        self.assertEqual(len(self.upstream.asked), 1)
        self.upstream.answer(0)
        self.got(first, whole)
        self.got(same, whole)
        self.got(inner, part)
        self.got(self.fetch(part, None, whole), part, None, whole)
        alias = cutout(0, 5, 0, 5, 0, 5, token="other", alias_of="t")
        self.got(self.fetch(alias), alias)
        self.assertEqual(len(self.upstream.asked), 1)
        for n, other in enumerate(
            (
                cutout(0, 65, 0, 64, 0, 16),
                cutout(0, 64, 0, 64, 0, 16, channel=OTHER),
                cutout(0, 64, 0, 64, 0, 16, time=1),
                cutout(0, 64, 0, 64, 0, 16, token="t2"),
            ),
            1,
        ):
            fetched = self.fetch(other)
            self.upstream.answer(n)
            self.got(fetched, other)

    def test_forgotten(self) -> None:
        """After a minute, or when others need the space, cutouts are dropped; a very large one is never kept."""
        small, large = cutout(0, 40, 0, 40, 0, 40), cutout(0, 100, 0, 100, 0, 100)
        self.fetch(small)
        self.upstream.answer(0)
        self.clock.advance(59)
        self.got(self.fetch(small), small)
        self.clock.advance(2)
        self.fetch(small)
        self.upstream.answer(1)
        self.fetch(cutout(50, 90, 0, 40, 0, 40))
        self.upstream.answer(2)
        self.fetch(small)
        self.assertEqual(len(self.upstream.asked), 4, "64,000 bytes twice are too much")
        for n in (4, 5):
            fetched = self.fetch(large)
            self.upstream.answer(n)
            self.got(fetched, large)

    def test_leaving(self) -> None:
        """Who leaves disturbs nobody; when the last one has left, the upstream's work is cancelled."""
        whole, part = cutout(0, 64, 0, 64, 0, 16), cutout(1, 2, 1, 2, 1, 2)
        first, second = self.fetch(whole), self.fetch(part)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.upstream.cancelled, 0)
        self.upstream.answer(0)
        self.got(second, part)
        third, fourth = self.fetch(whole, cutout(0, 9, 0, 9, 50, 60)), self.fetch(cutout(0, 9, 0, 9, 50, 60))
        third.cancel()
        self.failureResultOf(third, CancelledError)
        self.assertEqual((len(self.upstream.asked), self.upstream.cancelled), (2, 0))
        fourth.cancel()
        self.failureResultOf(fourth, CancelledError)
        self.assertEqual(self.upstream.cancelled, 1)

    def test_failure(self) -> None:
        """One that fails ends them all, gives up the others, and keeps nothing."""
        fetched = self.fetch(cutout(0, 9, 0, 9, 0, 9), cutout(0, 9, 0, 9, 0, 9, channel=OTHER))
        self.upstream.asked[0][2].errback(UpstreamBroken("no"))
        self.failureResultOf(fetched, UpstreamBroken)
        self.assertEqual(self.upstream.cancelled, 1)
        self.clock.advance(2)
        again = self.fetch(cutout(0, 9, 0, 9, 0, 9))
        self.upstream.answer(2)
        self.got(again, cutout(0, 9, 0, 9, 0, 9))

    def test_progress(self) -> None:
        """The first byte is reported once to each flight that waits, later ones too; then leaving cancels nothing."""
        whole = cutout(0, 64, 0, 64, 0, 16)
        first, second = self.fetch(whole, name="first"), self.fetch(whole, name="second")
        self.upstream.asked[0][1]()
        third = self.fetch(whole, name="third")
        self.assertEqual(self.reported, ["first", "second", "third"])
        for one in (first, second, third):
            one.cancel()
            self.failureResultOf(one, CancelledError)
        self.assertEqual(self.upstream.cancelled, 0)
        self.upstream.answer(0)
        self.got(self.fetch(whole, name="fourth"), whole)
        self.successResultOf(Deferred.fromCoroutine(self.cutouts.stop()))
