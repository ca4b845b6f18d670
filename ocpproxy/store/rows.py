"""The rows of ``contents`` and their totals in ``metadata``, as interactions.

Every interaction that changes rows first locks the only row of ``metadata``. So writers are serialized and cannot
deadlock. The totals, ``numtiles`` and ``bytes``, and the `accounts` change in the same transaction as the rows, by
exactly what it inserts, deletes and resizes. All interactions are safe to run twice.

`reconcile` enforces one rule: *a tile has a row if and only if it has a file*. It runs when tiles are stored, after a
crash, for a torn file and in fsck, and looks at the files within the transaction. Eviction works the other way round:
it deletes the row first, then the file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ocpproxy.index.dialect import Transaction
from ocpproxy.model.stack import Tile
from ocpproxy.store import keys
from ocpproxy.store.files import FileStatus
from ocpproxy.store.keys import Key
from ocpproxy.store.space import accounts
from ocpproxy.store.space.usage import Usage, number

_BATCH = 400
"""Keys in one statement."""

_EARLIEST, _LATEST = 86400.0, 2.0**31 - 2 * 86400
"""The times that TIMESTAMP can hold (1970 to 2038), with days less, as servers count in zones of their own."""
PINNED = datetime.fromtimestamp(_LATEST + 86400, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
"""The ``reftime`` of pinned tiles."""

Stat = Callable[[Tile], FileStatus | None]
"""Returns what is known of a tile's file, or None without a file."""


@dataclass(slots=True)
class Reconciled:
    """What `reconcile` did."""

    usage: Usage
    """The totals now."""
    inserted: list[Tile] = field(default_factory=list)
    deleted: list[Tile] = field(default_factory=list)
    resized: list[Tile] = field(default_factory=list)
    refused: list[Tile] = field(default_factory=list)
    """Tiles that have a file and can have no row: no id is left for their stack."""


@dataclass(frozen=True, slots=True)
class Balance:
    """What the index says of the cache as a whole, and what its rows add up to."""

    totals: Usage
    """``metadata``."""
    accounts: Mapping[int, Usage]
    """By highkey, those that have any tiles."""
    counted: Mapping[int, Usage]
    """The same, counted."""

    @property
    def total(self) -> Usage:
        """What all rows add up to."""
        return sum(self.counted.values(), Usage())

    @property
    def is_right(self) -> bool:
        """True if totals and accounts are what the rows add up to."""
        return self.totals == self.total and self.accounts == self.counted


def stamp(seconds: float) -> str:
    """Return a time as ``reftime`` stores it: UTC, to the microsecond, and within what TIMESTAMP can hold.

    A file may have any time: 1970, or 2100.
    """
    seconds = min(max(seconds, _EARLIEST), _LATEST)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _marks(values: Iterable[object]) -> str:
    return ", ".join("?" for _ in values)


def lock(tx: Transaction) -> Usage:
    """Lock the totals and return them. What somebody has deleted, or made no numbers, is counted again."""
    row = tx.maybe("SELECT numtiles, bytes FROM metadata" + tx.dialect.for_update)
    if row is None:
        tx.run("INSERT INTO metadata (numtiles) VALUES (0)")
    if row is None or not all(isinstance(value, int) for value in row):
        row = tx.one("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM contents")
        tx.run("UPDATE metadata SET numtiles = ?, bytes = ?", *map(number, row))
    return Usage(number(row[0]), number(row[1]))


def add(tx: Transaction, before: Usage, changes: Mapping[int, Usage]) -> Usage:
    """Add to the totals, and to the accounts of these highkeys; return the totals."""
    total = sum(changes.values(), Usage())
    if total != Usage():
        tx.run("UPDATE metadata SET numtiles = numtiles + ?, bytes = bytes + ?", total.tiles, total.bytes)
    accounts.add(tx, changes)
    return before + total


def stack_ids(tx: Transaction, names: Iterable[str], *, make: bool) -> dict[str, int]:
    """Return the ids of stacks; with `make` each gets one, as long as there are any."""
    ids: dict[str, int] = {}
    for name in names:
        row = tx.maybe("SELECT datasetid FROM datasets WHERE dataset = ?", name)
        found = int(row[0]) if row is not None else _new_id(tx, name) if make else None
        if found is not None:
            ids[name] = found
    return ids


