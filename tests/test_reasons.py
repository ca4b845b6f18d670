"""Why a dataset cannot be shown: what reaches a viewer, a browser, the log and the command line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from twisted.internet.utils import getProcessOutputAndValue

from tests import doubles
from tests.daemons import DaemonCase
from tests.field import gradient
from tests.field_ome import ome
from tests.field_precomputed import cloud
from tests.field_zarr import zarr2

NOBODY = "http://127.0.0.1:9"


class ReasonTests(DaemonCase):
    """A daemon before volumes that cannot be shown, each for a reason of its own."""

    def write(self) -> Path:
        """Write the volumes and the configuration; the file."""
        files = self.place / "files"
        cloud(files / "well", gradient())
        cloud(files / "broken", gradient())
        (files / "broken" / "info").write_text('{"type": "image", "data_type": "uint8", "scales": "many"}')
        ome(files / "half", gradient(), gradient())
        (files / "half" / "s1" / ".zarray").unlink()
        zarr2(files / "codec", gradient())
        document = json.loads((files / "codec" / ".zarray").read_text())
        (files / "codec" / ".zarray").write_text(json.dumps(document | {"compressor": {"id": "my_codec"}}))
        self.bucket = doubles.Bucket(directory=files)
        moved = doubles.Bucket(directory=files, mode="info_elsewhere")
        open_, closed, away = self.serve(self.bucket), self.serve(doubles.Bucket(directory=files, absent=403)), NOBODY
        sections = {
            "well": ("precomputed", f"{open_}/well"),
            "absent": ("zarr", f"{open_}/secret-path"),
            "broken": ("precomputed", f"{open_}/broken"),
            "codec": ("zarr", f"{open_}/codec"),
            "refused": ("volume", f"{closed}/secret-path"),
            "moved": ("precomputed", f"{self.serve(moved)}/secret-path"),
            "away": ("precomputed", f"{away}/secret-path"),
            "half": ("zarr", f"{open_}/half"),
        }
        path = self.configure(NOBODY)
        with path.open("a") as file:
            for token, (kind, url) in sections.items():
                file.write(f"[dataset {token}]\ntype = {kind}\nurl = {url}\n")
        return path

    async def test_answers(self) -> None:
        """One sentence with the kind of fault, by status; what passes by itself says so; no address; one log line."""
        daemon = await self.start(self.write())
        lasting = {
            "absent": (404, "not found there", "there is no zarr"),
            "broken": (502, "not understood", "a list of"),
            "codec": (502, "not understood", "my_codec"),
            "refused": (403, "not readable", "does not let"),
            "moved": (502, "not readable", "redirect_hosts"),
        }
        for token, (status, *words) in lasting.items():
            for path in (
                f"{token}/",
                f"{token}/5/0_0_0.png",
                f"mcfc/{token}/a:R/xy/5/0_0_0.png",
                f"{token}/image/xz/5/small.png",
            ):
                code, body, headers = await daemon.get(path)
                self.assertEqual((code, headers["content-type"]), (status, "text/plain; charset=utf-8"), path)
                for word in words:
                    self.assertIn(word, body.decode())
                for secret in ("try again", "127.0.0.1", "secret"):
                    self.assertNotIn(secret, body.decode())
                self.assertEqual((headers["cache-control"], "retry-after" in headers), ("no-store", False))
        code, body, headers = await daemon.get("away/")
        self.assertEqual((code, headers["content-type"]), (503, "text/plain; charset=utf-8"))
        self.assertIn("unreachable", body.decode())
        self.assertIn("try again", body.decode())
        code, body, headers = await daemon.get("away/5/0_0_0.png")
        self.assertEqual((code, headers["content-type"], headers["retry-after"]), (503, "image/png", "1"))
        for token in (*lasting, "away"):
            lines = [line for line in daemon.log.splitlines() if f"{token} is not described" in line]
            self.assertEqual(len(lines), 1, lines)
            self.assertIn("127.0.0.1", lines[0], "an administrator sees the address")
        self.assertNotIn("Traceback", daemon.log)

    async def test_pages(self) -> None:
        """The page of the gateway shows the state of each dataset; a dataset's own says what is left out of it."""
        daemon = await self.start(self.write())
        for token in ("well", "absent", "broken", "away", "half"):
            await daemon.get(f"{token}/")
        _, page, _ = await daemon.get("")
        for state in ("well", "cannot be shown: not found there", "cannot be shown: not understood", "unreachable"):
            self.assertIn(state, page.decode())
        self.assertNotIn("secret", page.decode())
        _, body, _ = await daemon.get("half/")
        (note,) = json.loads(body)["notes"]
        self.assertIn("level s1 is left out", note)
        self.assertEqual(sum("half: level s1 is left out" in line for line in daemon.log.splitlines()), 1)
        self.assertEqual(json.loads((await daemon.get("well/"))[1])["notes"], [])

    async def command(self, *arguments: str) -> tuple[int, str]:
        """(exit code, output) of ``ocpproxy``."""
        program = str(Path(sys.executable).parent / "ocpproxy")
        out, err, code = await getProcessOutputAndValue(program, arguments, {**os.environ}, str(self.place))
        self.assertNotIn(b"Traceback", err)
        return code, (out + err).decode()

    async def test_describe(self) -> None:
        """Each document with what came of it, and the reason in full; or levels, channels and image bases."""
        config = str(self.write())
        code, printed = await self.command("describe", "absent", "--config", config)
        self.assertEqual(code, 1)
        for words in ("cannot be shown: not found there", "/secret-path/zarr.json: 404", "/secret-path/.zarray: 404"):
            self.assertIn(words, printed)
        code, printed = await self.command("describe", "broken", "--config", config)
        self.assertEqual(code, 1)
        for words in ("not understood", "/broken/info: 57 bytes", '"scales": "many"'):
            self.assertIn(words, printed)
        code, printed = await self.command("describe", "half", "--config", config)
        self.assertEqual(code, 0)
        for words in (
            "0: 40 x 32 x 8 voxels",
            "image: image, uint8",
            "level s1 is left out",
            "ocpcatmaid/half/image/xy/",
        ):
            self.assertIn(words, printed)
        code, printed = await self.command("describe", "half", "--config", config, "--json")
        told = json.loads(printed)
        self.assertEqual((code, told["dataset"]["levels"]["0"]["size"], told["reason"]), (0, [40, 32, 8], None))
        self.assertEqual([one["outcome"][:3] for one in told["documents"]][:1], ["404"])
        code, printed = await self.command("describe", "nobody", "--config", config)
        self.assertEqual(code, 1)
        self.assertIn("unreachable", printed)

    async def test_check_config(self) -> None:
        """``--connect`` asks for every dataset of the file; sockets of systemd are not needed."""
        config = self.write()
        config.write_text(config.read_text().replace("tcp:0:interface=127.0.0.1", "systemd:domain=INET:name=ocpproxy"))
        code, printed = await self.command("check-config", "--config", str(config))
        self.assertEqual((code, "is fine" in printed), (0, True), printed)
        code, printed = await self.command("check-config", "--config", str(config), "--connect")
        self.assertEqual(code, 1)
        for words in (
            "well can be shown",
            "half can be shown",
            "level s1 is left out",
            "away cannot be shown: unreachable",
        ):
            self.assertIn(words, printed)
        self.assertEqual(printed.count("cannot be shown"), 6)
