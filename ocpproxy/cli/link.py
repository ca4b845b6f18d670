"""``ocpproxy link``: makes links by which somebody sees one dataset for some time, without a login."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ocpproxy.cli import quantities
from ocpproxy.cli.settings import load_settings
from ocpproxy.config import values
from ocpproxy.model.dataset import NAME
from ocpproxy.web import signed_links

_USUAL, _LONGEST = 7 * 86400, 366 * 86400
_COULD_NOT_RUN = 2


def add_parser(commands: Any) -> None:
    """Add the parser of this subcommand."""
    parser = commands.add_parser(
        "link",
        help="make links by which somebody sees one dataset for some time",
        description="Makes links by which somebody sees one dataset for some time, without a login. They are signed "
        "with [server] link_secret: whoever changes it ends all links. No daemon is needed.",
        epilog="Exit code 0: done; 2: it cannot be done.",
    )
    parser.add_argument("token", metavar="TOKEN")
    parser.add_argument("--for", dest="lifetime", type=quantities.age, default=_USUAL, metavar="AGE", help="30d, 12h")
    parser.add_argument("--url", help="the address of the gateway; by default [server] public_url")
    parser.add_argument("--config", required=True, metavar="F")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 when the links are printed, 2 when there can be none."""
    settings = load_settings(arguments.config)
    if settings is None:
        return _COULD_NOT_RUN
    root, secret = settings.server.public_url, settings.server.link_secret
    if arguments.url is not None:
        with suppress(values.BadValue):
            root = values.public_url(arguments.url, Path())
    problem = _problem(arguments, root, secret)
    if problem or secret is None:
        print(f"ocpproxy link: {problem}", file=sys.stderr)
        return _COULD_NOT_RUN
    expires = int(time.time() + arguments.lifetime)
    base = root + signed_links.prefix(secret, arguments.token, expires)
    links = {
        "slices": f"{base}/view/{arguments.token}/",
        "neuroglancer": f"{base}/neuroglancer/{arguments.token}",
        "catmaid": f"{base}/view/{arguments.token}/catmaid",
        "description": f"{base}/ocpcatmaid/{arguments.token}/",
    }
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(expires))
    if arguments.json:
        print(json.dumps({"expires": expires, "links": links}))
        return 0
    dataset = settings.datasets.get(arguments.token)
    if dataset is None or not dataset.allow:
        print(f"{arguments.token} has no allow in a section of its own: nothing keeps others away", file=sys.stderr)
    print(f"until {until}, for everybody who has one of these links:")
    for name, link in links.items():
        print(f"{name:13} {link}")
    return 0


def _problem(arguments: argparse.Namespace, root: str, secret: str | None) -> str:
    """Return why there can be no link; empty where there can be."""
    if not re.fullmatch(NAME, arguments.token, re.ASCII):
        return f"expected a token, not {arguments.token!r}"
    if secret is None:
        return "expected [server] link_secret in the configuration, which the links are signed with"
    if not root:
        return "expected the address of the gateway, such as https://tiles.example.org: --url, or [server] public_url"
    if not 0 < arguments.lifetime <= _LONGEST:
        return "expected a time of up to 366d after --for"
    return ""
