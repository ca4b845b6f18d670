"""Numbers of tiles and bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Numbers of tiles and bytes."""

    tiles: int = 0
    bytes: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.tiles + other.tiles, self.bytes + other.bytes)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.tiles - other.tiles, self.bytes - other.bytes)


def number(value: object) -> int:
    """Return a number of the index; 0 for what is none, which SQLite keeps in any column."""
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError, OverflowError):
        return 0
