"""``ocpproxy usage``: what is stored, and who uses the space."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from typing import Any

from ocpproxy.cli.admin_client import AdminClient, add_config, ask_daemon
from ocpproxy.cli.quantities import show_size

_COLUMNS = ("token", "plane", "level", "tiles", "bytes", "used", "quota", "pinned")

_NUMBERS = {"tiles", "bytes", "level", "quota", "pinned"}


def add_parser(commands: Any) -> None:
    """Add the parser of this subcommand."""
    parser = commands.add_parser(
        "usage",
        help="show how many tiles of each dataset are stored, and how large they are",
        description="Shows how many tiles are stored, how large they are, and when one was used last.",
        epilog="Exit code 0: done; 2: it could not be done.",
    )
    parser.add_argument(
        "--by", choices=("token", "plane", "level"), default="token", help="a line for each; by default token"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object a line")
    form.add_argument("--csv", action="store_true", help="print a table for spreadsheets")
    add_config(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 when it was done, 2 when it could not be done."""

    async def online(reactor: Any, client: AdminClient) -> int:
        return _show((await client.ask("GET", f"usage?by={arguments.by}"))["usage"], arguments)

    async def without(reactor: Any) -> int:
        from ocpproxy.cli.offline import OfflineCache, work_offline  # most of the daemon, not needed where one runs

        async def show(cache: OfflineCache) -> int:
            return _show(await cache.usage(arguments.by), arguments)

        return await work_offline("usage", arguments.config, reactor, show)

    return ask_daemon("usage", arguments.config, online, without)


def _show(found: list[dict[str, Any]], arguments: argparse.Namespace) -> int:
    if arguments.json:
        for one in found:
            print(json.dumps(one))
        return 0
    shown = {"plane": arguments.by != "token", "level": arguments.by == "level"}
    shown |= dict.fromkeys(("quota", "pinned"), arguments.by == "token")
    columns = [name for name in _COLUMNS if shown.get(name, True)]
    if arguments.csv:
        writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
        return 0
    rows = [[_cell(name, one[name]) for name in columns] for one in found]
    total = {"token": "all", "tiles": sum(one["tiles"] for one in found), "bytes": sum(one["bytes"] for one in found)}
    rows.append([_cell(name, total[name]) if name in total else "" for name in columns])
    _print_table([["last use" if name == "used" else name for name in columns], *rows], columns)
    return 0


def _cell(name: str, value: Any) -> str:
    if name == "tiles":
        return f"{value:,}"
    if name in {"bytes", "quota", "pinned"}:
        return show_size(value) if value else ""
    if name == "used":
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(value)) if value else "unknown"
    return str(value)


def _print_table(rows: list[list[str]], columns: list[str]) -> None:
    widths = [max(len(row[n]) for row in rows) for n in range(len(columns))]
    for row in rows:
        cells = [
            cell.rjust(width) if name in _NUMBERS else cell.ljust(width)
            for cell, width, name in zip(row, widths, columns, strict=True)
        ]
        print("  ".join(cells).rstrip())
