"""What is particular to some upstreams: BossDB's buckets, quota and credentials, DVID's refusals, shared chunks."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from PIL import Image
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy import config
from ocpproxy.geometry import Box, Cutout
from ocpproxy.sources import lacking
from ocpproxy.upstream import Upstream, UpstreamBroken, UpstreamBusy, UpstreamRefused
from ocpproxy.upstream.boss import Boss
from ocpproxy.upstream.chunks import Chunks, Grid
from ocpproxy.upstream.places import Site, public
from ocpproxy.upstream.precomputed import Precomputed
from ocpproxy.upstream.volume import Reader, Shards
from tests import doubles, formats, oracle
from tests.bossserver import BossServer, Served
from tests.conformance import UpstreamCase, nothing
from tests.daemons import DaemonCase
from tests.dvidserver import DvidServer, Grayscale, Labels
from tests.test_formats import FormatsCase, section
from tests.test_views import opaque
from tests.volumes import em, level, mitochondria, nuclei


class BossTests(UpstreamCase):
    """BossDB."""

    async def test_bucket(self) -> None:
        """A channel whose storage is cloudvol is read from its bucket, without the token; the others are asked for."""
        files = self.place()
        formats.precomputed(files / "em" / "v1", em(), resolution=(4, 4, 35))
        bucket = doubles.Bucket(directory=files)
        where = self.serve(bucket)
        server = BossServer(
            {
                "em": Served(em(), storage_type="cloudvol", bucket="open-data", cv_path="/em/v1"),
                "ids": Served(mitochondria().astype(np.uint64), "annotation"),
            },
            private="secret",
        )
        boss = doubles.Speaking(speaker=server.answer)
        url = self.serve(boss)
        headers: list[dict[str, str]] = []
        told = bucket.answer

        def overheard(path: str, query: dict[str, list[str]], said: dict[str, str]) -> doubles.Answer:
            headers.append(said)
            return told(path, query, said)

        bucket.answer = overheard  # type: ignore[method-assign, assignment]
        said = self.settings(f"type = boss\nurl = {url}/vnc/stack1\n")

        def at(address: str) -> Precomputed:
            self.assertEqual(address, "s3://open-data/em/v1")
            site = Site(address.replace("s3://open-data", where), lambda url: self.doors.fetcher(said, url))
            sites: dict[str | None, Site] = {address: site, None: site}
            shards = Shards(Reader(the_reactor(), 10, 8, 0), sites)
            return Precomputed(sites, self.pool.run, the_reactor(), (404,), shards)

        secret = config.parse(
            f"[dataset kat]\ntype = boss\nurl = {url}/vnc/stack1\nauthorization = Token ${{T}}\n",
            Path(),
            {"T": "secret"},
        ).datasets["kat"]
        self.assertNotIn("secret", repr(secret))
        site = Site(f"{url}/vnc/stack1", lambda url: self.doors.fetcher(secret.upstream, url))
        upstream: Upstream = Boss(site, (), at, self.pool.run, the_reactor())
        dataset = await self.described(upstream, "kat")
        channels = [(c.name, c.kind, c.writable) for c in dataset.channels]
        self.assertEqual(channels, [("em", "image", False), ("ids", "annotation", True)])
        for number in range(3):
            box = Box(5, 150, 7, 140, 2, 19)
            for channel, volume in zip(dataset.channels, (em(), mitochondria()), strict=True):
                voxels = await upstream.cutout(Cutout(dataset, channel, 0, number, box), nothing)
                np.testing.assert_array_equal(voxels, level(volume, number)[2:19, 7:140, 5:150])
        self.assertEqual(sum("authorization" in one for one in headers), 0)
        self.assertTrue(headers)
        self.assertTrue(all("ids" in path for path in boss.cutouts))
        with self.assertRaises(UpstreamRefused):
            await self.described(self.configured(f"type = boss\nurl = {url}/vnc/stack1\n"), "kat")

    async def test_quota(self) -> None:
        """Once the quota is spent nothing is asked any more, for a long time."""
        server = BossServer({"em": Served(em())})
        boss = doubles.Speaking(speaker=server.answer)
        upstream = self.configured(f"type = boss\nurl = {self.serve(boss)}/vnc/stack1\n", retries=3)
        dataset = await self.described(upstream, "kat")
        cutout = Cutout(dataset, dataset.channels[0], 0, 0, Box(0, 8, 0, 8, 0, 8))
        said = {"status": 429, "message": "User is throttled. Expected available tomorrow.", "code": 3004}
        boss.speaker = lambda *_: ("cutout", 429, {}, json.dumps(said).encode())
        for _ in range(3):
            with self.assertRaises(UpstreamBusy) as caught:
                await upstream.cutout(cutout, nothing)
            self.assertGreater(caught.exception.retry_after or 0, 3500)
        self.assertEqual(boss.asked["cutout"], 1)

    async def test_frame(self) -> None:
        """Coordinates are absolute; levels of an isotropic pyramid halve z; what is not downsampled has one level."""
        start = (256, 128, 8)
        for method, status, many in (("isotropic", "DOWNSAMPLED", 3), ("anisotropic", "QUEUED", 1)):
            server = BossServer(
                {"em": Served(em(), downsample_status=status)}, start=start, hierarchy_method=method, unit="micrometers"
            )
            boss = doubles.Speaking(speaker=server.answer)
            upstream = self.configured(f"type = boss\nurl = {self.serve(boss)}/vnc/stack1\nchannels = image: em\n")
            dataset = await self.described(upstream, "kat")
            self.assertEqual(len(dataset.levels), many)
            self.assertEqual(dataset.levels[0].offset, start)
            box = Box(300, 400, 200, 260, 9, 20)
            voxels = await upstream.cutout(Cutout(dataset, dataset.channel("image"), 0, 0, box), nothing)
            np.testing.assert_array_equal(voxels, em()[1:12, 72:132, 44:144])
            if many > 1:
                self.assertEqual(dataset.levels[1].offset, (128, 64, 4))
                box = Box(300, 400, 200, 260, 9, 12)  # what lies behind the start of level 0: the server gives that
                voxels = await upstream.cutout(Cutout(dataset, dataset.channel("image"), 0, 1, box), nothing)
                np.testing.assert_array_equal(voxels, em()[::2, ::2, ::2][5:8, 136:196, 172:272])

    async def test_intern(self) -> None:
        """BossDB's own client reads the same voxels from our double: so that it is true to the protocol."""
        from intern.convenience.array import _BossDBVolumeProvider, array
        from intern.remote.boss import BossRemote

        ids = mitochondria().astype(np.uint64) << np.uint64(33)
        server = BossServer({"em": Served(em()), "ids": Served(ids, "annotation")})
        url = self.serve(doubles.Speaking(speaker=server.answer))

        def read() -> None:
            host = url.removeprefix("http://")
            remote = BossRemote({"protocol": "http", "host": host, "token": "public"})
            for name, volume in (("em", em()), ("ids", ids)):
                for number in range(3):
                    there = array(
                        f"bossdb://vnc/stack1/{name}", resolution=number, volume_provider=_BossDBVolumeProvider(remote)
                    )
                    np.testing.assert_array_equal(there[3:9, 2:133, 1:150], level(volume, number)[3:9, 2:133, 1:150])

        await deferToThread(read)


