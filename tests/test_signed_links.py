"""Signed links: which are taken, what they open, and the command that makes them."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any
from urllib.parse import urlsplit

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.web.signed_links import BadLink, SignedLinks, hidden, prefix, without_prefix
from tests import ocpserver
from tests.channels import SMALL, ViewsCase
from tests.daemons import ROOT, Daemon
from tests.raw_http import raw_get
from tests.volumes import em

SECRET = "0123456789abcdef0123"
NOW = 1_000_000


class ReadTests(SynchronousTestCase):
    """The prefix of a path."""

    def setUp(self) -> None:
        """Make links at a time that stands still."""
        self.links = SignedLinks(SECRET, lambda: NOW)

    @given(
        st.sampled_from(["kat", "_a-b", "K9"]), st.integers(NOW + 1, 10**12 - 1), st.sampled_from(["/x/y?z", "", "?a"])
    )
    def test_valid(self, token: str, expires: int, rest: str) -> None:
        """A link that was signed opens its dataset, and the rest is the path that is meant."""
        found = self.links.read((prefix(SECRET, token, expires) + rest).encode())
        assert found is not None
        self.assertEqual((found.token, found.rest), (token, rest.encode()))
        self.assertEqual(hidden(f"x{found.prefix}{rest}".encode()), f"x/~{token}.-{rest}".encode())
        self.assertEqual(without_prefix((found.prefix + rest).encode()), rest.encode())
        again = self.links.read((prefix(SECRET, token, expires).replace("~", "%7E") + rest).encode())
        self.assertEqual(again, found)

    @given(st.integers(0, 40), st.integers(1, 255))
    def test_changed(self, at: int, change: int) -> None:
        """A link of which one byte is another opens nothing, or the path has none."""
        link = bytearray((prefix(SECRET, "kat", NOW + 60) + "/3/0_0_0.png").encode())
        length = len(prefix(SECRET, "kat", NOW + 60))
        link[at % length] ^= change
        try:
            found = self.links.read(bytes(link))
        except BadLink:
            return
        self.assertIsNone(found)

    def test_refused(self) -> None:
        """One that has expired, is cut off, is of another secret, or of a gateway without one, is refused."""
        good = prefix(SECRET, "kat", NOW + 60)
        for path, links in (
            (prefix(SECRET, "kat", NOW), self.links),
            (good[:-1], self.links),
            (good + "x/", self.links),
            (good.replace("kat", "cat"), self.links),
            (good, SignedLinks("another secret 1234", lambda: NOW)),
            (good, SignedLinks(None, lambda: NOW)),
            ("/~", self.links),
        ):
            self.assertRaises(BadLink, links.read, path.encode())
        self.assertIsNone(self.links.read(b"/kat/~x"))


class LinkTests(ViewsCase):
    """A daemon with a dataset that nobody may see without a link."""

    async def before(self, **options: Any) -> Daemon:
        """Start it."""
        service = ocpserver.Service(em(), 2, **SMALL)
        secret = "${OCPPROXY_TEST_SECRET}"
        self.config = self.configure(self.serve(service), server_link_secret=secret, **options)
        with self.config.open("a") as file:
            file.write("[dataset kat]\nallow = nobody\n[dataset katzen]\nallow = nobody\n")
        return await self.start(self.config, OCPPROXY_TEST_SECRET=SECRET)

    async def command(self, *words: str, secret: str = SECRET) -> tuple[int, str, str]:
        """Run ``ocpproxy link``, and return its exit code and what it has printed."""
        environ = {**os.environ, "OCPPROXY_TEST_SECRET": secret}
        command = ["-m", "ocpproxy.cli", "link", *words, "--config", str(self.config)]
        out, err, code = await getProcessOutputAndValue(sys.executable, command, environ, str(ROOT))
        return code, out.decode(), err.decode()

    async def test_link(self) -> None:
        """Everything of the dataset is below the prefix, and all that the answers name is too; nothing else is."""
        daemon = await self.before()
        code, out, err = await self.command("kat", "--url", daemon.url, "--json")
        self.assertEqual(code, 0, err)
        links = json.loads(out)["links"]
        base = urlsplit(links["slices"]).path.removeprefix("/").removesuffix("/view/kat/")
        for path in (
            "view/kat/",
            "kat/3/0_0_0.png",
            "ocpcatmaid/kat/image/xz/3/0_0_0.png",
            "zarr/kat/image/0/0/0/0",
            "neuroglancer/kat/state",
            "projects/export",
            "",
        ):
            for _ in range(3):
                code, body, headers = await daemon.get(f"{base}/{path}")
                self.assertEqual(code, 200, path)
                self.assertIn("private", headers["cache-control"], path)
            self.assertNotIn(b"katzen", body, path)
            if path:
                code, plain, _ = await daemon.get(path)
                self.assertTrue(code == 403 or b"kat/" not in plain, path)
        for path in ("katzen/3/0_0_0.png", "view/katzen/"):
            self.assertEqual((await daemon.get(f"{base}/{path}"))[0], 403, path)
        _, body, _ = await daemon.get(f"{base}/projects/export")
        for url in re.findall(r'"url": "([^"]+)"', body.decode()):
            self.assertTrue(url.startswith(f"{daemon.url}/{base}/ocpcatmaid/kat/"), url)
        _, body, _ = await daemon.get(f"{base}/neuroglancer/kat/state")
        self.assertIn(f"precomputed://{daemon.url}/{base}/precomputed/kat/image", body.decode())
        status = json.loads((await daemon.get(f"{base}/status.json"))[1])["tables"]
        self.assertEqual([row["token"] for row in status["usage"]], ["kat"])
        code, _, headers = await raw_get(daemon, base, {})
        self.assertEqual((code, headers["location"]), (302, f"{base}/"))
        await daemon.get(f"{base}/kat/3/0_0_0.png", Referer=f"{daemon.url}/{base}/view/kat/")
        await daemon.get(f"{base}/{base}/kat/3/0_0_0.png")
        await daemon.get(f"{base.replace('~', '%7e')}/kat/3/0_0_0.png")
        await raw_get(daemon, f"{base}/kat/3/0_0_0.png", {"Content-Length": "1"})
        self.assertEqual(await daemon.stop(), 0)  # the log is written in batches
        self.assertIn("/~kat.-/", daemon.log)
        self.assertNotIn(base.rpartition(".")[2], daemon.log)

    async def test_mirrors(self) -> None:
        """Mirrors are named once each, and with the prefix: they have the same secret."""
        daemon = await self.before(server_mirrors="https://a.example.org", server_public_url="https://b.example.org")
        _, out, _ = await self.command("kat", "--json")
        base = urlsplit(json.loads(out)["links"]["slices"]).path.removeprefix("/").removesuffix("/view/kat/")
        _, body, _ = await daemon.get(f"{base}/projects/export")
        bases = {url.partition("/ocpcatmaid/")[0] for url in re.findall(r'"url": "([^"]+)"', body.decode())}
        self.assertEqual(bases, {f"https://{name}.example.org/{base}" for name in "ab"})

    async def test_command(self) -> None:
        """What is missing or makes no sense is named; a link of another secret opens nothing."""
        daemon = await self.before()
        for words, message in (
            (("k/at", "--url", daemon.url), "expected a token"),
            (("kat",), "--url, or [server] public_url"),
            (("kat", "--url", daemon.url, "--for", "9000d"), "up to 366d"),
            (("kat", "--url", "http://h/?x=1"), "--url, or [server] public_url"),
        ):
            code, out, err = await self.command(*words)
            self.assertEqual((code, out), (2, ""), words)
            self.assertIn(message, err)
        code, out, _ = await self.command("kat", "--url", daemon.url, secret="another secret 1234")
        self.assertEqual(code, 2)  # it has spaces
        code, out, _ = await self.command("kat", "--url", daemon.url, secret="another-secret-1234")
        self.assertEqual(code, 0)
        self.assertIn("until ", out)
        link = re.findall(r"http\S+/view/kat/", out)[0].removeprefix(f"{daemon.url}/")
        code, body, headers = await daemon.get(link)
        self.assertEqual((code, headers["cache-control"]), (403, "no-store"))
        self.assertIn(b"no link of this gateway", body)
