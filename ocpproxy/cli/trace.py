"""``ocpproxy trace``: what the daemon does with a request, step by step."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any
from urllib.parse import urlencode

from ocpproxy.cli.admin_client import COULD_NOT_RUN, AdminClient, add_config, ask_daemon
from ocpproxy.cli.quantities import printable


def add_parser(commands: Any) -> None:
    """Add the parser of this subcommand."""
    parser = commands.add_parser(
        "trace",
        help="show what the daemon would do with a request, step by step, or what came of it",
        description="Shows what the daemon would do with a request: what the address means, the cuboid, whether the "
        "tile is in memory, on disk and in the index, who holds the lease, which upstream would be asked. With "
        "--fetch the request is carried out, with its times.",
        epilog="Exit code 0: shown; 2: no daemon could be asked.",
    )
    parser.add_argument("url", metavar="URL", help="as the viewer asks for it; or only its path")
    parser.add_argument("--fetch", action="store_true", help="carry the request out")
    parser.add_argument("--json", action="store_true", help="print one JSON object a step")
    add_config(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 when the steps were shown, 2 when no daemon could be asked."""
    try:
        url = arguments.url if "://" in arguments.url else "/" + arguments.url.removeprefix("/")
        query = urlencode({"target": url, "fetch": int(arguments.fetch)})
    except UnicodeEncodeError:
        print("ocpproxy trace: expected an address in UTF-8", file=sys.stderr)
        return COULD_NOT_RUN

    async def trace(reactor: Any, client: AdminClient) -> int:
        for step in (await client.ask("GET", f"trace?{query}"))["steps"]:
            print(json.dumps(step) if arguments.json else f"{step['step']:18} {printable(step['found'])}")
        return 0

    return ask_daemon("trace", arguments.config, trace)
