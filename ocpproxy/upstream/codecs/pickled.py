"""An array out of a pickle, without unpickling.

``blosc.pack_array``, with which ndstore sends arrays, compresses a pickle. Loading one runs whatever its writer wanted,
and restricting `pickle.Unpickler` does not help enough: numpy's constructors allocate what they are told to. So this
interpreter knows just the opcodes that pickles of arrays are made of (protocols 0 to 5, numpy 1.6 to 2, Python 2 and
3), its stack holds nothing but numbers, strings, tuples and inert names, and what a name is called with is looked at,
not called. No array, no dtype and no other object comes into being before type, shape and length agree.

Opcodes: CPython, Lib/pickletools.py. The shape of an array's pickle: numpy, ``ndarray.__reduce__`` (version 1 of its
state) and ``ndarray.__reduce_ex__(5)``.
"""

from __future__ import annotations

import codecs
import math
import re
import struct
from dataclasses import dataclass
from typing import Any

_MOST_OPCODES = 500
_DEEPEST = 64
_TYPE = re.compile(r"([ui])([1248])|(f)([48])|(b)(1)", re.ASCII)
_LONGEST_WHOLE = 20
"""Digits."""


class NoArray(ValueError):
    """The pickle is none of a plain array. The text may be logged."""


@dataclass(frozen=True)
class Pickled:
    """An array that is still bytes."""

    dtype: str
    """With byte order, as numpy writes it: ``|u1``, ``<u2``, ``>f4``."""
    shape: tuple[int, ...]
    fortran: bool
    """Whether the first index varies fastest."""
    data: memoryview


@dataclass(frozen=True)
class _Name:
    """A global: inert."""

    name: str


@dataclass(frozen=True)
class _Type:
    """A dtype: its letter and size, and its byte order once that is known."""

    code: str
    order: str = ""


@dataclass(frozen=True)
class _Empty:
    """What `_reconstruct` is to make: an array without a state."""


class _Mark:
    """A place on the stack."""


_MARK = _Mark()
_NUMPY = re.compile(r"numpy(\._core|\.core)?\.(multiarray|numeric)", re.ASCII)
_KNOWN = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("__builtin__", "bytearray"): "bytearray",
    ("builtins", "bytearray"): "bytearray",
}


def read(payload: bytes) -> Pickled:
    """The array of a pickle.

    :raises NoArray: when it is anything else, or cut short.
    """
    try:
        return _Machine(payload).run()
    except (struct.error, IndexError, KeyError, UnicodeError, ValueError, TypeError) as error:
        if isinstance(error, NoArray):
            raise
        raise NoArray(f"the pickle makes no sense: {type(error).__name__}") from None


