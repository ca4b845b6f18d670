"""The names of a tile: its path in the cache directory and its key in ``contents``.

Both hold the whole identity of the tile, so the index can be rebuilt from the disk::

    token/plane/channel/version / time / level / row_col / slice.png        the path; of a chunk with .chunk
    highkey = time << 40 | datasetid << 16 | level                          datasetid: the id of the stack's name
    lowkey  = slice << 40 | row << 20 | col

The bits are those of the historical ``contents`` (level 16, column and row 20), with time above the dataset's id,
where it used to be added to the level, and the sign bits unused. The tiles of one cuboid are neighbours: one
directory on disk, one highkey in the index.
"""

from __future__ import annotations

import re

from ocpproxy.model.chunks import is_chunk
from ocpproxy.model.stack import Tile

_LEVEL, _ID, _TIME = 16, 24, 23
_COL, _ROW, _SLICE = 20, 20, 23
ROW_AT = _COL
"""The lowest bit of the row in a lowkey; the column is below it."""
ROWS = 1 << _ROW
"""Rows and columns are below this."""
IDS = 1 << _ID
"""Ids of stacks are below this."""
ID_IN_SQL = f"((highkey >> {_LEVEL}) & {IDS - 1})"
"""The id of the stack of a row, in SQL."""
Key = tuple[int, int]

_PATH = re.compile(
    r"(?P<stack>[\w-]{1,64}/\w{2}/(?:[\w-]{1,64}|~[0-9a-f]{16})/[0-9a-f]{8})/(?P<time>\d{1,7})/(?P<level>\d{1,5})"
    r"/(?P<row>\d{1,7})_(?P<col>\d{1,7})/(?P<slice>\d{1,7})\.(?:png|chunk)",
    re.ASCII,
)


class NotIndexable(ValueError):
    """The tile's numbers are larger than the key of ``contents`` can hold.

    The message is one sentence that is safe to show to clients.
    """


def _check(tile: Tile) -> None:
    for name, value, bits in (
        ("time", tile.time, _TIME),
        ("level", tile.level, _LEVEL),
        ("slice", tile.slice, _SLICE),
        ("row", tile.row, _ROW),
        ("column", tile.col, _COL),
    ):
        if not 0 <= value < 1 << bits:
            raise NotIndexable(f"{name} {value} is beyond the index: expected 0 to {(1 << bits) - 1}")


def path(tile: Tile) -> str:
    """Return the path of the tile's file, relative to the directory of tiles.

    :raises NotIndexable: when the tile could not be indexed.
    """
    _check(tile)
    ending = "chunk" if is_chunk(tile) else "png"
    return f"{tile.stack}/{tile.time}/{tile.level}/{tile.row}_{tile.col}/{tile.slice}.{ending}"


def tile_at(path_: str) -> Tile | None:
    """Return the tile whose file has this path, or None when no tile has."""
    found = _PATH.fullmatch(path_)
    if found is None:
        return None
    tile = Tile(found["stack"], *(int(found[name]) for name in Tile._fields[1:]))
    try:
        return tile if path(tile) == path_ else None
    except NotIndexable:
        return None


def pack(tile: Tile, datasetid: int) -> Key:
    """Return (highkey, lowkey) of the tile; `datasetid` is the id of its stack.

    :raises NotIndexable: when a number does not fit. A key never wraps around.
    """
    _check(tile)
    if not 0 < datasetid < IDS:
        raise NotIndexable(f"dataset id {datasetid} is beyond the index: expected 1 to {IDS - 1}")
    high = tile.time << (_ID + _LEVEL) | datasetid << _LEVEL | tile.level
    low = tile.slice << (_ROW + _COL) | tile.row << _COL | tile.col
    return high, low


def datasetid(highkey: int) -> int:
    """Return the id of the stack in a highkey."""
    return highkey >> _LEVEL & IDS - 1


def time_and_level(highkey: int) -> tuple[int, int]:
    """Return the time and the level in a highkey."""
    return highkey >> (_ID + _LEVEL), highkey & (1 << _LEVEL) - 1


def unpack(key: Key, stack: str) -> Tile | None:
    """Return the tile of a key; `stack` is the name of its stack. None when no tile has such a key."""
    high, low = key
    tile = Tile(
        stack,
        *time_and_level(high),
        low >> (_ROW + _COL),
        low >> _COL & (1 << _ROW) - 1,
        low & (1 << _COL) - 1,
    )
    try:
        return tile if tile_at(path(tile)) == tile else None
    except NotIndexable:
        return None
