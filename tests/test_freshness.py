"""Tiles that came ready-made, and tiles that grow old: versions, epochs, validators; through the running daemon."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests import doubles, formats, ocpserver, oracle
from tests.daemons import Daemon
from tests.pictures import opaque, rgba
from tests.test_formats import FormatsCase, section
from tests.tileserver import TileServer
from tests.volumes import em, level, mitochondria

Got = tuple[int, bytes, dict[str, str]]


class FreshnessCase(FormatsCase):
    """Starts daemons for datasets that change."""

    def tiles(self, server: TileServer, **options: object) -> str:
        """Return a section for a tile server."""
        self.double = doubles.Speaking(speaker=server.answer)
        geometry = {"dimension": "640, 600, 20", "resolution": "4.6, 4.6, 45", "zoom_levels": 3}
        volume = {"tile_source_type": server.type, "file_extension": server.format, **geometry, **options}
        return section("tiles", type="catmaid", url=self.serve(self.double) + "/x/", **volume)

    async def until(self, daemon: Daemon, path: str, fine: Callable[[Got], bool]) -> Got:
        """Repeat a request until its answer passes, and return the answer."""
        while True:
            got = await daemon.get(path)
            if fine(got):
                return got
            await deferLater(reactor, 0.02)

    def stored(self) -> list[Path]:
        """Return the files of tiles."""
        return [path for path in (self.place / "cache" / "tiles").rglob("*") if path.is_file()]


class ReadyMadeTests(FreshnessCase):
    """Tiles of another server."""

    async def test_pass_through(self) -> None:
        """JPEG stays JPEG, byte for byte, with an honest type, from upstream, memory and disk; and restarts keep it."""
        for format_, type_ in (("jpg", "image/jpeg"), ("png", "image/png")):
            server = TileServer(em(), 3, format=format_)  # type: ignore[arg-type]
            for memory in ("64", "0"):
                sections = self.tiles(server)
                shutil.rmtree(self.place / "cache", ignore_errors=True)
                daemon = await self.gateway(sections, cache_memory=memory, index_url=f"sqlite:///{memory}{format_}.sql")
                tags = set()
                for n, row, col in ((0, 0, 0), (0, 1, 1), (1, 0, 0), (2, 0, 0)):
                    for _ in range(3):
                        path = f"tiles/xy/7/{row}_{col}_{n}.png"
                        code, body, headers = await daemon.get(path)
                        self.assertEqual((code, headers["content-type"]), (200, type_))
                        self.assertEqual(body, server.tile_bytes(7, n, row, col))
                        tags.add(headers["etag"])
                        self.assertEqual((await daemon.get(path, if_none_match=headers["etag"]))[0], 304)
                self.assertEqual(len(tags), 4)
                self.assertEqual(self.double.asked["cutout"], 4)
                await daemon.rest()
                await daemon.stop()
                daemon = await self.gateway(sections, cache_memory=memory, index_url=f"sqlite:///{memory}{format_}.sql")
                _, body, headers = await daemon.get("tiles/xy/7/0_0_0.png")
                self.assertEqual((body, headers["content-type"]), (server.tile_bytes(7, 0, 0, 0), type_))
                self.assertEqual(self.double.asked["cutout"], 4)
                await daemon.stop()

    async def test_made_of_it(self) -> None:
        """Other planes, windows, contrast and overviews are made of its pixels."""
        server = TileServer(em(), 3, format="jpg")
        daemon = await self.gateway(
            self.tiles(server) + self.tiles(server, window="50, 200").replace("[dataset tiles]", "[dataset windowed]")
        )
        jpeg = np.stack([np.asarray(Image.open(BytesIO(server.tile_bytes(z, 0, 0, 0)))) for z in range(20)])
        _, body, headers = await daemon.get("tiles/xz/100/0_0_0.png")
        self.assertEqual(headers["content-type"], "image/png")
        scale = 45 / 4.6
        whole = np.stack([jpeg[min(int((row + 0.5) / scale), 19), 100] for row in range(int(np.ceil(20 * scale)))])
        np.testing.assert_array_equal(rgba(body), oracle.cut(opaque(whole), 0, 0) | np.array([0, 0, 0, 255], np.uint8))
        _, body, headers = await daemon.get("windowed/xy/7/0_0_0.png")
        np.testing.assert_array_equal(rgba(body), opaque(oracle.grey(jpeg[7], (50, 200))))
        _, body, _ = await daemon.get("tiles/xy/7/0_0_0.png?min=50&max=200")
        np.testing.assert_array_equal(rgba(body), opaque(oracle.grey(jpeg[7], (50, 200))))
        code, body, _ = await daemon.get("tiles/xy/7/small.png")
        self.assertEqual((code, Image.open(BytesIO(body)).size), (200, (192, 180)))

    async def test_renumbered(self) -> None:
        """Ready-made tiles keep their bytes under other numbers too."""
        server = TileServer(em(), 3, format="jpg")
        daemon = await self.gateway(self.tiles(server, z_shift=1, levels="2: 1, 1: 0"))
        for n in (1, 2):
            _, body, _ = await daemon.get(f"tiles/xy/8/0_0_{n}.png")
            self.assertEqual(body, server.tile_bytes(7, n - 1, 0, 0))

    async def test_missing(self) -> None:
        """A tile that is not there is black, and requested once, or a failure, as configured."""
        server = TileServer(em(), 3, format="jpg", missing={(7, 0, 0, 0)})
        daemon = await self.gateway(self.tiles(server))
        for _ in range(2):
            code, body, _ = await daemon.get("tiles/xy/7/0_0_0.png")
            self.assertEqual((code, rgba(body)[..., :3].max()), (200, 0))
        self.assertEqual(self.double.asked["cutout"], 1)
        await daemon.stop()
        daemon = await self.gateway(self.tiles(server, missing="error"), cache_directory="other")
        self.assertEqual((await daemon.get("tiles/xy/7/0_0_0.png"))[0], 503)

    async def test_hostile(self) -> None:
        """A body that is no picture, or one of another size, is a failure, and is not stored."""
        server = TileServer(em(), 3, format="jpg")
        daemon = await self.gateway(self.tiles(server))
        large, small = BytesIO(), BytesIO()
        Image.new("L", (20000, 20000)).save(large, "PNG")
        Image.new("L", (64, 64)).save(small, "JPEG")
        fine = server.tile_bytes(0, 0, 0, 0)
        for z, body in enumerate(
            (b"<html>", large.getvalue(), small.getvalue(), fine[: len(fine) // 2], b"\xff\xd8\xff")
        ):
            self.double.speaker = lambda *_, body=body: ("cutout", 200, {"content-type": "image/jpeg"}, body)
            code, found, _ = await daemon.get(f"tiles/xy/{z}/0_0_0.png")
            self.assertEqual((code, found[:4]), (503, b"\x89PNG"), z)
        await daemon.rest()
        self.assertEqual(self.stored(), [])


class EpochTests(FreshnessCase):
    """Datasets with a `max_age`."""

    async def test_revalidated(self) -> None:
        """In each epoch each tile is revalidated once; a changed tile is replaced."""
        server = TileServer(em().copy(), 3, format="jpg")
        daemon = await self.gateway(self.tiles(server, max_age=3))
        path = "tiles/xy/7/0_0_0.png"
        code, first, headers = await daemon.get(path)
        self.assertEqual(code, 200)
        seconds = int(re.findall(r"max-age=(\d+)", headers["cache-control"])[0])
        self.assertLessEqual(seconds, 3)
        for n in (1, 2):
            _, body, headers = await self.until(daemon, path, lambda got: "miss" in got[2]["cache-status"])
            self.assertEqual((body, server.sent, server.unchanged), (first, 1, n))
        self.assertGreaterEqual(len(self.stored()), 2)
        server.volume[7] = 255 - server.volume[7]
        server.tile_bytes.cache_clear()
        _, body, _ = await self.until(daemon, path, lambda got: got[1] != first)
        self.assertEqual(body, server.tile_bytes(7, 0, 0, 0))
        self.double.mode = "error500"  # an outage: old tiles are better than none
        await daemon.rest()
        _, again, headers = await self.until(daemon, path, lambda _: "is served from an earlier epoch" in daemon.log)
        self.assertEqual((again, headers["cache-control"]), (body, "no-store"))
        self.assertEqual(headers["cache-status"], "ocpproxy; hit; detail=stale")
        self.double.mode = "well"
        await self.until(daemon, path, lambda got: "miss" in got[2]["cache-status"])

    async def test_silent(self) -> None:
        """An upstream that no longer describes its dataset delays nobody: the epoch goes on."""
        files = self.place / "files"
        formats.precomputed(files / "v", em(), chunk=(512, 512, 16))
        bucket = doubles.Bucket(directory=files)
        url = self.serve(bucket)
        daemon = await self.gateway(section("v", type="precomputed", url=f"{url}/v", max_age=2, timeout=120))
        path = "v/xy/7/0_0_0.png"
        _, first, _ = await daemon.get(path)
        bucket.mode = "info_mute"
        asked = bucket.asked["info"]
        began = reactor.seconds()
        await self.until(daemon, path, lambda _: bucket.asked["info"] > asked)
        for _ in range(20):
            code, body, headers = await daemon.get(path)
            self.assertEqual((code, body, "hit" in headers["cache-status"]), (200, first, True))
        self.assertLess(reactor.seconds() - began, 60)

    async def test_restart(self) -> None:
        """An epoch goes on until the upstream has answered, in another process too, and whatever else it answers."""
        files = self.place / "files"
        formats.precomputed(files / "v", em(), chunk=(512, 512, 16))
        bucket = doubles.Bucket(directory=files)
        sections = section("v", type="precomputed", url=f"{self.serve(bucket)}/v", max_age=2)
        path = "v/xy/7/0_0_0.png"
        for mode in ("error500", "refused"):
            daemon = await self.gateway(sections)
            code, first, headers = await daemon.get(path)
            self.assertEqual((code, "miss" in headers["cache-status"]), (200, True))
            await daemon.rest()
            bucket.mode = f"info_{mode}"
            asked = bucket.asked["info"]

            def asked_again(_: Got, asked: int = asked) -> bool:
                return bucket.asked["info"] > asked

            await self.until(daemon, path, asked_again)
            self.assertEqual((await daemon.get(path))[1], first)
            await daemon.stop()
            bucket.mode = "info_error500"
            daemon = await self.gateway(sections)
            code, body, headers = await daemon.get(path)
            self.assertEqual((code, body, headers["cache-status"]), (200, first, "ocpproxy; hit"))
            await daemon.stop()
            bucket.mode = "well"  # the next start requests it at once, and a new epoch begins

    async def test_configured_anew(self) -> None:
        """A tile server that was configured wrongly leaves no black tiles when it is configured right."""
        server = TileServer(em(), 3, type=4, format="jpg")
        wrong = self.tiles(server, tile_source_type=1)
        daemon = await self.gateway(wrong)
        path = "tiles/xy/7/0_0_0.png"
        self.assertNotEqual((await daemon.get(path))[1], server.tile_bytes(7, 0, 0, 0))
        await daemon.rest()
        await daemon.stop()
        daemon = await self.gateway(wrong.replace("tile_source_type = 1", "tile_source_type = 4"))
        self.assertEqual((await daemon.get(path))[1], server.tile_bytes(7, 0, 0, 0))

    async def test_below_zero(self) -> None:
        """Slices below 0 have no address and do no harm to their neighbours."""
        files = self.place / "files"
        formats.precomputed(files / "v", em(), chunk=(512, 512, 16))
        bucket = doubles.Bucket(directory=files)
        daemon = await self.gateway(section("v", type="precomputed", url=f"{self.serve(bucket)}/v", z_shift=-3))
        for z in range(13):
            _, body, _ = await daemon.get(f"v/{z}/0_0_0.png")
            np.testing.assert_array_equal(rgba(body), oracle.cut(opaque(em()[z + 3]), 0, 0))
        await daemon.rest()
        self.assertEqual((len(self.stored()), bucket.asked["cutout"]), (13, 1))

    async def test_writable_annotations(self) -> None:
        """Annotations that the upstream calls writable expire after an hour, other tiles as configured."""
        channels = {
            "em": ocpserver.Served(em()),
            "ids": ocpserver.Served(mitochondria().astype(np.uint32), "annotation"),
        }
        service = ocpserver.Service(em(), 2, channels=channels)
        info = service.info
        service.info = lambda: _writable(info())  # type: ignore[method-assign]
        config = self.configure(self.serve(service))
        with config.open("a") as file:
            file.write("[dataset katnever]\nmax_age = never\n[dataset katsoon]\nmax_age = 60\n")
        daemon = await self.start(config)
        for path, least, most in (
            ("kat/em/xy/3/0_0_0.png", 86400, 86400),
            ("kat/ids/xy/3/0_0_0.png", 0, 3600),
            ("katnever/ids/xy/3/0_0_0.png", 86400, 86400),
            ("katsoon/em/xy/3/0_0_0.png", 0, 60),
        ):
            for _ in range(3):  # fetched, ordinary, hot
                _, _, headers = await daemon.get(path)
                seconds = int(re.findall(r"max-age=(\d+)", headers["cache-control"])[0])
                self.assertTrue(least <= seconds <= most, (path, seconds))


def _writable(info: dict[str, dict[str, dict[str, int]]]) -> dict[str, dict[str, dict[str, int]]]:
    info["channels"]["ids"]["readonly"] = 0
    return info


class VersionTests(FreshnessCase):
    """Datasets whose descriptions change."""

    async def test_moved(self) -> None:
        """A volume that is written again under other keys is seen after info_max_age; nothing is deleted for it."""
        files = self.place / "files"
        formats.precomputed(files / "v", em())
        url = self.serve(doubles.Bucket(directory=files))
        daemon = await self.gateway(section("v", type="precomputed", url=f"{url}/v", info_max_age=1))
        await self.check(daemon, "v", opaque(em()[7]), 0, 7)
        await daemon.rest()
        before = set(self.stored())
        formats.precomputed(files / "w", 255 - em(), chunk=(64, 64, 16))
        (files / "v").rename(files / "old")
        (files / "w").rename(files / "v")
        expected = oracle.cut(opaque(255 - em()[7]), 0, 0)
        await self.until(daemon, "v/7/0_0_0.png", lambda got: bool((rgba(got[1]) == expected).all()))
        await self.check(daemon, "v", opaque(255 - level(em(), 1)[7]), 1, 7)
        self.assertLessEqual(before, set(self.stored()))

    async def test_the_same(self) -> None:
        """An info that is read again and is the same changes nothing; and a start without the server knows it."""
        files = self.place / "files"
        formats.precomputed(files / "v", em())
        bucket = doubles.Bucket(directory=files)
        sections = section("v", type="precomputed", url=f"{self.serve(bucket)}/v", info_max_age=1)
        daemon = await self.gateway(sections)
        await self.check(daemon, "v", opaque(em()[7]), 0, 7)
        asked = bucket.asked["cutout"]
        await self.until(daemon, "v/7/0_0_0.png", lambda _: bucket.asked["info"] > 2)
        self.assertEqual(bucket.asked["cutout"], asked)
        await daemon.rest()
        await daemon.stop()
        bucket.mode = "info_error500"
        daemon = await self.gateway(sections)
        await self.check(daemon, "v", opaque(em()[7]), 0, 7)
        self.assertEqual(bucket.asked["cutout"], asked)
