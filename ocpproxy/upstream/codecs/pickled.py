"""The array of a pickle, without unpickling.

``blosc.pack_array``, with which ndstore sends arrays, compresses a pickle. To load a pickle is to execute what its
writer wanted, and a restricted `pickle.Unpickler` is no defence: numpy's constructors allocate whatever size they are
called with. This module interprets only the opcodes that occur in pickles of arrays (protocols 0 to 5, numpy 1.6 to 2,
Python 2 and 3). Its stack holds numbers, strings, tuples and names, all of them inert: a call is compared with the few
calls that build an array, and never made. No array and no dtype exists before type, shape and length agree.

Bounds, for any input: `_MAX_OPCODES` opcodes, `_MAX_DEPTH` values on the stack, and no allocation larger than a small
multiple of the pickle. The voxels are a view of the pickle, except in protocols 0 to 2 of Python 3.

`pickletools.genops` reads the same opcodes, but copies each string (32 MiB for an array of 16 MiB), and refuses the
strings of protocol 0 that Python 2 wrote. Opcodes: CPython, Lib/pickletools.py. The pickle of an array: numpy,
``ndarray.__reduce__`` (version 1 of its state) and ``ndarray.__reduce_ex__(5)``.
"""

from __future__ import annotations

import codecs
import math
import pickle  # for the names of its opcodes
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_MAX_OPCODES = 500
_MAX_DEPTH = 64
_MAX_DIGITS = 20
"""Characters of a number in decimal."""
_MAX_TEXT = 60
"""Characters of a name or a code."""
_TYPE = re.compile(r"([ui])([1248])|(f)([48])|(b)(1)", re.ASCII)
_NUMPY_MODULE = re.compile(r"numpy(\._core|\.core)?\.(multiarray|numeric)", re.ASCII)


class NotAnArray(ValueError):
    """The pickle is damaged, or is not that of a plain array. The message is safe to log."""


@dataclass(frozen=True)
class PickledArray:
    """The bytes of an array, and how to read them."""

    dtype: str
    """With its byte order, as numpy writes it: ``|u1``, ``<u2``, ``>f4``."""
    shape: tuple[int, ...]
    fortran: bool
    """Whether the first index varies fastest."""
    data: memoryview


@dataclass(frozen=True)
class _Name:
    """A global of the pickle, which is not imported."""

    name: str


@dataclass(frozen=True)
class _DType:
    """A dtype: its letter and size, and its byte order, which is empty until the pickle sets it."""

    code: str
    order: str = ""


@dataclass(frozen=True)
class _EmptyArray:
    """What `_reconstruct` would return: an array without a state."""


class _Mark:
    """The mark on the stack where the items of a tuple begin."""


_MARK = _Mark()
_NAMES = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("__builtin__", "bytearray"): "bytearray",
    ("builtins", "bytearray"): "bytearray",
}


def parse(payload: bytes) -> PickledArray:
    """Return the array of a pickle; its `data` refers to `payload` where that is possible.

    :raises NotAnArray: the pickle is damaged, cut short, or not that of a plain array.
    """
    try:
        return _Machine(payload).run()
    except NotAnArray:
        raise
    except (struct.error, IndexError, KeyError, ValueError) as error:  # an empty stack, an unknown number of the memo
        raise NotAnArray(f"the pickle is damaged: {type(error).__name__}") from None


