"""The ``ocpproxy`` command: what an administrator does beside running the daemon.

Each subcommand is one module of this package with two functions: ``add_parser`` adds its parser, whose default ``run``
is the function that takes the parsed arguments and returns the exit code. `SUBCOMMANDS` has a line for each.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ocpproxy import __version__
from ocpproxy.cli import check_config, describe, fsck, jobs, prefetch

SUBCOMMANDS = (check_config, describe, fsck, prefetch, jobs)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = argparse.ArgumentParser("ocpproxy", description="Looks after the ocpproxy tile gateway.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for subcommand in SUBCOMMANDS:
        subcommand.add_parser(commands)
    arguments = parser.parse_args(argv)
    code: int = arguments.run(arguments)
    return code
