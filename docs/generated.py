"""Writes the reference pages of the manual from the code: ``python docs/generated.py``.

Options and their texts are those of ``etc/ocp.ini``, whose defaults a test compares with the code. Commands are their
own help. Metrics are those of a registry. A test compares the pages with what is made here.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from ocpproxy.cache.lookup import Result
from ocpproxy.cli.main import SUBCOMMANDS
from ocpproxy.daemon.tap import Options
from ocpproxy.metrics import Metrics
from ocpproxy.web import admin, answers

HERE = Path(__file__).parent
_MADE = "<!-- Made by docs/generated.py: do not edit. -->\n"
_OPTION = re.compile(r"(?:; )?(\w+) =(.*)")

_OF_CHUNKS = {
    "Accept-Ranges, Content-Range": "one range of bytes may be asked for; a range is of the plain bytes",
    "Content-Encoding": "`gzip` for ids and background, where that is accepted",
    "Vary": "`Accept-Encoding`",
}
"""Headers that a chunk of voxels has beside those of a tile."""
_OF_TILES = {
    "ETag": "a strong validator: the same picture of the same tile",
    "Last-Modified": "when the tile was made",
    "Cache-Control": "how long viewers and shared caches may keep it; `no-store` for what stands for another tile",
    "Cache-Status": "how it was found, as below (RFC 9211)",
    "X-Request-Id": "the client's own, if it is well formed; else a new one. The access log has it",
    "Server-Timing": "of a miss: milliseconds in `queue`, `upstream` and `render`",
    "X-Dataset-Version": "changes with the geometry and the display of the stack",
    "X-Cuboid": "what the tile was cut from: token, plane, channel, version, time, level, row and column, slices",
    "X-Fetched": "when its voxels were asked for",
    "X-Upstream": "the kind of its upstream, and a digest of its address; `ocpproxy trace` shows the address",
    "Retry-After": "seconds, with 503 and 504",
}
"""Headers of an answer with a tile."""


def options() -> str:
    """Return the page of options, from the comments of ``etc/ocp.ini``."""
    lines = (HERE.parent / "etc" / "ocp.ini").read_text(encoding="utf-8").splitlines()
    out = [_MADE, "# Options\n", "Every option of `ocp.ini`, with its default. The text is that of `etc/ocp.ini`.\n"]
    comment: list[str] = []
    in_dataset = False
    for line in lines:
        option = _OPTION.fullmatch(line)
        if line.startswith("; [dataset ") and not in_dataset:
            out += ["## [dataset TOKEN]\n", " ".join(comment) + "\n", "| option | default | meaning |", "|---|---|---|"]
            in_dataset, comment = True, []
        elif line.startswith("["):
            out += [f"## {line}\n", *([" ".join(comment) + "\n"] if comment else [])]
            comment = []
        elif in_dataset and option is not None and ";" in option[2]:
            default, _, text = option[2].partition(";")
            shown = f"`{default.strip()}`" if default.strip() else ""
            out.append(f"| `{option[1]}` | {shown} | {text.strip()} |")
        elif not in_dataset and option is not None and not line.startswith(";"):
            default = f"`{option[2].strip()}`" if option[2].strip() else "empty"
            out += [f"### {option[1]}\n", f"Default: {default}\n", *([_paragraph(comment)] if comment else [])]
            comment = []
        elif not line.strip():
            comment = [] if not in_dataset and not out[-1].startswith("##") else comment
        elif line.startswith(";") and not in_dataset:
            comment.append(line.removeprefix(";").strip())
    return "\n".join(out).rstrip() + "\n"


def _paragraph(lines: list[str]) -> str:
    return " ".join(line.replace("<", "\\<").replace("|", "\\|") for line in lines) + "\n"


def commands() -> str:
    """Return the page of commands, from their own help."""
    os.environ["COLUMNS"] = "100"
    out = [_MADE, "# Commands\n"]
    out += ["## twistd ocpproxy\n", "```text", str(Options()).strip(), "```\n"]
    for name, module in SUBCOMMANDS.items():
        parser = argparse.ArgumentParser("ocpproxy")
        subparsers = parser.add_subparsers()
        import_module(module).add_parser(subparsers)
        out += [f"## ocpproxy {name}\n", "```text", subparsers.choices[name].format_help().strip(), "```\n"]
    return "\n".join(out).rstrip() + "\n"


def metrics() -> str:
    """Return the page of metrics, from a registry."""
    out = [_MADE, "# Metrics\n", "What `/metrics` reports. [Monitoring](../monitoring.md) says what to watch.\n"]
    out += ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    registry = Metrics()
    for family in sorted(registry.registry.collect(), key=lambda family: family.name):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        labels = labels or sorted(getattr(registry.registry._names_to_collectors.get(family.name), "_labelnames", ()))
        out.append(f"| `{name}` | {family.type} | {', '.join(labels)} | {family.documentation} |")
    return "\n".join(out) + "\n"


def cache_statuses() -> Iterator[str]:
    """Yield a row for each ``Cache-Status`` of a tile."""
    for result, status in answers.CACHE_STATUS.items():
        counted = Result.MISS if result is Result.COLLAPSED else result
        yield f"| `{status.decode()}` | `{counted.value}` |"
    yield "| `ocpproxy; fwd=miss; detail=…`, and every status but 200 and 304 | `error` |"


def http() -> str:
    """Return the page of HTTP answers, from the tables of the code."""
    out = [_MADE, "# HTTP\n", "## Headers of a tile\n", "| header | is |", "|---|---|"]
    out += [f"| `{name}` | {text} |" for name, text in _OF_TILES.items()]
    out += ["", "## Headers of a chunk of voxels\n", "Those of a tile, and:\n", "| header | is |", "|---|---|"]
    out += [f"| `{name}` | {text} |" for name, text in _OF_CHUNKS.items()]
    out += ["", "## The Cache-Status of a tile or a chunk\n"]
    out += ["[Symptoms](../symptoms.md) explains each one.\n", "| Cache-Status | result in the metrics |", "|---|---|"]
    out += [*cache_statuses(), "", "## Headers of every answer\n", "| header | value |", "|---|---|"]
    out += [f"| `{name.decode()}` | `{value.decode()}` |" for name, value in answers.COMMON.items()]
    out += ["", "## The admin endpoint\n", "[The admin endpoint](../admin.md) explains the documents.\n", "```text"]
    table = "\n".join((admin.__doc__ or "").split("\n\n")[2].splitlines()[1:-1]).replace("``", "")
    return "\n".join([*out, table, "```"]) + "\n"


PAGES = {"options.md": options, "commands.md": commands, "metrics.md": metrics, "http.md": http}


def main() -> None:
    """Write all pages."""
    for name, make in PAGES.items():
        (HERE / "reference" / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
