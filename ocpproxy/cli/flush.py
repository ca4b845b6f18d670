"""``ocpproxy flush``: forgets tiles, in a running daemon or in the cache of one that does not run."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.stdio import StandardIO
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineOnlyReceiver

from ocpproxy.cli import quantities
from ocpproxy.cli.admin_client import COULD_NOT_RUN, AdminClient, add_config, ask_daemon

_NOT_WANTED = 1
_LOOK_EVERY = 0.5
_SHOW_EVERY = 5.0
"""Seconds between two lines."""
_EPILOG = """\
The tiles are gone for viewers when the command ends; their files are removed afterwards, in the background, which
--list shows and --wait waits for. Exit code 0: done; 1: it was not confirmed; 2: it could not be done.
"""


def add_parser(commands: Any) -> None:
    """Add the parser of this subcommand."""
    parser = commands.add_parser(
        "flush",
        help="forget tiles, so that they are fetched again",
        description="Forgets tiles of exactly one token, so that they are fetched again when somebody wants them. Asks "
        "before it does.",
        epilog=_EPILOG,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("token", nargs="?", metavar="TOKEN[/CHANNEL]", help="several channels with commas between them")
    what.add_argument("--list", action="store_true", help="show the flushes whose files are being removed")
    parser.add_argument(
        "--plane", metavar="P,...", help="some of xy, xz, yz, zy, and 3d for chunks of voxels; by default all"
    )
    parser.add_argument("--levels", type=quantities.levels, metavar="A-B", help="both included; by default all")
    parser.add_argument("--times", type=quantities.whole_range, metavar="A-B", help="time points, both included")
    parser.add_argument(
        "--box",
        type=quantities.box,
        metavar="x0:x1,y0:y1,z0:z1",
        help="the tiles that show one of these voxels of the finest level",
    )
    parser.add_argument("--older-than", type=quantities.age, metavar="AGE", help="fetched so long ago: 30d, 12h")
    parser.add_argument("--dry-run", action="store_true", help="only print how many tiles it would be")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--wait", action="store_true", help="wait until the files are removed, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    add_config(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return the exit code; see `_EPILOG`."""
    if not (arguments.yes or arguments.dry_run or arguments.list or sys.stdin.isatty()):
        print("ocpproxy flush: expected --yes, for there is nobody to ask", file=sys.stderr)
        return COULD_NOT_RUN

    async def without(reactor: Any) -> int:
        from ocpproxy.cli.offline import work_offline  # most of the daemon, which is not needed where one runs

        return await work_offline("flush", arguments.config, reactor, lambda cache: _run(reactor, cache, arguments))

    return ask_daemon(
        "flush", arguments.config, lambda reactor, client: _run(reactor, _Daemon(client), arguments), without
    )


class Flusher(Protocol):
    """A cache whose tiles can be flushed."""

    async def count_flushed(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return the ``title`` of a flush, and the ``tiles`` and ``bytes`` that it would forget."""

    async def flush(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a flush, and return what is known of it."""

    async def flushes(self) -> list[dict[str, Any]]:
        """Return the flushes whose files are being removed."""


class _Daemon:
    """The cache of a running daemon."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    async def count_flushed(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return the ``title`` of a flush, and the ``tiles`` and ``bytes`` that it would forget."""
        return await self._client.ask("POST", "flushes?dry_run=1", wanted)

    async def flush(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a flush, and return what is known of it."""
        begun: dict[str, Any] = (await self._client.ask("POST", "flushes", wanted))["flush"]
        return begun

    async def flushes(self) -> list[dict[str, Any]]:
        """Return the flushes whose files are being removed."""
        flushes: list[dict[str, Any]] = (await self._client.ask("GET", "flushes"))["flushes"]
        return flushes


async def _run(reactor: Any, cache: Flusher, arguments: argparse.Namespace) -> int:
    if arguments.list:
        return _list(await cache.flushes(), as_json=arguments.json)
    wanted = _document(arguments)
    if arguments.dry_run or not arguments.yes:
        found = await cache.count_flushed(wanted)
        size = quantities.show_size(found["bytes"])
        _say(arguments, f"{found['tiles']:,} tiles ({size}) of {found['title']} would be forgotten", found)
        if arguments.dry_run:
            return 0
        if not await _confirmed("Forget them? [y/N] "):
            print("nothing was forgotten", file=sys.stderr)
            return _NOT_WANTED
    begun = await cache.flush(wanted)
    sentence = f"the tiles of {begun['title']} are forgotten"
    sentence += ", and their files removed" if begun.get("carried_out") else "; their files are being removed"
    if begun["silent"]:
        sentence += f"; {begun['silent']} processes do not know it yet, and may serve them for a moment"
    _say(arguments, sentence, {"flush": begun})
    if arguments.wait:
        await _wait(reactor, cache, begun["name"], arguments)
    return 0


def _document(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the arguments ask for, as `jobs.flushing` describes it."""
    token, _, channels = arguments.token.partition("/")
    document = {
        "token": token,
        "channels": channels.split(",") if channels else None,
        "planes": arguments.plane.split(",") if arguments.plane else None,
        "levels": arguments.levels,
        "times": arguments.times,
        "box": arguments.box,
        "older_than": arguments.older_than,
    }
    return {key: value for key, value in document.items() if value is not None}


def _say(arguments: argparse.Namespace, sentence: str, document: Mapping[str, Any]) -> None:
    print(json.dumps(document) if arguments.json else sentence, flush=True)


def _list(flushes: list[dict[str, Any]], *, as_json: bool) -> int:
    for one in flushes:
        begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["at"]))
        waits = f", waits for {one['silent']} processes" if one["silent"] else ""
        line = f"{one['title']}, made until {begun}: {one['removed']:,} files removed{waits}"
        print(json.dumps({"flush": one}) if as_json else line)
    if not flushes and not as_json:
        print("no files are being removed")
    return 0


async def _wait(reactor: Any, cache: Flusher, name: str, arguments: argparse.Namespace) -> None:
    """Wait until the files of a flush are removed."""
    shown, removed = reactor.seconds(), 0
    while found := [one for one in await cache.flushes() if one["name"] == name]:
        removed = found[0]["removed"]
        if reactor.seconds() - shown >= _SHOW_EVERY:
            shown = reactor.seconds()
            _say(arguments, f"{removed:,} files removed", {"flush": found[0]})
        await deferLater(reactor, _LOOK_EVERY)
    _say(arguments, "all files are removed", {"message": "all files are removed"})


class _Answer(LineOnlyReceiver):
    """The answer to a question."""

    delimiter = b"\n"

    def __init__(self) -> None:
        self.given: Deferred[bytes] = Deferred()

    def lineReceived(self, line: bytes) -> None:
        """Take the answer."""
        self._give(line)

    def connectionLost(self, reason: Any = None) -> None:
        """Take it as a no that there is nobody any more."""
        self._give(b"")

    def _give(self, line: bytes) -> None:
        if not self.given.called:
            self.given.callback(line)


async def _confirmed(question: str) -> bool:
    """Ask the person at the terminal, and return whether the answer is yes."""
    print(question, end="", file=sys.stderr, flush=True)
    answer = _Answer()
    StandardIO(answer)
    return (await answer.given).strip().lower() in (b"y", b"yes")
