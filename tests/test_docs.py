"""The documents: links, names of code, metrics, options, configuration examples and commands are right."""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from fractions import Fraction
from functools import cache
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import numpy as np
from twisted.trial.unittest import SynchronousTestCase

import ocpproxy
from ocpproxy.cli import main as cli
from ocpproxy.config import Settings
from ocpproxy.config.options import ADMIN, CACHE, DISPLAY, INDEX, SERVER
from ocpproxy.config.reading import parse
from ocpproxy.config.upstreams import all_options
from ocpproxy.imagery.pixels import grey
from ocpproxy.metrics import Metrics
from ocpproxy.model.dataset import Channel
from ocpproxy.model.display import ShownChannel
from ocpproxy.model.voxels import VOXEL_TYPES, VoxelType
from ocpproxy.upstream.registry import KINDS
from tests.documents import (
    ARCHITECTURE,
    DOCUMENTS,
    EXTENDING,
    LINK,
    ROOT,
    anchors,
    blocks,
    commands,
    prose,
    spans,
)
from tests.test_layers import PACKAGES, dotted, modules

PATH = re.compile(r"(\.ci|benchmarks|docs|etc|newsfragments|ocpproxy|tests|twisted)/[a-z_./-]*")
DOTTED = re.compile(rf"(?:ocpproxy\.)?((?:{'|'.join(PACKAGES)})(?:\.\w+)+)")
CLASS = re.compile(r"([A-Z]\w*[a-z]\w*[A-Z]\w*)(?:\.(\w+))?|([A-Z][a-z]+)\.(\w+)")
METRIC = re.compile(r"ocpproxy_[a-z_]+")
OPTION = re.compile(r"\[(server|cache|index|upstream|dataset)\] (\w+)")


class LinkTests(SynchronousTestCase):
    """What the documents refer to."""

    def test_links(self) -> None:
        """Every relative link leads to a file, and every anchor to a heading."""
        for path in DOCUMENTS:
            for target in LINK.findall(prose(path)):
                if not target.startswith(("http://", "https://")):
                    name, _, anchor = target.partition("#")
                    linked = path.parent / name if name else path
                    self.assertTrue(linked.exists(), f"{path.name}: {target}")
                    if anchor:
                        self.assertIn(anchor, anchors(linked), f"{path.name}: {target}")

    def test_paths(self) -> None:
        """Every path of this repository in backticks exists."""
        found = [(name, text) for name, text in spans(*DOCUMENTS) if PATH.fullmatch(text)]
        self.assertGreater(len(found), 20)
        for name, text in found:
            self.assertTrue((ROOT / text).exists(), f"{name}: {text}")

    def test_news(self) -> None:
        """The newest news are of this version."""
        self.assertEqual(
            re.findall(r"^## ocpproxy (\S+)", prose(ROOT / "NEWS.md"), re.MULTILINE)[0], ocpproxy.__version__
        )


@cache
def classes() -> dict[str, set[str]]:
    """Return the attributes of each class in the code and its tests, and of those of Twisted and treq they import."""
    found: dict[str, set[str]] = {}
    for path in (*modules(), *(ROOT / "tests").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("twisted.", "treq.")):
                for alias in node.names:
                    if alias.name[0].isupper() and alias.name not in found:
                        found[alias.name] = set(dir(getattr(importlib.import_module(node.module or ""), alias.name)))
            elif isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(attributes(node))
    return found


def attributes(node: ast.ClassDef) -> Iterator[str]:
    """Yield the names that a class defines."""
    for part in ast.walk(node):
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield part.name
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            yield part.target.id


def resolves(name: str) -> bool:
    """Return whether a dotted name below ocpproxy is a module, or something in one."""
    module, found = ocpproxy.__name__, None
    for part in name.split("."):
        if found is None or not hasattr(found, part):
            module = f"{module}.{part}"
            try:
                found = importlib.import_module(module)
            except ModuleNotFoundError:
                return False
        else:
            module, found = f"{module}.{part}", getattr(found, part)
    return True


