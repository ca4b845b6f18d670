"""The relay between TensorStore's process and the gateway's clients, and files read as objects."""

from __future__ import annotations

import os
from pathlib import Path

import treq
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers

from ocpproxy.upstream.base import ResponseTooLarge, UpstreamBroken, UpstreamFailure
from ocpproxy.upstream.chunks import MissingChunks
from ocpproxy.upstream.files import FileClient
from ocpproxy.upstream.http import HttpResponse, status_failure
from ocpproxy.upstream.locations import Location
from ocpproxy.upstream.tensorstore.relay import Relay, _cut
from tests import doubles
from tests.conformance import UpstreamCase

LIMIT = 1000


class RelayTests(UpstreamCase):
    """A relay before a directory and before a server."""

    def setUp(self) -> None:
        """Write an array, and something beside it."""
        super().setUp()
        self.files = Path(self.place())
        (self.files / "v" / "a").mkdir(parents=True)
        (self.files / "v" / "a" / "0.0").write_bytes(bytes(range(200)))
        (self.files / "v" / "large").write_bytes(bytes(LIMIT + 1))
        (self.files / "secret").write_bytes(b"secret")
        self.relay = Relay(reactor)
        self.addCleanup(self.relay.stop)
        pool = HTTPConnectionPool(reactor, persistent=False)
        self.http = HTTPClient(Agent(reactor, pool=pool))

    def address(self, url: str, path: str = "a") -> str:
        """The address of an array at the relay."""
        settings = self.settings(f"type = volume\nurl = {url}\n")
        location = Location(url, lambda host: self.context.client(settings, host))
        address, _ = self.relay.array(location, "kat", path, LIMIT, MissingChunks(frozenset({404})))
        return address

    async def get(self, url: str, **headers: str) -> tuple[int, bytes]:
        """(status, body); the path is sent as it is written."""
        response = await self.http.get(url, headers=Headers({name: [value] for name, value in headers.items()}))
        return response.code, await treq.content(response)

    async def test_objects(self) -> None:
        """An object, a part of it, one that is missing; a server that ignores ranges is read all the same."""

        class Whole(doubles.Bucket):
            def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> doubles.Answer:
                return super().answer(path, query, {})

        body = bytes(range(200))
        served = self.serve(doubles.Bucket(directory=self.files)), self.serve(Whole(directory=self.files))
        for url in (f"file://{self.files}", *served):
            address = self.address(f"{url}/v")
            self.assertEqual(await self.get(f"{address}0.0"), (200, body))
            self.assertEqual(await self.get(f"{address}0.0", Range="bytes=5-14"), (206, body[5:15]), url)
            self.assertEqual(await self.get(f"{address}0.0", Range="bytes=-10"), (206, body[-10:]), url)
            self.assertEqual((await self.get(f"{address}0.1"))[0], 404)

    async def test_nothing_else(self) -> None:
        """No name leads out of the array, and without the secret there is nothing; neither means a missing chunk."""
        names = ("%2e%2e/%2e%2e/secret", "..%2f..%2fsecret", "a//b", "x/%2e/y", "%00")
        for url in (f"file://{self.files}", self.serve(doubles.Bucket(directory=self.files))):
            address = self.address(f"{url}/v")
            start, _, _ = address.removesuffix("/").rpartition("/")
            for target in (
                *(f"{address}{name}" for name in names),
                f"{start}/77/0.0",
                f"{address.replace(start[-32:], '0' * 32)}0.0",
            ):
                code, body = await self.get(target)
                self.assertEqual((code, b"secret" in body), (502, False), target)

    async def test_bounds(self) -> None:
        """No more is read than an array's objects can have, whatever a range claims."""
        address = self.address(f"file://{self.files}/v", "")
        for headers in ({}, {"Range": "bytes=0-1572864004"}):
            self.assertEqual((await self.get(f"{address}large", **headers))[0], 502)

    def test_cut(self) -> None:
        """What of a whole object cannot be cut is a failure."""
        whole = HttpResponse(200, bytes(range(10)))
        self.assertEqual(_cut(whole, "bytes=8-20").body, b"\x08\t")
        self.assertEqual(_cut(whole, "bytes=3-").body, bytes(range(3, 10)))
        for span in ("bytes=-", "bytes=1-2,4-5", "lines=1-2"):
            self.assertRaises(UpstreamBroken, _cut, whole, span)
        encoded = HttpResponse(200, b"12345", {"content-encoding": "gzip"})
        self.assertRaises(UpstreamBroken, _cut, encoded, "bytes=0-1")


class FileTests(UpstreamCase):
    """Files of this machine."""

    async def read(self, path: Path | str) -> HttpResponse:
        """Read one, with threads."""
        client = FileClient(deferToThread, 60, reactor)
        return await client.get(str(path).removeprefix("/"), LIMIT, lambda response: None)

    async def test_statuses(self) -> None:
        """Each kind of thing is what a web server would say of it, and no descriptor is left open."""
        place = Path(self.place())
        place.mkdir()
        (place / "file").write_bytes(b"here")
        (place / "name with ä").write_bytes(b"there")
        (place / "large").write_bytes(bytes(LIMIT + 1))
        os.mkfifo(place / "pipe")
        (place / "loop").symlink_to(place / "loop")
        await self.read(place / "file")  # the threads have their descriptors now
        before = len(os.listdir("/proc/self/fd"))
        for name, status in (("file", 200), ("name%20with%20%C3%A4", 200), ("none", 404), ("file/x", 404)):
            self.assertEqual((await self.read(place / name)).status, status, name)
        for name in ("pipe", ".", "x" * 300, "file%00"):
            self.assertEqual((await self.read(f"{place}/{name}")).status, 404, name)
        for name, kind in (("large", ResponseTooLarge), ("loop", UpstreamBroken)):
            with self.assertRaises(kind):
                await self.read(place / name)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class StatusTests(SynchronousTestCase):
    """What a status means for somebody who waits."""

    def test_lasting(self) -> None:
        """What the same request will not get later is told from what passes."""
        for status, lasting in ((400, True), (403, True), (404, True), (405, True), (410, True), (301, True)):
            failure = status_failure(HttpResponse(status, b"no"))
            assert isinstance(failure, UpstreamFailure)
            self.assertEqual(failure.lasting, lasting, status)
        for status in (408, 425, 429, 500, 502, 503, 504):
            failure = status_failure(HttpResponse(status, b"no"))
            assert isinstance(failure, UpstreamFailure)
            self.assertFalse(failure.lasting, status)
