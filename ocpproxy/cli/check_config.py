"""``ocpproxy check-config``: prints every fault of a configuration file."""

from __future__ import annotations

import argparse
from typing import Any

from ocpproxy.cli import describe
from ocpproxy.cli.settings import load_settings
from ocpproxy.config import Settings
from ocpproxy.upstream.registry import KINDS


def add_parser(commands: Any) -> None:
    """Add the parser of this subcommand."""
    parser = commands.add_parser(
        "check-config",
        help="print every fault of a configuration file",
        description="Prints every fault of a configuration file at once. The daemon refuses a file that this refuses.",
        epilog="Exit code 0: it can be used; 1: it cannot, or with --connect a dataset cannot be shown.",
    )
    parser.add_argument("--config", required=True, metavar="F", help="the file")
    parser.add_argument("--connect", action="store_true", help="ask the upstream of every dataset, too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 for a file that can be used, and whose datasets can be shown if they are asked for; 1 for any other."""
    settings = load_settings(arguments.config)
    if settings is None:
        return 1
    print(f"{arguments.config} is fine")
    return _connect(settings) if arguments.connect else 0


def _connect(settings: Settings) -> int:
    """Print, for each token that the file names, whether it can be shown."""
    tokens = [*settings.datasets]
    if settings.any_token:
        tokens += [token for token in KINDS[settings.upstream.type].fixed_tokens if token not in tokens]
    reports = describe.ask(settings, tokens)
    for report in reports:
        print(describe.summary(report))
        for note in report.entry.dataset.notes if report.entry is not None else ():
            print(f"  {note}")
    if not tokens:
        print("no dataset is named in the file, so no upstream was asked")
    return 1 if any(report.entry is None for report in reports) else 0
