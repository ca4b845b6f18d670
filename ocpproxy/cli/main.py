"""The ``ocpproxy`` command: what an administrator does beside running the daemon."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import react

from ocpproxy import __version__
from ocpproxy.config import BadConfiguration, Settings
from ocpproxy.daemon.gateway import open_storage
from ocpproxy.daemon.services import OrderedServices
from ocpproxy.daemon.tap import load
from ocpproxy.index import leases
from ocpproxy.index.database import DatabaseUnavailable
from ocpproxy.metrics import Metrics

_INDEX_WITHIN = 15.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser("ocpproxy", description="Looks after the ocpproxy tile gateway.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check-config", help="print every fault of a configuration file; exit 0 or 1")
    fsck = commands.add_parser(
        "fsck",
        help="find and mend what disk and index do not agree on; exit 0 when there was nothing, 1 when it mended, "
        "2 when it could not look. May run while the daemon does.",
    )
    check.add_argument("--config", required=True, metavar="F")
    fsck.add_argument("--config", metavar="F", help="without it: the cache of a daemon that runs without one")
    asked = parser.parse_args(argv)
    try:
        settings = load(asked.config)
    except BadConfiguration as bad:
        print(bad)
        return 1
    if asked.command == "check-config":
        print(f"{asked.config} is fine")
        return 0
    try:
        react(lambda reactor: Deferred.fromCoroutine(_fsck(reactor, settings)), [])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


async def _fsck(reactor: Any, settings: Settings) -> None:
    mended = 0

    def report(what: str, where: str) -> None:
        nonlocal mended
        mended += 1
        print(f"mended: {what}: {where}", flush=True)

    kept = open_storage(settings, reactor, Metrics(), report)
    parts = OrderedServices()
    for service in kept.services():
        service.setServiceParent(parts)
    try:
        parts.startService()
    except OSError as error:
        print(f"the cache directory cannot be used: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    try:
        await kept.database.wait_up().addTimeout(_INDEX_WITHIN, reactor)
        await kept.mender.recover()
        await kept.mender.sweep(read_all=True)
        for name in await kept.database.run(leases.expired):
            report("expired lease", name)
        usage = kept.store.usage
        print(f"{usage.tiles} tiles, {usage.bytes} bytes; {mended or 'nothing'} mended")
    except (DatabaseUnavailable, DeferredTimeout):
        print(f"the index database is away: {kept.database.reason}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        await parts.stopService()
    raise SystemExit(1 if mended else 0)
