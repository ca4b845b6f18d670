"""Redirects to other hosts: refused, or followed without credentials where the operator trusts the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ocpproxy.model.dataset import Box, Cutout
from ocpproxy.upstream.base import RedirectRefused
from tests import doubles, formats
from tests.conformance import UpstreamCase, a_turn
from tests.volumes import em

BOX = Box(0, 96, 0, 80, 0, 8)


@dataclass(kw_only=True)
class Archive(doubles.Double):
    """An archive's own address, which sends each file to its bucket; `seen` are the credentials it was shown."""

    bucket: str
    seen: list[str | None] = field(default_factory=list)

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> doubles.Answer:
        """A redirect."""
        self.seen.append(headers.get("authorization"))
        return "info", 302, {"location": f"{self.bucket}/{path}"}, b""


@dataclass(kw_only=True)
class Watched(doubles.Bucket):
    """A bucket that notes the credentials it is shown."""

    seen: list[str | None] = field(default_factory=list)

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> doubles.Answer:
        """A file."""
        self.seen.append(headers.get("authorization"))
        return super().answer(path, query, headers)


class RedirectTests(UpstreamCase):
    """An archive before a bucket, both on real sockets."""

    def archive(self) -> tuple[Archive, Watched, str]:
        """Start both; the archive, the bucket, and the address of the archive."""
        files = Path(self.place())
        formats.precomputed(files / "p", em())
        formats.precomputed(files / "s", em(), sharded=True)
        formats.n5(files / "n", em())
        formats.ome_zarr(files / "z", em(), version="0.5")
        bucket = Watched(directory=files)
        archive = Archive(bucket=self.serve(bucket))
        return archive, bucket, self.serve(archive)

    async def read(self, lines: str, **environ: str) -> Any:
        """The first voxels of a volume."""
        upstream = self.configured(lines)
        dataset = await self.described(upstream, "kat")
        return await upstream.cutout(Cutout(dataset, dataset.channels[0], 0, 0, BOX))

    async def test_refused(self) -> None:
        """A host that is not named is not asked, and the reason says what to do, without its address."""
        _, bucket, url = self.archive()
        for lines in ("", "redirect_hosts = example.org, 127.0.0.1:1\n"):
            with self.assertRaises(RedirectRefused) as caught:
                await self.read(f"type = precomputed\nurl = {url}/p\n{lines}")
            self.assertIn("redirect_hosts", caught.exception.public)
            self.assertNotIn("127.0.0.1", caught.exception.explanation)
            await a_turn()
        self.assertEqual(bucket.seen, [])

    async def test_words(self) -> None:
        """No user name of a target is repeated; circles and other schemes are refused, with words of their own."""
        for target, words in (
            ("http://bob:S3CRET@127.0.0.1:1/", "redirect_hosts"),
            ("ftp://127.0.0.1", "redirect_hosts"),
            ("", "redirects more than"),
        ):
            archive = Archive(bucket=target)
            with self.assertRaises(RedirectRefused) as caught:
                await self.read(f"type = precomputed\nurl = {self.serve(archive)}/p\nredirect_hosts = 127.0.0.1\n")
            self.assertIn(words, caught.exception.public)
            self.assertNotIn("S3CRET", str(caught.exception))
            self.assertTrue(caught.exception.lasting)
            await a_turn()

    async def test_trusted(self) -> None:
        """Every format is read through it, with the port or without; credentials stay with the first host."""
        archive, bucket, url = self.archive()
        hosts = archive.bucket.removeprefix("http://")
        for kind, name in (("precomputed", "p"), ("precomputed", "s"), ("n5", "n"), ("zarr", "z"), ("volume", "p")):
            for trusted in (hosts, "127.0.0.1"):
                voxels = await self.read(
                    f"type = {kind}\nurl = {url}/{name}\nredirect_hosts = {trusted}\nauthorization = Token public\n"
                )
                np.testing.assert_array_equal(voxels, em()[:8, :80, :96], f"{kind} {trusted}")
        self.assertEqual(set(archive.seen), {"Token public"})
        self.assertEqual(set(bucket.seen), {None})
