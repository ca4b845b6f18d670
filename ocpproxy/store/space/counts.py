"""How many tiles the index has of a part of a volume, and how large they are: for estimates, as interactions."""

from __future__ import annotations

from ocpproxy.index.dialect import Transaction
from ocpproxy.model.stack import Tile
from ocpproxy.store import keys
from ocpproxy.store.rows import stack_ids
from ocpproxy.store.space.usage import number


def count_block(tx: Transaction, stack: str, first: Tile, last: Tile) -> int:
    """Return how many tiles have rows, of one time and level, between two corners (slice, row, col), both included."""
    ids = stack_ids(tx, [stack], make=False)
    if stack not in ids:
        return 0
    (high, low), (_, top) = keys.pack(first, ids[stack]), keys.pack(last, ids[stack])
    row, col = f"((lowkey >> {keys.ROW_AT}) & {keys.ROWS - 1})", f"(lowkey & {keys.ROWS - 1})"
    (count,) = tx.one(
        f"SELECT COUNT(*) FROM contents WHERE highkey = ? AND lowkey BETWEEN ? AND ? "
        f"AND {row} BETWEEN ? AND ? AND {col} BETWEEN ? AND ?",
        *(high, low, top, first.row, last.row, first.col, last.col),
    )
    return int(count)


def mean_bytes(tx: Transaction, tile: Tile, sample: int = 1000) -> tuple[int, int]:
    """Return the number and the bytes of some tiles of a stack, at the time and the level of a tile."""
    ids = stack_ids(tx, [tile.stack], make=False)
    if tile.stack not in ids:
        return (0, 0)
    high, _ = keys.pack(tile, ids[tile.stack])
    sizes = [number(row[0]) for row in tx.many("SELECT bytes FROM contents WHERE highkey = ? LIMIT ?", high, sample)]
    return len(sizes), sum(sizes)
