"""The ``ocpproxy`` command: what an administrator does beside running the daemon.

Each subcommand is one module with two functions: ``add_parser`` adds its parser, whose default ``run`` is the function
that takes the parsed arguments and returns the exit code. `SUBCOMMANDS` has a line for each. Only the module of the
subcommand that is run is imported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from ocpproxy import __version__

SUBCOMMANDS = {
    "check-config": "ocpproxy.cli.check_config",
    "describe": "ocpproxy.cli.describe",
    "flush": "ocpproxy.cli.flush",
    "fsck": "ocpproxy.cli.fsck",
    "prefetch": "ocpproxy.cli.prefetch",
    "jobs": "ocpproxy.cli.jobs",
    "usage": "ocpproxy.cli.usage",
    "pin": "ocpproxy.cli.pin",
    "unpin": "ocpproxy.cli.pin",
    "pins": "ocpproxy.cli.pin",
    "reload": "ocpproxy.cli.reload",
    "trace": "ocpproxy.cli.trace",
    "link": "ocpproxy.cli.link",
    "catmaid-import": "ocpproxy.cli.catmaid_import",
}
"""The module of each subcommand. A module may have several."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = argparse.ArgumentParser("ocpproxy", description="Looks after the ocpproxy tile gateway.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    words = sys.argv[1:] if argv is None else argv
    named = SUBCOMMANDS.get(words[0]) if words else None
    for module in [named] if named else dict.fromkeys(SUBCOMMANDS.values()):  # the help shows all of them
        import_module(module).add_parser(commands)
    arguments = parser.parse_args(words)
    code: int = arguments.run(arguments)
    return code