def the_reactor() -> Any:
    """The reactor."""
    from twisted.internet import reactor

    return reactor


class AgreementTests(UpstreamCase):
    """Independent software reads our doubles as we do."""

    async def test_tensorstore(self) -> None:
        """TensorStore over HTTP, at every level of precomputed in all encodings."""
        files = self.place()
        stored = {"raw": "", "jpeg": "", "png": "", "gzip": "gzip", "br": "br"}
        for name, encoding in stored.items():
            how = {"stored": encoding} if encoding else {"encoding": name}
            formats.precomputed(files / name, em(), offset=(64, 32, 5), **how)  # type: ignore[arg-type]
            url = self.serve(doubles.Bucket(directory=files, encoding=encoding)) + f"/{name}"
            upstream = self.configured(f"type = precomputed\nurl = {url}\n")
            dataset = await self.described(upstream, "kat")
            for number, shape in dataset.levels.items():
                (ox, oy, oz), (ex, ey, ez) = shape.offset, shape.end
                box = Box(ox, ex, oy, ey, oz, ez)
                ours = await upstream.cutout(Cutout(dataset, dataset.channels[0], 0, number, box), nothing)

                def read(url: str = url, number: int = number) -> Any:
                    kvstore = {"driver": "http", "base_url": url + "/"}
                    spec = {"driver": "neuroglancer_precomputed", "kvstore": kvstore, "scale_index": number}
                    return ts.open(spec, read=True).result()[..., 0].T.read(order="C").result()

                np.testing.assert_array_equal(ours, await deferToThread(read))