class _Machine:
    """The interpreter: one stack, one memo."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._all = memoryview(payload)
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Pickled:
        for _ in range(_MOST_OPCODES):
            code = self._take(1)[0]
            if code == ord("."):
                return self._result()
            if code in _CONSTANTS:
                self._stack.append(_CONSTANTS[code])
            elif code in _SIZED:
                self._stack.append(self._sized(*_SIZED[code]))
            else:
                _OPCODES.get(code, _Machine._unknown)(self)
            if len(self._stack) > _DEEPEST:
                raise NoArray("the pickle nests too deeply")
        raise NoArray(f"the pickle has more than {_MOST_OPCODES} opcodes")

    def _result(self) -> Pickled:
        (result,) = self._stack
        if not isinstance(result, Pickled):
            raise NoArray("the pickle is not an array")
        return result

    # -- bytes

    def _take(self, count: int) -> memoryview:
        part = self._all[self._at : self._at + count]
        if len(part) != count or count < 0:
            raise NoArray("the pickle is cut short")
        self._at += count
        return part

    def _whole(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self._take(struct.calcsize(layout)))
        return int(value)

    def _line(self) -> bytes:
        end = self._payload.find(b"\n", self._at)
        if end < 0:
            raise NoArray("the pickle is cut short")
        line = self._payload[self._at : end]
        self._at = end + 1
        return line

    def _digits(self, end: bytes = b"") -> int:
        text = self._line().removesuffix(end)
        if not re.fullmatch(rb"-?\d+", text) or len(text) > _LONGEST_WHOLE:
            raise NoArray("a number of the pickle is none")
        return int(text)

    def _sized(self, layout: str, decode: bool) -> Any:
        part = self._take(self._whole(layout))
        return bytes(part).decode("utf-8") if decode else part

    # -- opcodes

    def _unknown(self) -> None:
        raise NoArray(f"the pickle has the opcode {self._all[self._at - 1]:#04x}, which no array needs")

    def _global(self) -> None:
        module, name = self._line().decode("ascii"), self._line().decode("ascii")
        self._name(module, name)

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        known = _KNOWN.get((module, name))
        if known is None and name in ("_reconstruct", "_frombuffer") and _NUMPY.fullmatch(module):
            known = name
        if known is None:
            raise NoArray(f"the pickle names {module[:60]}.{name[:60]}, which no array needs")
        self._stack.append(_Name(known))

    def _tuple(self) -> None:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        self._stack.append(tuple(reversed(items)))

    def _tuple_of(self, count: int) -> None:
        items = self._stack[len(self._stack) - count :]
        if len(items) != count or _MARK in items:
            raise NoArray("the pickle lacks items of a tuple")
        self._stack[len(self._stack) - count :] = [tuple(items)]

    def _long(self) -> None:
        length = self._take(1)[0]
        if length > 8:
            raise NoArray("a number of the pickle is too large")
        self._stack.append(int.from_bytes(self._take(length), "little", signed=True))

    def _string(self) -> None:
        line = self._line()
        if len(line) < 2 or line[0] not in b"'\"" or line[0] != line[-1]:
            raise NoArray("a string of the pickle has no quotes")
        self._stack.append(memoryview(codecs.escape_decode(line[1:-1])[0]))

    def _put(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    def _get(self, number: int) -> None:
        self._stack.append(self._memo[number])

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        name = function.name if isinstance(function, _Name) else None
        if name == "_reconstruct" and arguments[0] == _Name("ndarray") and arguments[1] == (0,):
            self._stack.append(_Empty())
        elif name == "dtype" and _TYPE.fullmatch(_text(arguments[0])):
            self._stack.append(_Type(_text(arguments[0])))
        elif name == "_frombuffer":
            data, type_, shape, order = arguments
            self._stack.append(_array(type_, shape, _text(order) == "F", data))
        elif name == "encode" and _text(arguments[1]) in ("latin1", "latin-1"):
            self._stack.append(memoryview(arguments[0].encode("latin-1")))
        elif name == "bytearray":
            (data,) = arguments
            self._stack.append(data)
        else:
            raise NoArray("the pickle calls what no array needs")

    def _build(self) -> None:
        state, made = self._stack.pop(), self._stack.pop()
        if isinstance(made, _Type):
            version, order, *rest = state
            if version not in (3, 4) or any(part is not None for part in rest[:3]):
                raise NoArray("the type of the array is not a plain one")
            finished: Any = _Type(made.code, _text(order))
            # numpy asks for the type before its state: whoever remembers it means the finished one.
            self._memo = {n: finished if item is made else item for n, item in self._memo.items()}
        elif isinstance(made, _Empty):
            version, shape, type_, fortran, data = state
            if version != 1:
                raise NoArray("the array has a state of a version that is not known")
            finished = _array(type_, shape, bool(fortran), data)
        else:
            raise NoArray("the pickle gives a state to what has none")
        self._stack.append(finished)


def _text(value: Any) -> str:
    """A word that Python 2 wrote as bytes and Python 3 as text."""
    text = value if isinstance(value, str) else bytes(value).decode("ascii")
    if len(text) > 60:
        raise NoArray("a word of the pickle is too long")
    return text


def _array(type_: Any, shape: Any, fortran: bool, data: Any) -> Pickled:
    if not isinstance(type_, _Type) or type_.order not in ("<", ">", "|", "="):
        raise NoArray("the array has no plain type")
    if not isinstance(shape, tuple) or not 1 <= len(shape) <= 5 or not all(type(side) is int for side in shape):
        raise NoArray("expected a shape of one to five whole numbers")
    if not isinstance(data, memoryview):
        raise NoArray("the array has no bytes")
    size = int(type_.code[1:])
    if any(side < 0 for side in shape) or math.prod(shape) * size != len(data):
        raise NoArray(f"the shape {shape} does not take the {len(data)} bytes there are")
    order = "|" if size == 1 else "<" if type_.order == "=" else type_.order
    return Pickled(order + type_.code, shape, fortran, data)


_CONSTANTS = {ord("("): _MARK, ord(")"): (), ord("N"): None, 0x88: True, 0x89: False}
_SIZED = {
    ord("U"): ("<B", False),
    ord("T"): ("<I", False),
    ord("C"): ("<B", False),
    ord("B"): ("<I", False),
    0x8E: ("<Q", False),
    0x96: ("<Q", False),
    0x8C: ("<B", True),
    ord("X"): ("<I", True),
    0x8D: ("<Q", True),
}
"""Strings: how their length is written, and whether they are text."""
_OPCODES = {
    0x80: lambda machine: machine._take(1),  # PROTO
    0x95: lambda machine: machine._take(8),  # FRAME
    ord("c"): _Machine._global,
    0x93: _Machine._stack_global,
    ord("t"): _Machine._tuple,
    0x85: lambda machine: machine._tuple_of(1),
    0x86: lambda machine: machine._tuple_of(2),
    0x87: lambda machine: machine._tuple_of(3),
    ord("R"): _Machine._reduce,
    ord("b"): _Machine._build,
    ord("I"): lambda machine: machine._stack.append(machine._digits()),
    ord("L"): lambda machine: machine._stack.append(machine._digits(b"L")),
    ord("K"): lambda machine: machine._stack.append(machine._whole("<B")),
    ord("M"): lambda machine: machine._stack.append(machine._whole("<H")),
    ord("J"): lambda machine: machine._stack.append(machine._whole("<i")),
    0x8A: _Machine._long,
    ord("S"): _Machine._string,
    ord("V"): lambda machine: machine._stack.append(machine._line().decode("raw-unicode-escape")),
    ord("p"): lambda machine: machine._put(machine._digits()),
    ord("q"): lambda machine: machine._put(machine._whole("<B")),
    ord("r"): lambda machine: machine._put(machine._whole("<I")),
    0x94: lambda machine: machine._put(len(machine._memo)),  # MEMOIZE
    ord("g"): lambda machine: machine._get(machine._digits()),
    ord("h"): lambda machine: machine._get(machine._whole("<B")),
    ord("j"): lambda machine: machine._get(machine._whole("<I")),
}
