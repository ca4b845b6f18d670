"""The account of the tiles on disk: rows of ``contents`` and their totals in ``metadata``, as interactions.

Every interaction that changes the account first locks the one row of ``metadata``: writers of the account take turns,
so none can deadlock with another, and ``numtiles`` and ``bytes`` change in the transaction that changes the rows, by
exactly what was found and done there. All are safe to run twice.

`settle` is the one rule of the account: *a tile has a row if and only if it has a file*. Storing, recovering after a
crash, finding a torn file and fsck all come to the same: settle these tiles. The file is looked at within the
transaction. Reclaiming is the other direction: the row goes first, then the file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ocpproxy.index.dialect import Transaction
from ocpproxy.model.stack import Tile
from ocpproxy.store import keys
from ocpproxy.store.keys import Key

_AT_ONCE = 400
"""Keys in one statement."""

DisplaySettings = Callable[[Tile], tuple[int, float] | None]
"""(bytes, time of its making in seconds since 1970) of a tile's file, or None."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the cache holds."""

    tiles: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Reconciled:
    """What `settle` did."""

    usage: Usage
    inserted: list[Tile] = field(default_factory=list)
    deleted: list[Tile] = field(default_factory=list)
    resized: list[Tile] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Evicted:
    """What `delete_least_recent` did: rows that are gone; `tiles` are those whose files are to go now."""

    usage: Usage
    rows: int
    bytes: int
    tiles: list[Tile]


def stamp(seconds: float) -> str:
    """A time as ``reftime`` keeps it: UTC, to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _marks(values: Iterable[object]) -> str:
    return ", ".join("?" for _ in values)


def _lock(tx: Transaction) -> Usage:
    tiles, size = tx.one("SELECT numtiles, bytes FROM metadata" + tx.dialect.for_update)
    return Usage(int(tiles), int(size))


def _add(tx: Transaction, before: Usage, tiles: int, size: int) -> Usage:
    if tiles or size:
        tx.run("UPDATE metadata SET numtiles = numtiles + ?, bytes = bytes + ?", tiles, size)
    return Usage(before.tiles + tiles, before.bytes + size)


def _stack_ids(tx: Transaction, names: Iterable[str], *, make: bool) -> dict[str, int]:
    ids: dict[str, int] = {}
    for name in names:
        row = tx.maybe("SELECT datasetid FROM datasets WHERE dataset = ?", name)
        if row is None and make:
            tx.run(
                "INSERT INTO datasets (dataset, ximagesz, yimagesz, zoffset, zmaxslice, zscale) "
                "VALUES (?, 0, 0, 0, 0, 1)",
                name,
            )
            row = tx.one("SELECT datasetid FROM datasets WHERE dataset = ?", name)
        if row is not None:
            ids[name] = int(row[0])
    return ids


def _by_highkey(tiles: Iterable[Tile], ids: Mapping[str, int]) -> dict[int, dict[int, Tile]]:
    groups: dict[int, dict[int, Tile]] = defaultdict(dict)
    for tile in tiles:
        if tile.stack in ids:
            high, low = keys.pack(tile, ids[tile.stack])
            groups[high][low] = tile
    return groups


def _pieces(lows: Iterable[int]) -> Iterable[list[int]]:
    lows = sorted(lows)
    return (lows[n : n + _AT_ONCE] for n in range(0, len(lows), _AT_ONCE))


def _rows(tx: Transaction, groups: Mapping[int, Iterable[int]]) -> dict[Key, int]:
    found: dict[Key, int] = {}
    for high, lows in groups.items():
        for some in _pieces(lows):
            for low, size in tx.many(
                f"SELECT lowkey, bytes FROM contents WHERE highkey = ? AND lowkey IN ({_marks(some)})", high, *some
            ):
                found[high, int(low)] = int(size)
    return found


def _delete(tx: Transaction, wanted: Iterable[Key]) -> int:
    groups: dict[int, list[int]] = defaultdict(list)
    for high, low in wanted:
        groups[high].append(low)
    return sum(
        tx.run(f"DELETE FROM contents WHERE highkey = ? AND lowkey IN ({_marks(some)})", high, *some)
        for high, lows in groups.items()
        for some in _pieces(lows)
    )


def settle(tx: Transaction, tiles: Iterable[Tile], look: DisplaySettings) -> Reconciled:
    """Make rows and totals agree with the files of these tiles."""
    done = Reconciled(_lock(tx))
    facts = {tile: look(tile) for tile in tiles}
    # A stack that is new gets its id only when there is a file to account for.
    ids = _stack_ids(tx, {tile.stack for tile, fact in facts.items() if fact}, make=True)
    ids |= _stack_ids(tx, {tile.stack for tile in facts} - ids.keys(), make=False)
    groups = _by_highkey(facts, ids)
    rows = _rows(tx, groups)
    new: list[tuple[int, int, str, str, int]] = []
    gone: list[Key] = []
    size = 0
    for high, lows in groups.items():
        for low, tile in lows.items():
            fact, row = facts[tile], rows.get((high, low))
            if fact is not None and row is None:
                new.append((high, low, keys.path(tile), stamp(fact[1]), fact[0]))
                done.inserted.append(tile)
            elif fact is None and row is not None:
                gone.append((high, low))
                size -= row
                done.deleted.append(tile)
            elif fact is not None and row is not None and fact[0] != row:
                tx.run("UPDATE contents SET bytes = ? WHERE highkey = ? AND lowkey = ?", fact[0], high, low)
                size += fact[0] - row
                done.resized.append(tile)
    if new:
        tx.run_many("INSERT INTO contents (highkey, lowkey, filename, reftime, bytes) VALUES (?, ?, ?, ?, ?)", new)
        size += sum(row[4] for row in new)
    _delete(tx, gone)
    done.usage = _add(tx, done.usage, len(new) - len(gone), size)
    return done


def record_uses(tx: Transaction, uses: Mapping[Tile, float]) -> None:
    """Put down when tiles were used last (seconds since 1970); a later time that is there already stays."""
    groups = _by_highkey(uses, _stack_ids(tx, {tile.stack for tile in uses}, make=False))
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


def delete_least_recent(tx: Transaction, at_most: int, keep: Usage, intend: Callable[[list[Tile]], None]) -> Evicted:
    """Delete the rows that were used least recently, `at_most` so many, until no more than `keep` is left.

    :param intend: told of the tiles before anything is changed.
    """
    before = _lock(tx)
    rows: list[tuple[Key, int]] = []
    freed = 0
    for high, low, nbytes in tx.many("SELECT highkey, lowkey, bytes FROM contents ORDER BY reftime LIMIT ?", at_most):
        if before.bytes - freed <= keep.bytes and before.tiles - len(rows) <= keep.tiles:
            break
        rows.append(((int(high), int(low)), int(nbytes)))
        freed += int(nbytes)
    named = _named(tx, [key for key, _ in rows])
    intend(list(named.values()))
    _delete(tx, [key for key, _ in rows])
    return Evicted(_add(tx, before, -len(rows), -freed), len(rows), freed, list(named.values()))


def _named(tx: Transaction, found: list[Key]) -> dict[Key, Tile]:
    """The tiles of these keys; a row whose stack is not known, or whose key is no tile's, is left out."""
    ids = sorted({keys.datasetid(high) for high, _ in found})
    names = {
        int(id_): str(name)
        for id_, name in (
            tx.many(f"SELECT datasetid, dataset FROM datasets WHERE datasetid IN ({_marks(ids)})", *ids) if ids else []
        )
    }
    tiles = {key: keys.unpack(key, names.get(keys.datasetid(key[0]), "")) for key in found}
    return {key: tile for key, tile in tiles.items() if tile is not None}


