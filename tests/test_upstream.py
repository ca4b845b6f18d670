"""Upstreams: one suite for every kind, and what is particular to the Open Connectome services."""

from __future__ import annotations

import contextlib
import json
import zlib
from random import Random
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase
from twisted.web.client import Agent, HTTPConnectionPool

from ocpproxy.address import ImageBase
from ocpproxy.geometry import Box, Cutout, Dataset, NotShown, Plane
from ocpproxy.metrics import Metrics
from ocpproxy.pool import Pool
from ocpproxy.stack import Stack
from ocpproxy.upstream import (
    Measured,
    OutOfRange,
    UnknownToken,
    Upstream,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamDown,
    UpstreamFailure,
    UpstreamRefused,
    UpstreamSlow,
    demo,
    info,
    npz,
)
from ocpproxy.upstream.http import Fetcher, Http
from ocpproxy.upstream.ocp import OpenConnectome
from tests import ocpserver
from tests.volumes import cuboids, em, level, shared


def nothing() -> None:
    """Do not mind."""


class UpstreamCase(TestCase):
    """Threads, and a client of its own for each test."""

    def setUp(self) -> None:
        """Open them."""
        self.pool = Pool(reactor, 2, "decode")
        self.pool.startService()
        self.addCleanup(self.pool.stopService)
        self.connections = HTTPConnectionPool(reactor)
        self.connections.maxPersistentPerHost = 8
        self.connections.retryAutomatically = False
        self.addCleanup(self.connections.closeCachedConnections)
        self.http = Http(HTTPClient(Agent(reactor, pool=self.connections)), reactor, Random(1))  # type: ignore[arg-type]

    async def described(self, upstream: Upstream, token: str) -> Dataset:
        """The dataset of a token."""
        return upstream.dataset(token, await upstream.describe(token))

    def serve(self, service: ocpserver.Service) -> str:
        """Start the double; its address."""
        port = reactor.listenTCP(0, ocpserver.site(service), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        return f"http://127.0.0.1:{port.getHost().port}"

    def ocp(self, url: str, timeout: float = 10, connections: int = 8, retries: int = 0) -> OpenConnectome:
        """A client of it."""
        return OpenConnectome(Fetcher(self.http, url, timeout, connections, retries), self.pool.run)


class ConformanceTests:
    """What every upstream does."""

    token = "kat"

    def upstream(self) -> Upstream:
        """One of the kind."""
        raise NotImplementedError

    async def test_unknown_token(self: Any) -> None:
        """A token that is not there is told from everything else."""
        with self.assertRaises(UnknownToken):
            await self.upstream().describe("nope")

    async def test_voxels(self: Any) -> None:
        """Any cutout has the shape and type that was asked for, and agrees with any other that holds its voxels."""
        upstream = self.upstream()
        dataset = await self.described(upstream, self.token)
        channel = dataset.channel(None)
        for number, shape in dataset.levels.items():
            (ox, oy, oz), (ex, ey, ez) = shape.offset, shape.end
            whole = Box(ox, min(ox + 140, ex), oy, min(oy + 130, ey), oz, min(oz + 16, ez))
            part = Box(ox + 7, ox + 100, oy + 11, oy + 90, oz + 3, oz + 9)
            corner = Box(ex - 9, ex, ey - 8, ey, ez - 2, ez)
            found = {}
            for box in (whole, part, corner):
                voxels = await upstream.cutout(Cutout(dataset, channel, 0, number, box), nothing)
                self.assertEqual((voxels.shape, voxels.dtype), (box.shape, np.dtype(channel.dtype)))
                found[box] = voxels
            np.testing.assert_array_equal(found[part], found[whole][3:9, 11:90, 7:100])
            self.assertGreater(found[whole].std(), 5, "there is something to see")

    async def test_arriving_is_told(self: Any) -> None:
        """It is told once or more that the answer begins to arrive."""
        upstream = self.upstream()
        dataset = await self.described(upstream, self.token)
        told: list[int] = []
        box = Box(*(v for o in dataset.levels[0].offset for v in (o, o + 8)))
        await upstream.cutout(Cutout(dataset, dataset.channel(None), 0, 0, box), lambda: told.append(1))
        self.assertTrue(told)

    async def test_cancel(self: Any) -> None:
        """A cutout that is cancelled ends at once, and the next one works."""
        upstream = self.upstream()
        dataset = await self.described(upstream, self.token)
        box = Box(*(v for o in dataset.levels[0].offset for v in (o, o + 8)))
        cutout = Cutout(dataset, dataset.channel(None), 0, 0, box)
        work = Deferred.fromCoroutine(upstream.cutout(cutout, nothing))
        ended = work.addErrback(lambda failure: failure.trap(CancelledError))
        work.cancel()
        self.assertIs(await ended, CancelledError)
        self.assertEqual((await upstream.cutout(cutout, nothing)).shape, (8, 8, 8))

    async def test_hostile_description(self: Any) -> None:
        """A description that makes no sense is a broken upstream, never another error (or is not looked at)."""
        for text in ("", "null", "[]", "{}", "{" * 5000, '{"dataset": {}}', "\ud800"):
            with contextlib.suppress(UpstreamBroken):
                self.upstream().dataset(self.token, text)


class DemoTests(ConformanceTests, UpstreamCase):
    """The built-in tissue."""

    token = "demo"

    def upstream(self) -> Upstream:
        """One."""
        return demo.DemoTissue(self.pool.run)

    async def test_size(self) -> None:
        """At least 16,384 x 16,384 x 1,024 voxels in 6 levels, and a coarse level shows the same tissue."""
        dataset = await self.described(self.upstream(), "demo")
        self.assertEqual((dataset.levels[0].size, len(dataset.levels)), ((16384, 16384, 1024), 6))
        fine = demo.tissue(Box(4096, 4608, 4096, 4608, 40, 41), 0)[0, ::2, ::2].astype(float)
        coarse = demo.tissue(Box(2048, 2304, 2048, 2304, 40, 41), 1)[0].astype(float)
        self.assertGreater(float(np.corrcoef(fine.ravel(), coarse.ravel())[0, 1]), 0.8)


class OpenConnectomeTests(ConformanceTests):
    """Each generation over the real volume."""

    generation = 0

    def upstream(self: Any) -> Upstream:
        """A client of a fresh double."""
        offset = (0, 0, 1) if self.generation == 1 else (64, 32, 5)
        self.service = ocpserver.Service(em(), self.generation, offset)
        upstream: Upstream = self.ocp(self.serve(self.service))
        return upstream

    async def test_every_cuboid(self: Any) -> None:
        """Every cuboid of every level equals the voxels."""
        upstream = self.upstream()
        dataset = await self.described(upstream, "kat")
        stack = Stack.of(dataset, ImageBase("kat"))
        for number in dataset.levels:
            volume = level(em(), number)
            ox, oy, oz = dataset.levels[number].offset
            for cuboid in cuboids(stack, number):
                voxels = await upstream.cutout(cuboid.cutouts()[0], nothing)
                b = cuboid.box
                np.testing.assert_array_equal(
                    voxels, volume[b.z0 - oz : b.z1 - oz, b.y0 - oy : b.y1 - oy, b.x0 - ox : b.x1 - ox]
                )


class FirstGenerationTests(OpenConnectomeTests, UpstreamCase):
    """2013 to March 2015."""

    generation = 1


class SecondGenerationTests(OpenConnectomeTests, UpstreamCase):
    """April 2015 to 2016."""

    generation = 2


class ThirdGenerationTests(OpenConnectomeTests, UpstreamCase):
    """December 2016 on."""

    generation = 3


class FaultTests(UpstreamCase):
    """Everything that can go wrong at an Open Connectome server."""

    async def failure(self, mode: str, timeout: float = 1, retries: int = 0) -> UpstreamFailure:
        """What a cutout fails with; a moment later, when the server is well, it works."""
        self.service = ocpserver.Service(em(), 2)
        upstream = self.ocp(self.serve(self.service), timeout, retries=retries)
        dataset = await self.described(upstream, "kat")
        cutout = next(cuboids(Stack.of(dataset, ImageBase("kat")), 0)).cutouts()[0]
        self.service.mode = mode
        try:
            await upstream.cutout(cutout, nothing)
        except UpstreamFailure as failure:
            found = failure
        else:
            raise AssertionError(f"{mode}: it did not fail")
        self.service.mode = "well"
        np.testing.assert_array_equal(await upstream.cutout(cutout, nothing), em()[:16, :512, :512])
        return found

    async def test_faults(self) -> None:
        """Each fault is what it is."""
        for mode, kind in (
            ("error500", UpstreamBroken),
            ("html200", UpstreamBroken),
            ("outage", UpstreamDown),
            ("busy", UpstreamBusy),
            ("refused", UpstreamRefused),
            ("reset", UpstreamDown),
            ("bomb", UpstreamBroken),
            ("endless", UpstreamBroken),
            ("short", UpstreamBroken),
            ("wrong_type", UpstreamBroken),
            ("silence", UpstreamSlow),
            ("mute", UpstreamSlow),
            ("half", UpstreamDown),
            ("half_unsized", UpstreamBroken),
            ("pickle", UpstreamBroken),
            ("elsewhere", UpstreamBroken),
        ):
            with self.subTest(mode=mode):
                # Only what must run into the deadline has a short one: other work on the machine is no fault.
                deadline = 1 if kind is UpstreamSlow else 10
                failure = await Deferred.fromCoroutine(self.failure(mode, deadline))
                self.assertIs(type(failure), kind, f"{mode}: {failure!r}")
        self.assertEqual((await Deferred.fromCoroutine(self.failure("busy"))).retry_after, 7)

    async def test_retries(self) -> None:
        """What may pass is asked again, so often and no more; what may not is asked once."""
        for mode, asked in (("outage", 3), ("reset", 3), ("error500", 1), ("short", 1), ("elsewhere", 1)):
            await Deferred.fromCoroutine(self.failure(mode, 5, retries=2))
            self.assertEqual(self.service.asked["cutout"], asked + 1, mode)

    async def test_out_of_range(self) -> None:
        """A server that says there is no such box: what we know is out of date."""
        service = ocpserver.Service(em(), 2)
        upstream = self.ocp(self.serve(service))
        dataset = await self.described(upstream, "kat")
        box = Box(0, 8, 0, 8, 0, 8)
        with self.assertRaises(OutOfRange):
            await upstream.cutout(Cutout(dataset, dataset.channel(None), 0, 0, box), nothing)

    async def test_nobody_there(self) -> None:
        """A port that nobody listens on."""
        with self.assertRaises(UpstreamDown):
            await self.ocp("http://127.0.0.1:9", retries=1).describe("kat")

    async def test_redirect_on_the_same_host(self) -> None:
        """A redirect that stays on the host is followed."""
        upstream = self.ocp(self.serve(ocpserver.Service(em(), 2)) + "/moved")
        self.assertIn("dataset", json.loads(await upstream.describe("kat")))

    async def test_cap(self) -> None:
        """Never more than so many requests at one host, whoever asks, and cancelled ones give their place back."""
        service = ocpserver.Service(em(), 2, delay=0.05)
        url = self.serve(service)
        one, two = self.ocp(url, connections=3), self.ocp(url, connections=5)
        dataset = await self.described(one, "kat")
        box = Box(0, 64, 0, 64, 1, 2)
        cutout = Cutout(dataset, dataset.channel(None), 0, 0, box)
        work = [Deferred.fromCoroutine(up.cutout(cutout, nothing)) for up in (one, two) for _ in range(12)]
        for one_work in work[::3]:
            one_work.addErrback(lambda failure: failure.trap(CancelledError))
            reactor.callLater(0.06, one_work.cancel)  # type: ignore[attr-defined]
        await gatherResults(work)
        self.assertEqual(service.most_open, 3)

    async def test_measured(self) -> None:
        """Requests are counted by what came of them."""
        service = ocpserver.Service(em(), 2)
        metrics = Metrics()
        upstream = Measured(self.ocp(self.serve(service)), metrics)
        with self.assertRaises(UnknownToken):
            await upstream.describe("nope")
        await upstream.describe("kat")
        for outcome in ("ok", "unknown"):
            count = metrics.registry.get_sample_value(
                "ocpproxy_upstream_requests_total", {"kind": "info", "outcome": outcome}
            )
            self.assertEqual(count, 1)

    async def test_no_connection_is_left(self) -> None:
        """After a deadline the server sees the connection closed."""
        service = ocpserver.Service(em(), 2, mode="silence")
        upstream = self.ocp(self.serve(service), timeout=0.3)
        dataset = await self.described(upstream, "kat")
        with self.assertRaises(UpstreamSlow):
            await upstream.cutout(next(cuboids(Stack.of(dataset, ImageBase("kat")), 0)).cutouts()[0], nothing)
        while service.open_now:
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]


