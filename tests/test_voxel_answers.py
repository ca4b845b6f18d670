"""Voxels over HTTP: what readers rely on beside the bytes, and volumes that are not as they should be."""

from __future__ import annotations

import gzip
import json
import shutil
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from tests import doubles, formats, ocpserver
from tests.channels import channels
from tests.daemons import Daemon, DaemonCase, pause
from tests.ocpserver import Served
from tests.raw_http import GZIP, raw_get
from tests.readers import READERS
from tests.volumes import em, level, mitochondria


class VoxelHttpTests(DaemonCase):
    """What readers rely on beside the bytes."""

    async def before(self, service: ocpserver.Service, **options: Any) -> Daemon:
        """Start a daemon before a service."""
        return await self.start(self.configure(self.serve(service), **options))

    async def test_one_cutout(self) -> None:
        """32 readers of the chunks and tiles of one cuboid cost one cutout, and a second daemon none."""
        service = ocpserver.Service(em(), 2, delay=0.3)
        daemon = await self.before(service)
        await daemon.get("kat/")
        paths = []
        for row in range(4):
            for col in range(4):
                x, y = 128 * col, 128 * row
                paths.append(f"precomputed/kat/image/0/{x}-{x + 128}_{y}-{y + 128}_1-17")
        paths += [f"{name}/0/{n}/{n}" for n in range(2) for name in ("zarr/kat/image/0", "zarr3/kat/image/0/c")]
        paths += [f"n5/kat/image/s0/{n}/1/0" for n in range(2)] + [f"kat/{z}/0_0_0.png" for z in range(1, 11)]
        self.assertEqual(len(paths), 32)
        answers = await gatherResults([Deferred.fromCoroutine(daemon.get(path)) for path in paths])
        self.assertEqual({code for code, _, _ in answers}, {200})
        self.assertEqual(len(service.cutouts), 1)
        await daemon.rest()
        other = await self.start(self.place / "ocp.ini")
        again = await gatherResults([Deferred.fromCoroutine(other.get(path)) for path in paths])
        self.assertEqual([body for _, body, _ in again], [body for _, body, _ in answers])
        self.assertEqual(len(service.cutouts), 1)

    async def test_failures(self) -> None:
        """Whatever fails upstream is 503 or 504 and not kept, never 403 or 404; then it is tried again."""
        service = ocpserver.Service(em(), 2)
        daemon = await self.before(service, upstream_timeout="1")
        await daemon.get("kat/")
        paths = ("precomputed/kat/image/0/0-128_0-128_1-17", "zarr/kat/image/0/0/0/0", "zarr3/kat/image/0/c/0/0/0")
        for mode in ("error500", "html200", "outage", "busy", "refused", "reset", "short", "half", "silence"):
            service.mode = mode
            for path in (*paths, "n5/kat/image/s0/0/0/0"):
                code, _, headers = await daemon.get(path)
                self.assertIn(code, (503, 504), (mode, path))
                self.assertEqual(headers["cache-control"], "no-store")
                self.assertIn("retry-after", headers)
                self.assertEqual(headers["access-control-allow-origin"], "*")
        service.mode = "well"
        while (await daemon.get(paths[0]))[0] != 200:
            await pause(0.2)

    async def test_conditions_and_ranges(self) -> None:
        """Validators, ranges and lengths are those of RFC 9110, on the hot path and off it."""
        daemon = await self.before(ocpserver.Service(em(), 2))
        path = "precomputed/kat/image/0/0-128_0-128_1-17"
        _, whole, headers = await daemon.get(path)
        etag = headers["etag"]
        self.assertEqual((headers["accept-ranges"], headers["vary"]), ("bytes", "Accept-Encoding"))
        for _ in range(2):  # the second time by the hot path
            code, body, same = await daemon.get(path)
            self.assertEqual((code, body), (200, whole))
            self.assertEqual({**same, **headers}.keys(), headers.keys())
            self.assertEqual(same["content-type"], "application/octet-stream")
            self.assertEqual((await daemon.get(path, if_none_match=etag))[0], 304)
        for asked, part in (
            ("bytes=0-9", whole[:10]),
            ("bytes=100-", whole[100:]),
            ("bytes=-7", whole[-7:]),
            ("bytes=5-99999999", whole[5:]),
        ):
            code, body, headers = await daemon.get(path, range=asked)
            self.assertEqual((code, body), (206, part))
            first = len(whole) - len(part) if asked != "bytes=0-9" else 0
            self.assertEqual(headers["content-range"], f"bytes {first}-{first + len(part) - 1}/{len(whole)}")
            code, body, _ = await daemon.get(path, range=asked, if_range=etag)
            self.assertEqual((code, body), (206, part))
            code, body, _ = await daemon.get(path, range=asked, if_range='"other"')
            self.assertEqual((code, body), (200, whole))
        code, _, headers = await daemon.get(path, range=f"bytes={len(whole)}-")
        self.assertEqual((code, headers["content-range"]), (416, f"bytes */{len(whole)}"))
        for odd in ("bytes=9-3", "bytes=0-1,4-5", "lines=0-3", "bytes=-", "bytes=a-b"):
            code, body, _ = await daemon.get(path, range=odd)
            self.assertEqual((code, body), (200, whole), odd)
        code, body, headers = await raw_get(daemon, path, {}, "HEAD")
        self.assertEqual((code, body, headers["content-length"]), (200, b"", str(len(whole))))

    async def test_compression(self) -> None:
        """Ids and background are compressed for those who accept that, and plain for others, under another tag."""
        service = ocpserver.Service(em(), 2, channels={"ids": channels()["ids64"]})
        daemon = await self.before(service)
        path = "precomputed/kat/ids/0/0-128_0-128_1-9"
        for _ in range(2):
            code, plain, headers = await raw_get(daemon, path, {})
            self.assertNotIn("content-encoding", headers)
            code, body, zipped = await raw_get(daemon, path, GZIP)
            self.assertEqual((code, zipped["content-encoding"], gzip.decompress(body)), (200, "gzip", plain))
            self.assertLess(len(body), len(plain) / 2)
            self.assertNotEqual(headers["etag"], zipped["etag"])
        edge = "zarr/kat/ids/0/2/4/4"  # it is filled up, and compressed
        whole = await deferToThread(READERS["zarr"]["zarr over fsspec"], f"{daemon.url}/zarr/kat/ids")
        code, body, _ = await raw_get(daemon, edge, {})
        block = np.frombuffer(gzip.decompress(body), "<u8").reshape(8, 128, 128)
        np.testing.assert_array_equal(block[:4, :88, :128], whole[0][16:20, 512:600, 512:640])
        code, body, headers = await raw_get(daemon, path, GZIP | {"Range": "bytes=0-9"})
        self.assertEqual((code, body, headers.get("content-encoding")), (206, plain[:10], None))
        code, body, headers = await raw_get(daemon, "precomputed/kat/ids/info", GZIP)
        found = json.loads(gzip.decompress(body))["data_type"]
        self.assertEqual((headers["content-encoding"], found), ("gzip", "uint64"))

    async def test_edges(self) -> None:
        """Chunks of background at the end of a volume are filled up, with and without compression."""
        volume = np.zeros((20, 600, 640), np.uint8)
        daemon = await self.before(ocpserver.Service(volume, 2))
        for path in ("zarr/kat/image/0/1/4/4", "zarr3/kat/image/0/c/1/4/4"):
            for _ in range(2):
                _, body, _ = await raw_get(daemon, path, {})
                self.assertEqual(body, bytes(16 * 128 * 128), path)
                _, body, headers = await raw_get(daemon, path, GZIP)
                self.assertEqual((headers["content-encoding"], gzip.decompress(body)), ("gzip", bytes(16 * 128 * 128)))

    async def test_not_there(self) -> None:
        """What is off the grid, and no name of the format, is 404, for browsers of other origins too."""
        daemon = await self.before(ocpserver.Service(em(), 2))
        for path in (
            "precomputed/kat/image/0/0-128_0-128_17-33",
            "precomputed/kat/image/0/0-64_0-128_1-17",
            "precomputed/kat/image/0/1-129_0-128_1-17",
            "precomputed/kat/image/7/0-128_0-128_1-17",
            "precomputed/kat/image/00/0-128_0-128_1-17",
            "precomputed/kat/other/info",
            "precomputed/kat/image/provenance",
            "precomputed/kat/image/info/",
            "precomputed/info",
            "zarr/kat/image/zarr.json",
            "zarr/kat/image/0/0/0/5",
            "zarr/kat/image/0/0/0",
            "zarr/kat/image/0/-1/0/0",
            "zarr/kat/image/0/00/0/0",
            "zarr/kat/image/0/0.0.0",
            "zarr/kat/image/0/99999999999999999999/0/0",
            "zarr/.zgroup",
            "zarr3/kat/image/.zgroup",
            "zarr3/kat/image/0/0/0/0",
            "n5/attributes.json",
            "n5/kat/image/s9/attributes.json",
            "n5/kat/image/s0/0/0/0/0",
            "n5/kat/image@3/attributes.json",
            "n5/kat/image@/attributes.json",
            "n5/kat/image@00/attributes.json",
            "zarr/k%2fat/image/.zgroup",
            "zarr/kat/%e2%80%a8/.zgroup",
        ):
            code, _, headers = await daemon.get(path)
            self.assertEqual((code, headers["access-control-allow-origin"]), (404, "*"), path)
        for path in ("n5/kat/", "n5/kat/image/", "zarr/kat/image/0/", "precomputed/kat/"):
            self.assertEqual((await daemon.get(path, "HEAD"))[0], 200, path)
        self.assertEqual((await daemon.get("zarr/kat/image/.zgroup", "PUT"))[0], 405)