# -- for the mender


def usage(tx: Transaction) -> Usage:
    """The totals as they stand."""
    tiles, size = tx.one("SELECT numtiles, bytes FROM metadata")
    return Usage(int(tiles), int(size))


def unaccounted(tx: Transaction, sizes: Mapping[Tile, int]) -> list[Tile]:
    """Those of the tiles (with the bytes of their files) that have no row, or one that says another size."""
    ids = _stack_ids(tx, {tile.stack for tile in sizes}, make=False)
    groups = _by_highkey(sizes, ids)
    rows = _rows(tx, groups)
    known = {tile: rows.get((high, low)) for high, lows in groups.items() for low, tile in lows.items()}
    return [tile for tile, size in sizes.items() if known.get(tile) != size]


def page(tx: Transaction, after: Key, count: int) -> tuple[list[Key], dict[Key, Tile]]:
    """The next rows in the order of their keys, and the tiles of those whose key is a tile's."""
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
    return found, _named(tx, found)


def drop(tx: Transaction, wanted: Iterable[Key]) -> int:
    """Delete rows that name no tile, such as those of the historical cache; the number that were there."""
    before = _lock(tx)
    gone = size = 0
    for key in wanted:
        row = tx.maybe("SELECT bytes FROM contents WHERE highkey = ? AND lowkey = ?", *key)
        if row is not None:
            gone += _delete(tx, [key])
            size += int(row[0])
    _add(tx, before, -gone, -size)
    return gone


def miscounted(tx: Transaction) -> tuple[Usage, Usage]:
    """The totals as they stand, and as the rows say."""
    # One statement sees one snapshot of both tables, whatever other processes do meanwhile.
    said_tiles, said_size, tiles, size = tx.one(
        "SELECT (SELECT numtiles FROM metadata), (SELECT bytes FROM metadata), COUNT(*), COALESCE(SUM(bytes), 0) "
        "FROM contents"
    )
    return Usage(int(said_tiles), int(said_size)), Usage(int(tiles), int(size))


def correct(tx: Transaction) -> tuple[Usage, Usage]:
    """Count again while nobody can change the account, and mend the totals; (as they stood, as they are)."""
    before = _lock(tx)
    said, counted = miscounted(tx)
    _add(tx, before, counted.tiles - said.tiles, counted.bytes - said.bytes)
    return said, counted
