"""``ocpproxy fsck``: finds and mends what disk and index do not agree on."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ocpproxy.cli.reactor import run_in_reactor
from ocpproxy.cli.settings import load_settings
from ocpproxy.config import Settings
from ocpproxy.daemon.storage import CannotOpen, Storage, opened
from ocpproxy.index import leases
from ocpproxy.store.fsck import Report

_COULD_NOT_LOOK = 2


def add_parser(commands: Any) -> None:
    """Add the parser of this subcommand."""
    parser = commands.add_parser(
        "fsck",
        help="find and mend what disk and index do not agree on",
        description="Finds and mends what the cache directory and the index do not agree on. It may run while the "
        "daemon does.",
        epilog="Exit code 0: there was nothing to mend; 1: something was mended; 2: it could not look.",
    )
    parser.add_argument("--config", metavar="F", help="without it: the cache of a daemon that runs without one")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 when there was nothing to mend, 1 when something was mended, 2 when it could not look."""
    settings = load_settings(arguments.config)
    if settings is None:
        return _COULD_NOT_LOOK
    return run_in_reactor(lambda reactor: _fsck(reactor, settings))


async def _fsck(reactor: Any, settings: Settings) -> int:
    mended: list[str] = []

    def report(what: str, where: str) -> None:
        mended.append(what)
        print(f"mended: {what}: {where}", flush=True)

    try:
        async with opened(settings, reactor, report) as storage:
            await _mend(storage, report)
            usage = storage.store.usage
    except CannotOpen as error:
        print(error, file=sys.stderr)
        return _COULD_NOT_LOOK
    print(f"{usage.tiles} tiles, {usage.bytes} bytes; {len(mended) or 'nothing'} mended")
    return 1 if mended else 0


async def _mend(storage: Storage, report: Report) -> None:
    await storage.fsck.recover()
    await storage.fsck.sweep(read_all=True)
    for name in await storage.database.run(leases.delete_expired):
        report("expired lease", name)