def _new_id(tx: Transaction, name: str) -> int | None:
    """Insert the row of a stack, and return its id; None when there is none left that fits into a key."""
    columns = "dataset, ximagesz, yimagesz, zoffset, zmaxslice, zscale"
    tx.run(f"INSERT INTO datasets ({columns}) VALUES (?, 0, 0, 0, 0, 1)", name)
    (found,) = tx.one("SELECT datasetid FROM datasets WHERE dataset = ?", name)
    if int(found) < keys.IDS:
        return int(found)
    tx.run("DELETE FROM datasets WHERE dataset = ?", name)
    free = _free_id(tx)
    if free is None and _forget_empty_stacks(tx):
        free = _free_id(tx)
    if free is not None:
        tx.run(f"INSERT INTO datasets ({columns}, datasetid) VALUES (?, 0, 0, 0, 0, 1, ?)", name, free)
    return free


def _free_id(tx: Transaction) -> int | None:
    """Return the smallest id that no row has, of those that fit into a key."""
    if tx.maybe("SELECT datasetid FROM datasets WHERE datasetid = 1") is None:
        return 1
    row = tx.maybe(
        "SELECT MIN(one.datasetid) + 1 FROM datasets one LEFT JOIN datasets next ON next.datasetid = one.datasetid + 1 "
        "WHERE next.datasetid IS NULL AND one.datasetid + 1 < ?",
        keys.IDS,
    )
    return None if row is None or row[0] is None else int(row[0])


def _forget_empty_stacks(tx: Transaction) -> int:
    """Delete rows of stacks that have no tiles, some thousands at most; return how many."""
    distinct = f"SELECT DISTINCT {keys.ID_IN_SQL} FROM contents"
    used = {int(row[0]) for row in tx.many(distinct)}
    next_ids = "SELECT datasetid FROM datasets WHERE datasetid > ? AND dataset LIKE ? ORDER BY datasetid LIMIT 10000"
    after = 0
    while page := tx.many(next_ids, after, "%/%"):
        after = int(page[-1][0])
        empty = [int(row[0]) for row in page if int(row[0]) not in used]
        for first in range(0, len(empty), _BATCH):
            some = empty[first : first + _BATCH]
            tx.run(f"DELETE FROM datasets WHERE datasetid IN ({_marks(some)})", *some)
        if empty:
            return len(empty)
    return 0


def without_id(tx: Transaction, names: Iterable[str]) -> list[str]:
    """Give each of these stacks an id; return those for which none is left."""
    names = list(names)
    lock(tx)
    ids = stack_ids(tx, names, make=True)
    return [name for name in names if name not in ids]


def _by_highkey(tiles: Iterable[Tile], ids: Mapping[str, int]) -> dict[int, dict[int, Tile]]:
    groups: dict[int, dict[int, Tile]] = defaultdict(dict)
    for tile in tiles:
        if tile.stack in ids:
            high, low = keys.pack(tile, ids[tile.stack])
            groups[high][low] = tile
    return groups


def ids_of(tx: Transaction, token: str) -> dict[str, int]:
    """Return the ids of the stacks of a token."""
    found = tx.many(
        "SELECT dataset, datasetid FROM datasets WHERE dataset > ? AND dataset < ?", f"{token}/", f"{token}0"
    )
    return {str(name): int(id_) for name, id_ in found}


def set_time(tx: Transaction, wanted: Iterable[Key], time: str) -> None:
    """Set the last use of rows."""
    groups: dict[int, list[int]] = defaultdict(list)
    for high, low in wanted:
        groups[high].append(low)
    for high, lows in groups.items():
        for some in _pieces(lows):
            tx.run(
                f"UPDATE contents SET reftime = ? WHERE highkey = ? AND lowkey IN ({_marks(some)})", time, high, *some
            )