class NameTests(SynchronousTestCase):
    """Names of the code in the documents."""

    def test_modules(self) -> None:
        """Every dotted name that begins with a package exists."""
        found = [(name, match[1]) for name, text in spans(*DOCUMENTS) if (match := DOTTED.fullmatch(text))]
        self.assertGreater(len(found), 20)
        for name, text in found:
            self.assertTrue(resolves(text), f"{name}: {text}")

    def test_classes(self) -> None:
        """Every class, and every attribute of one, exists."""
        found = [(name, match) for name, text in spans(*DOCUMENTS) if (match := CLASS.fullmatch(text))]
        self.assertGreater(len(found), 10)
        for name, match in found:
            class_name, attribute = match[1] or match[3], match[2] or match[4]
            self.assertIn(class_name, classes(), f"{name}: {match[0]}")
            if attribute:
                self.assertIn(attribute, classes()[class_name], f"{name}: {match[0]}")

    def test_tree(self) -> None:
        """The tree in architecture.md has the packages in their order, each with all of its modules."""
        tree: dict[str, set[str]] = {}
        for line in blocks(ARCHITECTURE, "")[0].splitlines()[1:]:
            entry = re.match(r"  (\w+)(/|\.py) +", line)
            words = re.sub(r"\([^)]*\)", "", line[entry.end() if entry else 0 :].rpartition(":")[2]).replace("/", "")
            if entry:
                tree[entry[1]] = set()
            if not entry or entry[2] == "/":
                tree[list(tree)[-1]].update(words.split())
        expected: dict[str, set[str]] = {package: set() for package in PACKAGES}
        for path in modules():
            parts = dotted(path).split(".")[1:]
            if len(parts) >= 2 and parts[0] in expected and parts[1] != "__main__":
                expected[parts[0]].add(parts[1])
        self.assertEqual(list(tree), list(PACKAGES))
        self.assertEqual(tree, expected)

    def test_metrics(self) -> None:
        """Every metric exists."""
        families = list(Metrics().registry.collect())
        known = {family.name + ("_total" if family.type == "counter" else "") for family in families}
        found = [(name, text) for name, text in spans(*DOCUMENTS) if METRIC.fullmatch(text)]
        self.assertGreater(len(found), 8)
        for name, text in found:
            self.assertIn(text, known, name)


class ConfigurationTests(SynchronousTestCase):
    """Examples of the configuration."""

    def setUp(self) -> None:
        """Add the example of a kind of upstream, as an entry point would."""
        self.patch(sys, "path", [str(ROOT / "docs" / "examples"), *sys.path])
        self.addCleanup(sys.modules.pop, "slices", None)
        kind = importlib.import_module("slices").KIND
        self.patch(KINDS, "_kinds", {**KINDS._kinds, kind.name: kind})

    def read(self, text: str) -> Settings:
        """Return the settings of a text; all variables that it names are set."""
        environment = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "a-secret-of-this-test")
        return parse(text, Path(self.mktemp()), environment, KINDS)

    def test_blocks(self) -> None:
        """Every ini block of the documents is a configuration without a fault."""
        found = [(path.name, block) for path in DOCUMENTS for block in blocks(path, "ini")]
        self.assertGreater(len(found), 12)
        for name, block in found:
            self.assertTrue(self.read(block), name)

    def test_options(self) -> None:
        """Every option that is named with its section exists."""
        upstream = all_options(KINDS)
        known = {
            "server": SERVER,
            "cache": CACHE,
            "index": INDEX,
            "admin": ADMIN,
            "upstream": upstream,
            "dataset": {**upstream, **DISPLAY},
        }
        for name, text in spans(*DOCUMENTS):
            match = OPTION.match(text)
            if match:
                self.assertIn(match[2], known[match[1]], f"{name}: {text}")


