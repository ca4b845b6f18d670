"""``ocpproxy tokens --config F``: prints the token, the kind and the address of each dataset of a configuration file.

A subcommand, as ``docs/extending.md`` explains it.
"""

from __future__ import annotations

import argparse
from typing import Any

from ocpproxy.config import BadConfiguration
from ocpproxy.daemon.tap import load


def add_parser(commands: Any) -> None:
    """Add the parser of this subcommand."""
    parser = commands.add_parser("tokens", help="print the token, the kind and the address of each dataset")
    parser.add_argument("--config", required=True, metavar="F")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0, or 1 for a file that cannot be used."""
    try:
        settings = load(arguments.config)
    except BadConfiguration as bad:
        print(bad)
        return 1
    for token, dataset in settings.datasets.items():
        for _, address in dataset.upstream.url:
            print(token, dataset.upstream.type, address)
    return 0