class OddVolumeTests(DaemonCase):
    """Volumes and files that are not as they should be."""

    async def before(self, service: doubles.Double, sections: str = "", **options: Any) -> Daemon:
        """Start a daemon before a service; ``{url}`` in its sections stands for the address."""
        url = self.serve(service)
        path = self.configure(url, **options)
        with path.open("a") as file:
            file.write(sections.format(url=url))
        return await self.start(path)

    async def test_channels_called_like_levels(self) -> None:
        """A channel that is called like something in the array of all channels is itself, and there is no array."""
        served = {"0": Served(em()), "s0": Served(255 - em())}
        daemon = await self.before(ocpserver.Service(em(), 2, channels=served))
        for path in ("zarr/kat/.zattrs", "zarr3/kat/zarr.json", "n5/kat/attributes.json"):
            self.assertEqual((await daemon.get(path))[0], 404, path)
        _, body, _ = await daemon.get("zarr/kat/0/0/0/0/0")
        self.assertEqual(body, em()[:16, :128, :128].tobytes())
        _, body, _ = await daemon.get("n5/kat/s0/s0/0/0/0")
        self.assertEqual(body[16:], (255 - em())[:16, :128, :128].tobytes())
        code, body, _ = await daemon.get("zarr/kat/")
        self.assertEqual((code, body.count(b"<li>")), (200, 2))

    async def test_damaged_picture(self) -> None:
        """A JPEG that is cut off, or has colours, is 503 in every format and not kept; mended, it is served."""
        directory = self.place / "bucket" / "kat"
        formats.precomputed(directory, em(), 1, encoding="jpeg", chunk=(64, 64, 16))
        chunk = directory / "4.6_4.6_45" / "0-64_0-64_0-16"
        fine = chunk.read_bytes()
        section = "[dataset kat]\ntype = precomputed\nurl = {url}/kat\n"
        daemon = await self.before(doubles.Bucket(directory=self.place / "bucket"), section)
        colours = BytesIO()
        Image.new("RGB", (64, 1024)).save(colours, "jpeg")
        for bad in (fine[: len(fine) // 2], colours.getvalue(), b"no picture", b""):
            chunk.write_bytes(bad)
            for path in ("precomputed/kat/image/0/0-64_0-64_0-16", "zarr/kat/image/0/0/0/0"):
                self.assertEqual((await daemon.get(path))[0], 503, (path, bad[:10]))
        chunk.write_bytes(fine)
        while (await daemon.get("precomputed/kat/image/0/0-64_0-64_0-16"))[0] == 503:
            await pause(0.2)  # a failure is remembered for a moment
        self.assertEqual((await daemon.get("precomputed/kat/image/0/0-64_0-64_0-16"))[1], fine)

    async def test_missing_pictures(self) -> None:
        """A chunk that is missing is a picture of zeros, however tall."""
        directory = self.place / "bucket" / "kat"
        volume = np.ones((16, 600, 8), np.uint8)
        tall = np.ones((150, 500, 8), np.uint8)
        section = ""
        for name, voxels, chunk in (("kat", volume, (8, 600, 16)), ("tall", tall, (8, 500, 150))):
            directory = self.place / "bucket" / name
            formats.precomputed(directory, voxels, 1, encoding="png", chunk=chunk)
            shutil.rmtree(directory / "4.6_4.6_45")
            info = json.loads((directory / "info").read_text())
            info["scales"][0]["encoding"] = "jpeg"  # whose library makes no picture of so many rows
            (directory / "info").write_text(json.dumps(info))
            section += f"[dataset {name}]\ntype = precomputed\nurl = {{url}}/{name}\n"
        daemon = await self.before(doubles.Bucket(directory=self.place / "bucket"), section)
        for name, shape in (("kat", volume.shape), ("tall", tall.shape)):
            z, y, x = shape
            code, body, _ = await daemon.get(f"precomputed/{name}/image/0/0-{x}_0-{y}_0-{z}")
            self.assertEqual(code, 200)
            with Image.open(BytesIO(body)) as image:
                picture = np.asarray(image)
            self.assertEqual((picture.size, picture.any()), (z * y * x, False))

    async def test_levels_in_two_encodings(self) -> None:
        """Ids whose levels are stored in different ways are read right in each format."""
        ids = mitochondria().astype(np.uint64)
        directory = self.place / "bucket" / "kat"
        formats.precomputed(directory, ids, 2, kind="segmentation", chunk=(32, 32, 4))
        info = json.loads((directory / "info").read_text())
        finest = info["scales"][0]
        shutil.rmtree(directory / finest["key"])
        formats.precomputed(self.place / "other", ids, 1, kind="segmentation", chunk=(256, 256, 20))
        shutil.copytree(self.place / "other" / finest["key"], directory / finest["key"])
        finest["chunk_sizes"] = [[256, 256, 20]]
        (directory / "info").write_text(json.dumps(info))
        section = "[dataset kat]\ntype = precomputed\nurl = {url}/kat\n"
        daemon = await self.before(doubles.Bucket(directory=self.place / "bucket"), section)
        _, body, _ = await daemon.get("precomputed/kat/annotation/info")
        encodings = [scale["encoding"] for scale in json.loads(body)["scales"]]
        self.assertEqual(encodings, ["compressed_segmentation", "raw"])
        for name, readers in READERS.items():
            found = await deferToThread(readers["TensorStore"], f"{daemon.url}/{name}/kat/annotation")
            for number, got in enumerate(found):
                np.testing.assert_array_equal(got, level(ids, number), f"{name} {number}")

    async def test_damaged_file(self) -> None:
        """A kept chunk in which a byte has changed is fetched again, for clients of any kind."""
        service = ocpserver.Service(em(), 2, channels={"ids": channels()["ids64"], "image": Served(em())})
        daemon = await self.before(service, cache_memory="1")
        chunk, zarr = "precomputed/kat/ids/0/0-128_0-128_1-9", "zarr/kat/ids/0/0/0/0"
        plain = "precomputed/kat/image/0/0-128_0-128_1-17"
        asked: list[tuple[str, dict[str, str]]] = [(chunk, {}), (chunk, GZIP), (zarr, {}), (plain, {})]
        want = [(await raw_get(daemon, path, headers))[1] for path, headers in asked]
        await daemon.rest()
        await daemon.stop()
        for file in (self.place / "cache" / "tiles").rglob("0_0/0.chunk"):
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 255
            file.write_bytes(content)
        for number, (path, headers) in enumerate(asked):
            daemon = await self.start(self.place / "ocp.ini")
            code, body, _ = await raw_get(daemon, path, headers)
            self.assertEqual((code, body == want[number]), (200, True), path)
            await daemon.stop()

    async def test_head_of_a_range(self) -> None:
        """A range means nothing to HEAD."""
        daemon = await self.before(ocpserver.Service(em(), 2))
        path = "precomputed/kat/image/0/0-128_0-128_1-17"
        code, _, headers = await raw_get(daemon, path, {"Range": "bytes=0-9"}, "HEAD")
        self.assertEqual((code, headers["content-length"]), (200, "262144"))

    async def test_head_of_unfetched(self) -> None:
        """HEAD fetches nothing; the length is there where it does not depend on the voxels."""
        service = ocpserver.Service(em(), 2, channels={"ids": channels()["ids64"], "image": Served(em())})
        daemon = await self.before(service)
        for path, length in (
            ("precomputed/kat/image/0/512-640_512-600_17-21", 128 * 88 * 4),
            ("zarr/kat/image/0/1/4/4", 128 * 128 * 16),
            ("n5/kat/image/s0/4/4/1", 16 + 128 * 88 * 4),
            ("precomputed/kat/ids/0/0-128_0-128_1-9", None),
        ):
            code, body, headers = await raw_get(daemon, path, {}, "HEAD")
            self.assertEqual((code, body), (200, b""), path)
            self.assertEqual(headers.get("content-length"), None if length is None else str(length), path)
            self.assertIn("not-fetched-for-head", headers["cache-status"])
            self.assertEqual(len(service.cutouts), 0)
        for path, _ in (("n5/kat/image/s0/4/4/1", 0), ("zarr/kat/image/0/1/4/4", 0)):
            _, body, _ = await raw_get(daemon, path, {})
            _, _, headers = await raw_get(daemon, path, {}, "HEAD")
            self.assertEqual(headers["content-length"], str(len(body)))

    async def test_serve(self) -> None:
        """A dataset may be served as tiles only, or as chunks only."""
        section = "[dataset katt]\nurl = {url}\nserve = tiles\n[dataset katc]\nurl = {url}\nserve = chunks\n"
        daemon = await self.before(ocpserver.Service(em(), 2), section)
        for path, code in (
            ("katt/1/0_0_0.png", 200),
            ("katt/image/info", 404),
            ("precomputed/katt/image/info", 404),
            ("zarr/katt/", 404),
            ("neuroglancer/katt/state", 404),
            ("katc/1/0_0_0.png", 404),
            ("precomputed/katc/image/info", 200),
            ("neuroglancer/katc/state", 200),
        ):
            self.assertEqual((await daemon.get(path))[0], code, path)
        tiles, chunks = [json.loads((await daemon.get(f"{token}/"))[1]) for token in ("katt", "katc")]
        self.assertEqual(("voxels" in tiles, len(tiles["image_bases"])), (False, 4))
        self.assertEqual((sorted(chunks["voxels"]["image"]), chunks["image_bases"]), (sorted(READERS), []))

    async def test_folders(self) -> None:
        """A folder without its slash leads to the one with it."""
        daemon = await self.before(ocpserver.Service(em(), 2))
        code, _, headers = await raw_get(daemon, "zarr3/kat/image/0", {})
        self.assertEqual((code, headers["location"]), (302, "0/"))
        for path in ("zarr3/kat/image/0/c/", "zarr3/kat/", "precomputed/kat/image/1/"):
            self.assertEqual((await raw_get(daemon, path, {}))[0], 200, path)