class ChunkTests(UpstreamCase):
    """Chunks of precomputed volumes."""

    async def test_once(self) -> None:
        """Chunks are fetched side by side; one on a border of two cuboids once, at the same time or a moment later."""
        files = self.place()
        formats.precomputed(files / "v", em(), chunk=(200, 200, 20))
        bucket = doubles.Bucket(directory=files, delay=0.1)
        upstream = self.configured(f"type = precomputed\nurl = {self.serve(bucket)}/v\n")
        dataset = await self.described(upstream, "kat")
        boxes = [Box(x, min(x + 512, 640), y, min(y + 512, 600), 0, 16) for x in (0, 512) for y in (0, 512)]
        work = [upstream.cutout(Cutout(dataset, dataset.channels[0], 0, 0, box), nothing) for box in boxes]
        found = await gatherResults([Deferred.fromCoroutine(one) for one in work])
        for box, voxels in zip(boxes, found, strict=True):
            np.testing.assert_array_equal(voxels, em()[:16, box.y0 : box.y1, box.x0 : box.x1])
        self.assertEqual(bucket.asked["cutout"], 12)
        self.assertEqual(len(set(bucket.cutouts)), 12)
        self.assertEqual(bucket.most_open, 8)
        again = Box(390, 410, 390, 410, 0, 16)  # four chunks that stuck out of their cuboids, or did not
        before = bucket.asked["cutout"]
        await upstream.cutout(Cutout(dataset, dataset.channels[0], 0, 0, again), nothing)
        self.assertLessEqual(bucket.asked["cutout"] - before, 1)

    async def test_memory(self) -> None:
        """Only as many chunks are held as are being fetched, however many a box has."""
        alive: list[weakref.ref[Any]] = []
        most = 0
        places = DeferredSemaphore(3)

        async def fetch(place: str, box: Box, arriving: Callable[[], None]) -> Any:
            nonlocal most
            await places.acquire()
            await deferLater(the_reactor(), 0)
            voxels = np.full(box.shape, 7, np.uint8)
            alive.append(weakref.ref(voxels))
            most = max(most, sum(ref() is not None for ref in alive))
            the_reactor().callLater(0, places.release)
            return voxels

        chunks: Chunks[str] = Chunks(fetch, the_reactor())
        grid = Grid((0, 0, 0), (640, 640, 16), (64, 64, 16))
        voxels = await chunks.box("v", Box(0, 640, 0, 640, 0, 16), grid, "uint8", nothing)
        self.assertEqual((len(alive), voxels.min(), voxels.max()), (100, 7, 7))
        self.assertLessEqual(most, 8)

    async def test_missing(self) -> None:
        """A chunk that is not there is background; a 403 is not, unless it is said to be."""
        files = self.place()
        names = {"4.6_4.6_45/0-128_0-128_0-16", "4.6_4.6_45/128-256_0-128_0-16"}
        formats.precomputed(files / "v", em(), missing=names)
        expected = em()[:16, :200, :300].copy()
        expected[:, :128, :256] = 0
        for absent, options, fine in (
            (404, "", True),
            (403, "", False),
            (403, "missing_status = 403, 404\n", True),
            (404, "missing = error\n", False),
            (500, "", False),
        ):
            url = self.serve(doubles.Bucket(directory=files, absent=absent))
            upstream = self.configured(f"type = precomputed\nurl = {url}/v\n{options}")
            dataset = await self.described(upstream, "kat")
            cutout = Cutout(dataset, dataset.channels[0], 0, 0, Box(0, 300, 0, 200, 0, 16))
            if fine:
                np.testing.assert_array_equal(await upstream.cutout(cutout, nothing), expected)
            else:
                with self.assertRaises(Exception) as caught:
                    await upstream.cutout(cutout, nothing)
                self.assertNotIsInstance(caught.exception, AssertionError)

    async def test_missing_to_tensorstore(self) -> None:
        """The same for what TensorStore reads."""
        files = self.place()
        formats.zarr2(files / "v", em())
        (files / "v" / "0.0.0").unlink()
        expected = em()[:16, :200, :300].copy()
        expected[:, :128, :128] = 0
        for options, fine in (("", True), ("missing = error\n", False)):
            url = self.serve(doubles.Bucket(directory=files))
            upstream = self.configured(f"type = zarr\nurl = {url}/v\n{options}")
            dataset = await self.described(upstream, "kat")
            cutout = Cutout(dataset, dataset.channels[0], 0, 0, Box(0, 300, 0, 200, 0, 16))
            if fine:
                np.testing.assert_array_equal(await upstream.cutout(cutout, nothing), expected)
            else:
                with self.assertRaises(Exception) as caught:
                    await upstream.cutout(cutout, nothing)
                self.assertIn("missing", str(caught.exception))


