"""``ocpproxy describe``: asks an upstream now, and prints what the gateway makes of a dataset, or why it cannot."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.cli.quantities import printable
from ocpproxy.cli.reactor import run_in_reactor
from ocpproxy.cli.settings import load_settings
from ocpproxy.config import Settings
from ocpproxy.daemon import describing
from ocpproxy.daemon.describing import DatasetReport
from ocpproxy.model.dataset import Level
from ocpproxy.web.catmaid.stacks import image_bases
from ocpproxy.web.tiles import description


def add_parser(commands: Any) -> None:
    """Add the parser of this subcommand."""
    parser = commands.add_parser(
        "describe",
        help="ask the upstream of a dataset now, and print what the gateway makes of it",
        description="Asks the upstream of a dataset now, and prints what the gateway makes of it: every document that "
        "was read, levels, channels, image bases; or the reason in full why it cannot be shown.",
        epilog="Exit code 0: it can be shown; 1: it cannot.",
    )
    parser.add_argument("token", metavar="TOKEN")
    parser.add_argument("--config", required=True, metavar="F")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 for a dataset that can be shown, 1 for any other."""
    settings = load_settings(arguments.config)
    if settings is None:
        return 1
    (report,) = ask(settings, [arguments.token])
    if arguments.json:
        print(json.dumps(as_json(report), indent=1))
    else:
        print("\n".join(map(printable, lines(report))))
    return 0 if report.entry is not None else 1


def ask(settings: Settings, tokens: Sequence[str]) -> list[DatasetReport]:
    """Return what the upstreams say of these tokens, in order."""
    return run_in_reactor(lambda reactor: describing.describe(reactor, settings, tokens))


def summary(report: DatasetReport) -> str:
    """Return one line: whether the dataset can be shown, or why not."""
    if report.failure is not None:
        return f"{report.token} cannot be shown: {report.failure.fault}: {report.failure}"
    return f"{report.token} can be shown"


def lines(report: DatasetReport) -> Iterator[str]:
    """Yield what is printed for people."""
    yield summary(report)
    if report.origin:
        yield f"upstream: {report.origin}"
    yield f"documents: {len(report.documents) or 'none'}"
    for document in report.documents:
        yield f"  {document.address}: {document.outcome}"
        yield from (f"    {line}" for line in _readable(document.text).splitlines())
    if report.entry is None:
        return
    dataset = report.entry.dataset
    yield "levels:"
    for number, level in dataset.levels.items():
        yield f"  {number}: {_level(level)}"
    yield "channels:"
    for channel in dataset.channels:
        window = f", window {channel.window[0]} to {channel.window[1]}" if channel.window[1] else ""
        times = f", times {channel.time[0]} to {channel.time[1]}" if channel.time[1] else ""
        yield f"  {channel.name}: {channel.kind}, {channel.dtype}{window}{times}"
    yield "left out:" if dataset.notes else "left out: nothing"
    yield from (f"  {note}" for note in dataset.notes)
    yield "image bases:"
    yield from (f"  {base}" for base in _description(report.entry)["image_bases"])


def _readable(text: str) -> str:
    """Return a document indented, if it is JSON."""
    try:
        return json.dumps(json.loads(text), indent=1, ensure_ascii=False) if text else ""
    except (ValueError, RecursionError):
        return text


def _description(entry: CatalogueEntry) -> dict[str, Any]:
    return description(entry, image_bases(entry), "")


def _level(level: Level) -> str:
    size, offset, cube = (" x ".join(map(str, triple)) for triple in (level.size, level.offset, level.cube))
    edges = " x ".join(f"{float(edge):g}" for edge in level.voxel)
    return f"{size} voxels from {offset} on, read in blocks of {cube}, a voxel is {edges}"


def as_json(report: DatasetReport) -> dict[str, Any]:
    """Return what is printed for programs."""
    failure = report.failure
    return {
        "token": report.token,
        "upstream": report.origin,
        "documents": [
            {"address": document.address, "outcome": document.outcome, "text": document.text}
            for document in report.documents
        ],
        "dataset": None if report.entry is None else _description(report.entry),
        "fault": None if failure is None else failure.fault,
        "reason": None if failure is None else str(failure),
    }
