"""``ocpproxy check-config``: prints every fault of a configuration file."""

from __future__ import annotations

import argparse
from typing import Any

from ocpproxy.config import BadConfiguration
from ocpproxy.daemon.tap import load


def add_parser(commands: Any) -> None:
    """Add the parser of this subcommand."""
    parser = commands.add_parser("check-config", help="print every fault of a configuration file; exit 0 or 1")
    parser.add_argument("--config", required=True, metavar="F")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 for a file that can be used, 1 for any other."""
    try:
        load(arguments.config)
    except BadConfiguration as bad:
        print(bad)
        return 1
    print(f"{arguments.config} is fine")
    return 0
