"""The counters and gauges, named once. Scraped at ``/metrics``; the names are part of the gateway's outside."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import add

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric, SummaryMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class LoopLag:
    """How late the event loop came to a timer: count and sum since the start, quantiles of the last samples."""

    def __init__(self, samples: int = 600) -> None:
        self._recent: deque[float] = deque(maxlen=samples)
        self._count = 0
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Note one sample."""
        self._recent.append(seconds)
        self._count += 1
        self._sum += seconds

    def collect(self) -> Iterable[Metric]:
        """What Prometheus reads."""
        name = "ocpproxy_event_loop_lag_seconds"
        lag = SummaryMetricFamily(name, "How late the event loop was; quantiles over the last minute", labels=())
        lag.add_metric((), count_value=self._count, sum_value=self._sum)
        ordered = sorted(self._recent)
        for quantile in (0.5, 0.9, 0.99, 1.0):
            value = ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else 0.0
            lag.add_sample(name, {"quantile": f"{quantile:g}"}, value)
        yield lag


class Metrics:
    """One set of metrics in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.tiles = Counter("ocpproxy_tiles", "Tile requests answered, by result", ["result"], registry=registry)
        for result in ("hit_memory", "hit_disk", "miss", "blank", "error"):
            self.tiles.labels(result)
        self.upstream_requests = Counter(
            "ocpproxy_upstream_requests", "Requests to upstreams", ["kind", "outcome"], registry=registry
        )
        self.upstream_seconds = Histogram(
            "ocpproxy_upstream_seconds", "Time to the last byte", ["kind"], buckets=_SECONDS, registry=registry
        )
        self.cache_tiles = Gauge("ocpproxy_cache_tiles", "Tiles on disk", registry=registry)
        self.cache_bytes = Gauge("ocpproxy_cache_bytes", "Bytes of tiles on disk", registry=registry)
        self.reclaimed = Counter("ocpproxy_reclaimed_tiles", "Tiles reclaimed", registry=registry)
        self.mended = Counter(
            "ocpproxy_mended", "Differences between disk and index that were mended", ["what"], registry=registry
        )
        self.unstored = Counter(
            "ocpproxy_unstored_tiles",
            "Tiles answered but not stored: no room, or the disk refused",
            registry=registry,
        )
        self.failed_turns = Counter(
            "ocpproxy_failed_turns", "Turns of a background loop that failed", ["loop"], registry=registry
        )
        self.waiters = Gauge("ocpproxy_waiters", "Requests waiting for a fetch", registry=registry)
        self.flights = Gauge("ocpproxy_flights", "Cuboids being fetched", registry=registry)
        self.renders_queued = Gauge("ocpproxy_renders_queued", "Renders waiting for a thread", registry=registry)
        self.index_up = Gauge("ocpproxy_index_up", "1 while the index database answers", registry=registry)
        self.unsettled = Gauge(
            "ocpproxy_unsettled_tiles", "StoredTile tiles the index has not accounted for yet", registry=registry
        )
        self.loop_lag = LoopLag()
        registry.register(self.loop_lag)

    def text(self) -> bytes:
        """All of them in the text form of Prometheus."""
        return generate_latest(self.registry)


# -- several processes


_HIGHEST = {"ocpproxy_cache_tiles", "ocpproxy_cache_bytes"}
"""Gauges of what all processes share: each has looked at its own time."""
_LOWEST = {"ocpproxy_index_up"}
_COUNTED = {"counter", "histogram", "summary"}


def merged(texts: Iterable[bytes], dead: bytes = b"") -> bytes:
    """One text of the metrics of several processes.

    Counts are added up, gauges of what each has for itself too; of what they share, and of quantiles, the worst counts.

    :param dead: the counts of processes that are no more (`retired`).
    """
    families: dict[str, Metric] = {}
    samples: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for text in (*texts, dead):
        for family in text_string_to_metric_families(text.decode()):
            families.setdefault(family.name, family)
            values = samples.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                values[key] = _join(family.name, sample)(values[key], sample.value) if key in values else sample.value
    for name, family in families.items():
        family.samples = [Sample(sample, dict(labels), value) for (sample, labels), value in samples[name].items()]
    return generate_latest(_Collected(list(families.values())))


def retired(dead: bytes, text: bytes) -> bytes:
    """The counts of dead processes, and of another one that has just died."""
    counts = [family for family in text_string_to_metric_families(text.decode()) if family.type in _COUNTED]
    for family in counts:
        family.samples = [sample for sample in family.samples if "quantile" not in sample.labels]
    return merged([dead, generate_latest(_Collected(counts))])


def _join(family: str, sample: Sample) -> Callable[[float, float], float]:
    if family in _LOWEST or sample.name.endswith("_created"):
        return min
    return max if family in _HIGHEST or "quantile" in sample.labels else add


@dataclass(frozen=True)
class _Collected:
    """Families, as `generate_latest` wants to have them."""

    families: list[Metric]

    def collect(self) -> Iterable[Metric]:
        """They."""
        return self.families
