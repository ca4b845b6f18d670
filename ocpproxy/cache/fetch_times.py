"""How long fetches took: the slowest of the last hour, and what is usual for a dataset."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from heapq import heappushpop, nlargest
from typing import NamedTuple
from weakref import WeakKeyDictionary

from cachetools import LRUCache

from ocpproxy.cache.entries import DatasetSource
from ocpproxy.model.chunks import AnyCuboid
from ocpproxy.model.dataset import Triple

HOUR = 3600.0
_PART = 300.0
"""Seconds; of each part of the hour the slowest `_MOST` fetches are kept."""
_MOST = 10
_LATELY = 600.0
_REMEMBERED = 25
"""Fetches of one dataset, and of one upstream, that are remembered for what is usual."""
_USUAL_SECONDS = 0.5
"""Seconds that a cuboid takes from an upstream that has given none yet."""
_MOST_TOKENS = 1000


class SlowFetch(NamedTuple):
    """A fetch that took long."""

    seconds: float
    at: float
    """When it ended; seconds since 1970."""
    token: str
    name: str
    """That of the cuboid."""
    place: Triple
    """The middle of the cuboid, in voxels of the finest level."""
    outcome: str
    """``fetched``, or what the upstream did instead."""


class FetchReport(NamedTuple):
    """How long fetches took."""

    slowest: list[SlowFetch]
    """The slowest of the last hour, the slowest first."""
    lately: dict[str, list[float]]
    """Seconds of the last fetches of each dataset."""

    def usual(self, token: str) -> float | None:
        """Return the seconds that half of the last fetches of a dataset took at most; None when there were none."""
        lately = sorted(self.lately.get(token, ()))
        return lately[len(lately) // 2] if lately else None

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(self).encode()

    @classmethod
    def of(cls, texts: Iterable[bytes]) -> FetchReport:
        """Return the reports of several processes, each as JSON, as one."""
        slowest: list[SlowFetch] = []
        lately: dict[str, list[float]] = {}
        for text in texts:
            rows, of_tokens = json.loads(text)
            for seconds, at, token, name, place, outcome in rows:
                slowest.append(SlowFetch(seconds, at, token, name, tuple(place), outcome))
            for token, taken in of_tokens.items():
                lately.setdefault(token, []).extend(taken)
        return cls(nlargest(_MOST, slowest), lately)


class FetchTimes:
    """The fetches of one process.

    :param now: returns the seconds since 1970.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._parts: dict[int, list[SlowFetch]] = {}
        self._answers: WeakKeyDictionary[DatasetSource, deque[float]] = WeakKeyDictionary()
        """How long upstreams took for the last cuboids."""
        self._recent: LRUCache[str, deque[tuple[float, float]]] = LRUCache(_MOST_TOKENS)

    def note(self, cuboid: AnyCuboid, seconds: float, outcome: str = "fetched") -> None:
        """Note that a fetch has ended."""
        now, token = self._now(), cuboid.stack.dataset.token
        self._recent.setdefault(token, deque(maxlen=_REMEMBERED)).append((now, seconds))
        number = int(now // _PART)
        part = self._parts.get(number)
        if part is None:
            self._parts = {n: kept for n, kept in self._parts.items() if 0 <= number - n <= HOUR // _PART}
            part = self._parts[number] = []
        if len(part) < _MOST or seconds > part[0].seconds:
            fetch = SlowFetch(seconds, now, token, cuboid.name, _middle(cuboid), outcome)
            if len(part) < _MOST:
                part.append(fetch)
                part.sort()
            else:
                heappushpop(part, fetch)

    def note_answer(self, source: DatasetSource, seconds: float) -> None:
        """Note how long an upstream took for a cuboid."""
        self._answers.setdefault(source, deque(maxlen=_REMEMBERED)).append(seconds)

    def expected(self, source: DatasetSource) -> float:
        """Return how long an upstream takes for a cuboid: what a quarter of the last ones took at most.

        The others may have waited for a connection.
        """
        taken = sorted(self._answers.get(source, (_USUAL_SECONDS,)))
        return taken[len(taken) // 4]

    def report(self) -> FetchReport:
        """Return what is known of the last hour."""
        now = self._now()
        slowest = [one for part in self._parts.values() for one in part if one.at > now - HOUR]
        lately = {
            token: [seconds for at, seconds in kept if at > now - _LATELY] for token, kept in self._recent.items()
        }
        return FetchReport(nlargest(_MOST, slowest), lately)


def _middle(cuboid: AnyCuboid) -> Triple:
    dataset, box = cuboid.stack.dataset, cuboid.box
    voxel, finest = dataset.levels[cuboid.level].voxel, dataset.finest.voxel
    x, y, z = (int((box[2 * axis] + box[2 * axis + 1]) / 2 * voxel[axis] / finest[axis]) for axis in range(3))
    return (x, y, z)
