"""Bodies and info documents of the Open Connectome services."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ocpproxy.model.address import ImageBase
from ocpproxy.model.dataset import CannotDisplay, Dataset, Plane
from ocpproxy.model.stack import Stack
from ocpproxy.upstream.base import UpstreamBroken
from ocpproxy.upstream.codecs import npz
from ocpproxy.upstream.documents import ocp_info
from tests import ocpserver
from tests.volumes import em, shared


class NpzTests(SynchronousTestCase):
    """npz bodies, genuine and hostile."""

    def body(self, header: bytes, data: bytes = b"") -> bytes:
        """Return a body with this header."""
        return zlib.compress(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data)

    def test_any_array(self) -> None:
        """Arrays that numpy saves today are decoded, without a copy and read-only."""
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
        """Bodies that the libraries of 2015 wrote are decoded exactly."""
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
            if shape[0] == 2:  # two channels in one body: not what was requested
                self.assertRaises(UpstreamBroken, npz.decode, body, dtype, (1, *shape[1:]))
                continue
            np.testing.assert_array_equal(npz.decode(body, dtype, shape), expected.reshape(shape[-3:]))
        small = shared("fixtures", "u8_1x2x2x4.npz.zlib")
        assert small is not None
        np.testing.assert_array_equal(
            npz.decode(small.read_bytes(), "uint8", (1, 2, 2, 4)).ravel(), np.arange(16, dtype=np.uint8)
        )

    def test_hostile(self) -> None:
        """Forged headers, other types, decompression bombs, and bodies cut short or too long are refused."""
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
        """Random bytes are refused, as a body, compressed, and as a compressed header."""
        for body in (data, zlib.compress(data), zlib.compress(b"\x93NUMPY\x01\x00" + data)):
            self.assertRaises(UpstreamBroken, npz.decode, body, "uint8", (2, 3, 4))

    def test_max_encoded_size(self) -> None:
        """No body is larger than its bound, even if its voxels cannot be compressed."""
        noise = np.random.default_rng(1).integers(0, 256, (1, 16, 512, 512), np.uint8)
        self.assertLessEqual(len(ocpserver.npz(noise)), npz.max_encoded_size(noise.nbytes))


class InfoTests(SynchronousTestCase):
    """info documents, genuine and hostile."""

    def document(self, **changes: Any) -> str:
        """Return a document of the second generation in which parts of the dataset are changed."""
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
            dataset = ocp_info.parse_info("kasthuri11", path.read_text())
            self.assertEqual(dataset.upstream_data, generation)
            self.assertEqual(dataset.levels[1].size, (10752, 13312, 1850))
            self.assertEqual(dataset.levels[1].offset, (0, 0, 1))
            self.assertEqual(dataset.levels[5].cube, (64, 64, 64))
            self.assertEqual(dataset.levels[3].z_scale(Plane.XZ), 1.25)
            stack = Stack.build(dataset, ImageBase("kat"))
            tile = stack.tile(None, 1, 1200, 7, 5)
            assert tile is not None
            self.assertEqual(stack.cuboid(tile).box, (2560, 3072, 3584, 4096, 1185, 1201))

    def test_first_generation_types(self) -> None:
        """Each project type can be shown; the channels of a channel project, only by name."""
        for number in range(1, 13):
            document = ocpserver.Service(em(), 1).info()
            document["project"]["projecttype"] = number
            document["channels"] = {"DAPI-1": 1, "Synapsin": 2, "no good name": 3}
            dataset = ocp_info.parse_info("kat", json.dumps(document))
            if number in (3, 4):
                self.assertEqual([(c.name, c.number) for c in dataset.channels], [("DAPI-1", 1), ("Synapsin", 2)])
                self.assertRaises(CannotDisplay, Stack.build, dataset, ImageBase("kat"))
            else:
                Stack.build(dataset, ImageBase("kat"))

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
                self.assertRaises(UpstreamBroken, ocp_info.parse_info, "kat", self.document(**changes))
        for text in ('{"dataset": NaN}', "9" * 5000, "[" * 100000, '{"a": 1e999999999}'):
            self.assertRaises(UpstreamBroken, ocp_info.parse_info, "kat", text)
        self.assertIsInstance(ocp_info.parse_info("kat", self.document()), Dataset)

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
        """With any value of a member, the result is a dataset or `UpstreamBroken`."""
        try:
            dataset = ocp_info.parse_info("kat", self.document(**{key: value}))
        except UpstreamBroken:
            return
        self.assertTrue(dataset.levels)
