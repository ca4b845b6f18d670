"""``ocpproxy catmaid-import``: compares a running CATMAID with the gateway, and says what is to be imported.

CATMAID's API lists projects and stacks, and takes none: only its importer and its commands write them. So this command
does by the API what can be done, which is to find out what is missing or different, and makes the document for the
rest: ``manage.py catmaid_import_projects`` and the admin page's importer read it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import treq
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError
from twisted.web.client import Agent
from twisted.web.http_headers import Headers

from ocpproxy.cli.quantities import printable
from ocpproxy.cli.reactor import run_in_reactor
from ocpproxy.cli.settings import load_settings

TOKEN_NAME = "CATMAID_API_TOKEN"  # noqa: S105 - the name of a variable of the environment
_WITHIN = 60.0
_LARGEST = 64 * 2**20
"""Bytes of a document."""
_COULD_NOT_RUN = 2


class NoAnswer(Exception):
    """A server did not give a document. The message says which, and what was expected of it."""


@dataclass(frozen=True)
class Comparison:
    """A stack of the gateway, and what CATMAID has of it."""

    project: str
    stack: Mapping[str, Any]
    """As the export has it."""
    is_there: bool
    differences: Sequence[str] = ()

    def __str__(self) -> str:
        title = self.stack["title"]
        if not self.is_there:
            return f"{title}: missing"
        return f"{title}: " + ("; ".join(self.differences) or "the same")


def add_parser(commands: Any) -> None:
    """Add the parser of this subcommand."""
    parser = commands.add_parser(
        "catmaid-import",
        help="find out what a CATMAID lacks of the gateway's datasets, and make the document that adds it",
        description="Compares the projects, stacks and mirrors of a running CATMAID with those of the gateway. "
        "CATMAID's API cannot add any, so what is missing is written as the document that CATMAID's importer and "
        "manage.py catmaid_import_projects read.",
        epilog="Exit code 0: CATMAID has everything; 1: something is missing or different; 2: one of them could not be "
        "asked.",
    )
    parser.add_argument("tokens", nargs="*", metavar="TOKEN", help="datasets of the gateway; all without any")
    parser.add_argument("--url", required=True, help="the address of CATMAID, such as https://catmaid.example.org")
    parser.add_argument("--token", metavar="T", help=f"CATMAID's API token; by default that in {TOKEN_NAME}")
    parser.add_argument(
        "--gateway", metavar="URL", help="the gateway, as CATMAID's users reach it; by default [server] public_url"
    )
    parser.add_argument("--config", metavar="F", help="the configuration file with [server] public_url")
    parser.add_argument("--output", metavar="F", help="where the document is written; by default to standard output")
    parser.add_argument("--json", action="store_true", help="print the comparison as one JSON object, and no document")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 when CATMAID has everything, 1 when it does not, 2 when one of the two could not be asked."""
    token = arguments.token or os.environ.get(TOKEN_NAME, "")
    if not arguments.gateway:
        settings = None if arguments.config is None else load_settings(arguments.config)
        arguments.gateway = "" if settings is None else settings.server.public_url
    if not arguments.gateway:
        print("ocpproxy catmaid-import: expected --gateway, or --config with [server] public_url", file=sys.stderr)
        return _COULD_NOT_RUN

    async def compare(reactor: Any) -> list[Comparison] | NoAnswer:
        try:
            return await _compare_all(reactor, arguments, token)
        except NoAnswer as error:
            return error

    found = run_in_reactor(compare)
    if isinstance(found, NoAnswer):
        print(f"ocpproxy catmaid-import: {printable(str(found))}", file=sys.stderr)
        return _COULD_NOT_RUN
    document = missing(found)
    if arguments.json:
        print(json.dumps([_as_json(one) for one in found]))
    else:
        print("\n".join(printable(str(one)) for one in found), file=sys.stderr)
        if document:
            _write(document, arguments.output)
    return 0 if all(one.is_there and not one.differences for one in found) else 1


def _write(document: list[Any], output: str | None) -> None:
    text = json.dumps(document, indent=1) + "\n"
    if output is None:
        print(text, end="")
        print("Import it: manage.py catmaid_import_projects reads this document.", file=sys.stderr)
    else:
        Path(output).write_text(text, encoding="utf-8")
        print(f"Import what is missing: manage.py catmaid_import_projects --input {output}", file=sys.stderr)


def _as_json(one: Comparison) -> dict[str, Any]:
    return {
        "project": one.project,
        "stack": one.stack["title"],
        "is_there": one.is_there,
        "differences": list(one.differences),
    }


async def _compare_all(reactor: Any, arguments: argparse.Namespace, token: str) -> list[Comparison]:
    client = HTTPClient(Agent(reactor, connectTimeout=10))
    catmaid, gateway = arguments.url.rstrip("/"), arguments.gateway.rstrip("/")
    headers = {"X-Authorization": f"Token {token}"} if token else {}
    exported = _projects(await _get(client, reactor, f"{gateway}/projects/export", {}), arguments.tokens)
    there = await _get(client, reactor, f"{catmaid}/projects/", headers)
    known = {(project, stack): ids for project, stack, ids in _stacks(there)}
    titles = {stack: ids for (_, stack), ids in known.items()}
    found = []
    for project, stack in exported:
        ids = known.get((project, stack["title"]), titles.get(stack["title"]))
        if ids is None:
            found.append(Comparison(project, stack, is_there=False))
            continue
        info = await _get(client, reactor, f"{catmaid}/{ids[0]}/stack/{ids[1]}/info", headers)
        found.append(Comparison(project, stack, is_there=True, differences=list(differences(stack, info))))
    return found


