"""The figures of the status page. Each number is one of ``/metrics``, or is worked out from such numbers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from ocpproxy.cache.fetch_times import FetchReport, SlowFetch
from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.index.jobs import ENDED, Job
from ocpproxy.jobs.progress import JobProgress
from ocpproxy.jobs.space import PartUsage

_HITS = ("hit_memory", "hit_disk", "stale")
MOST_ROWS = 50
"""Rows of a table that are shown."""
_ENDED_SHOWN = 5
"""Jobs that have ended, of which the last ones are shown."""
_BREAKER = {0.0: "well", 1.0: "tried again", 2.0: "left alone"}


class Figure(NamedTuple):
    """One number."""

    key: str
    label: str
    unit: str
    """``count``, ``bytes``, ``share``, ``seconds``, ``per second``, ``bytes per second`` or ``switch``."""
    metric: str = ""
    """The metric whose value it is; empty where it is worked out."""


class FigureGroup(NamedTuple):
    """Numbers that belong together."""

    title: str
    figures: tuple[Figure, ...]


def _tiles(result: str) -> str:
    return f'ocpproxy_tiles_total{{result="{result}"}}'


GROUPS = (
    FigureGroup(
        "Answers",
        (
            Figure("hit_ratio", "Found in the cache", "share"),
            Figure("hits_memory", "from memory", "count", _tiles("hit_memory")),
            Figure("hits_disk", "from disk", "count", _tiles("hit_disk")),
            Figure("misses", "Fetched", "count", _tiles("miss")),
            Figure("blanks", "Outside the volume", "count", _tiles("blank")),
            Figure("errors", "Errors", "count", _tiles("error")),
        ),
    ),
    FigureGroup(
        "Now",
        (
            Figure("requests_rate", "Tiles and chunks", "per second"),
            Figure("misses_rate", "of them fetched", "per second"),
            Figure("waiting", "Requests that wait", "count", "ocpproxy_waiters"),
            Figure("flights", "Cuboids being fetched", "count", "ocpproxy_flights"),
            Figure("renders", "Tiles that wait to be drawn", "count", "ocpproxy_renders_queued"),
            Figure("index_up", "Index database", "switch", "ocpproxy_index_up"),
        ),
    ),
    FigureGroup(
        "Space",
        (
            Figure("filled", "Full", "share"),
            Figure("bytes", "Stored", "bytes", "ocpproxy_cache_bytes"),
            Figure("limit", "of at most", "bytes", "ocpproxy_cache_limit_bytes"),
            Figure("tiles", "Tiles and chunks", "count", "ocpproxy_cache_tiles"),
            Figure("fill_rate", "Growing by", "bytes per second"),
            Figure("evicted", "Evicted since the start", "count", "ocpproxy_reclaimed_tiles_total"),
            Figure("evicted_rate", "Evicted just now", "per second"),
            Figure("pending", "Not in the index yet", "count", "ocpproxy_unsettled_tiles"),
        ),
    ),
)
PLOTS = (
    Figure("requests_rate", "Tiles and chunks", "per second"),
    Figure("hit_ratio_now", "Found in the cache", "share"),
    Figure("waiting", "Requests that wait", "count"),
    Figure("latency", "Upstreams' answers", "seconds"),
    Figure("bytes", "Stored", "bytes"),
    Figure("evicted_rate", "Evicted", "per second"),
)
"""What is shown as it changes."""


class Reading:
    """All metrics at one time.

    :param text: them in the format of Prometheus.
    :param at: seconds since 1970.
    """

    def __init__(self, text: bytes, at: float) -> None:
        self.at = at
        self._samples: dict[str, list[Sample]] = {}
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                self._samples.setdefault(sample.name, []).append(sample)

    def value(self, name: str) -> float:
        """Return a metric, its labels as Prometheus writes them; 0 where there is none."""
        samples = self._samples.get(name.partition("{")[0], ())
        return next((one.value for one in samples if _full_name(one) == name), 0.0)

    def total(self, name: str) -> float:
        """Return the sum of a metric over all its labels."""
        return sum(one.value for one in self._samples.get(name, ()))

    def rows(self, name: str) -> list[tuple[Mapping[str, str], float]]:
        """Return the labels and values of a metric."""
        return [(one.labels, one.value) for one in self._samples.get(name, ())]


def _full_name(sample: Sample) -> str:
    labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
    return f"{sample.name}{{{labels}}}" if labels else sample.name


@dataclass(frozen=True)
class StateSources:
    """Where the figures come from, looked up each time."""

    metrics: Callable[[], Awaitable[bytes]]
    usage: Callable[[], Awaitable[Sequence[PartUsage]]]
    """Raises DatabaseUnavailable, like `jobs`."""
    jobs: Callable[[], Awaitable[Sequence[Job]]]
    fetches: Callable[[], Awaitable[FetchReport]]
    """Returns how long fetches took."""
    now: Callable[[], float]
    """Returns the seconds since 1970."""

    async def read(self) -> Reading:
        """Return the metrics as they are now."""
        return Reading(await self.metrics(), self.now())

    async def tables(self, reading: Reading) -> dict[str, list[dict[str, Any]]]:
        """Return what is shown in rows. Without the index, its rows are missing."""
        try:
            usage, jobs = await self.usage(), await self.jobs()
        except DatabaseUnavailable:
            usage, jobs = [], []
        return {
            "usage": [_usage(one) for one in usage],
            "jobs": [_job(one) for one in _shown(jobs)],
            "upstreams": upstreams(reading),
            "breakers": breakers(reading),
            "slowest": [_slow(one) for one in (await self.fetches()).slowest],
        }


def figures(reading: Reading, before: Reading | None) -> dict[str, float | None]:
    """Return every number of `GROUPS` and `PLOTS` by its key; None where there is nothing to work it out from."""
    found: dict[str, float | None] = {
        figure.key: reading.value(figure.metric) for group in GROUPS for figure in group.figures if figure.metric
    }
    found["hit_ratio"] = _ratio(reading, None)
    found["filled"] = _quotient(reading.value("ocpproxy_cache_bytes"), reading.value("ocpproxy_cache_limit_bytes"))
    found["hit_ratio_now"] = None if before is None else _ratio(reading, before)
    found["requests_rate"] = _rate(reading, before, lambda one: one.total("ocpproxy_tiles_total"))
    found["misses_rate"] = _rate(reading, before, lambda one: one.value(_tiles("miss")))
    found["evicted_rate"] = _rate(reading, before, lambda one: one.value("ocpproxy_reclaimed_tiles_total"))
    found["fill_rate"] = _rate(reading, before, lambda one: one.value("ocpproxy_cache_bytes"))
    found["latency"] = _latency(reading, before)
    return found


def _quotient(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _ratio(reading: Reading, before: Reading | None) -> float | None:
    """Return the share of hits among what is inside a volume, since `before` or since the start."""

    def count(*results: str) -> float:
        names = [_tiles(result) for result in results]
        return sum(reading.value(name) - (before.value(name) if before is not None else 0) for name in names)

    hits = count(*_HITS)
    return _quotient(hits, hits + count("miss", "placeholder", "error"))


def _rate(reading: Reading, before: Reading | None, get: Callable[[Reading], float]) -> float | None:
    """Return how much a value has grown by in a second."""
    if before is None or reading.at <= before.at:
        return None
    return (get(reading) - get(before)) / (reading.at - before.at)


def _latency(reading: Reading, before: Reading | None) -> float | None:
    """Return the mean of upstreams' answers since `before`."""
    if before is None:
        return None
    seconds, count = (
        reading.total(f"ocpproxy_upstream_seconds_{part}") - before.total(f"ocpproxy_upstream_seconds_{part}")
        for part in ("sum", "count")
    )
    return _quotient(seconds, count)


