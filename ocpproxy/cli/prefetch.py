"""``ocpproxy prefetch``: brings a part of a volume into the cache of a running daemon."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from ocpproxy.cli import quantities
from ocpproxy.cli.admin_client import COULD_NOT_RUN, AdminClient, NoDaemon, Refused, add_config, ask_daemon
from ocpproxy.cli.job_display import Display, display
from ocpproxy.model.region import Point, Segment
from ocpproxy.model.skeletons import BadSkeleton, read_points, read_skeleton

_RESUMABLE = 3
_EXIT_CODES = {"done": 0, "failed": 1, "cancelled": 1, "stopped": 3, "paused": 3}
_LOOK_EVERY = 0.5
"""Seconds between two questions how far the job is."""
_GIVE_UP = 120.0
"""Seconds that a daemon may be away before the command ends; the job goes on when the daemon is back."""
_LARGEST_FILE = 64 * 2**20
_WIDE = 2**40
"""Wider than any volume."""
_UNITS = {"nm": 1.0, "um": 1e3}
_EPILOG = """\
Ctrl-C ends the command and not the job: ocpproxy jobs shows it. Exit code 0: everything is in the cache (with
--dry-run: it would fit; with --detach: the job has begun); 1: the job ended with failures, which are listed; 2: it
could not run; 3: the job has stopped, or goes on without this command, and can be resumed.
"""


def add_parser(commands: Any) -> None:
    """Add the parser of this subcommand."""
    parser = commands.add_parser(
        "prefetch",
        help="bring a part of a volume into the cache of a running daemon",
        description="Brings a part of a volume into the cache of a running daemon: a box, what lies around a "
        "skeleton or points, or everything. The daemon does the work, as a job that survives restarts.",
        epilog=_EPILOG,
    )
    parser.add_argument("token", metavar="TOKEN[/CHANNEL]", help="several channels with commas between them")
    parser.add_argument(
        "box_of_old",
        nargs="?",
        metavar="RES/x0,x1/y0,y1/z0,z1",
        help="the historical spelling: a box in voxels of level RES, for this level and all coarser ones",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--box", type=quantities.box, metavar="x0:x1,y0:y1,z0:z1", help="in voxels of the finest level")
    where.add_argument(
        "--slices", type=quantities.whole_range, metavar="A-B", help="slices of the plane, both included"
    )
    where.add_argument("--swc", type=Path, metavar="F", help="around a skeleton: SWC, or JSON as CATMAID exports it")
    where.add_argument("--points", type=Path, metavar="F.csv", help="around points: a table with columns x, y and z")
    parser.add_argument("--radius", type=quantities.length, metavar="R", help="how far around, such as 2um or 500nm")
    parser.add_argument("--unit", choices=("nm", "um", "voxel"), default="nm", help="of the coordinates in the file")
    parser.add_argument(
        "--voxel",
        type=quantities.numbers("X", "Y", "Z"),
        metavar="X,Y,Z",
        help="the edges of a voxel of the finest level in nm, where the dataset does not report them",
    )
    parser.add_argument("--levels", type=quantities.levels, metavar="A-B", help="both included; by default all")
    parser.add_argument("--plane", default="xy", metavar="P,...", help="xy, xz, yz, zy; by default xy")
    parser.add_argument(
        "--times", type=quantities.whole_range, metavar="A-B", help="time points, both included; by default all"
    )
    parser.add_argument("--rate", type=float, metavar="N", help="cuboids a second at most")
    parser.add_argument("--max-bytes", type=quantities.size, metavar="S", help="stop when so much has been stored")
    parser.add_argument("--until", metavar="HH:MM", help="stop at this time of day")
    parser.add_argument(
        "--fail-budget", type=quantities.share, metavar="P%", help="stop when a larger share fails; by default 10%%"
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what it comes to")
    parser.add_argument("--detach", action="store_true", help="do not wait for the end of the job")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    add_config(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return the exit code; see `_EPILOG`."""
    try:
        spec = _spec(arguments)
    except (argparse.ArgumentTypeError, BadSkeleton, OSError, UnicodeDecodeError) as error:
        print(f"ocpproxy prefetch: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    return ask_daemon("prefetch", arguments.config, lambda reactor, client: _prefetch(reactor, client, arguments, spec))


# -- what to fetch


def _spec(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the arguments ask for, as `jobs.spec` describes it."""
    token, _, channels = arguments.token.partition("/")
    spec: dict[str, Any] = {
        "token": token,
        "channels": channels.split(",") if channels else None,
        "planes": arguments.plane.split(","),
        "levels": arguments.levels,
        "times": arguments.times,
        "rate": arguments.rate,
        "max_bytes": arguments.max_bytes,
        "until": arguments.until,
        "fail_budget": arguments.fail_budget,
    }
    if arguments.box_of_old is not None:
        if arguments.box or arguments.slices or arguments.swc or arguments.points or arguments.levels:
            raise argparse.ArgumentTypeError("RES/x0,x1/y0,y1/z0,z1 names the box and the levels already")
        level, box = _box_of_old(arguments.box_of_old)
        spec |= {"levels": [level, None], "box": box, "base_level": level}
    if arguments.box is not None:
        spec["box"] = arguments.box
    if arguments.slices is not None:
        spec["box"] = _slices(arguments.slices, spec["planes"])
    if arguments.swc or arguments.points:
        if arguments.radius is None:
            raise argparse.ArgumentTypeError("expected --radius, such as --radius 2um")
        segments = _segments(arguments)
        spec |= {"segments": [[*one.begin, *one.end] for one in segments], "radius": arguments.radius}
        spec["voxel"] = arguments.voxel
    elif arguments.radius is not None:
        raise argparse.ArgumentTypeError("--radius is for --swc and --points")
    return {key: value for key, value in spec.items() if value is not None}


def _segments(arguments: argparse.Namespace) -> list[Segment]:
    path: Path = arguments.swc or arguments.points
    if arguments.unit == "voxel":
        if arguments.voxel is None:
            raise argparse.ArgumentTypeError("expected --voxel X,Y,Z with --unit voxel")
        unit: Point = arguments.voxel
    else:
        unit = (_UNITS[arguments.unit],) * 3
    if path.stat().st_size > _LARGEST_FILE:
        raise BadSkeleton(f"{path}: expected at most {_LARGEST_FILE} bytes")
    text = path.read_text(encoding="utf-8-sig")
    try:
        return read_skeleton(text, unit) if arguments.swc else read_points(text, unit)
    except BadSkeleton as error:
        raise BadSkeleton(f"{path}: {error}") from None


def _box_of_old(text: str) -> tuple[int, list[int]]:
    found = re.fullmatch(r"(\d+)/(-?\d+),(-?\d+)/(-?\d+),(-?\d+)/(-?\d+),(-?\d+)/?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected RES/x0,x1/y0,y1/z0,z1, not {text!r}")
    level, *box = (int(number) for number in found.groups())
    return level, box


def _slices(slices: list[int], planes: list[str]) -> list[int]:
    if not all(re.fullmatch("xy|xz|yz|zy", plane) for plane in planes):
        raise argparse.ArgumentTypeError("expected --plane with some of xy, xz, yz, zy")
    through = {frozenset(plane): 3 - sum("xyz".index(letter) for letter in plane) for plane in planes}
    if len(through) != 1:
        raise argparse.ArgumentTypeError("--slices is for one plane; use --box for several")
    box = [-_WIDE, _WIDE] * 3
    axis = next(iter(through.values()))
    box[2 * axis : 2 * axis + 2] = [slices[0], slices[1] + 1]
    return box


# -- the job


async def _prefetch(reactor: Any, client: AdminClient, arguments: argparse.Namespace, spec: dict[str, Any]) -> int:
    shown = display(as_json=arguments.json)
    planned = await client.ask("POST", "jobs?dry_run=1", spec)
    shown.estimate(planned["estimate"], planned["refused"])
    if planned["refused"]:
        raise Refused(409, planned["refused"])
    if arguments.dry_run:
        return 0
    job = (await client.ask("POST", "jobs", spec))["job"]
    if arguments.detach:
        shown.say(f"job {job['id']} has begun; ocpproxy jobs {job['id']} shows how far it is")
        return 0
    return await follow(reactor, client, job, shown)


async def follow(reactor: Any, client: AdminClient, job: dict[str, Any], shown: Display) -> int:
    """Show a job until it rests or has ended, or somebody presses Ctrl-C; return the exit code."""
    number, interrupted = job["id"], _interrupts(reactor)
    away_since: float | None = None
    while True:
        if job["state"] != "running":
            shown.end(job)
            return _EXIT_CODES.get(job["state"], 1)
        shown.job(job)
        if await _wait(reactor, interrupted):
            shown.say(f"job {number} goes on without this command; ocpproxy jobs {number} shows how far it is")
            return _RESUMABLE
        try:
            job = (await client.ask("GET", f"jobs/{number}"))["job"]
            away_since = None
        except Refused as error:
            if error.status != 503:  # else the index may be back in a moment
                raise
        except NoDaemon as error:
            if away_since is None:
                away_since = reactor.seconds()
                shown.say(f"{error}; job {number} goes on when it does")
            elif reactor.seconds() - away_since > _GIVE_UP:
                return _RESUMABLE


def _interrupts(reactor: Any) -> Deferred[None]:
    """Return a Deferred that fires when somebody presses Ctrl-C, which ends nothing any more."""
    interrupted: Deferred[None] = Deferred()

    def interrupt(*_: object) -> None:
        reactor.callFromThread(lambda: None if interrupted.called else interrupted.callback(None))

    signal.signal(signal.SIGINT, interrupt)
    return interrupted


async def _wait(reactor: Any, interrupted: Deferred[None]) -> bool:
    """Wait for a moment; return whether Ctrl-C was pressed."""
    if interrupted.called:
        return True
    ended: Deferred[None] = Deferred(lambda _: None)
    interrupted.addCallback(lambda _: None if ended.called else ended.callback(None))
    try:
        await ended.addTimeout(_LOOK_EVERY, reactor)
    except DeferredTimeout:
        return False
    return True