async def _get(client: HTTPClient, reactor: Any, url: str, headers: Mapping[str, str]) -> Any:
    """Return a JSON document.

    :raises NoAnswer: there is none.
    """
    parts: list[bytes] = []
    size = 0

    def collect(part: bytes) -> None:
        nonlocal size
        size += len(part)
        if size > _LARGEST:
            raise NoAnswer(f"{url} has more than {_LARGEST >> 20} MiB")
        parts.append(part)

    try:
        response = await client.get(
            url, headers=Headers({name: [value] for name, value in headers.items()})
        ).addTimeout(_WITHIN, reactor)
        await treq.collect(response, collect).addTimeout(_WITHIN, reactor)
    except (CancelledError, NoAnswer):
        raise
    except Exception as error:  # whatever the network, TLS and HTTP may raise
        raise NoAnswer(f"{url} does not answer: {error}") from None
    if response.code != 200:
        raise NoAnswer(f"{url} answers {response.code}: expected 200 and JSON")
    try:
        return json.loads(b"".join(parts))
    except (ValueError, RecursionError):
        raise NoAnswer(f"{url} gives no JSON") from None


def _projects(document: Any, tokens: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return (project, stack) pairs of an export, of some datasets.

    :raises NoAnswer: it is none, or has no such dataset.
    """
    try:
        found = [(str(one["project"]["title"]), dict(stack)) for one in document for stack in one["project"]["stacks"]]
        for _, stack in found:
            stack["title"] = str(stack["title"])
            stack["mirrors"] = [{**mirror, "url": str(mirror["url"])} for mirror in stack["mirrors"]]
    except (TypeError, KeyError, ValueError):
        raise NoAnswer("the gateway's /projects/export is no list of projects: is it the gateway's address?") from None
    unknown = [token for token in tokens if not any(_is_of(stack, token) for _, stack in found)]
    if unknown:
        raise NoAnswer(f"the gateway exports no dataset {', '.join(unknown)}; look at /view/{unknown[0]}/")
    return [(title, stack) for title, stack in found if not tokens or any(_is_of(stack, one) for one in tokens)]


def _is_of(stack: Mapping[str, Any], token: str) -> bool:
    return any(f"/ocpcatmaid/{token}/" in mirror["url"] for mirror in stack["mirrors"])


def _stacks(document: Any) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Yield project, stack, and the ids of both.

    :raises NoAnswer: it is no list of projects.
    """
    try:
        for project in document:
            for stack in project["stacks"]:
                yield str(project["title"]), str(stack["title"]), (int(project["id"]), int(stack["id"]))
    except (TypeError, KeyError, ValueError):
        raise NoAnswer("CATMAID's /projects/ is no list of projects: is it CATMAID's address, and its token?") from None


def differences(stack: Mapping[str, Any], info: Any) -> Iterator[str]:
    """Yield what CATMAID has otherwise than the gateway exports it.

    :param info: CATMAID's ``/{project}/stack/{stack}/info``.
    """
    if not isinstance(info, dict):
        yield "CATMAID does not describe it"
        return
    for key in ("dimension", "resolution"):
        there, ours = _triple(info.get(key)), _triple(stack[key])
        if there != ours:
            yield f"{key} is {there} there, and {ours} here"
    if info.get("orientation") != stack["orientation"]:
        yield f"orientation is {info.get('orientation')} there, and {stack['orientation']} here"
    factors = info.get("downsample_factors")
    if isinstance(factors, list) and list(map(_triple, factors)) != list(map(_triple, stack["downsample_factors"])):
        yield "its downsample factors are others"
    mirrors = info.get("mirrors")
    bases = [mirror.get("image_base") for mirror in mirrors or () if isinstance(mirror, dict)]
    for mirror in stack["mirrors"]:
        if mirror["url"] not in bases:
            yield f"no mirror has the image base {mirror['url']}"


def _triple(value: Any) -> tuple[float, ...] | None:
    """Return a triple that is written as ``(1, 2, 3)``, or as an object with x, y and z."""
    with suppress(TypeError, ValueError, KeyError):
        if isinstance(value, dict):
            return tuple(float(value[axis]) for axis in "xyz")
        numbers = re.findall(r"-?[\d.]+(?:e[+-]?\d+)?", str(value))
        return tuple(map(float, numbers)) if len(numbers) == 3 else None
    return None


def missing(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return the document that adds what is missing."""
    projects: dict[str, list[Any]] = {}
    for one in found:
        if not one.is_there:
            projects.setdefault(one.project, []).append(one.stack)
    return [{"project": {"title": title, "stacks": stacks}} for title, stacks in projects.items()]
