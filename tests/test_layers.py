"""The layout shows the design: which package may import which is read off the imports."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

import ocpproxy

PACKAGES = (
    "log",
    "model",
    "imagery",
    "formats",
    "config",
    "concurrency",
    "metrics",
    "index",
    "store",
    "upstream",
    "cache",
    "jobs",
    "web",
    "daemon",
    "cli",
)
"""From the bottom to the top: a package imports from those before it in this list, and from no other."""
EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(importing module, imported module): why. At most ten."""
PACKAGE = Path(ocpproxy.__file__).parent


def modules() -> list[Path]:
    """Return every module of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """Return the name of a module."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(name: str) -> str:
    """Return the package that a module is in; empty for the top level."""
    return (*name.split("."), "")[1]


def imports(path: Path) -> set[str]:
    """Return the modules that a module names in its imports, wherever they are."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def arrows() -> Iterator[tuple[str, str]]:
    """Yield (importing module, imported module) within ocpproxy."""
    known = {dotted(path) for path in modules()}
    for path in modules():
        for name in imports(path) & known:
            if name != dotted(path):
                yield dotted(path), name


class LayerTests(SynchronousTestCase):
    """Imports point downwards."""

    def test_packages(self) -> None:
        """Each package imports from those below it only."""
        self.assertEqual({layer(dotted(path)) for path in modules()} - set(PACKAGES), {"", "_version"})
        upward = {
            (here, there)
            for here, there in arrows()
            if layer(here) in PACKAGES
            and layer(there) in PACKAGES
            and PACKAGES.index(layer(there)) > PACKAGES.index(layer(here))
        }
        self.assertEqual(upward, set(EXCEPTIONS))
        self.assertLessEqual(len(EXCEPTIONS), 10)

    def test_no_cycle(self) -> None:
        """No module imports itself by way of others; packages that re-export what is in them do not count."""
        packages = {dotted(path) for path in modules() if path.name == "__init__.py"}
        graph: dict[str, set[str]] = {}
        for here, there in arrows():
            if here not in packages and there not in packages:
                graph.setdefault(here, set()).add(there)
        finished: set[str] = set()

        def visit(name: str, way: tuple[str, ...]) -> None:
            self.assertNotIn(name, way)
            if name not in finished:
                for there in graph.get(name, ()):
                    visit(there, (*way, name))
                finished.add(name)

        for name in graph:
            visit(name, ())

    def test_model_is_pure(self) -> None:
        """Model and imagery import nothing that does I/O or reads a clock."""
        for path in modules():
            if layer(dotted(path)) in ("model", "imagery"):
                first = {name.split(".")[0] for name in imports(path)}
                self.assertEqual(first & {"twisted", "treq", "pymysql", "sqlite3", "socket", "time"}, set(), path)

    def test_reactor(self) -> None:
        """The real reactor is imported in the daemon's package and in the command's."""
        for path in modules():
            if layer(dotted(path)) not in ("daemon", "cli"):
                self.assertNotIn("twisted.internet.reactor", imports(path), path)

    def test_files_are_short(self) -> None:
        """No module is over 400 lines."""
        for path in modules():
            self.assertLessEqual(len(path.read_text().splitlines()), 400, path)

    def test_packages_list_their_modules(self) -> None:
        """The docstring of a package has a line for each of its modules and packages; that of commands needs none."""
        for init in PACKAGE.rglob("__init__.py"):
            if init.parent == PACKAGE or init.parent.name == "cli":
                continue
            text = init.read_text(encoding="utf-8")
            own = [path.stem for path in init.parent.glob("*.py") if not path.stem.startswith("__")]
            own += [path.parent.name for path in init.parent.glob("*/__init__.py")]
            missing = [name for name in own if f"`{name}`" not in text]
            self.assertEqual(missing, [], init.parent)

    def test_init_files_have_no_code(self) -> None:
        """An ``__init__.py`` has a docstring, imports and ``__all__``."""
        for path in modules():
            if path.name == "__init__.py":
                docstring, *rest = ast.parse(path.read_text()).body
                self.assertIsInstance(docstring, ast.Expr, path)
                for node in rest:
                    exports = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
                    self.assertTrue(isinstance(node, ast.ImportFrom) or exports, f"{path}: {ast.unparse(node)}")


class NameTests(SynchronousTestCase):
    """One class name, one meaning."""

    def test_class_names(self) -> None:
        """No class name occurs twice in the tree."""
        names = Counter(
            node.name
            for path in modules()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ClassDef)
        )
        self.assertEqual([name for name, count in names.items() if count > 1], [])


class PluginTests(SynchronousTestCase):
    """twistd finds the daemon."""

    def test_found(self) -> None:
        """Some IServiceMaker plugin has the tapname ocpproxy, and its module is not imported for that."""
        found = [plugin for plugin in getPlugins(IServiceMaker) if plugin.tapname == "ocpproxy"]
        self.assertEqual([getattr(plugin, "module", None) for plugin in found], ["ocpproxy.daemon.tap"])