class DvidTests(UpstreamCase):
    """DVID."""

    async def test_raw_refused(self) -> None:
        """A grayscale that refuses raw without having said so is read by blocks from then on."""

        class Silent(Grayscale):
            def extended(self) -> dict[str, Any]:
                return super().extended() | {"GridStore": ""}

        absent = frozenset({(0, 0, 0)})
        volume = Silent(em(), offset=(10, 20, 3), gridstore=True, absent=absent)
        dvid = doubles.Speaking(speaker=DvidServer({"grayscale": volume}).answer)
        upstream = self.configured(f"type = dvid\nurl = {self.serve(dvid)}/api/node/a89eb3af/grayscale\n")
        dataset = await self.described(upstream, "kat")
        for _ in range(2):
            box = Box(10, 300, 20, 101, 3, 23)
            voxels = await upstream.cutout(Cutout(dataset, dataset.channels[0], 0, 0, box), nothing)
            np.testing.assert_array_equal(voxels, volume.voxels[:, :81, :290])
        self.assertEqual(sum("/raw/" in path for path in dvid.cutouts), 1)

    async def test_labels_refused(self) -> None:
        """Ids are never read by blocks, which are of 8 bits."""
        dvid = doubles.Speaking(speaker=DvidServer({"labels": Labels(em().astype(np.uint64))}).answer)
        upstream = self.configured(f"type = dvid\nurl = {self.serve(dvid)}/api/node/a89eb3af/labels\n")
        dataset = await self.described(upstream, "kat")
        told = dvid.speaker
        dvid.speaker = lambda *asked: ("cutout", 400, {}, b"does not support /raw endpoint")
        cutout = Cutout(dataset, dataset.channels[0], 0, 0, Box(0, 8, 0, 8, 0, 8))
        with self.assertRaises(UpstreamBroken):
            await upstream.cutout(cutout, nothing)
        dvid.speaker = told
        self.assertEqual((await upstream.cutout(cutout, nothing)).dtype, np.uint64)


