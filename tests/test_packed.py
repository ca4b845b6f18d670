"""blosc cutouts: arrays out of pickles that are never loaded."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import zlib
from typing import Any

import blosc
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ocpproxy.upstream.base import UpstreamBroken
from ocpproxy.upstream.codecs import blosc_array, pickled
from ocpproxy.upstream.codecs.pickled import NotAnArray
from tests.volumes import shared

PYTHON_2 = (
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
    b"(K\x01%(shape)scnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87Rq\x05(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    b"\x89%(data)stb."
)
"""What Python 2 wrote, opcode by opcode (ocp-protocol 2.3)."""


def container(payload: bytes) -> bytes:
    """A payload as the services send it."""
    return bytes(blosc.compress(payload, typesize=1, cname="blosclz"))


def array(found: pickled.PickledArray) -> np.ndarray[Any, Any]:
    """The array that is told of."""
    order: Any = "F" if found.fortran else "C"
    return np.frombuffer(found.data, found.dtype).reshape(found.shape, order=order)


class PickleTests(SynchronousTestCase):
    """The interpreter of the opcodes that an array needs."""

    @settings(max_examples=150)
    @given(
        st.sampled_from(["|u1", "<u2", ">u2", "<u4", "<u8", "<f4", ">f8", "|i1", "|b1"]),
        st.lists(st.integers(1, 5), min_size=1, max_size=5),
        st.integers(0, 5),
        st.booleans(),
    )
    def test_round_trip(self, dtype: str, shape: list[int], protocol: int, fortran: bool) -> None:
        """Types, byte orders, shapes and orders of index, in every protocol there is."""
        raw = np.random.default_rng(len(shape)).integers(0, 2, (*shape, np.dtype(dtype).itemsize), np.uint8)
        one = raw.view(dtype).reshape(shape)
        one = np.asfortranarray(one) if fortran else one
        found = pickled.parse(pickle.dumps(one, protocol))
        self.assertEqual(array(found).tobytes(), one.tobytes())
        self.assertEqual((found.shape, np.dtype(found.dtype)), (one.shape, one.dtype))

    def test_python_2(self) -> None:
        """The pickle of 2015 reads as the standard library reads it."""
        for shape, said in (((1, 2, 2, 4), b"(K\x01K\x02K\x02K\x04t"), ((16,), b"M\x10\x00\x85")):
            for data in (b"U\x10" + bytes(range(16)), b"T\x10\0\0\0" + bytes(range(16))):
                payload = PYTHON_2 % {b"shape": said, b"data": data}
                expected = pickle.loads(payload, encoding="latin1")
                self.assertEqual(expected.shape, shape)
                np.testing.assert_array_equal(array(pickled.parse(payload)), expected)

    def test_hostile(self) -> None:
        """Whatever would run, allocate or build something else is refused."""

        class Command:
            def __reduce__(self) -> Any:
                return (os.system, ("touch hacked",))

        shape, data = b"(K\x01K\x02K\x02K\x04t", b"U\x10" + bytes(16)
        fine = PYTHON_2 % {b"shape": shape, b"data": data}
        pickled.parse(fine)
        hostile = [
            *(pickle.dumps(Command(), protocol) for protocol in range(6)),
            *(pickle.dumps(np.array([Command()], object), protocol) for protocol in range(6)),
            *(pickle.dumps(np.zeros(2, [("a", "u1"), ("b", "u4")]), protocol) for protocol in range(6)),
            pickle.dumps(np.array(["text"])),
            pickle.dumps(np.array([1j])),
            pickle.dumps([1, 2]),
            pickle.dumps({"a": 1}),
            b"cnumpy\nndarray\n(J\xff\xff\xff\x7ft\x85R.",  # the constructor: any shape, memory as it was
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\xff\xff\xff\x7f\x85U\x01b\x87R.",
            fine.replace(b"K\x04t", b"K\x05t"),
            fine.replace(b"(K\x01K\x02", b"(J\xff\xff\xff\xffJ\xfe\xff\xff\xff"),
            fine.replace(b"u1", b"O8"),
            fine.replace(b"u1", b"V9"),
            fine.replace(b"NNN", b"NN)"),
            fine.replace(b"U\x10", b"U\x11"),
            fine.replace(b"_reconstruct", b"scalar"),
            fine.replace(b"numpy.core.multiarray\n_re", b"os.core.multiarray\n_re"),
            fine[:-1],
            fine[: len(fine) // 2],
            b"",
            b".",
            b"(" * 100_000 + b".",
            b"N" * 100_000,
            b"N" + b"r\xff\xff\xff\x7f" * 400,
            b"\x96" + struct.pack("<Q", 2**60),
            b"\x8e" + struct.pack("<Q", 2**63 + 5),
            b"T\xff\xff\xff\xff",
            b"\x8a\xff" + bytes(255),
            b"I" + b"9" * 5000 + b"\n.",
            b"V" + b"\\u0041" * 50 + b"\n.",
            b"h\x07.",
            b"t.",
            b"R.",
            b"b.",
            b"\x93.",
            b"\x87.",
        ]
        for payload in hostile:
            with self.subTest(payload=payload[:60]):
                self.assertRaises(NotAnArray, pickled.parse, payload)
        self.assertFalse(os.path.exists("hacked"))

    @settings(max_examples=400)
    @given(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6))
    def test_mutated(self, protocol: int, changes: list[tuple[int, int]]) -> None:
        """A pickle with some bytes changed is an array whose bytes are all there, or none."""
        payload = bytearray(pickle.dumps(np.arange(24, dtype="<u2").reshape(2, 3, 4), protocol))
        for at, value in changes:
            payload[at % len(payload)] = value
        try:
            found = pickled.parse(bytes(payload))
        except NotAnArray:
            return
        self.assertEqual(array(found).nbytes, len(found.data))

    @given(st.binary(max_size=200))
    def test_noise(self, payload: bytes) -> None:
        """No bytes do anything else than fail as they should."""
        with contextlib.suppress(NotAnArray):
            pickled.parse(payload)


class ContainerTests(SynchronousTestCase):
    """The blosc container round it."""

    def test_fixtures(self) -> None:
        """Bodies written by genuine libraries of 2015 are exactly what their twins in npz are."""
        if shared("fixtures") is None:
            raise SkipTest("the fixtures are not here")
        for name, shape in (("u8_1x2x2x4", (1, 2, 2, 4)), ("uint8_16x64x64", (16, 64, 64))):
            body, twin = shared("fixtures", f"{name}.blosc"), shared("fixtures", f"{name}.npz.zlib")
            assert body is not None and twin is not None
            expected = zlib.decompress(twin.read_bytes())[-int(np.prod(shape)) :]
            found = blosc_array.decode(body.read_bytes(), "uint8", shape)
            self.assertEqual((found.tobytes(), found.shape), (expected, shape[-3:]))

    def test_types(self) -> None:
        """Every type of voxel, in either byte order, within the bound of a body."""
        for dtype in ("uint8", "uint16", "uint32", "uint64", "float32"):
            for order in "<>":
                one = np.random.default_rng(3).integers(0, 256, (1, 3, 40, 50 * np.dtype(dtype).itemsize), np.uint8)
                voxels = one.view(np.dtype(dtype).newbyteorder(order))
                body = bytes(blosc.pack_array(voxels))
                self.assertLessEqual(len(body), blosc_array.max_encoded_size(voxels.nbytes))
                found = blosc_array.decode(body, dtype, voxels.shape)
                np.testing.assert_array_equal(found, voxels[0])
                self.assertEqual((found.dtype, found.flags.writeable), (np.dtype(dtype), False))

    def test_hostile(self) -> None:
        """Lying headers, bombs, other types and shapes, and what is cut short, are refused."""
        voxels = np.arange(4096, dtype=np.uint16).reshape(1, 4, 32, 32)
        fine = bytes(blosc.pack_array(voxels))
        blosc_array.decode(fine, "uint16", voxels.shape)

        def header(at: int, value: int, layout: str = "<I") -> bytes:
            changed = bytearray(fine)
            struct.pack_into(layout, changed, at, value)
            return bytes(changed)

        for body in (
            b"",
            fine[:15],
            fine[:-1],
            fine + b"\0",
            b"<html>" + fine,
            header(0, 3, "<B"),
            header(4, 2**31 - 1),
            header(4, 100),
            header(12, 2**31 - 1),
            container(bytes(100 * 2**20)),
            container(bytes(voxels.nbytes)),
            container(pickle.dumps(voxels.tolist())[: voxels.nbytes + 100]),
            bytes(blosc.pack_array(voxels[:, :, :, ::2])),
            bytes(blosc.pack_array(voxels.astype(np.int16))),
            bytes(blosc.pack_array(voxels.reshape(1, 4, 64, 16))),
        ):
            with self.subTest(body=body[:24]):
                self.assertRaises(UpstreamBroken, blosc_array.decode, body, "uint16", voxels.shape)

    @settings(max_examples=300)
    @given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5))
    def test_mutated(self, changes: list[tuple[int, int]]) -> None:
        """A damaged body is an array of what was asked for, or broken; blosc has no checksum to tell more."""
        voxels = np.arange(4096, dtype=np.uint16).reshape(1, 4, 32, 32)
        body = bytearray(blosc.pack_array(voxels))
        for at, value in changes:
            body[at % len(body)] = value
        try:
            found = blosc_array.decode(bytes(body), "uint16", voxels.shape)
        except UpstreamBroken:
            return
        self.assertEqual((found.shape, found.dtype), (voxels.shape[1:], voxels.dtype))