def upstreams(reading: Reading) -> list[dict[str, Any]]:
    """Return, for each kind of upstream, its requests, how many failed, and how long they took on average."""
    kinds: dict[str, dict[str, Any]] = {}
    for labels, value in reading.rows("ocpproxy_upstream_requests_total"):
        row = kinds.setdefault(labels["kind"], {"kind": labels["kind"], "requests": 0.0, "failed": 0.0})
        row["requests"] += value
        row["failed"] += value if labels["outcome"] != "ok" else 0
    for kind, row in kinds.items():
        name = f'{{kind="{kind}"}}'
        seconds, count = (reading.value(f"ocpproxy_upstream_seconds_{part}{name}") for part in ("sum", "count"))
        row["seconds"] = _quotient(seconds, count)
    return sorted(kinds.values(), key=lambda row: str(row["kind"]))


def breakers(reading: Reading) -> list[dict[str, Any]]:
    """Return the upstreams that are not asked as usual."""
    rows = reading.rows("ocpproxy_upstream_breaker")
    return [
        {"token": labels["dataset"], "home": labels["home"], "state": _BREAKER.get(value, "left alone")}
        for labels, value in rows
        if value
    ]


def _usage(one: PartUsage) -> dict[str, Any]:
    return {"token": one.token, "tiles": one.tiles, "bytes": one.bytes, "used": one.used, "quota": one.quota}


def _shown(jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs that have not ended, and the last of those that have."""
    kept, ended = [], 0
    for job in jobs:
        ended += job.state in ENDED
        if job.state not in ENDED or ended <= _ENDED_SHOWN:
            kept.append(job)
    return kept


def _job(job: Job) -> dict[str, Any]:
    progress = JobProgress.of(job.progress)
    left, running = progress.cuboids - progress.done, job.state.value == "running"
    return {
        "id": job.id,
        "title": progress.title,
        "token": progress.title.partition(" ")[0].partition("/")[0],
        "state": job.state.value,
        "done": progress.done,
        "cuboids": progress.cuboids,
        "failed": progress.failed,
        "eta": left / progress.rate if progress.rate and running else None,
    }


def _slow(one: SlowFetch) -> dict[str, Any]:
    x, y, z = one.place
    return {**one._asdict(), "place": {"x": x, "y": y, "z": z}}
