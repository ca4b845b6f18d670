"""Documents of precomputed, N5 and Zarr volumes: genuine and hostile."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.upstream.base import UpstreamBroken
from ocpproxy.upstream.documents import checks, multiscale, precomputed_info, pyramids
from tests import formats
from tests.volumes import em

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


class PrecomputedInfoTests(SynchronousTestCase):
    """info documents of precomputed volumes."""

    def info(self, **changes: Any) -> Any:
        """Return an info document whose first scale is changed."""
        scale = {
            "key": "4_4_40",
            "size": [1000, 900, 50],
            "resolution": [4, 4, 40],
            "chunk_sizes": [[64, 64, 16]],
            "encoding": "raw",
        }
        second = {**scale, "key": "8_8_40", "size": [500, 450, 50], "resolution": [8, 8, 40]}
        return {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": [scale | changes, second]}

    def read(self, info: Any) -> Any:
        """Return the dataset."""
        with checks.parsing("info"):
            return pyramids.build_dataset("t", {None: precomputed_info.parse_info(None, json.dumps(info), "here")})

    def test_scales(self) -> None:
        """Order, fractions, offsets, anisotropy; scales of several volumes with equal voxels share a level."""
        dataset = self.read(self.info())
        self.assertEqual([level.size for level in dataset.levels.values()], [(1000, 900, 50), (500, 450, 50)])
        swapped = self.info(resolution=[16.5, 16.5, 40], voxel_offset=[3, -5, 7])
        dataset = self.read(swapped)
        self.assertEqual(dataset.levels[1].offset, (3, -5, 7))
        self.assertEqual(float(dataset.levels[1].voxel[0]), 16.5)
        with checks.parsing("info"):
            one = precomputed_info.parse_info("a", json.dumps(self.info()), "here")
            coarse = precomputed_info.parse_info(
                "b", json.dumps(self.info() | {"scales": self.info()["scales"][1:]}), "here"
            )
            both = pyramids.build_dataset("t", {"a": one, "b": coarse})
        self.assertEqual([(c.name, c.base_level) for c in both.channels], [("a", 0), ("b", 1)])
        self.assertIsNone(both.upstream_data["b"][1][0])

    def test_versions(self) -> None:
        """The members that locate voxels change the version; others do not."""
        same = self.info() | {"mesh": "mesh", "@type": "neuroglancer_multiscale_volume"}
        versions = [self.read(info).channels[0].version for info in (self.info(), same, self.info(key="elsewhere"))]
        self.assertEqual(versions[0], versions[1])
        self.assertNotEqual(versions[0], versions[2])

    def test_hostile(self) -> None:
        """Each field is checked."""
        hostile: tuple[dict[str, Any], ...] = (
            {"size": [0, 1, 1]},
            {"size": [1, 1]},
            {"size": [2**40, 1, 1]},
            {"size": "abc"},
            {"voxel_offset": [0.5, 0, 0]},
            {"chunk_sizes": []},
            {"chunk_sizes": [[0, 1, 1]]},
            {"chunk_sizes": [[2**20, 2**20, 2**20]], "size": [2**20, 2**20, 2**10]},
            {"resolution": [0, 1, 1]},
            {"resolution": [1, 1, -1]},
            {"resolution": [1e300, 1, 1]},
            {"encoding": 3},
            {"key": None},
            {"key": "x" * 5000},
            {"compressed_segmentation_block_size": [0, 0, 0]},
        )
        for changes in hostile:
            found = self.read(self.info(**changes))
            self.assertEqual(([level.voxel[0] for level in found.levels.values()], len(found.notes)), ([8], 1), changes)
            alone = self.info(**changes)
            alone["scales"] = alone["scales"][:1]
            self.assertRaises(UpstreamBroken, self.read, alone)
        for key, value in (("type", "video"), ("data_type", "object"), ("num_channels", 10**9), ("scales", [])):
            self.assertRaises(UpstreamBroken, self.read, self.info() | {key: value})
        self.assertEqual(self.read(self.info() | {"data_type": "int16"}).channels[0].dtype, "int16")

    @given(JSON, st.sampled_from(["size", "voxel_offset", "chunk_sizes", "resolution", "key", "encoding", "sharding"]))
    def test_noise(self, value: Any, key: str) -> None:
        """With any value of a member, the result is a dataset or `UpstreamBroken`."""
        with contextlib.suppress(UpstreamBroken):
            self.assertTrue(self.read(self.info(**{key: value})).levels)


class MultiscaleTests(SynchronousTestCase):
    """N5 and Zarr documents."""

    async def documents(self, directory: Path, kinds: tuple[str, ...]) -> Any:
        """Return the documents of the volume in a directory."""

        async def read(name: str) -> str | None:
            path = directory / name
            return path.read_text() if path.is_file() else None

        return await multiscale.fetch_documents(read, kinds)

    def volume(self, directory: Path, *kinds: str) -> Any:
        """Return the volume in a directory."""
        work = self.documents(directory, kinds)
        try:
            work.send(None)
        except StopIteration as end:
            return multiscale.parse_volume(None, end.value, "here")
        raise AssertionError("nothing here has to wait")

    def test_levels(self) -> None:
        """All ways to write the size of a voxel have the same result."""
        place, volume = Path(self.mktemp()), em()[:, :100, :120]
        formats.n5(place / "a", volume)
        formats.n5(place / "b", volume, factors="scales")
        formats.n5(place / "c", volume, factors="each")
        formats.ome_zarr(place / "d", volume, group=True)
        formats.ome_zarr(place / "e", volume, group=False, axes="czyx")
        formats.ome_zarr(place / "f", volume, version="0.5", axes="tczyx")
        for name in "abcdef":
            found = self.volume(place / name, "zarr", "n5")
            for n, (voxel, array) in enumerate(found.scales):
                self.assertEqual([round(float(v), 6) for v in voxel], [4.6 * 2**n, 4.6 * 2**n, 45], name)
                self.assertEqual(array.grid.end, (-(-120 // 2**n), -(-100 // 2**n), 20), name)
                self.assertEqual(array.grid.chunk[2], 16)

    def test_found_in_the_wild(self) -> None:
        """Other orders of axes, levels without sizes of voxels, attributes of other programs."""
        stored = {"dataType": "uint8", "compression": {"type": "raw"}}
        array = {"dimensions": [20, 100, 120], "blockSize": [16, 64, 64], "axes": ["z", "y", "x"], **stored}
        one = multiscale.parse_volume(None, {"attributes.json": json.dumps(array | {"resolution": [40, 4, 5]})}, "here")
        self.assertEqual([float(v) for v in one.scales[0][0]], [5, 4, 40])
        self.assertEqual(one.scales[0][1].grid.end, (120, 100, 20))
        plain = {"dimensions": [128, 128, 20], "blockSize": [64, 64, 16], **stored}
        half = plain | {"dimensions": [64, 64, 20]}
        for values, resolution in ((("a", "b"), None), ((4, 8), "pixelResolution")):
            more = [{resolution: {"unit": "nm", "dimensions": [v, v, 40]}} if resolution else {} for v in values]
            found = {"attributes.json": "{}"} | {
                f"s{n}/attributes.json": json.dumps(array | more[n]) for n, array in enumerate((plain, half))
            }
            voxels = [voxel for voxel, _ in multiscale.parse_volume(None, found, "here").scales]
            self.assertEqual([b / a for a, b in zip(*voxels, strict=True)], [2, 2, 1])
        place = Path(self.mktemp())
        formats.zarr2(place, em()[:, :100, :120])
        (place / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["z", "y", "x"]}')
        self.assertEqual(self.volume(place, "zarr").scales[0][1].grid.end, (120, 100, 20))

    def test_hostile(self) -> None:
        """Paths out of the volume, impossible axes, missing arrays."""
        array = json.dumps({"shape": [20, 100, 100], "chunks": [16, 64, 64], "dtype": "|u1", "zarr_format": 2})

        n5 = json.dumps({"dimensions": [100, 100, 20], "blockSize": [64, 64, 16], "dataType": "uint8"})

        def ome(**changes: Any) -> dict[str, str]:
            multi = {"axes": ["z", "y", "x"], "datasets": [{"path": "0"}]} | changes
            return {".zattrs": json.dumps({"multiscales": [multi]}), "0/.zarray": array}

        with checks.parsing("fine"):
            multiscale.parse_volume(None, ome(), "here")
            multiscale.parse_volume(
                None, ome(coordinateTransformations=[{"type": "scale", "scale": [1, 0, 1]}]), "here"
            )
        for found in (
            {},
            {"attributes.json": "{}"},
            {".zattrs": "{}"},
            {"zarr.json": "{}"},
            ome(axes=["x", "x", "y"]),
            ome(axes=["z", "y"]),
            ome(axes=[{"name": 3}, "y", "x"]),
            ome(datasets=[]),
            ome(datasets=[{"path": "1"}]),
            ome(datasets=[{"path": "../../etc"}]),
            ome(datasets=[{"path": "http://elsewhere/0"}]),
            ome(datasets=[{"path": "0#x"}]),
            ome(datasets=[{"path": "%zz"}]),
            ome(datasets=[{"path": "\ud800"}]),
            ome(axes=["c", "y", "x"]) | {"0/.zarray": array.replace("20", "3000000")},
            {
                "attributes.json": json.dumps({"scales": [[1, 1], [2, 2]]}),
                "s0/attributes.json": n5,
                "s1/attributes.json": n5,
            },
            ome() | {"0/.zarray": array.replace("20", "0")},
            ome() | {"0/.zarray": array.replace("[16, 64, 64]", "[16]")},
        ):
            with self.assertRaises(UpstreamBroken), checks.parsing("hostile"):
                multiscale.parse_volume(None, found, "here")

    @given(JSON, st.sampled_from(["axes", "datasets", "coordinateTransformations"]), st.booleans())
    def test_noise(self, value: Any, key: str, third: bool) -> None:
        """With any value of a member, the result is a volume or `UpstreamBroken`."""
        array = {"shape": [20, 100, 100], "chunks": [16, 64, 64], "dtype": "|u1"}
        multi = {"axes": ["z", "y", "x"], "datasets": [{"path": "0"}], key: value}
        if third:
            found = {
                "attributes.json": json.dumps({"downsamplingFactors": value, key: value}),
                "s0/attributes.json": "{}",
            }
        else:
            found = {".zattrs": json.dumps({"multiscales": [multi]}), "0/.zarray": json.dumps(array | {key: value})}
        with contextlib.suppress(UpstreamBroken), checks.parsing("noise"):
            self.assertTrue(multiscale.parse_volume(None, found, "here").scales)


class JsonTests(SynchronousTestCase):
    """Documents as text."""

    def test_deep(self) -> None:
        """A document is at most 64 levels deep; brackets in strings do not count."""
        for n in (65, 932, 100_000):
            for text in ("[" * n + "]" * n, '{"a":' * n + "1" + "}" * n, "[" * n):
                self.assertRaises(checks.Unexpected, checks.parse_json, text)
        fine = json.dumps({"a": "[" * 5000 + '\\"{', "b": [[[]]]})
        self.assertEqual(checks.parse_json(fine), json.loads(fine))
        self.assertRaises(checks.Unexpected, checks.parse_json, '"[' + "\\" * 10_000)