class NpzTests(SynchronousTestCase):
    """npz bodies, genuine and hostile."""

    def body(self, header: bytes, data: bytes = b"") -> bytes:
        """A body with this header."""
        return zlib.compress(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data)

    def test_any_array(self) -> None:
        """Whatever numpy saves today is read, without a copy and read-only."""
        for dtype in ("uint8", "uint16", "uint32", "uint64", "float32"):
            array = np.arange(2 * 3 * 5).reshape(1, 2, 3, 5).astype(dtype)
            found = npz.decode(ocpserver.npz(array), dtype, (1, 2, 3, 5))
            np.testing.assert_array_equal(found, array[0])
            self.assertFalse(found.flags.writeable)

    def test_python_2(self) -> None:
        """Headers as Python 2 wrote them, padded to 16."""
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2L, 3L, 4L), }"
        for spaces in (0, 5, 40):
            found = npz.decode(self.body(header + b" " * spaces + b"\n", bytes(24)), "uint8", (2, 3, 4))
            self.assertEqual(found.shape, (2, 3, 4))

    def test_fixtures(self) -> None:
        """Bodies written by genuine libraries of 2015 decode exactly."""
        if shared("fixtures") is None:
            raise SkipTest("the fixtures are not beside this checkout")
        for name, dtype, shape in (
            ("u8_1x2x2x4.npz.zlib", "uint8", (1, 2, 2, 4)),
            ("uint8_16x64x64.npz.zlib", "uint8", (16, 64, 64)),
            ("uint16_2x16x64x64.npz.zlib", "uint16", (2, 16, 64, 64)),
        ):
            path = shared("fixtures", name)
            assert path is not None
            body = path.read_bytes()
            raw = zlib.decompress(body)
            expected = np.frombuffer(raw[-int(np.prod(shape)) * np.dtype(dtype).itemsize :], dtype).reshape(shape)
            if shape[0] == 2:  # two channels in one body: not what is asked for, and refused as such
                self.assertRaises(UpstreamBroken, npz.decode, body, dtype, (1, *shape[1:]))
                continue
            np.testing.assert_array_equal(npz.decode(body, dtype, shape), expected.reshape(shape[-3:]))
        small = shared("fixtures", "u8_1x2x2x4.npz.zlib")
        assert small is not None
        np.testing.assert_array_equal(
            npz.decode(small.read_bytes(), "uint8", (1, 2, 2, 4)).ravel(), np.arange(16, dtype=np.uint8)
        )

    def test_hostile(self) -> None:
        """Forged headers, other types, bombs, and what is cut short or too long, are refused."""
        fine = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 4), }\n"
        for header, data in (
            (fine.replace(b"2,", b"99999999999,"), bytes(24)),
            (fine.replace(b"|u1", b"|O"), bytes(24)),
            (fine.replace(b"|u1", b"|u2"), bytes(24)),
            (fine.replace(b"False", b"True"), bytes(24)),
            (fine.replace(b"(2", b"(__import__('os').system('true')"), bytes(24)),
            (fine.replace(b"2, 3, 4", b"-2, -3, 4"), bytes(24)),
            (fine.replace(b"2, 3, 4", b""), bytes(24)),
            (fine, bytes(23)),
            (fine, bytes(25)),
            (fine + b" " * 2000, bytes(24)),
            (b"", b""),
        ):
            self.assertRaises(UpstreamBroken, npz.decode, self.body(header, data), "uint8", (2, 3, 4))
        whole = self.body(fine, bytes(24))
        for body in (
            b"",
            whole[:-1],
            whole + b"x",
            b"<html>",
            zlib.compress(bytes(10**7)),
            zlib.compress(b"\x93NUMPY"),
        ):
            self.assertRaises(UpstreamBroken, npz.decode, body, "uint8", (2, 3, 4))
        npz.decode(whole, "uint8", (2, 3, 4))

    @given(st.binary(max_size=300))
    def test_noise(self, data: bytes) -> None:
        """Whatever inflates to whatever is an array that was asked for, or broken."""
        for body in (data, zlib.compress(data), zlib.compress(b"\x93NUMPY\x01\x00" + data)):
            self.assertRaises(UpstreamBroken, npz.decode, body, "uint8", (2, 3, 4))

    def test_longest(self) -> None:
        """Voxels that do not compress stay within the bound of a body."""
        noise = np.random.default_rng(1).integers(0, 256, (1, 16, 512, 512), np.uint8)
        self.assertLessEqual(len(ocpserver.npz(noise)), npz.longest(noise.nbytes))


