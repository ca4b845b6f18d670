"""A disk that is full: a small tmpfs, or a directory of btrfs with a quota, both of which need root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SkipTest

from ocpproxy.index.backends import copies_on_write
from tests import ocpserver
from tests.daemons import Daemon, DaemonCase, pause
from tests.pictures import pixels
from tests.volumes import em, expected_tile


class FullDiskTests(DaemonCase):
    """The real daemon with its cache, and its SQLite index, on a disk of 6 MiB."""

    def mount(self, *arguments: str) -> Path:
        """Return where a file system is mounted by these arguments."""
        disk = self.place / "disk"
        disk.mkdir()
        if os.geteuid() or subprocess.run(["mount", *arguments, disk], check=False).returncode:
            raise SkipTest("a file system cannot be mounted here")
        self.addCleanup(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
        return disk

    def quota(self, size: str) -> Path:
        """Return a directory that may take so much: beyond it, writing fails with EDQUOT."""
        image = self.place / "image"
        with image.open("wb") as file:
            file.truncate(300 * 2**20)
        if shutil.which("mkfs.btrfs") is None:
            raise SkipTest("btrfs-progs is not installed")
        subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
        disk = self.mount("-t", "btrfs", "-o", "loop,commit=1", str(image))
        box = disk / "box"
        for words in (
            ("subvolume", "create", box),
            ("quota", "enable", disk),
            ("qgroup", "limit", size, box),
        ):
            subprocess.run(["btrfs", *words], check=True, capture_output=True)
        return box

    async def open_daemon(self, disk: Path) -> Daemon:
        """Start a daemon with all it keeps on the disk."""
        config = self.configure(
            self.serve(self.service), cache_directory=f"{disk}/cache", cache_memory="0", index_url=f"sqlite:///{disk}/i"
        )
        return await self.start(config)

    async def fill(self, disk: Path) -> None:
        """Fill the disk to the last byte, or the last inode."""
        n = 0
        while True:
            try:
                with open(disk / f"ballast{n}", "wb", buffering=0) as file:
                    while file.write(bytes(4096)) == 4096:
                        pass
            except OSError:
                pass
            if n > 300 or not (disk / f"ballast{n}").exists():
                return
            n += 1

    async def tiles(self, daemon: Daemon, *numbers: int) -> None:
        """Request tiles, and check their pixels."""
        for z in numbers:
            code, body, _ = await daemon.get(f"kat/{z + 1}/0_0_0.png")
            self.assertEqual(code, 200)
            self.assertTrue((pixels(body) == expected_tile(em(), 0, z, 0, 0)).all())

    async def use(self, disk: Path) -> Daemon:
        """Fill the disk under a running daemon, start another one on it, and see that both serve and make room."""
        self.service = ocpserver.Service(em(), 2)
        daemon = await self.open_daemon(disk)
        await self.tiles(daemon, 0)
        await daemon.rest()
        await self.fill(disk)
        await self.tiles(daemon, 0, 3, 17, 18)
        self.assertEqual(await daemon.stop(), 0)
        await self.fill(disk)
        daemon = await self.open_daemon(disk)
        await self.tiles(daemon, 17, 0, 18)
        files = disk / "cache" / "tiles"
        while "to make room on the disk" not in daemon.log:
            await self.tiles(daemon, 19, 5)
            await pause(0.2)
        for ballast in disk.glob("ballast*"):
            ballast.unlink()
        while not any(files.rglob("17.png")):
            await self.tiles(daemon, 16)
            await pause(0.2)
        while not await daemon.metric("ocpproxy_index_up"):
            await pause(0.2)
        await daemon.rest()
        self.assertEqual(await daemon.stop(), 0)
        out, err, code = await getProcessOutputAndValue(
            sys.executable,
            ["-m", "ocpproxy.cli", "fsck", "--config", str(self.place / "ocp.ini")],
            os.environ,
            reactor=reactor,
        )
        self.assertIn(code, (0, 1), out + err)
        self.assertNotIn("Traceback", daemon.log)
        return daemon

    async def test_space(self) -> None:
        """No byte is left."""
        await self.use(self.mount("-t", "tmpfs", "-o", "size=6m", "tmpfs"))

    async def test_inodes(self) -> None:
        """No inode is left."""
        await self.use(self.mount("-t", "tmpfs", "-o", "size=20m,nr_inodes=60", "tmpfs"))

    async def test_quota(self) -> None:
        """The user's quota is used up, though the disk has space."""
        box = self.quota("6M")
        link = self.place / "linked"
        link.symlink_to(box / "i")
        self.assertEqual(
            [copies_on_write(str(path)) for path in (box / "i", link, self.place / "i")], [True, True, False]
        )
        daemon = await self.use(box)
        self.assertIn("quota exceeded", daemon.log)