def _pieces(lows: Iterable[int]) -> Iterable[list[int]]:
    lows = sorted(lows)
    return (lows[n : n + _BATCH] for n in range(0, len(lows), _BATCH))


def row_sizes(tx: Transaction, groups: Mapping[int, Iterable[int]]) -> dict[Key, int]:
    """Return the bytes of those rows that there are, of lowkeys by highkey."""
    found: dict[Key, int] = {}
    for high, lows in groups.items():
        for some in _pieces(lows):
            for low, size in tx.many(
                f"SELECT lowkey, bytes FROM contents WHERE highkey = ? AND lowkey IN ({_marks(some)})", high, *some
            ):
                found[high, int(low)] = number(size)
    return found


def delete(tx: Transaction, wanted: Iterable[Key]) -> int:
    """Delete rows; return how many there were. The caller changes the totals."""
    groups: dict[int, list[int]] = defaultdict(list)
    for high, low in wanted:
        groups[high].append(low)
    return sum(
        tx.run(f"DELETE FROM contents WHERE highkey = ? AND lowkey IN ({_marks(some)})", high, *some)
        for high, lows in groups.items()
        for some in _pieces(lows)
    )


def reconcile(tx: Transaction, tiles: Iterable[Tile], stat: Stat) -> Reconciled:
    """Make rows and totals agree with the files of these tiles."""
    done = Reconciled(lock(tx))
    files = {tile: stat(tile) for tile in tiles}
    ids = stack_ids(tx, {tile.stack for tile, file in files.items() if file}, make=True)
    ids |= stack_ids(tx, {tile.stack for tile in files} - ids.keys(), make=False)
    done.refused = [tile for tile, file in files.items() if file and tile.stack not in ids]
    groups = _by_highkey(files, ids)
    rows = row_sizes(tx, groups)
    new: list[tuple[int, int, str, str, int]] = []
    gone: list[Key] = []
    changes: dict[int, Usage] = defaultdict(Usage)
    newest: dict[int, float] = {}
    for high, lows in groups.items():
        for low, tile in lows.items():
            file, row = files[tile], rows.get((high, low))
            if file is not None and row is None:
                new.append((high, low, keys.path(tile), stamp(file.stored), file.size))
                changes[high] += Usage(1, file.size)
                newest[high] = max(newest.get(high, 0.0), file.stored)
                done.inserted.append(tile)
            elif file is None and row is not None:
                gone.append((high, low))
                changes[high] -= Usage(1, row)
                done.deleted.append(tile)
            elif file is not None and row is not None and file.size != row:
                tx.run("UPDATE contents SET bytes = ? WHERE highkey = ? AND lowkey = ?", file.size, high, low)
                changes[high] += Usage(0, file.size - row)
                done.resized.append(tile)
    if new:
        tx.run_many("INSERT INTO contents (highkey, lowkey, filename, reftime, bytes) VALUES (?, ?, ?, ?, ?)", new)
    delete(tx, gone)
    done.usage = add(tx, done.usage, changes)
    accounts.note_uses(tx, newest)
    return done


def record_uses(tx: Transaction, uses: Mapping[Tile, float]) -> None:
    """Record when tiles were used last (seconds since 1970). A later time that is recorded already stays."""
    groups = _by_highkey(uses, stack_ids(tx, {tile.stack for tile in uses}, make=False))
    for high, lows in groups.items():
        for some in _pieces(lows):
            times = [value for low in some for value in (low, stamp(uses[lows[low]]))]
            cases = "CASE lowkey " + "WHEN ? THEN ? " * len(some) + "END"
            tx.run(
                f"UPDATE contents SET reftime = {tx.dialect.later.format(cases)} "
                f"WHERE highkey = ? AND lowkey IN ({_marks(some)})",
                *times,
                high,
                *some,
            )
    # After the rows, as whoever stores and evicts does it: else they would wait for one another.
    accounts.note_uses(tx, {high: max(uses[tile] for tile in lows.values()) for high, lows in groups.items()})


