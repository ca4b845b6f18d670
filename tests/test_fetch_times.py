"""How long fetches took: what is kept of an hour, and the reports of several processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.cache.fetch_times import FetchReport, FetchTimes
from ocpproxy.model.dataset import Box, Dataset, Level


def cuboid(token: str, n: int) -> Any:
    """Return what the times ask of a cuboid."""
    levels = {0: Level((4096, 4096, 64), (0, 0, 1), (64, 64, 16))}
    stack = SimpleNamespace(dataset=Dataset(token, levels, ()))
    return SimpleNamespace(stack=stack, level=0, box=Box(512 * n, 512 * n + 512, 0, 512, 1, 17), name=f"{token}/{n}")


class FetchTimesTests(SynchronousTestCase):
    """The fetches of an hour."""

    def setUp(self) -> None:
        """Make them, on a clock that stands still."""
        self.now = 1e9
        self.times = FetchTimes(lambda: self.now)

    @given(st.lists(st.tuples(st.floats(0, 500), st.floats(0.01, 100)), max_size=300))
    def test_slowest(self, fetches: list[tuple[float, float]]) -> None:
        """The report has the ten slowest of the last hour, and little is kept, however many there were."""
        self.setUp()
        noted = []
        for n, (pause, seconds) in enumerate(fetches):
            self.now += pause
            self.times.note(cuboid("kat", n), seconds)
            noted.append((seconds, self.now))
        report = self.times.report()
        wanted = sorted((seconds for seconds, at in noted if at > self.now - 3600), reverse=True)[:10]
        self.assertEqual([one.seconds for one in report.slowest], wanted)
        self.assertLessEqual(sum(map(len, self.times._parts.values())), 140)
        self.assertEqual(FetchReport.of([report.to_json()]), report)

    def test_place_and_usual(self) -> None:
        """A fetch has the middle of its cuboid; what is usual is the median of the last ten minutes."""
        self.assertIsNone(self.times.report().usual("kat"))
        for n, seconds in enumerate((9.0, 1.0, 2.0, 3.0)):
            self.now += 200 if n == 1 else 100
            self.times.note(cuboid("kat", n), seconds)
        self.assertEqual(self.times.report().slowest[0].place, (256, 256, 9))
        self.assertEqual(self.times.report().usual("kat"), 3.0)
        self.now += 250
        self.assertEqual(self.times.report().usual("kat"), 2.0)
        self.now += 3600
        self.assertEqual(self.times.report().slowest, [])

    def test_several_processes(self) -> None:
        """Reports are merged: the slowest of all, and the fetches of a dataset wherever they were."""
        other = FetchTimes(lambda: self.now)
        for n in range(8):
            self.times.note(cuboid("a", n), n + 0.5)
            other.note(cuboid("a", n), n, outcome="slow")
        both = FetchReport.of([self.times.report().to_json(), other.report().to_json()])
        self.assertEqual([one.seconds for one in both.slowest[:3]], [7.5, 7, 6.5])
        self.assertEqual(both.slowest[1].outcome, "slow")
        self.assertEqual(both.usual("a"), 4)