class CommandTests(SynchronousTestCase):
    """Commands that are not run: what they name exists."""

    def test_make(self) -> None:
        """Every target of make exists."""
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        named = {match[1] for _, text in spans(*DOCUMENTS) if (match := re.fullmatch(r"make ([\w-]+)", text))}
        named |= {words[words.index("make") + 1] for words in commands(*DOCUMENTS) if "make" in words}
        self.assertLessEqual({"demo", "test", "lint", "docs-check"}, named)
        self.assertEqual(named - targets, set())

    def test_extras(self) -> None:
        """Every extra that is to be installed exists."""
        extras = set(re.findall(r'^        "(\w+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE))
        texts = [text for _, text in spans(*DOCUMENTS)] + [" ".join(words) for words in commands(*DOCUMENTS)]
        named = {
            extra
            for text in texts
            if "pip install" in text
            for listed in re.findall(r"\[([\w,]+)\]", text)
            for extra in listed.split(",")
        }
        self.assertIn("tensorstore", named)
        self.assertEqual(named - extras, set())

    def test_modules(self) -> None:
        """Every module that is run by ``python -m`` exists."""
        texts = [text for _, text in spans(*DOCUMENTS)] + [" ".join(words) for words in commands(*DOCUMENTS)]
        found = [match[1] for text in texts for match in re.finditer(r"python3? -m ([\w.]+)", text)]
        self.assertIn("benchmarks.upstreams", found)
        for name in found:
            self.assertTrue(find_spec(name), name)


class ExampleTests(SynchronousTestCase):
    """The small examples of ``docs/extending.md``; ``tests/test_examples.py`` runs the kind of upstream."""

    def test_voxel_type(self) -> None:
        """A type of voxel is one line in the table: its voxels are drawn, with a window and without."""
        (line,) = blocks(EXTENDING, "python")
        voxel_type = eval(line, {"VoxelType": VoxelType, "Fraction": Fraction})
        self.assertNotIn(voxel_type.name, VOXEL_TYPES)
        half = VoxelType("float16", 2, Fraction(256), is_integer=False)
        table = {**VOXEL_TYPES, voxel_type.name: voxel_type, half.name: half}
        self.patch(sys.modules[Channel.__module__], "VOXEL_TYPES", table)
        voxels = np.array([[0.0, 0.5, 0.999, 1.0, np.nan, -1.0]])
        for window, expected in ((None, [[0, 128, 255, 255, 0, 0]]), ((0, 2), [[0, 63, 127, 127, 0, 0]])):
            for name in ("float32", voxel_type.name, half.name):
                shown = ShownChannel(Channel("image", "image", name), window)
                self.assertEqual(np.dtype(name).itemsize, shown.channel.itemsize)
                self.assertEqual(grey(voxels.astype(name), shown).tolist(), expected, name)

    def test_subcommand(self) -> None:
        """A subcommand is one module, and one line in the table."""
        self.patch(sys, "path", [str(ROOT / "docs" / "examples"), *sys.path])
        self.addCleanup(sys.modules.pop, "tokens", None)
        self.patch(cli, "SUBCOMMANDS", {**cli.SUBCOMMANDS, "tokens": "tokens"})
        (words,) = commands(EXTENDING)
        self.assertEqual(words, ["ocpproxy", "tokens", "--config", "ocp.ini"])
        directory = Path(self.mktemp())
        directory.mkdir()
        config = directory / "ocp.ini"
        for text, code, expected in (
            (
                "[dataset a]\ntype = precomputed\nurl = https://example.org/a\n",
                0,
                "a precomputed https://example.org/a",
            ),
            ("[dataset a]\ntype = nothing\n", 1, "[dataset a] type = 'nothing': expected one of ocp"),
        ):
            config.write_text(text)
            with redirect_stdout(StringIO()) as output:
                self.assertEqual(cli.main([*words[1:-1], os.fspath(config)]), code)
            self.assertIn(expected, output.getvalue())
