"""How a running job is shown: a bar on a terminal, a line now and then elsewhere, or JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Protocol

from tqdm import tqdm

from ocpproxy.cli.quantities import show_seconds, show_size

_EVERY = 30.0
"""Seconds between two lines."""


class Display(Protocol):
    """Shows what becomes of one job."""

    def estimate(self, estimate: dict[str, Any], refused: str | None) -> None:
        """Show what the job comes to."""

    def say(self, sentence: str) -> None:
        """Show a sentence for people."""

    def job(self, job: dict[str, Any]) -> None:
        """Show how far the job is."""

    def end(self, job: dict[str, Any]) -> None:
        """Show how the job has ended, or rests."""


def display(*, as_json: bool) -> Display:
    """Return the display that is right for standard output."""
    if as_json:
        return JsonLines()
    return Bar() if sys.stdout.isatty() else Lines()


def estimate_line(estimate: dict[str, Any]) -> str:
    """Return what a job comes to, in one line."""
    cached, tiles = estimate["cached_tiles"], estimate["tiles"]
    known = "an unknown number" if cached is None else "none" if not cached else f"{cached:,}"
    source = f"measured on {estimate['measured_on']:,} tiles" if estimate["measured_on"] else "assumed"
    fits = "fits" if estimate["fits"] else "does not fit"
    return (
        f"{estimate['cuboids']:,} cuboids, {tiles:,} tiles, {known} of them cached; "
        f"about {show_size(estimate['new_bytes'])} to fetch and {show_size(estimate['bytes'])} in all ({source}), "
        f"which {fits} below the {show_size(estimate['available'])} at which the cache evicts; "
        f"about {show_seconds(estimate['seconds'])}"
    )


def job_line(job: dict[str, Any]) -> str:
    """Return how far a job is, in one line."""
    progress = job["progress"]
    cuboids, done = progress.get("cuboids", 0), progress.get("done", 0)
    words = [f"job {job['id']} {job['state']}", f"{done:,} of {cuboids:,} cuboids"]
    if progress.get("checking") and job["state"] == "running":
        words.append("checking that all is there")
    if progress.get("failed"):
        words.append(f"{progress['failed']:,} failed")
    words.append(f"{show_size(progress.get('bytes', 0))} stored")
    if job["state"] == "running" and progress.get("rate"):
        words.append(f"{progress['rate']:.1f} cuboids/s")
    if job["eta_seconds"] is not None:
        words.append(f"{show_seconds(job['eta_seconds'])} left")
    return ", ".join(words) + (f": {job['reason']}" if job["reason"] else "")


class Lines:
    """A line every 30 seconds, without anything that only a terminal understands."""

    def __init__(self) -> None:
        self._shown = time.monotonic()

    def estimate(self, estimate: dict[str, Any], refused: str | None) -> None:
        """Print the estimate."""
        print(estimate_line(estimate), flush=True)

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        print(sentence, flush=True)

    def job(self, job: dict[str, Any]) -> None:
        """Print a line, if the last one was a while ago."""
        if time.monotonic() - self._shown >= _EVERY:
            self._shown = time.monotonic()
            print(job_line(job), flush=True)

    def end(self, job: dict[str, Any]) -> None:
        """Print the last line, and what has failed."""
        print(job_line(job), flush=True)
        for failure in job.get("failures", ()):
            print(f"  {failure['cuboid']}: {failure['reason']}", flush=True)


class Bar(Lines):
    """A bar on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None

    def say(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        tqdm.write(sentence)

    def job(self, job: dict[str, Any]) -> None:
        """Move the bar."""
        progress = job["progress"]
        if self._bar is None:
            form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} cuboids{postfix}"
            total = progress.get("cuboids", 0)
            self._bar = tqdm(total=total, bar_format=form, dynamic_ncols=True, file=sys.stdout)
        self._bar.set_description_str(f"job {job['id']} {job['state']}", refresh=False)
        words = [show_size(progress.get("bytes", 0))]
        if progress.get("rate") and job["state"] == "running":
            words.append(f"{progress['rate']:.1f}/s")
        if job["eta_seconds"] is not None:
            words.append(f"{show_seconds(job['eta_seconds'])} left")
        if progress.get("failed"):
            words.append(f"{progress['failed']} failed")
        self._bar.set_postfix_str(", ".join(words), refresh=False)
        self._bar.n = progress.get("done", 0)
        self._bar.refresh()

    def end(self, job: dict[str, Any]) -> None:
        """Close the bar, and print the last line."""
        if self._bar is not None:
            self.job(job)
            self._bar.close()
            self._bar = None
        super().end(job)


class JsonLines:
    """One JSON object a line: ``estimate``, then ``job`` every 30 seconds, when its state changes, and at the end."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._state = ""

    def estimate(self, estimate: dict[str, Any], refused: str | None) -> None:
        """Print the estimate."""
        self._print({"estimate": estimate, "refused": refused})

    def say(self, sentence: str) -> None:
        """Print a message."""
        self._print({"message": sentence})

    def job(self, job: dict[str, Any]) -> None:
        """Print the job, if the last time was a while ago."""
        if time.monotonic() - self._shown >= _EVERY or job["state"] != self._state:
            self._print({"job": job})
            self._shown, self._state = time.monotonic(), job["state"]

    def end(self, job: dict[str, Any]) -> None:
        """Print the job."""
        self._print({"job": job})

    @staticmethod
    def _print(value: dict[str, Any]) -> None:
        print(json.dumps(value), flush=True)