def named(tx: Transaction, found: Iterable[Key]) -> dict[Key, Tile]:
    """Return the tiles of these keys, without rows whose stack is unknown or whose key is no tile's."""
    found = list(found)
    ids = sorted({keys.datasetid(high) for high, _ in found})
    names = {
        int(id_): str(name)
        for id_, name in (
            tx.many(f"SELECT datasetid, dataset FROM datasets WHERE datasetid IN ({_marks(ids)})", *ids) if ids else []
        )
    }
    tiles = {key: keys.unpack(key, names.get(keys.datasetid(key[0]), "")) for key in found}
    return {key: tile for key, tile in tiles.items() if tile is not None}


def last_use(tx: Transaction, tile: Tile) -> str | None:
    """Return the ``reftime`` of a tile, `PINNED` for one that is never evicted; None for a tile without a row."""
    id_ = stack_ids(tx, [tile.stack], make=False).get(tile.stack)
    if id_ is None:
        return None
    row = tx.maybe("SELECT reftime FROM contents WHERE highkey = ? AND lowkey = ?", *keys.pack(tile, id_))
    return None if row is None else str(row[0])


# -- for fsck


def usage(tx: Transaction) -> Usage:
    """Return the totals; none when somebody has deleted their row, which the next change makes again."""
    row = tx.maybe("SELECT numtiles, bytes FROM metadata") or (0, 0)
    return Usage(number(row[0]), number(row[1]))


def without_row(tx: Transaction, sizes: Mapping[Tile, int]) -> list[Tile]:
    """Return those of the tiles (with the bytes of their files) that have no row, or a row with another size."""
    ids = stack_ids(tx, {tile.stack for tile in sizes}, make=False)
    groups = _by_highkey(sizes, ids)
    rows = row_sizes(tx, groups)
    known = {tile: rows.get((high, low)) for high, lows in groups.items() for low, tile in lows.items()}
    return [tile for tile, size in sizes.items() if known.get(tile) != size]


def next_rows(tx: Transaction, after: Key, count: int) -> tuple[list[Key], dict[Key, Tile]]:
    """Return the keys of the next rows, in order, and the tiles of those whose key is a tile's."""
    found = [
        (int(high), int(low))
        for high, low in tx.many(
            "SELECT highkey, lowkey FROM contents WHERE highkey > ? OR (highkey = ? AND lowkey > ?) "
            "ORDER BY highkey, lowkey LIMIT ?",
            after[0],
            after[0],
            after[1],
            count,
        )
    ]
    return found, named(tx, found)


def drop_rows(tx: Transaction, wanted: Iterable[Key]) -> int:
    """Delete rows that name no tile, such as those of the historical cache; return how many there were."""
    before = lock(tx)
    changes: dict[int, Usage] = defaultdict(Usage)
    for key in wanted:
        row = tx.maybe("SELECT bytes FROM contents WHERE highkey = ? AND lowkey = ?", *key)
        if row is not None:
            changes[key[0]] -= Usage(delete(tx, [key]), number(row[0]))
    return before.tiles - add(tx, before, changes).tiles


def count(tx: Transaction) -> Balance:
    """Return the totals and the accounts, and what the rows add up to."""
    found: list[dict[int, Usage]] = [{}, {}, {}]
    # One statement sees one snapshot of all tables, whatever other processes do meanwhile.
    for table, high, tiles, size in tx.many(
        "SELECT 0, 0, numtiles, bytes FROM metadata UNION ALL SELECT 1, highkey, tiles, bytes FROM accounts "
        "UNION ALL SELECT 2, highkey, COUNT(*), SUM(bytes) FROM contents GROUP BY highkey"
    ):
        found[int(table)][number(high)] = Usage(number(tiles), number(size))
    return Balance(found[0].get(0, Usage()), found[1], found[2])


def correct_totals(tx: Transaction) -> Balance:
    """Balance again while nobody can change rows, and correct totals and accounts; return what they were."""
    lock(tx)
    found = count(tx)
    total = found.total
    if found.totals != total:
        tx.run("UPDATE metadata SET numtiles = ?, bytes = ?", total.tiles, total.bytes)
    if found.accounts != found.counted:
        accounts.replace(tx, found.counted)
    return found
