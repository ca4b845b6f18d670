"""Numbers with units as people write and read them, and texts that are safe to print."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

_BYTES = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BYTES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_LENGTHS = {"nm": 1.0, "um": 1e3, "µm": 1e3, "μm": 1e3, "mm": 1e6}
_AGES = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_NUMBER = r"(\d+(?:\.\d+)?)"


def size(text: str) -> int:
    """Read bytes: ``500MB``, ``10 GiB``, ``1000``."""
    found = re.fullmatch(_NUMBER + r"\s*([a-z]*)", text.strip().lower())
    if not found or found[2] not in _BYTES or len(found[1]) > 30:
        raise argparse.ArgumentTypeError(f"expected a size such as 500MB or 10GiB, not {text!r}")
    return max(1, int(float(found[1]) * _BYTES[found[2]]))


def length(text: str) -> float:
    """Read a length in nanometres: ``2um``, ``500nm``."""
    found = re.fullmatch(_NUMBER + r"\s*([a-zµμ]+)", text.strip().lower())
    if not found or found[2] not in _LENGTHS:
        raise argparse.ArgumentTypeError(f"expected a length with its unit, such as 2um or 500nm, not {text!r}")
    return float(found[1]) * _LENGTHS[found[2]]


def share(text: str) -> float:
    """Read a share: ``1%``, ``0.01``."""
    found = re.fullmatch(_NUMBER + r"\s*(%?)", text.strip())
    value = float(found[1]) / (100 if found[2] else 1) if found else -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share such as 1%, not {text!r}")
    return value


def numbers(*names: str) -> Callable[[str], tuple[float, ...]]:
    """Return a reader of numbers with commas between them."""

    def read(text: str) -> tuple[float, ...]:
        try:
            found = tuple(float(part) for part in text.split(","))
        except ValueError:
            found = ()
        if len(found) != len(names):
            raise argparse.ArgumentTypeError(f"expected {','.join(names)}, not {text!r}")
        return found

    return read


def box(text: str) -> list[int]:
    """Read ``x0:x1,y0:y1,z0:z1``: six numbers."""
    found = re.fullmatch(r"(-?\d+):(-?\d+),(-?\d+):(-?\d+),(-?\d+):(-?\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected x0:x1,y0:y1,z0:z1, not {text!r}")
    return [int(number) for number in found.groups()]


def whole_range(text: str) -> list[int]:
    """Read ``A-B`` or ``A``: two numbers."""
    found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected A-B or A, not {text!r}")
    return [int(found[1]), int(found[2] or found[1])]


def levels(text: str) -> list[int | None]:
    """Read ``A-B``, ``A`` or ``A-``: two numbers, the second None where it is missing."""
    found = re.fullmatch(r"(\d{1,5})-", text)
    return [int(found[1]), None] if found else [*whole_range(text)]


def age(text: str) -> float:
    """Read a duration in seconds: ``30d``, ``12h``."""
    found = re.fullmatch(_NUMBER + r"\s*([a-z]+)", text.strip().lower())
    if not found or found[2] not in _AGES:
        raise argparse.ArgumentTypeError(f"expected a duration with its unit, such as 30d or 12h, not {text!r}")
    return float(found[1]) * _AGES[found[2]]


def show_size(nbytes: float) -> str:
    """Return bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:,.0f} {unit}" if unit == "B" else f"{nbytes:,.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:,.1f} TiB"


def show_seconds(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 1:
        return "less than a second"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:,.1f} days"


def printable(text: str) -> str:
    """Return a text without what would steer a terminal, or cannot be encoded."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
