"""``ocpproxy reload``: lets the daemon read its configuration again."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ocpproxy.cli.admin_client import AdminClient, Refused, add_config, ask_daemon

_HAS_FAULTS = 422


def add_parser(commands: Any) -> None:
    """Add the parser of this subcommand."""
    parser = commands.add_parser(
        "reload",
        help="let the daemon read its configuration again, without dropping a connection",
        description="Lets the daemon read its configuration again. Datasets and [upstream] change at once, and no "
        "connection is dropped. What needs a restart is named. A file with faults changes nothing. The signal HUP "
        "does the same.",
        epilog="Exit code 0: done; 1: the configuration has faults; 2: no daemon could be asked.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_config(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 when the configuration is used, 1 when it has faults, 2 when no daemon could be asked."""

    async def reload(reactor: Any, client: AdminClient) -> int:
        try:
            found = (await client.ask("POST", "reload"))["reloaded"]
        except Refused as refused:
            if refused.status != _HAS_FAULTS:
                raise
            print(refused, file=sys.stderr)
            return 1
        print(json.dumps(found) if arguments.json else found["summary"])
        return 0

    return ask_daemon("reload", arguments.config, reload)
