"""``ocpproxy jobs``: the prefetch jobs of a running daemon."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ocpproxy.cli.admin_client import COULD_NOT_RUN, AdminClient, add_config, ask_daemon
from ocpproxy.cli.job_display import Lines, job_line

_ACTIONS = ("pause", "resume", "cancel", "retry")


def add_parser(commands: Any) -> None:
    """Add the parser of this subcommand."""
    parser = commands.add_parser(
        "jobs",
        help="show the prefetch jobs of a running daemon; pause, resume, cancel or retry one",
        description="Shows all prefetch jobs, or one with what has failed. pause lets a running job rest, resume lets "
        "it go on, cancel ends it, retry fetches again what has failed or is not in the cache any more.",
        epilog="Exit code 0: done; 2: it could not be done.",
    )
    parser.add_argument("words", nargs="*", metavar="[pause|resume|cancel|retry] ID", help="without ID: all jobs")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    add_config(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 when it was done, 2 when it could not be done."""
    words = arguments.words
    action = words[0] if words and words[0] in _ACTIONS else None
    numbers = words[1:] if action else words
    if len(numbers) > 1 or (action and not numbers) or not all(number.isdigit() for number in numbers):
        expected = "expected nothing, the number of a job, or one of " + ", ".join(_ACTIONS) + " and its number"
        print(f"ocpproxy jobs: {expected}", file=sys.stderr)
        return COULD_NOT_RUN
    number = numbers[0] if numbers else None
    return ask_daemon("jobs", arguments.config, lambda _, client: _jobs(client, action, number, as_json=arguments.json))


async def _jobs(client: AdminClient, action: str | None, number: str | None, *, as_json: bool) -> int:
    if number is None:
        jobs = (await client.ask("GET", "jobs"))["jobs"]
    elif action is None:
        jobs = [(await client.ask("GET", f"jobs/{number}"))["job"]]
    else:
        jobs = [(await client.ask("POST", f"jobs/{number}/{action}"))["job"]]
    for job in jobs:
        if as_json:
            print(json.dumps({"job": job}))
        elif number is None or action is not None:
            print(f"{job_line(job)} ({job['title']})")
        else:
            print(job["title"])
            Lines().end(job)
    if not jobs and not as_json:
        print("there are no jobs")
    return 0
