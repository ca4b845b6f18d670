"""The documents of the repository, read by tests: their blocks, commands, names in backticks and headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
EXTENDING = ROOT / "docs" / "extending.md"
CONFIGURE = ROOT / "docs" / "configure.md"
MANUAL = tuple(path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts)
DOCUMENTS = (README, ROOT / "CONTRIBUTING.md", ROOT / "NEWS.md", *MANUAL)

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language in a document."""
    return [dedent(body) for _, found, body in FENCE.findall(path.read_text(encoding="utf-8")) if found == language]


def prose(path: Path) -> str:
    """Return a document without its fenced blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def spans(*paths: Path) -> Iterator[tuple[str, str]]:
    """Yield (document, text) of everything in backticks."""
    for path in paths:
        for text in CODE.findall(prose(path)):
            yield path.name, text


def commands(*paths: Path) -> Iterator[list[str]]:
    """Yield the words of each command in the sh blocks of the documents."""
    for path in paths:
        for block in blocks(path, "sh"):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    yield words


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