class InfoTests(SynchronousTestCase):
    """info documents, genuine and hostile."""

    def document(self, **changes: Any) -> str:
        """A second-generation document in which parts of the dataset are changed."""
        found = ocpserver.Service(em(), 2).info()
        found["dataset"] |= changes
        return json.dumps(found)

    def test_fixtures(self) -> None:
        """The three generations of kasthuri11 are one dataset."""
        if shared("fixtures") is None:
            raise SkipTest("the fixtures are not beside this checkout")
        for letter, generation in (("A", 1), ("B", 2), ("C", 3)):
            path = shared("fixtures", f"info_{letter}.json")
            assert path is not None
            dataset = info.read("kasthuri11", path.read_text())
            self.assertEqual(dataset.dialect, f"generation {generation}")
            self.assertEqual(dataset.levels[1].size, (10752, 13312, 1850))
            self.assertEqual(dataset.levels[1].offset, (0, 0, 1))
            self.assertEqual(dataset.levels[5].cube, (64, 64, 64))
            self.assertEqual(dataset.levels[3].z_scale(Plane.XZ), 1.25)
            stack = Stack.of(dataset, ImageBase("kat"))
            tile = stack.tile(None, 1, 1200, 7, 5)
            assert tile is not None
            self.assertEqual(stack.cuboid(tile).box, (2560, 3072, 3584, 4096, 1185, 1201))

    def test_first_generation_types(self) -> None:
        """Each project type is known, and has a picture; that of channels is told by naming them."""
        for number in range(1, 13):
            document = ocpserver.Service(em(), 1).info()
            document["project"]["projecttype"] = number
            document["channels"] = {"DAPI-1": 1, "Synapsin": 2, "no good name": 3}
            dataset = info.read("kat", json.dumps(document))
            if number in (3, 4):
                self.assertEqual([(c.name, c.number) for c in dataset.channels], [("DAPI-1", 1), ("Synapsin", 2)])
                self.assertRaises(NotShown, Stack.of, dataset, ImageBase("kat"))
            else:
                Stack.of(dataset, ImageBase("kat"))

    def test_hostile(self) -> None:
        """Each field is checked."""
        hostile: tuple[dict[str, Any], ...] = (
            {"resolutions": []},
            {"resolutions": [0, 0]},
            {"resolutions": [99]},
            {"resolutions": list(range(17))},
            {"resolutions": "012"},
            {"imagesize": {"0": [1, 1]}},
            {"imagesize": {"0": [2**40, 1, 1], "1": [1, 1, 1], "2": [1, 1, 1]}},
            {"imagesize": {"0": [0, 1, 1], "1": [1, 1, 1], "2": [1, 1, 1]}},
            {"imagesize": {"0": [True, 1, 1], "1": [1, 1, 1], "2": [1, 1, 1]}},
            {"offset": {"0": [-1, 0, 0], "1": [0, 0, 0], "2": [0, 0, 0]}},
            {"cube_dimension": {"0": [0, 0, 0], "1": [1, 1, 1], "2": [1, 1, 1]}},
            {"voxelres": {"0": [0, 0, 0], "1": [1, 1, 1], "2": [1, 1, 1]}},
            {"voxelres": {"0": [1e300, 1, 1], "1": [1, 1, 1], "2": [1, 1, 1]}},
            {"voxelres": {"0": ["1", 1, 1], "1": [1, 1, 1], "2": [1, 1, 1]}},
            {"timerange": [5, 2]},
        )
        for changes in hostile:
            with self.subTest(changes=changes):
                self.assertRaises(UpstreamBroken, info.read, "kat", self.document(**changes))
        for text in ('{"dataset": NaN}', "9" * 5000, "[" * 100000, '{"a": 1e999999999}'):
            self.assertRaises(UpstreamBroken, info.read, "kat", text)
        self.assertIsInstance(info.read("kat", self.document()), Dataset)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["0", "1", "image", "timerange"]), inner)
            ),
            max_leaves=6,
        ),
        st.sampled_from(
            ["resolutions", "imagesize", "offset", "voxelres", "cube_dimension", "timerange", "slicerange"]
        ),
    )
    def test_noise(self, value: Any, key: str) -> None:
        """Any value in any place gives a dataset or a broken upstream."""
        try:
            dataset = info.read("kat", self.document(**{key: value}))
        except UpstreamBroken:
            return
        self.assertTrue(dataset.levels)