class _Machine:
    """The interpreter of one pickle: a stack and a memo."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._view = memoryview(payload)
        self._position = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._encoded = 0

    def run(self) -> PickledArray:
        for _ in range(_MAX_OPCODES):
            code = bytes(self._read(1))
            if code == pickle.STOP:
                return self._result()
            if code in _CONSTANTS:
                self._stack.append(_CONSTANTS[code])
            elif code in _NUMBERS:
                self._stack.append(self._read_number(_NUMBERS[code]))
            elif code in _STRINGS:
                self._stack.append(self._read_string(*_STRINGS[code]))
            elif code in _OPCODES:
                _OPCODES[code](self)
            else:
                raise NotAnArray(f"the pickle has the opcode {code!r}, which pickles of arrays do not have")
            if len(self._stack) > _MAX_DEPTH:
                raise NotAnArray(f"the pickle has more than {_MAX_DEPTH} values on its stack")
        raise NotAnArray(f"the pickle has more than {_MAX_OPCODES} opcodes")

    def _result(self) -> PickledArray:
        (result,) = self._stack
        if not isinstance(result, PickledArray):
            raise NotAnArray("the pickle is not that of an array")
        return result

    # -- reading the pickle

    def _read(self, count: int) -> memoryview:
        part = self._view[self._position : self._position + count]
        if len(part) != count:
            raise NotAnArray("the pickle is cut short")
        self._position += count
        return part

    def _read_number(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self._read(struct.calcsize(layout)))
        return int(value)

    def _read_string(self, length: str, text: bool) -> str | memoryview:
        part = self._read(self._read_number(length))
        return bytes(part).decode("utf-8") if text else part

    def _read_line(self) -> bytes:
        end = self._payload.find(b"\n", self._position)
        if end < 0:
            raise NotAnArray("the pickle is cut short")
        line = self._payload[self._position : end]
        self._position = end + 1
        return line

    def _read_decimal(self, suffix: bytes = b"") -> int:
        text = self._read_line().removesuffix(suffix)
        if len(text) > _MAX_DIGITS or not re.fullmatch(rb"-?\d+", text):
            raise NotAnArray(f"expected a number in the pickle, not {text[:_MAX_DIGITS]!r}")
        return int(text)

    def read_long(self) -> None:
        length = self._read_number("<B")
        if length > 8:
            raise NotAnArray("a number of the pickle has more than 8 bytes")
        self._stack.append(int.from_bytes(self._read(length), "little", signed=True))

    def read_quoted(self) -> None:
        line = self._read_line()
        if len(line) < 2 or line[0] not in b"'\"" or line[0] != line[-1]:
            raise NotAnArray("a string of the pickle has no quotes")
        self._stack.append(memoryview(codecs.escape_decode(line[1:-1])[0]))

    def read_unicode(self) -> None:
        self._stack.append(self._read_line().decode("raw-unicode-escape"))

    def read_decimal(self, suffix: bytes = b"") -> None:
        self._stack.append(self._read_decimal(suffix))

    def read_global(self) -> None:
        module = self._read_line().decode("ascii")
        self._push_name(module, self._read_line().decode("ascii"))

    # -- the stack and the memo

    def stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push_name(_text(module), _text(name))

    def _push_name(self, module: str, name: str) -> None:
        known = _NAMES.get((module, name))
        if name in ("_reconstruct", "_frombuffer") and _NUMPY_MODULE.fullmatch(module):
            known = name
        if known is None:
            raise NotAnArray(f"the pickle names {module[:60]}.{name[:60]}, which pickles of arrays do not name")
        self._stack.append(_Name(known))

    def push_tuple(self) -> None:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        self._stack.append(tuple(reversed(items)))

    def push_tuple_of(self, count: int) -> None:
        items = self._stack[-count:]
        if len(items) != count or any(item is _MARK for item in items):
            raise NotAnArray("the pickle lacks the items of a tuple")
        self._stack[-count:] = [tuple(items)]

    def put(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    def memoize(self) -> None:
        self.put(len(self._memo))

    def get(self, number: int) -> None:
        self._stack.append(self._memo[number])

    # -- calls and states

    def reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        call = _CALLS.get(function.name) if isinstance(function, _Name) else None
        if call is None or type(arguments) is not tuple:
            raise NotAnArray("the pickle makes a call that pickles of arrays do not make")
        self._stack.append(call(self, *_expect(arguments, _ARGUMENTS[function.name])))

    def _reconstruct(self, class_: Any, shape: Any, code: Any) -> _EmptyArray:
        if class_ != _Name("ndarray") or shape != (0,):
            raise NotAnArray("the pickle constructs something other than an array")
        return _EmptyArray()

    def _dtype(self, code: Any, align: Any, copy: Any) -> _DType:
        if not _TYPE.fullmatch(_text(code)):
            raise NotAnArray(f"expected the type of an array of numbers in the pickle, not {_text(code)!r}")
        return _DType(_text(code))

    def _frombuffer(self, data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
        return _array(dtype, shape, _text(order) == "F", data)

    def _encode(self, text: Any, encoding: Any) -> memoryview:
        if type(text) is not str or _text(encoding) not in ("latin1", "latin-1"):
            raise NotAnArray("the pickle encodes something other than bytes")
        # A text can be encoded many times over. All of them together are still no longer than the pickle.
        self._encoded += len(text)
        if self._encoded > len(self._payload):
            raise NotAnArray("the pickle has more bytes encoded than it has itself")
        return memoryview(text.encode("latin-1"))

    def _bytearray(self, data: Any) -> memoryview:
        if type(data) is not memoryview:
            raise NotAnArray("the pickle makes a bytearray of something other than bytes")
        return data

    def build(self) -> None:
        state, target = self._stack.pop(), self._stack.pop()
        if type(state) is not tuple:
            raise NotAnArray("the pickle sets a state that is not a tuple")
        if isinstance(target, _DType):
            built: Any = _complete_dtype(target, state)
            # numpy puts the dtype into the memo before its state is set: the memo refers to the complete one.
            self._memo = {number: built if value is target else value for number, value in self._memo.items()}
        elif isinstance(target, _EmptyArray):
            version, shape, dtype, fortran, data = _expect(state, 5)
            if version != 1:
                raise NotAnArray("the state of the array has an unknown version")
            built = _array(dtype, shape, bool(fortran), data)
        else:
            raise NotAnArray("the pickle sets the state of something other than an array")
        self._stack.append(built)


def _expect(values: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    if len(values) != count:
        raise NotAnArray(f"expected {count} values in the pickle, not {len(values)}")
    return values


def _text(value: Any) -> str:
    """Return a name or a code, which Python 2 wrote as bytes and Python 3 as text.

    A number is refused: ``bytes(number)`` would allocate as many bytes.
    """
    if type(value) not in (str, memoryview) or len(value) > _MAX_TEXT:
        raise NotAnArray(f"expected a text of at most {_MAX_TEXT} characters in the pickle")
    return value if isinstance(value, str) else bytes(value).decode("ascii")


def _complete_dtype(dtype: _DType, state: tuple[Any, ...]) -> _DType:
    """Return the dtype with the byte order of its state: (version, order, subdtype, names, fields, ...)."""
    version, order, *rest = state
    if version not in (3, 4) or any(part is not None for part in rest[:3]):
        raise NotAnArray("the type of the array is structured, or its state has an unknown version")
    return _DType(dtype.code, _text(order))


def _array(dtype: Any, shape: Any, fortran: bool, data: Any) -> PickledArray:
    if not isinstance(dtype, _DType) or dtype.order not in ("<", ">", "|", "="):
        raise NotAnArray("the array has no plain type")
    if type(shape) is not tuple or not 1 <= len(shape) <= 5 or not all(type(side) is int for side in shape):
        raise NotAnArray("the array has no shape of one to five integers")
    if type(data) is not memoryview:
        raise NotAnArray("the array has no bytes")
    size = int(dtype.code[1:])
    if any(side < 0 for side in shape) or math.prod(shape) * size != len(data):
        raise NotAnArray(f"the array has {len(data)} bytes, which do not fill the shape {shape}")
    order = "|" if size == 1 else "<" if dtype.order == "=" else dtype.order
    return PickledArray(order + dtype.code, shape, fortran, data)


_CONSTANTS: dict[bytes, Any] = {
    pickle.MARK: _MARK,
    pickle.EMPTY_TUPLE: (),
    pickle.NONE: None,
    pickle.NEWTRUE: True,
    pickle.NEWFALSE: False,
}
_NUMBERS = {pickle.BININT1: "<B", pickle.BININT2: "<H", pickle.BININT: "<i"}
_STRINGS = {
    pickle.SHORT_BINSTRING: ("<B", False),
    pickle.BINSTRING: ("<I", False),
    pickle.SHORT_BINBYTES: ("<B", False),
    pickle.BINBYTES: ("<I", False),
    pickle.BINBYTES8: ("<Q", False),
    pickle.BYTEARRAY8: ("<Q", False),
    pickle.SHORT_BINUNICODE: ("<B", True),
    pickle.BINUNICODE: ("<I", True),
    pickle.BINUNICODE8: ("<Q", True),
}
"""Strings: the layout of their length, and whether they are text."""
_OPCODES: dict[bytes, Callable[[_Machine], object]] = {
    pickle.PROTO: lambda machine: machine._read(1),
    pickle.FRAME: lambda machine: machine._read(8),
    pickle.GLOBAL: _Machine.read_global,
    pickle.STACK_GLOBAL: _Machine.stack_global,
    pickle.TUPLE: _Machine.push_tuple,
    pickle.TUPLE1: lambda machine: machine.push_tuple_of(1),
    pickle.TUPLE2: lambda machine: machine.push_tuple_of(2),
    pickle.TUPLE3: lambda machine: machine.push_tuple_of(3),
    pickle.REDUCE: _Machine.reduce,
    pickle.BUILD: _Machine.build,
    pickle.INT: _Machine.read_decimal,
    pickle.LONG: lambda machine: machine.read_decimal(b"L"),
    pickle.LONG1: _Machine.read_long,
    pickle.STRING: _Machine.read_quoted,
    pickle.UNICODE: _Machine.read_unicode,
    pickle.PUT: lambda machine: machine.put(machine._read_decimal()),
    pickle.BINPUT: lambda machine: machine.put(machine._read_number("<B")),
    pickle.LONG_BINPUT: lambda machine: machine.put(machine._read_number("<I")),
    pickle.MEMOIZE: _Machine.memoize,
    pickle.GET: lambda machine: machine.get(machine._read_decimal()),
    pickle.BINGET: lambda machine: machine.get(machine._read_number("<B")),
    pickle.LONG_BINGET: lambda machine: machine.get(machine._read_number("<I")),
}
_CALLS: dict[str, Callable[..., Any]] = {
    "_reconstruct": _Machine._reconstruct,
    "dtype": _Machine._dtype,
    "_frombuffer": _Machine._frombuffer,
    "encode": _Machine._encode,
    "bytearray": _Machine._bytearray,
}
_ARGUMENTS = {"_reconstruct": 3, "dtype": 3, "_frombuffer": 4, "encode": 2, "bytearray": 1}
