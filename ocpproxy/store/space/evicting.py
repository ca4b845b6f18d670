"""Which tiles are evicted, as interactions: those that were used least recently, and are not pinned.

A pinned tile has the latest time that ``reftime`` can have (`rows.PINNED`), so it is never among the oldest. Tiles get
this time when their turn comes to be evicted: only then it matters that they are pinned, and storing and serving need
not know any pins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ocpproxy.index.dialect import Transaction
from ocpproxy.model.stack import Tile
from ocpproxy.store import keys, rows
from ocpproxy.store.keys import Key
from ocpproxy.store.part import TilePart
from ocpproxy.store.space import pins
from ocpproxy.store.space.usage import Usage, number

Intend = Callable[[list[Tile]], None]
"""Called with tiles before anything is changed."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """What was evicted."""

    usage: Usage
    """The totals now."""
    removed: Usage
    """The deleted rows and their bytes."""
    tiles: list[Tile]
    """The tiles of the deleted rows, whose files have to be removed now."""
    pinned: int = 0
    """Tiles that were spared because they are pinned. They are not looked at again."""


def delete_least_recent(
    tx: Transaction,
    at_most: int,
    keep: Usage,
    intend: Intend,
    unused_since: float | None = None,
    pinned: Sequence[TilePart] = (),
    look_at: int = 0,
) -> Evicted:
    """Delete the least recently used rows, `at_most` of them, until no more than `keep` is left.

    :param look_at: rows that are looked at, where some may be pinned.
    :param unused_since: spare those that were used since then (seconds since 1970).
    :param pinned: spare these, too, beside those that the index says are pinned.
    """
    before = rows.lock(tx)
    before_time = rows.PINNED if unused_since is None else rows.stamp(unused_since)
    oldest = [
        ((int(high), int(low)), number(size))
        for high, low, size in tx.many(
            "SELECT highkey, lowkey, bytes FROM contents WHERE reftime < ? ORDER BY reftime LIMIT ?",
            before_time,
            max(at_most, look_at),
        )
    ]
    spared = _pin(tx, [key for key, _ in oldest], pinned)
    chosen: dict[Key, int] = {}
    removed = Usage()
    for key, size in oldest:
        left = before - removed
        if len(chosen) >= at_most or (left.bytes <= keep.bytes and left.tiles <= keep.tiles):
            break
        if key not in spared:
            chosen[key] = size
            removed += Usage(1, size)
    return _evict(tx, before, chosen, intend, len(spared))


def delete_keys(tx: Transaction, wanted: Iterable[Key], intend: Intend, pinned: Sequence[TilePart] = ()) -> Evicted:
    """Delete these rows.

    :param pinned: as for `delete_least_recent`.
    """
    before = rows.lock(tx)
    wanted = list(wanted)
    spared = _pin(tx, wanted, pinned)
    groups: dict[int, list[int]] = defaultdict(list)
    for high, low in wanted:
        if (high, low) not in spared:
            groups[high].append(low)
    return _evict(tx, before, rows.row_sizes(tx, groups), intend, len(spared))


def _pin(tx: Transaction, found: Sequence[Key], pinned: Sequence[TilePart]) -> set[Key]:
    """Give those rows that are pinned their time; return their keys."""
    parts = [*pinned, *(pin.part for pin in pins.read(tx))]
    if not parts:
        return set()
    named = rows.named(tx, found)
    spared = {key for key, tile in named.items() if any(part.has(tile) for part in parts)}
    rows.set_time(tx, spared, rows.PINNED)
    return spared


def _evict(tx: Transaction, before: Usage, chosen: dict[Key, int], intend: Intend, spared: int) -> Evicted:
    changes: dict[int, Usage] = defaultdict(Usage)
    for (high, _), size in chosen.items():
        changes[high] -= Usage(1, size)
    named = rows.named(tx, chosen)
    intend(list(named.values()))
    rows.delete(tx, chosen)
    after = rows.add(tx, before, changes)
    return Evicted(after, before - after, list(named.values()), spared)


def oldest_of(tx: Transaction, token: str, at_most: int) -> list[tuple[Key, int]]:
    """Return the keys and bytes of the least recently used tiles of a token that are not pinned, the oldest first."""
    ids = list(rows.ids_of(tx, token).values())
    if not ids:
        return []
    marks = ", ".join("?" for _ in ids)
    return [
        ((int(high), int(low)), number(size))
        for high, low, size in tx.many(
            f"SELECT highkey, lowkey, bytes FROM contents WHERE reftime < ? AND {keys.ID_IN_SQL} IN ({marks}) "
            "ORDER BY reftime LIMIT ?",
            rows.PINNED,
            *ids,
            at_most,
        )
    ]


def release_unpinned(
    tx: Transaction, after: Key, at_most: int, now: float, pinned: Sequence[TilePart] = ()
) -> Key | None:
    """Let tiles that no pin has any more count as used now: of the next rows that are marked as pinned.

    Return the key of the last one that was looked at, or None when there are no more.

    :param pinned: as for `delete_least_recent`.
    """
    rows.lock(tx)
    found = [
        (int(high), int(low))
        for high, low in tx.many(
            "SELECT highkey, lowkey FROM contents WHERE reftime >= ? AND (highkey > ? OR (highkey = ? AND lowkey > ?)) "
            "ORDER BY highkey, lowkey LIMIT ?",
            rows.PINNED,
            after[0],
            after[0],
            after[1],
            at_most,
        )
    ]
    spared = _pin(tx, found, pinned)
    rows.set_time(tx, [key for key in found if key not in spared], rows.stamp(now))
    return found[-1] if found else None
