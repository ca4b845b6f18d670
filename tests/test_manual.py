"""The manual: its commands, addresses, scripts and reference pages, as a person uses them."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql
from prometheus_client import CONTENT_TYPE_LATEST
from twisted.internet.threads import deferToThread
from twisted.scripts.twistd import ServerOptions  # type: ignore[attr-defined]
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

import ocpproxy
from ocpproxy.config.options import ADMIN, CACHE, DISPLAY, INDEX, SERVER, STORED
from ocpproxy.config.reading import parse
from ocpproxy.config.upstreams import all_options
from ocpproxy.upstream.registry import KINDS
from tests.daemons import DaemonCase
from tests.databases import NO_SERVER, mysql_server, started
from tests.documents import CONFIGURE, EXTENDING, MANUAL, README, ROOT, blocks, commands, prose

_SAME_AS_ZARR = ("tensorstore", "cloudvolume")
"""Recipes whose script reads the same part as that of zarr-python."""


class ManualTests(DaemonCase):
    """The commands, addresses and scripts of the README and the manual, as a person uses them."""

    def setUp(self) -> None:
        """Write an ``ocp.ini`` with the demo volume."""
        super().setUp()
        self.config = self.place / "ocp.ini"
        short = tempfile.mkdtemp(prefix="ocp-")
        self.addCleanup(shutil.rmtree, short)
        self.config.write_text(
            "[server]\nlisten = tcp:0:interface=127.0.0.1\n[cache]\ndirectory = cache\n"
            "[index]\nurl = sqlite:///index.sqlite\n[upstream]\ntype = demo\n"
            f"[admin]\nlisten = unix:{short}/admin.sock\n"
        )
        (self.place / "neuron.swc").write_text("1 1 9000 9000 900 1 -1\n2 1 9500 9500 990 1 1\n")
        (self.place / "synapses.csv").write_text("x,y,z\n9000,9000,900\n")

    async def run_command(self, *words: str) -> str:
        """Run a program of this environment to its end, and return its output."""
        program = Path(sys.executable).parent / Path(words[0]).name
        result = await deferToThread(
            subprocess.run, [str(program), *words[1:]], cwd=self.place, capture_output=True, text=True, check=False
        )
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        output: str = result.stdout
        return output

    async def test_commands(self) -> None:
        """Every command of the README and the manual runs; those that make environments are tested by ``.ci/run``."""
        outputs = {}
        daemon = await self.start(self.config)
        for words in commands(README, *(path for path in MANUAL if path != EXTENDING)):
            match [Path(words[0]).name, *words[1:]]:
                case ["make", _] | ["python3", "-m", "venv", _] | ["pip", "install", _] | ["curl", *_] | ["napari", _]:
                    pass  # CommandTests
                case ["twistd", "-n", "--pidfile=", "ocpproxy", "--config", "ocp.ini"]:
                    options = ServerOptions()
                    options.parseOptions([*words[1:-1], str(self.config)])
                    self.assertTrue(options["nodaemon"])
                    self.assertEqual(options.subOptions["settings"].upstream.type, "demo")
                case ["python", "-m", _, *_] | ["python", "benchmarks/origin.py", *_]:
                    pass  # CommandTests
                case ["ocpproxy", "prefetch", _, *rest]:
                    await self.run_command("ocpproxy", "prefetch", "demo", *rest, "--dry-run")
                case ["ocpproxy", "trace", url, *rest]:
                    here = url.replace("http://HOST:8080", daemon.url).replace("kasthuri11", "demo")
                    outputs["trace"] = await self.run_command("ocpproxy", "trace", here, *rest)
                case ["ocpproxy", "flush", "--list", *_]:
                    await self.run_command(*words)
                case ["ocpproxy", "flush", token, *rest]:
                    await self.run_command("ocpproxy", "flush", token.replace("kasthuri11", "demo"), *rest, "--yes")
                case ["ocpproxy", "pin", _, *rest]:
                    await self.run_command("ocpproxy", "pin", "demo", *(one for one in rest if one != "--prefetch"))
                case ["ocpproxy", "jobs", *_, "--config", "ocp.ini"]:  # there is no job 3
                    outputs["jobs"] = await self.run_command("ocpproxy", "jobs", "--config", "ocp.ini")
                case ["CATMAID_API_TOKEN=...", "ocpproxy", "catmaid-import", "--url", _, "--gateway", _, *rest]:
                    asked = ["--url", daemon.url, "--gateway", daemon.url, *rest]  # its API is that of CATMAID
                    await self.run_command("ocpproxy", "catmaid-import", *asked)
                case ["ocpproxy", "link", *_]:
                    pass  # tests.test_signed_links
                case ["ocpproxy", "describe", _, *rest]:
                    outputs["describe"] = await self.run_command("ocpproxy", "describe", "demo", *rest)
                case ["twistd", "--help"] | ["ocpproxy", *_]:
                    outputs[" ".join([Path(words[0]).name, *words[1:]])] = await self.run_command(*words)
                case _:
                    self.fail(f"no test for {words}")
        self.assertRegex(await self.run_command("twistd", "--help"), r"(?m)^ *ocpproxy ")
        self.assertIn("a tile of demo", outputs["trace"])
        self.assertEqual(outputs["ocpproxy --version"].strip(), ocpproxy.__version__)
        self.assertIn("is fine", outputs["ocpproxy check-config --config ocp.ini"])
        self.assertIn("demo can be shown", outputs["describe"])
        self.assertIn("demo can be shown", outputs["ocpproxy check-config --config ocp.ini --connect"])
        self.assertIn("nothing mended", outputs["ocpproxy fsck --config ocp.ini"])

    async def test_addresses(self) -> None:
        """The pages that the manual names are there."""
        daemon = await self.start(self.config)
        text = "".join(map(prose, (README, *MANUAL)))
        for path, content in (
            ("", "text/html"),
            ("healthz", "text/plain"),
            ("readyz", "text/plain"),
            ("metrics", CONTENT_TYPE_LATEST),
            ("projects/", "application/json"),
            ("projects/export", "application/json"),
            ("demo/", "application/json"),
            ("view/demo/", "text/html"),
            ("view/demo/catmaid", "text/html"),
            ("status", "text/html"),
            ("status.json", "application/json"),
        ):
            named = path.replace("demo/", "TOKEN/")
            self.assertRegex(text, rf"[`0-9]/{re.escape(named)}`")
            code, _, headers = await daemon.get(path)
            self.assertEqual(code, 200, path)
            self.assertTrue(headers["content-type"].startswith(content.split(";")[0]), headers["content-type"])

    async def test_unknown_token(self) -> None:
        """An unknown token is a 404 with a sentence."""
        daemon = await self.start(self.config)
        code, body, _ = await daemon.get("ocpcatmaid/nothing/")
        self.assertEqual((code, body.strip()), (404, b"unknown token nothing"))

    async def test_scripts(self) -> None:
        """The scripts for readers in Python fetch the voxels of the demo volume, and the same ones."""
        daemon = await self.start(self.config)
        await daemon.get("demo/")
        for name, check in (
            ("catpy", "assert voxels.shape == (4, 600, 600) and voxels.any(), voxels.shape"),
            ("napari", "assert volume[100, :600, :600].compute().any()"),
            ("zarr", "import numpy; numpy.save('zarr.npy', volume)"),
            *((name, "import numpy; assert (numpy.load('zarr.npy') == volume).all()") for name in _SAME_AS_ZARR),
        ):
            (script,) = blocks(ROOT / "docs" / "clients" / f"{name}.md", "python")
            path = self.place / f"with_{name}.py"
            path.write_text(f"{script}\n{check}\n".replace("http://127.0.0.1:8080", daemon.url))
            await self.run_command("python", str(path))

    async def test_built(self) -> None:
        """Sphinx builds the manual without a warning."""
        for words in (("-W", "--keep-going", "-q", "-b", "html", str(ROOT / "docs"), str(self.place / "html")),):
            await self.run_command("sphinx-build", *words)
        page = (self.place / "html" / "operate.html").read_text()
        self.assertIn("X-Dataset-Version", page)


class GeneratedTests(SynchronousTestCase):
    """The reference pages."""

    def test_up_to_date(self) -> None:
        """They are as the code makes them (``python docs/generated.py``), and have every option and command."""
        self.patch(sys, "path", [str(ROOT / "docs"), *sys.path])
        self.addCleanup(sys.modules.pop, "generated", None)
        pages = importlib.import_module("generated").PAGES
        for name, make in pages.items():
            self.assertEqual((ROOT / "docs" / "reference" / name).read_text(), make(), name)
        options = (ROOT / "docs" / "reference" / "options.md").read_text()
        for section, known in (("server", SERVER), ("cache", CACHE), ("index", INDEX), ("admin", ADMIN)):
            self.assertIn(f"\n## [{section}]\n", options)
            for name in known:
                self.assertIn(f"\n### {name}\n", options)
        for name in {**DISPLAY, **STORED}:
            self.assertIn(f"\n| `{name}` |", options)
        for name in all_options(KINDS):
            self.assertIn(f"\n### {name}\n", options)


class SqlTests(TestCase):
    """The statements that set up a database."""

    timeout = 600

    async def test_statements(self) -> None:
        """They make a database that the daemon can use, with the names of the address in the manual."""
        server = mysql_server()
        if server is None:
            raise SkipTest(NO_SERVER)
        (block,) = blocks(CONFIGURE, "sql")
        (address,) = (block for block in blocks(CONFIGURE, "ini") if "mysql://" in block)
        url = parse(address, Path(), {"OCPPROXY_DB_PASSWORD": "a password of yours"}, KINDS).index.url

        def execute(*sql: str) -> Any:
            with closing(pymysql.connect(**server)) as connection, connection.cursor() as cursor:
                for statement in sql:
                    cursor.execute(statement)
                return cursor.fetchone()

        name = f"ocpproxy_{uuid.uuid4().hex[:12]}"
        statements = block.replace(url.database, name).replace(f"'{url.user}'", f"'{name}'").split(";")[:-1]
        self.assertEqual(len(statements), 3)
        self.addCleanup(execute, f"DROP DATABASE IF EXISTS {name}", f"DROP USER IF EXISTS '{name}'@'localhost'")
        execute(*statements)
        (socket,) = execute("SELECT @@socket")  # by which a client is "localhost" whatever names resolve to
        if not Path(socket).exists():
            raise SkipTest("the MariaDB server is on another machine, and the manual's user is @'localhost'")
        database = await started(self, replace(url, user=name, database=name, unix_socket=socket))
        self.assertTrue(database.available, database.reason)