class OddVolumeTests(UpstreamCase):
    """Volumes as they are found."""

    async def test_unlisted_bucket(self) -> None:
        """A bucket that says 403 for what is not there is read, as long as it has what it must have."""
        files = self.place()
        formats.ome_zarr(files / "o", em(), version="0.5")
        formats.n5(files / "n", em(), factors="each")
        url = self.serve(doubles.Bucket(directory=files, absent=403))
        for name in "on":
            dataset = await self.described(self.configured(f"type = volume\nurl = {url}/{name}\n"), "kat")
            self.assertEqual(len(dataset.levels), 3)
        with self.assertRaises(UpstreamRefused):
            await self.described(self.configured(f"type = volume\nurl = {url}/nothing\n"), "kat")

    async def test_edges_rounded_down(self) -> None:
        """A tile server whose edge tiles end where the volume does, rounded down: what is missing is black."""
        tile = BytesIO()
        Image.fromarray(em()[0, :200, :127].copy()).save(tile, "PNG")
        served = doubles.Speaking(speaker=lambda *_: ("cutout", 200, {"content-type": "image/png"}, tile.getvalue()))
        lines = f"type = catmaid\nurl = {self.serve(served)}/\ndimension = 640, 713, 1\n"
        upstream = self.configured(lines)
        dataset = await self.described(upstream, "kat")
        cutout = Cutout(dataset, dataset.channels[0], 0, 0, Box(512, 640, 512, 713, 0, 1))
        voxels = await upstream.cutout(cutout, nothing)
        np.testing.assert_array_equal(voxels[0, :200, :127], em()[0, :200, :127])
        self.assertFalse(voxels[0, 200:].any() or voxels[0, :, 127:].any())


class ConfigurationTests(SynchronousTestCase):
    """What the configuration refuses."""

    def test_places(self) -> None:
        """Buckets become addresses."""
        self.assertEqual(public("s3://open-neurodata/a/b"), "https://open-neurodata.s3.amazonaws.com/a/b")
        self.assertEqual(public("s3://with.dots/a"), "https://s3.amazonaws.com/with.dots/a")
        self.assertEqual(public("gs://h01-release/data"), "https://storage.googleapis.com/h01-release/data")
        self.assertEqual(public("http://host/a"), "http://host/a")

    def test_faults(self) -> None:
        """Each with what was expected."""
        for lines, key in (
            ("type = precomputed\n", "url"),
            ("type = precomputed\nurl = file:///etc\n", "url"),
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
        ):
            bad = self.assertRaises(config.BadConfiguration, config.parse, f"[dataset a]\n{lines}", Path(), {})
            self.assertEqual({fault.key for fault in bad.faults}, {key}, lines)
            self.assertNotIn("123abc", str(bad))
        bad = self.assertRaises(config.BadConfiguration, config.parse, "[upstream]\nToken 123abc\n", Path(), {})
        self.assertNotIn("123abc", str(bad))
        for name in ("boss", "precomputed"):
            settings = config.parse(f"[upstream]\ntype = {name}\nurl = https://h/x\n[dataset a]\n", Path(), {})
            self.assertEqual(settings.datasets["a"].upstream.type, name)
            self.assertEqual(lacking(settings), [])

    def test_secrets_stay_at_home(self) -> None:
        """What [upstream] sends to its own host is sent to no other, and one section's to one host."""
        upstream = "[upstream]\ntype = boss\nurl = https://h/{token}/x\nauthorization = Token ${T}\n"
        for lines, sent in (
            ("", "Token s"),
            ("url = https://h/other/x\n", "Token s"),
            ("url = https://elsewhere/c/x\n", None),
            ("url = http://h/c/x\n", None),
            ("type = precomputed\nurl = gs://bucket/x\n", None),
            ("url = https://elsewhere/c/x\nauthorization = Bearer ${T}\n", "Bearer s"),
        ):
            settings = config.parse(f"{upstream}[dataset a]\n{lines}", Path(), {"T": "s"})
            self.assertEqual(settings.datasets["a"].upstream.authorization, sent, lines)
        two = "[dataset a]\ntype = precomputed\nurl = a: https://h/a\n  b: https://i/b\nauthorization = Token ${T}\n"
        self.assertRaises(config.BadConfiguration, config.parse, two, Path(), {"T": "s"})

    def test_inherited(self) -> None:
        """What is of no use to a type is not inherited by it."""
        text = "[upstream]\ntype = zarr\nurl = s3://b/{token}\ncredentials = on\nchannels = a, b\n"
        text += "[dataset p]\ntype = precomputed\nurl = s3://b/x\n"
        text += "[dataset c]\ntype = catmaid\nurl = http://h/x/\ndimension = 1, 2, 3\n[dataset z]\n"
        found = {name: said.upstream for name, said in config.parse(text, Path(), {}).datasets.items()}
        self.assertEqual(
            [(found[n].credentials, len(found[n].channels)) for n in "pcz"], [(False, 2), (False, 0), (True, 2)]
        )


