"""``ocpproxy pin``, ``unpin`` and ``pins``: parts of volumes that are never evicted."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from ocpproxy.cli import quantities
from ocpproxy.cli.admin_client import COULD_NOT_RUN, AdminClient, add_config, ask_daemon

_EPILOG = "Exit code 0: done; 2: it could not be done, for example because it would not fit."


def add_parser(commands: Any) -> None:
    """Add the parsers of these subcommands."""
    pin = commands.add_parser(
        "pin",
        help="never evict a part of a volume",
        description="Pins a part of a volume: its tiles are never evicted. It is refused when all that is pinned would "
        "take more than the cache is evicted to (reclaim_to). Tiles in false colours are not pinned.",
        epilog=_EPILOG,
    )
    pin.add_argument("token", metavar="TOKEN[/CHANNEL]", help="several channels with commas between them; or all")
    pin.add_argument("--levels", type=quantities.levels, required=True, metavar="A-B", help="both included; A- for all")
    pin.add_argument("--plane", default="xy", metavar="P,...", help="some of xy, xz, yz, zy; by default xy")
    pin.add_argument("--times", type=quantities.whole_range, metavar="A-B", help="both included; by default all")
    pin.add_argument(
        "--box", type=quantities.box, metavar="x0:x1,y0:y1,z0:z1", help="the tiles that show one of these voxels"
    )
    pin.add_argument("--prefetch", action="store_true", help="fetch its tiles, too; needs a running daemon")
    _finish(pin, _pin)
    unpin = commands.add_parser(
        "unpin", help="let a pinned part be evicted again", description="Ends a pin.", epilog=_EPILOG
    )
    unpin.add_argument("id", type=int, metavar="ID", help="as ocpproxy pins shows it")
    _finish(unpin, _unpin)
    pins = commands.add_parser(
        "pins", help="show what is never evicted", description="Shows all pins of the command pin.", epilog=_EPILOG
    )
    _finish(pins, _pins)


def _finish(parser: argparse.ArgumentParser, work: Callable[[Pinner, argparse.Namespace], Awaitable[int]]) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    add_config(parser)
    parser.set_defaults(run=lambda arguments: run(parser.prog.split()[-1], work, arguments))


def run(
    command: str, work: Callable[[Pinner, argparse.Namespace], Awaitable[int]], arguments: argparse.Namespace
) -> int:
    """Return 0 when it was done, 2 when it could not be done."""

    async def online(reactor: Any, client: AdminClient) -> int:
        return await work(_DaemonPins(client), arguments)

    async def without(reactor: Any) -> int:
        if getattr(arguments, "prefetch", False):
            print(f"ocpproxy {command}: no daemon runs that could fetch the tiles", file=sys.stderr)
            return COULD_NOT_RUN
        from ocpproxy.cli.offline import OfflineCache, work_offline  # most of the daemon, not needed where one runs

        async def do(cache: OfflineCache) -> int:
            return await work(cache, arguments)

        return await work_offline(command, arguments.config, reactor, do)

    return ask_daemon(command, arguments.config, online, without)


class Pinner(Protocol):
    """A cache whose parts can be pinned."""

    async def pin(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Pin a part, and return what is known of the pin."""

    async def unpin(self, number: int) -> dict[str, Any]:
        """Let a part be evicted again, and return what is known of its pin."""

    async def pins(self) -> list[dict[str, Any]]:
        """Return all pins."""


class _DaemonPins:
    """The pins of a running daemon."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    async def pin(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Pin a part, and return what is known of the pin."""
        pin: dict[str, Any] = (await self._client.ask("POST", "pins", wanted))["pin"]
        return pin

    async def prefetch(self, wanted: Mapping[str, Any]) -> int:
        """Fetch a part; return the number of the job."""
        return int((await self._client.ask("POST", "jobs", wanted))["job"]["id"])

    async def unpin(self, number: int) -> dict[str, Any]:
        """Let a part be evicted again, and return what is known of its pin."""
        pin: dict[str, Any] = (await self._client.ask("DELETE", f"pins/{number}"))["pin"]
        return pin

    async def pins(self) -> list[dict[str, Any]]:
        """Return all pins."""
        pins: list[dict[str, Any]] = (await self._client.ask("GET", "pins"))["pins"]
        return pins


async def _pin(cache: Pinner, arguments: argparse.Namespace) -> int:
    token, _, channels = arguments.token.partition("/")
    document = {
        "token": token,
        "channels": channels.split(",") if channels else None,
        "planes": arguments.plane.split(","),
        "levels": arguments.levels,
        "times": arguments.times,
        "box": arguments.box,
    }
    wanted = {key: value for key, value in document.items() if value is not None}
    pin = await cache.pin(wanted)
    print(json.dumps({"pin": pin}) if arguments.json else _line(pin))
    if arguments.prefetch and isinstance(cache, _DaemonPins):
        job = await cache.prefetch(wanted)
        print(json.dumps({"job": job}) if arguments.json else f"job {job} fetches its tiles; see ocpproxy jobs {job}")
    return 0


async def _unpin(cache: Pinner, arguments: argparse.Namespace) -> int:
    pin = await cache.unpin(arguments.id)
    print(
        json.dumps({"pin": pin})
        if arguments.json
        else f"{pin['title']} may be evicted again, unless another pin has it"
    )
    return 0


async def _pins(cache: Pinner, arguments: argparse.Namespace) -> int:
    pins = await cache.pins()
    for pin in pins:
        print(json.dumps({"pin": pin}) if arguments.json else _line(pin))
    if not pins and not arguments.json:
        print("nothing is pinned")
    return 0


def _line(pin: Mapping[str, Any]) -> str:
    size = quantities.show_size(pin["bytes"])
    return f"pin {pin['id']}: {pin['title']} is never evicted; all its {pin['tiles']:,} tiles take about {size}"
