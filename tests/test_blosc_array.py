"""blosc cutouts: arrays from pickles that are never loaded."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import tracemalloc
import zlib
from typing import Any, Literal

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
"""A pickle of Python 2, opcode by opcode (ocp-protocol 2.3)."""
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
DTYPE = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
STATE = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
ENCODE = b"c_codecs\nencode\n"
BYTEARRAY = b"cbuiltins\nbytearray\n"
FROMBUFFER = b"cnumpy._core.numeric\n_frombuffer\n"
LARGE = b"J\xff\xff\xff\x7f"
PROGRAMS = (
    [RECONSTRUCT, b"(", b"K\x01", b"K\x04\x85", DTYPE, b"q\x00", STATE, b"\x89", b"U\x04abcd", b"t", b"b"],
    [FROMBUFFER, b"(", b"C\x04abcd", DTYPE, STATE, b"K\x04\x85", b"\x8c\x01C", b"t", b"R"],
    [FROMBUFFER, b"(", BYTEARRAY, b"C\x04abcd\x85R", DTYPE, b"\x94", STATE, b"K\x04\x85", b"\x8c\x01F", b"t", b"R"],
    [
        RECONSTRUCT,
        b"(",
        b"K\x01",
        b"K\x04\x85",
        DTYPE + STATE,
        b"\x89",
        ENCODE,
        b"V\\u00ffabc\n",
        b"\x8c\x06latin1\x86",
        b"R",
        b"t",
        b"b",
    ],
)
"""Pickles of four bytes, in pieces."""
PIECES = [
    *sorted({piece for program in PROGRAMS for piece in program}),
    *(b"N", b")", b"\x85", b"\x86", b"\x87", b"\x88", b"\x93", b"h\x00", b"h\x01", b"q\x01", b"K\x00", LARGE),
    *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"\x8c\x05numpy", b"\x8c\x05dtype", b"V\\u0101\n", b"S'ab'\n"),
]
"""What those pickles and others are made of."""


def container(payload: bytes) -> bytes:
    """Return a payload as the services send it."""
    return bytes(blosc.compress(payload, typesize=1, cname="blosclz"))


def array(parsed: pickled.PickledArray) -> np.ndarray[Any, Any]:
    """Return the array as numpy has it."""
    order: Any = "F" if parsed.fortran else "C"
    return np.frombuffer(parsed.data, parsed.dtype).reshape(parsed.shape, order=order)


ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")


class PickleTests(SynchronousTestCase):
    """The interpreter of the opcodes of arrays."""

    @settings(max_examples=150)
    @given(
        st.sampled_from(["|u1", "<u2", ">u2", "<u4", "<u8", "<f4", ">f8", "|i1", "|b1"]),
        st.lists(st.integers(1, 5), min_size=1, max_size=5),
        st.integers(0, 5),
        st.booleans(),
    )
    def test_round_trip(self, dtype: str, shape: list[int], protocol: int, fortran: bool) -> None:
        """Every type, byte order, shape and order of indices, in every protocol."""
        raw = np.random.default_rng(len(shape)).integers(0, 2, (*shape, np.dtype(dtype).itemsize), np.uint8)
        one = raw.view(dtype).reshape(shape)
        one = np.asfortranarray(one) if fortran else one
        found = pickled.parse(pickle.dumps(one, protocol))
        self.assertEqual(array(found).tobytes(), one.tobytes())
        self.assertEqual((found.shape, np.dtype(found.dtype)), (one.shape, one.dtype))

    def test_python_2(self) -> None:
        """The pickle of 2015 is parsed to what the standard library loads."""
        for shape, code in (((1, 2, 2, 4), b"(K\x01K\x02K\x02K\x04t"), ((16,), b"M\x10\x00\x85")):
            for data in (b"U\x10" + bytes(range(16)), b"T\x10\0\0\0" + bytes(range(16))):
                payload = PYTHON_2 % {b"shape": code, b"data": data}
                expected = pickle.loads(payload, encoding="latin1")
                self.assertEqual(expected.shape, shape)
                np.testing.assert_array_equal(array(pickled.parse(payload)), expected)

    def test_other_objects(self) -> None:
        """Pickles that would execute or build something else are refused."""

        class Command:
            def __reduce__(self) -> Any:
                return (os.system, ("touch hacked",))

        for payload in (
            *(pickle.dumps(Command(), protocol) for protocol in range(6)),
            *(pickle.dumps(np.array([Command()], object), protocol) for protocol in range(6)),
            *(pickle.dumps(np.zeros(2, [("a", "u1"), ("b", "u4")]), protocol) for protocol in range(6)),
            pickle.dumps(np.array(["text"])),
            pickle.dumps(np.array([1j])),
            pickle.dumps([1, 2]),
            pickle.dumps({"a": 1}),
            b"cnumpy\nndarray\n(J\xff\xff\xff\x7ft\x85R.",  # the constructor: any shape, uninitialised memory
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\xff\xff\xff\x7f\x85U\x01b\x87R.",
        ):
            with self.subTest(payload=payload[:60]):
                self.assertRaises(NotAnArray, pickled.parse, payload)
        self.assertFalse(os.path.exists("hacked"))

    def test_changed(self) -> None:
        """An array with another shape, type, state, name or length is refused."""
        fine = PYTHON_2 % {b"shape": b"(K\x01K\x02K\x02K\x04t", b"data": b"U\x10" + bytes(16)}
        pickled.parse(fine)
        for payload in (
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
        ):
            with self.subTest(payload=payload[:60]):
                self.assertRaises(NotAnArray, pickled.parse, payload)

    def test_bounds(self) -> None:
        """Programs without end, lengths beyond the pickle, and opcodes that lack their operands are refused."""
        for payload in (
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
        ):
            with self.subTest(payload=payload[:60]):
                self.assertRaises(NotAnArray, pickled.parse, payload)

    def test_wrong_arguments(self) -> None:
        """Calls and states with values of another type are refused, and allocate nothing."""
        hostile = [
            b"cnumpy\ndtype\n" + LARGE + b"\x88\x89\x87R.",  # bytes(2 GiB)
            DTYPE + b"(K\x03" + LARGE + b"NNNK\x00K\x00K\x00tb.",
            BYTEARRAY + LARGE + b"\x85R.",
            BYTEARRAY + b"\x8c\x01a\x85R.",
            ENCODE + LARGE + b"\x8c\x06latin1\x86R.",
            ENCODE + b"C\x01a\x8c\x06latin1\x86R.",
            ENCODE + b"\x8c\x01a" + LARGE + b"\x86R.",
            ENCODE + b"\x8c\x01aR.",
            ENCODE + b"NR.",
            ENCODE + b")R.",
            RECONSTRUCT[:-1] + b"\x85R.",
            RECONSTRUCT + b"C\x05abcdeb.",
            RECONSTRUCT + b"Nb.",
            DTYPE + b"C\x05abcdeb.",
            DTYPE + b")b.",
            FROMBUFFER + b"C\x04abcdR.",
            FROMBUFFER + b"(" + LARGE + DTYPE + STATE + LARGE + b"\x85\x8c\x01CtR.",
            b"K\x01K\x02\x93.",
            b"C\x05numpyC\x05dtypeK\x01\x93.",
        ]
        for payload in hostile:
            with self.subTest(payload=payload):
                self.assertLess(self.peak(payload), 2**16)

    def peak(self, payload: bytes) -> int:
        """Return the bytes that are allocated until a hostile pickle is refused."""
        tracemalloc.start()
        try:
            self.assertRaises(NotAnArray, pickled.parse, payload)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def test_amplification(self) -> None:
        """A pickle that uses one long string many times allocates no more than a small multiple of it."""
        size = 2**20
        text = b"X" + size.to_bytes(4, "little") + bytes(size) + b"q\x00"
        encoded = b"".join(ENCODE + b"h\x00\x8c\x06latin1\x86R" for _ in range(40))
        state = DTYPE + b"B" + size.to_bytes(4, "little") + bytes(size) + b"b."
        for payload in (text + encoded + b".", state, text + b"".join(DTYPE + b"h\x00b" for _ in range(9))):
            self.assertLess(self.peak(payload), 4 * size)

    def test_programs(self) -> None:
        """The pieces of which the next test makes other programs are those of arrays."""
        for program in PROGRAMS:
            self.assertEqual(len(array(pickled.parse(b"".join(program) + b"."))), 4)

    @settings(max_examples=400)
    @given(
        st.sampled_from(PROGRAMS),
        st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["drop", "add", "replace"]), st.sampled_from(PIECES))),
    )
    def test_other_programs(self, program: list[bytes], changes: list[tuple[int, str, bytes]]) -> None:
        """Any program of valid opcodes is an array whose bytes are all there, or is refused."""
        pieces = list(program)
        for position, change, piece in changes:
            end = position if change == "add" else position + 1
            pieces[position:end] = [] if change == "drop" else [piece]
        try:
            parsed = pickled.parse(b"".join(pieces) + b".")
        except NotAnArray:
            return
        self.assertEqual(array(parsed).nbytes, len(parsed.data))

    @settings(max_examples=400)
    @given(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6))
    def test_mutated(self, protocol: int, changes: list[tuple[int, int]]) -> None:
        """A pickle with some bytes changed is an array whose bytes are all there, or is refused."""
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
        """Random bytes are refused, and nothing else."""
        with contextlib.suppress(NotAnArray):
            pickled.parse(payload)


class ContainerTests(SynchronousTestCase):
    """Arrays in blosc containers."""

    def test_fixtures(self) -> None:
        """Bodies that the libraries of 2015 wrote have the same voxels as those in npz."""
        if shared("fixtures") is None:
            raise SkipTest("the fixtures are not beside this checkout")
        for name, shape in (("u8_1x2x2x4", (1, 2, 2, 4)), ("uint8_16x64x64", (16, 64, 64))):
            body, twin = shared("fixtures", f"{name}.blosc"), shared("fixtures", f"{name}.npz.zlib")
            assert body is not None and twin is not None
            expected = zlib.decompress(twin.read_bytes())[-int(np.prod(shape)) :]
            found = blosc_array.decode(body.read_bytes(), "uint8", shape)
            self.assertEqual((found.tobytes(), found.shape), (expected, shape[-3:]))

    def test_types(self) -> None:
        """Every type of voxel, in both byte orders; no body is larger than its bound."""
        for dtype in ("uint8", "uint16", "uint32", "uint64", "float32"):
            for order in ORDERS:
                one = np.random.default_rng(3).integers(0, 256, (1, 3, 40, 50 * np.dtype(dtype).itemsize), np.uint8)
                voxels = one.view(np.dtype(dtype).newbyteorder(order))
                body = bytes(blosc.pack_array(voxels))
                self.assertLessEqual(len(body), blosc_array.max_encoded_size(voxels.nbytes))
                found = blosc_array.decode(body, dtype, voxels.shape)
                np.testing.assert_array_equal(found, voxels[0])
                self.assertEqual((found.dtype, found.flags.writeable), (np.dtype(dtype), False))

    def test_hostile(self) -> None:
        """Forged headers, decompression bombs, other types and shapes, and bodies cut short are refused."""
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
        """A damaged body is an array as requested, or refused; blosc has no checksum to recognise the others."""
        voxels = np.arange(4096, dtype=np.uint16).reshape(1, 4, 32, 32)
        body = bytearray(blosc.pack_array(voxels))
        for at, value in changes:
            body[at % len(body)] = value
        try:
            found = blosc_array.decode(bytes(body), "uint16", voxels.shape)
        except UpstreamBroken:
            return
        self.assertEqual((found.shape, found.dtype), (voxels.shape[1:], voxels.dtype))
