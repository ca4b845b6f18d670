"""The layout shows the design: which room may import which is read off the imports."""

from __future__ import annotations

import ast
from pathlib import Path

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

import ocpproxy

RINGS = (
    ("address", "geometry", "stack", "imagery", "config", "metrics"),
    ("upstream", "store", "leases", "descriptions", "database", "dialect", "schema", "onefetch", "pool"),
    ("cache", "filling", "hits", "memory", "cutouts", "catalogue", "retouching", "reclaim"),
    ("web",),
    ("service", "cli", "gateway", "sources", "running", "workers"),
)
"""From the words at the bottom to the wiring at the top."""
WITHIN = {
    ("address", "geometry"),
    ("stack", "address"),
    ("stack", "geometry"),
    ("imagery", "address"),
    ("imagery", "geometry"),
    ("imagery", "stack"),
    ("config", "stack"),
    ("database", "schema"),
    ("database", "dialect"),
    *((room, "dialect") for room in ("store", "leases", "descriptions")),
    *((room, "database") for room in ("store", "leases", "descriptions")),
    *((room, "pool") for room in ("store", "upstream")),
    ("upstream", "onefetch"),
    ("cache", "hits"),
    ("cache", "filling"),
    ("filling", "hits"),
    ("hits", "memory"),
    ("hits", "catalogue"),
    ("cache", "catalogue"),
    ("cache", "cutouts"),
    ("retouching", "cache"),
    ("retouching", "hits"),
    ("retouching", "catalogue"),
    ("gateway", "running"),
    ("gateway", "sources"),
    ("workers", "running"),
    ("workers", "gateway"),
    *(("service", room) for room in ("running", "gateway", "sources", "workers")),
    *(("cli", room) for room in ("running", "gateway", "service")),
}
"""The arrows inside a ring."""
PACKAGE = Path(ocpproxy.__file__).parent


def room(path: Path) -> str:
    """The room that a module is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The modules that a module names in its imports, wherever they stand."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


class LayerTests(SynchronousTestCase):
    """Imports point downwards."""

    def modules(self) -> list[Path]:
        """Every module but the package's own."""
        found = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
        self.assertGreater(len(found), 20)
        return found

    def test_no_upward_arrow(self) -> None:
        """A room imports rooms of lower rings, and of its own only where it is written down."""
        ring = {name: n for n, names in enumerate(RINGS) for name in names}
        for path in self.modules():
            here = room(path)
            self.assertIn(here, ring, f"{path} is in no room")
            for name in imports(path):
                parts = name.split(".")
                if parts[0] != "ocpproxy" or len(parts) < 2 or parts[1] not in ring:
                    continue
                there = parts[1]
                allowed = here == there or ring[there] < ring[here] or (here, there) in WITHIN
                self.assertTrue(allowed, f"{path.name} ({here}) imports {name} ({there})")

    def test_words_know_no_twisted(self) -> None:
        """The pure rooms import nothing that does I/O or tells the time."""
        for path in self.modules():
            if room(path) in RINGS[0]:
                first = {name.split(".")[0] for name in imports(path)}
                self.assertEqual(first & {"twisted", "treq", "pymysql", "sqlite3", "socket", "time"}, set(), path)

    def test_reactor_only_in_the_wiring(self) -> None:
        """The real reactor is imported in the wiring only."""
        for path in self.modules():
            if room(path) not in RINGS[-1]:
                self.assertNotIn("twisted.internet.reactor", imports(path), path)

    def test_modules_are_rooms_not_halls(self) -> None:
        """No module is over 400 lines."""
        for path in self.modules():
            self.assertLessEqual(len(path.read_text().splitlines()), 400, path)


class PluginTests(SynchronousTestCase):
    """twistd finds the daemon."""

    def test_found(self) -> None:
        """Some IServiceMaker plugin has the tapname ocpproxy, and its module is not imported to tell so."""
        found = [plugin for plugin in getPlugins(IServiceMaker) if plugin.tapname == "ocpproxy"]
        self.assertEqual([plugin.module for plugin in found], ["ocpproxy.service"])