class PlacesTests(UpstreamCase):
    """The places of a host."""

    async def test_lowered(self) -> None:
        """A number of places that is lowered while they are taken is reached as they come back."""
        http = self.doors.http
        places = http.cap("http://h", 5)
        for _ in range(4):
            await places.acquire()
        self.assertIs(http.cap("http://h/other", 2), places)
        late = places.acquire()
        for _ in range(2):
            places.release()
        self.assertFalse(late.called)
        places.release()
        self.assertTrue(late.called)
        places.release()
        places.release()
        self.assertEqual(places.tokens, 2)


class LeanTests(DaemonCase):
    """A daemon with only the core installed."""

    def test_imports(self) -> None:
        """Making a gateway imports no optional package, nor a codec that nobody has asked for yet."""
        text = "[dataset a]\ntype = precomputed\nurl = https://h/a\n[dataset b]\ntype = boss\nurl = bossdb://a/b\n"
        path = self.place / "ocp.ini"
        path.write_text(text)
        program = (
            "import sys; from ocpproxy import service; options = service.Options();"
            "options.parseOptions(['--config', sys.argv[1]]); service.makeService(options);"
            "optional = {'tensorstore', 'brotli', 'blosc', 'compressed_segmentation', 'ml_dtypes', 'cloudvolume'};"
            "print(sorted(optional & set(sys.modules)))"
        )
        said = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
        self.assertEqual((said.stdout.strip(), said.returncode), ("[]", 0), said.stderr)


class CredentialTests(FormatsCase):
    """Buckets and secrets through the daemon."""

    async def test_google(self) -> None:
        """gs:// with credentials is read by TensorStore's own driver, forked daemon and all."""
        files = self.place / "files"
        formats.ome_zarr(files / "v", em())
        inner = doubles.Bucket(directory=files)
        seen: list[str] = []

        def speak(path: str, query: dict[str, list[str]], headers: dict[str, str]) -> doubles.Answer:
            seen.append(headers.get("authorization", ""))
            name = path.removeprefix("/storage/v1/b/ours/o/").replace("%2F", "/").replace("%2f", "/")
            if query.get("ifGenerationNotMatch") == ["7"]:
                return "cutout", 304, {}, b""
            kind, code, told, body = inner.answer(name, query, headers)
            return kind, code, told | {"x-goog-generation": "7"}, body

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
        """A token is sent to its host only, and told nowhere: not in the log, not on a page, not in a header."""
        server = BossServer({"em": Served(em())}, private="sesame")
        boss = doubles.Speaking(speaker=server.answer)
        path = self.configure("http://127.0.0.1:9")
        with path.open("a") as file:
            url = self.serve(boss) + "/vnc/stack1"
            file.write(section("b", type="boss", url=url, authorization="Token ${BOSS_TOKEN}"))
            file.write(section("c", type="boss", url=url))
        daemon = await self.start(path, BOSS_TOKEN="sesame")
        told = []
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
            told.append((code, str(headers).encode() + body))
        self.assertEqual([code for code, _ in told], [200, 200, 200, 403, 200, 200, 404])
        self.assertFalse([page for page in (*(body for _, body in told), daemon.log.encode()) if b"sesame" in page])
        boss.mode = "error500"
        self.assertEqual((await daemon.get("b/em/xy/3/0_1_0.png"))[0], 503)
        self.assertNotIn("sesame", daemon.log)

    async def test_sixteen_bits(self) -> None:
        """A window is for the voxels' own values, whatever their width."""
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
