"""Upstreams in a configuration: faults, secrets, optional packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy import config
from ocpproxy.upstream.locations import public_url
from ocpproxy.upstream.registry import KINDS
from tests import doubles, formats, oracle
from tests.bossserver import BossServer, Served
from tests.daemons import DaemonCase
from tests.pictures import opaque
from tests.test_formats import FormatsCase, section
from tests.volumes import em, level, nuclei

FAULTS = (
    ("type = precomputed\n", "url"),
    ("type = catmaid\nurl = file:///etc\ndimension = 1, 2, 3\n", "url"),
    ("type = precomputed\nurl = http://h/{channel}\n", "channels"),
    ("type = precomputed\nurl = http://h/{volume}\n", "url"),
    ("type = precomputed\nurl = http://{token}/x\n", "url"),
    ("type = precomputed\nurl = a: http://h/a\n  http://h/b\n", "url"),
    ("type = boss\nurl = a: http://h/a\n", "url"),
    ("type = precomputed\nurl = http://h/a\nformat = blosc\n", "format"),
    ("url = http://h/a\nchannels = a\n", "channels"),
    ("type = catmaid\nurl = http://h/a\n", "dimension"),
    ("type = catmaid\nurl = http://h/a\ndimension = 1, 2\n", "dimension"),
    ("type = catmaid\nurl = http://h/a\ndimension = 1, 2, 3\ntile_source_type = 3\n", "tile_source_type"),
    ("levels = 1\n", "levels"),
    ("levels = 1: 0, 1: 2\n", "levels"),
    ("z_shift = 1.5\n", "z_shift"),
    ("max_age = soon\n", "max_age"),
    ("type = precomputed\nurl = http://h/a\nmissing_status = 200\n", "missing_status"),
    ("authorization = Token 123abc\n", "authorization"),
    ("authorisation = Token 123abc\n", "authorisation"),
    ("url = http://h/{token}\n", "url"),
    ("type = catmaid\nurl = http://h/{channel}\ndimension = 1, 2, 3\n", "url"),
    ("type = catmaid\nurl = http://h/a\ndimension = 1, 2, 3\ntile_size =\n", "tile_size"),
    ("type = catmaid\nurl = http://h/a\ndimension = 1, 2, 3\ntile_size = 9999\n", "tile_size"),
    ("type = catmaid\nurl = http://h/a\ndimension = 1, 2, 3\nresolution =\n", "resolution"),
    ("type = precomputed\nurl = http://:123abc@h/a\n", "url"),
    ("[upstream]\ntype = catmaid\nurl = http://h/{token}/\n", "dimension"),
    ("[dataset  a]\n", "-"),
    ("authorization = Bearer ${NOT_SET}\n", "authorization"),
)
"""(lines of ``[dataset a]``, the option at which the fault is reported)."""


class ConfigurationTests(SynchronousTestCase):
    """What the configuration refuses."""

    def test_public_url(self) -> None:
        """Addresses of public buckets become https addresses."""
        self.assertEqual(public_url("s3://open-neurodata/a/b"), "https://open-neurodata.s3.amazonaws.com/a/b")
        self.assertEqual(public_url("s3://with.dots/a"), "https://s3.amazonaws.com/with.dots/a")
        self.assertEqual(public_url("gs://h01-release/data"), "https://storage.googleapis.com/h01-release/data")
        self.assertEqual(public_url("http://host/a"), "http://host/a")

    def test_faults(self) -> None:
        """Each fault is reported at its option, without secrets."""
        for lines, key in FAULTS:
            bad = self.assertRaises(config.BadConfiguration, config.parse, f"[dataset a]\n{lines}", Path(), {}, KINDS)
            self.assertEqual({fault.key for fault in bad.faults}, {key}, lines)
            self.assertNotIn("123abc", str(bad))
        bad = self.assertRaises(config.BadConfiguration, config.parse, "[upstream]\nToken 123abc\n", Path(), {}, KINDS)
        self.assertNotIn("123abc", str(bad))
        for name in ("boss", "precomputed"):
            settings = config.parse(f"[upstream]\ntype = {name}\nurl = https://h/x\n[dataset a]\n", Path(), {}, KINDS)
            self.assertEqual(settings.datasets["a"].upstream.type, name)

    def test_secrets_stay_at_home(self) -> None:
        """The authorization of [upstream] is sent to its own host only, and that of a section to one host."""
        upstream = "[upstream]\ntype = boss\nurl = https://h/{token}/x\nauthorization = Token ${T}\n"
        for lines, sent in (
            ("", "Token s"),
            ("url = https://h/other/x\n", "Token s"),
            ("url = https://elsewhere/c/x\n", None),
            ("url = http://h/c/x\n", None),
            ("type = precomputed\nurl = gs://bucket/x\n", None),
            ("url = https://elsewhere/c/x\nauthorization = Bearer ${T}\n", "Bearer s"),
            ("url = https://elsewhere/c/x\n  https://mirror/c/x\n", None),
            ("url = https://h/c/x\n  https://mirror/c/x\n", None),
        ):
            settings = config.parse(f"{upstream}[dataset a]\n{lines}", Path(), {"T": "s"}, KINDS)
            self.assertEqual(settings.datasets["a"].upstream.authorization, sent, lines)
        two = "[dataset a]\ntype = precomputed\nurl = a: https://h/a\n  b: https://i/b\nauthorization = Token ${T}\n"
        self.assertRaises(config.BadConfiguration, config.parse, two, Path(), {"T": "s"}, KINDS)

    def test_inherited(self) -> None:
        """A dataset of another type inherits only the options that its type has."""
        text = "[upstream]\ntype = zarr\nurl = s3://b/{token}\ncredentials = on\nchannels = a, b\n"
        text += "[dataset p]\ntype = precomputed\nurl = s3://b/x\n"
        text += "[dataset c]\ntype = catmaid\nurl = http://h/x/\ndimension = 1, 2, 3\n[dataset z]\n"
        found = {name: dataset.upstream for name, dataset in config.parse(text, Path(), {}, KINDS).datasets.items()}
        self.assertEqual(
            [(found[n].options.get("credentials"), len(found[n].options.get("channels", ()))) for n in "pcz"],
            [(None, 2), (None, 0), (True, 2)],
        )


class LeanTests(DaemonCase):
    """A daemon with only the core installed."""

    def test_imports(self) -> None:
        """Making a gateway imports no optional package, and no codec before it is needed."""
        text = "[dataset a]\ntype = precomputed\nurl = https://h/a\n[dataset b]\ntype = boss\nurl = bossdb://a/b\n"
        path = self.place / "ocp.ini"
        path.write_text(text)
        program = (
            "import sys; from ocpproxy.daemon import tap; options = tap.Options();"
            "options.parseOptions(['--config', sys.argv[1]]); tap.makeService(options);"
            "optional = {'tensorstore', 'brotli', 'blosc', 'compressed_segmentation', 'ml_dtypes', 'cloudvolume'};"
            "print(sorted(optional & set(sys.modules)))"
        )
        result = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
        self.assertEqual((result.stdout.strip(), result.returncode), ("[]", 0), result.stderr)


class CredentialTests(FormatsCase):
    """Buckets and secrets through the daemon."""

    async def test_google(self) -> None:
        """gs:// with credentials is read by TensorStore's own driver, in a real daemon."""
        files = self.place / "files"
        formats.ome_zarr(files / "v", em())
        inner = doubles.Bucket(directory=files)
        seen: list[str] = []

        def speak(path: str, query: dict[str, list[str]], headers: dict[str, str]) -> doubles.Answer:
            seen.append(headers.get("authorization", ""))
            name = path.removeprefix("/storage/v1/b/ours/o/").replace("%2F", "/").replace("%2f", "/")
            if query.get("ifGenerationNotMatch") == ["7"]:
                return "cutout", 304, {}, b""
            kind, code, sent, body = inner.answer(name, query, headers)
            return kind, code, sent | {"x-goog-generation": "7"}, body

        url = self.serve(doubles.Speaking(speaker=speak))
        path = self.configure("http://127.0.0.1:9")
        with path.open("a") as file:
            file.write(section("v", type="zarr", url="gs://ours/v", credentials="on"))
        daemon = await self.start(
            path, TENSORSTORE_GCS_HTTP_URL=url, GOOGLE_AUTH_TOKEN_FOR_TESTING="abc", OCPPROXY_TEST="1"
        )
        await self.every(daemon, "v", [level(em(), n) for n in range(3)])
        self.assertIn("Bearer abc", seen)

    async def test_secret(self) -> None:
        """A token is sent to its host only, and appears nowhere else: not in the log, on a page or in a header."""
        server = BossServer({"em": Served(em())}, private="sesame")
        boss = doubles.Speaking(speaker=server.answer)
        path = self.configure("http://127.0.0.1:9")
        with path.open("a") as file:
            url = self.serve(boss) + "/vnc/stack1"
            file.write(section("b", type="boss", url=url, authorization="Token ${BOSS_TOKEN}"))
            file.write(section("c", type="boss", url=url))
        daemon = await self.start(path, BOSS_TOKEN="sesame")
        pages = []
        for page in (
            "",
            "b/",
            "b/em/xy/3/0_0_0.png",
            "c/em/xy/3/0_0_0.png",
            "metrics",
            "projects/export",
            "b/x/xy/1/0_0_0.png",
        ):
            code, body, headers = await daemon.get(page)
            pages.append((code, str(headers).encode() + body))
        self.assertEqual([code for code, _ in pages], [200, 200, 200, 403, 200, 200, 404])
        self.assertFalse([text for text in (*(text for _, text in pages), daemon.log.encode()) if b"sesame" in text])
        boss.mode = "error500"
        self.assertEqual((await daemon.get("b/em/xy/3/0_1_0.png"))[0], 503)
        self.assertNotIn("sesame", daemon.log)

    async def test_sixteen_bits(self) -> None:
        """A window has the range of the voxels' own values, whatever their type."""
        files = self.place / "files"
        formats.precomputed(files / "v", nuclei())
        formats.precomputed(files / "w", nuclei().astype(np.uint64) << np.uint64(20))
        url = self.serve(doubles.Bucket(directory=files))
        sections = section("v", type="precomputed", url=f"{url}/v", window="200, 20000")
        sections += section("w", type="precomputed", url=f"{url}/w", window=f"{200 << 20}, {9000 << 20}")
        daemon = await self.gateway(sections)
        await self.check(daemon, "v", opaque(oracle.grey(nuclei()[9], (200, 20000))), 0, 9)
        wide = (np.clip(nuclei()[9].astype(np.int64), 200, 9000) - 200) * 255 // 8800
        await self.check(daemon, "w", opaque(wide.astype(np.uint8)), 0, 9)
