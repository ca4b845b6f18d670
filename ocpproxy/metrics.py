"""The counters and gauges, named once. They are scraped at ``/metrics``; their names are part of the public interface.

This is a module and not a package: every layer above `ocpproxy.concurrency` counts something.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric, SummaryMetricFamily

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SHORT_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, *_SECONDS)
_RESULTS = ("hit_memory", "hit_disk", "miss", "blank", "error")
"""Results that are reported before there is one."""
STAGES = ("queue", "upstream", "render", "store")
"""What the fetch of a cuboid spends its time on: until the upstream is asked; until it has answered; until the first
tile is made, which is then sent; until all tiles are made and stored."""


class LoopLag:
    """How late the event loop came to a timer: count and sum since the start, quantiles of the last samples."""

    def __init__(self, samples: int = 600) -> None:
        self._recent: deque[float] = deque(maxlen=samples)
        self._count = 0
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Add one sample."""
        self._recent.append(seconds)
        self._count += 1
        self._sum += seconds

    def collect(self) -> Iterable[Metric]:
        """Yield the metric family."""
        name = "ocpproxy_event_loop_lag_seconds"
        lag = SummaryMetricFamily(name, "How late the event loop was; quantiles over the last minute", labels=())
        lag.add_metric((), count_value=self._count, sum_value=self._sum)
        ordered = sorted(self._recent)
        for quantile in (0.5, 0.9, 0.99, 1.0):
            value = ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else 0.0
            lag.add_sample(name, {"quantile": f"{quantile:g}"}, value)
        yield lag


def _no_answers() -> list[int]:
    """Return a count for each of `_SHORT_SECONDS`, and one for what took longer."""
    return [0] * (len(_SHORT_SECONDS) + 1)


class TileAnswers:
    """How many tiles were answered, and how long that took, by result.

    `Counter` and `Histogram` take a lock each time, for which a hit has no time. This is for one thread.
    """

    def __init__(self) -> None:
        self._counts = {result: _no_answers() for result in _RESULTS}
        self._sums = dict.fromkeys(_RESULTS, 0.0)

    def observe(self, result: str, seconds: float) -> None:
        """Add one answer."""
        counts = self._counts.get(result)
        if counts is None:
            counts, self._sums[result] = self._counts.setdefault(result, _no_answers()), 0.0
        counts[bisect_left(_SHORT_SECONDS, seconds)] += 1
        self._sums[result] += seconds

    def collect(self) -> Iterable[Metric]:
        """Yield the metric families."""
        tiles = CounterMetricFamily(
            "ocpproxy_tiles", "Requests for tiles and chunks answered, by result", labels=["result"]
        )
        about = "From the request for a tile or chunk to its answer; that of a hit ends when it is given to the socket"
        times = HistogramMetricFamily("ocpproxy_tile_seconds", about, labels=["result"])
        for result, counts in sorted(self._counts.items()):
            tiles.add_metric([result], sum(counts))
            buckets, total = [], 0
            for bound, count in zip((*map(str, _SHORT_SECONDS), "+Inf"), counts, strict=True):
                total += count
                buckets.append((bound, total))
            times.add_metric([result], buckets, self._sums[result])
        yield tiles
        yield times


class Metrics:
    """The metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.tiles = TileAnswers()
        registry.register(self.tiles)
        self.upstream_requests = Counter(
            "ocpproxy_upstream_requests", "Requests to upstreams", ["kind", "outcome"], registry=registry
        )
        self.upstream_seconds = Histogram(
            "ocpproxy_upstream_seconds", "Time to the last byte", ["kind"], buckets=_SECONDS, registry=registry
        )
        self.miss_seconds = Histogram(
            "ocpproxy_miss_seconds", "Each stage of a cuboid's fetch", ["stage"], buckets=_SECONDS, registry=registry
        )
        for stage in STAGES:
            self.miss_seconds.labels(stage)
        self.breaker = Gauge(
            "ocpproxy_upstream_breaker",
            "0 while the upstream is asked, 1 while one request probes it, 2 while it is left alone",
            ["dataset", "home"],
            registry=registry,
        )
        self.cache_tiles = Gauge("ocpproxy_cache_tiles", "Tiles and chunks on disk", registry=registry)
        self.cache_bytes = Gauge("ocpproxy_cache_bytes", "Bytes of tiles and chunks on disk", registry=registry)
        self.cache_limit = Gauge(
            "ocpproxy_cache_limit_bytes",
            "Bytes of tiles that there may be: size, or less where keep_free leaves less",
            registry=registry,
        )
        self.evicted = Counter("ocpproxy_reclaimed_tiles", "Tiles and chunks evicted", registry=registry)
        self.mended = Counter(
            "ocpproxy_mended", "Differences between disk and index that were mended", ["what"], registry=registry
        )
        self.unstored = Counter(
            "ocpproxy_unstored_tiles",
            "Tiles answered but not stored: no space, or the disk refused",
            registry=registry,
        )
        self.failed_passes = Counter(
            "ocpproxy_failed_turns", "Passes of a background loop that failed", ["loop"], registry=registry
        )
        self.waiters = Gauge("ocpproxy_waiters", "Requests waiting for a fetch", registry=registry)
        self.flights = Gauge("ocpproxy_flights", "Cuboids being fetched", registry=registry)
        self.renders_queued = Gauge("ocpproxy_renders_queued", "Renders waiting for a thread", registry=registry)
        self.lookahead = Counter(
            "ocpproxy_lookahead_cuboids", "Cuboids fetched before they were asked for", ["result"], registry=registry
        )
        for result in ("used", "wasted", "given_up", "failed"):
            self.lookahead.labels(result)
        self.jobs_running = Gauge("ocpproxy_jobs_running", "Prefetch jobs that run here", registry=registry)
        self.job_cuboids = Counter(
            "ocpproxy_job_cuboids", "Cuboids that prefetch jobs have done, by result", ["result"], registry=registry
        )
        for result in ("fetched", "cached", "failed"):
            self.job_cuboids.labels(result)
        self.index_up = Gauge("ocpproxy_index_up", "1 while the index database answers", registry=registry)
        self.pending = Gauge(
            "ocpproxy_unsettled_tiles", "Stored tiles whose rows in the index are pending", registry=registry
        )
        self.loop_lag = LoopLag()
        registry.register(self.loop_lag)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
