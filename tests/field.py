"""Volumes as people have them: the table of inputs of the field suite, and what the writers of them share.

An input is a function that writes one tiny volume into a directory, by software that shares no code with the gateway,
and returns what its users expect of a viewer. Metadata is edited by hand only where no software writes it so. The
modules ``field_*`` fill `TABLE`; ``test_field`` serves it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Json = dict[str, Any]
SHAPE = (8, 32, 40)
CHUNK = (4, 16, 16)
Server = Literal["bucket", "pages", "closed", "latin", "words"]
"""A bucket; and four that answer something else than 404 for what is not there: a page of HTML and 200, 403, a page in
another encoding than UTF-8 and 200, a few words and 200."""


@dataclass(frozen=True, kw_only=True)
class Channel:
    """The pixels of a channel."""

    levels: Mapping[int, Array]
    """By number, axes (z, y, x); those that are not named are not looked at."""
    labels: bool = False
    window: tuple[int, int] | None = None
    time: int | None = None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The volume is shown."""

    channels: Mapping[str, Channel]
    aspect: Fraction | None = None
    """How much thicker a slice is than a voxel is wide at level 0; None where that is not looked at."""
    levels: int | None = None
    """How many levels there are; None where that is not looked at."""
    logged: Sequence[str] = ()
    """Words of one line of the log, and of no more than one, beside the token."""
    unlogged: Sequence[str] = ()
    """Words that no line of the log has beside the token."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The volume is not described, with these words in the reason; or it is shown all the same."""

    words: Sequence[str]
    otherwise: Shown | None = None


Outcome = Shown | Refused
Writer = Callable[[Path], Outcome]


@dataclass(frozen=True, kw_only=True)
class Input:
    """One volume."""

    item: int
    """The number in the list of what is wanted (issue 13)."""
    name: str
    write: Writer
    kind: str
    url: str
    """What an operator writes; ``{at}`` stands for the address of the directory, ``{upper}`` for that in capitals."""
    server: Server
    """How it is served; only a bucket has a twin in files."""
    options: Mapping[str, str] = field(default_factory=dict)


TABLE: list[Input] = []


def given(
    item: int, *, kind: str = "volume", url: str = "{at}", server: Server = "bucket", **options: str
) -> Callable[[Writer], Writer]:
    """Put a writer into the table."""

    def put(write: Writer) -> Writer:
        name = write.__name__.strip("_")
        TABLE.append(Input(item=item, name=name, write=write, kind=kind, url=url, server=server, options=options))
        return write

    return put


def put(item: int, name: str, write: Writer, **how: Any) -> None:
    """Put a writer without a name of its own into the table."""
    write.__name__ = name
    given(item, **how)(write)


# -- what is expected


def image(*levels: Array, aspect: Fraction | int | None = None, name: str = "image", **how: Any) -> Shown:
    """One channel of light; levels from 0 on."""
    known = {key: how.pop(key) for key in ("levels", "logged", "unlogged") if key in how}
    channel = Channel(levels=dict(enumerate(levels)), **how)
    return Shown(channels={name: channel}, aspect=None if aspect is None else Fraction(aspect), **known)


def annotation(*levels: Array, aspect: Fraction | int | None = None, name: str = "annotation") -> Shown:
    """One channel of ids, which are what they are modulo 2**n."""
    unsigned = [level.view(f"u{level.dtype.itemsize}") for level in levels]
    return image(*unsigned, aspect=aspect, name=name, labels=True)


def together(*shown: Shown, levels: int | None = None) -> Shown:
    """The channels of several volumes in one dataset."""
    return Shown(channels={name: channel for one in shown for name, channel in one.channels.items()}, levels=levels)


def refused(*words: str, otherwise: Shown | None = None) -> Refused:
    """Not described, for this reason."""
    return Refused(words=words, otherwise=otherwise)


# -- voxels, and documents


def gradient(dtype: str = "uint8", shape: tuple[int, ...] = SHAPE, shift: int = 0) -> Array:
    """A gradient that tells the axes apart and uses the range of its type."""
    *_, z, y, x = np.indices(shape)
    values = (29 * z + 5 * y + 3 * x + 7 + shift) % 251
    kind = np.dtype(dtype)
    made: Array
    if kind.kind == "b":
        made = np.array(values % 3 == 0)
    elif kind.kind == "f":
        made = (values / 251).astype(kind)
    elif kind.kind == "i":
        made = (values.astype(np.int64) - 120).astype(kind)
    else:
        made = (values * (257 if kind.itemsize > 1 else 1)).astype(kind)
    return made


def halved(voxels: Array) -> Array:
    """The next level: every second voxel of y and x."""
    return np.ascontiguousarray(voxels[..., ::2, ::2])


@contextmanager
def edited(path: Path) -> Iterator[Json]:
    """A JSON document, saved when the block ends; a value that is NaN or infinite is written as zarr-python does."""
    document: Json = json.loads(path.read_text())
    yield document
    path.write_text(json.dumps(document, indent=1))


def replaced(path: Path, old: str, new: str) -> None:
    """Change what is written in a document."""
    text = path.read_text()
    assert old in text, (old, text)
    path.write_text(text.replace(old, new, 1))
