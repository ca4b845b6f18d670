"""The metrics of several processes as one text.

`prometheus_client.multiprocess` does this by files that every process maps. It has no summaries, and no gauges that are
read when they are scraped, both of which we have; and a counter of it costs a hit more than the look-up of its tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import add

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

_HIGHEST = {"ocpproxy_cache_tiles", "ocpproxy_cache_bytes", "ocpproxy_cache_limit_bytes", "ocpproxy_upstream_breaker"}
"""Gauges of what all processes share: each has looked at its own time. And states, which cannot be added up."""
_LOWEST = {"ocpproxy_index_up"}
_COUNTED = {"counter", "histogram", "summary"}


def merge_metrics(texts: Iterable[bytes], dead: bytes = b"") -> bytes:
    """Return the metrics of several processes as one text.

    Counts and the gauges of each process are added up. Of gauges of what they share, and of quantiles, the worst value
    counts.

    :param dead: the counts of dead processes (`add_dead`).
    """
    families: dict[str, Metric] = {}
    samples: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for text in (*texts, dead):
        for family in text_string_to_metric_families(text.decode()):
            families.setdefault(family.name, family)
            values = samples.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                values[key] = (
                    _how_to_join(family.name, sample)(values[key], sample.value) if key in values else sample.value
                )
    for name, family in families.items():
        family.samples = [Sample(sample, dict(labels), value) for (sample, labels), value in samples[name].items()]
    return generate_latest(_Families(list(families.values())))


def add_dead(dead: bytes, text: bytes) -> bytes:
    """Return the counts of dead processes, with those of another one that has just died."""
    counts = [family for family in text_string_to_metric_families(text.decode()) if family.type in _COUNTED]
    for family in counts:
        family.samples = [sample for sample in family.samples if "quantile" not in sample.labels]
    return merge_metrics([dead, generate_latest(_Families(counts))])


def _how_to_join(family: str, sample: Sample) -> Callable[[float, float], float]:
    if family in _LOWEST or sample.name.endswith("_created"):
        return min
    return max if family in _HIGHEST or "quantile" in sample.labels else add


@dataclass(frozen=True)
class _Families:
    """A registry, as `generate_latest` sees it."""

    families: list[Metric]

    def collect(self) -> Iterable[Metric]:
        """Return the metric families."""
        return self.families
