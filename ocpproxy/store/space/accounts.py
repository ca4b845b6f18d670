"""The accounts: how many tiles each level of each stack has, their bytes, and when one was used last.

There is a row for each highkey (a stack, a time and a level, see `keys`) that has tiles. It is changed in the same
transaction as the rows of ``contents``, so nobody has to count those to know who uses the space. All of this are
interactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ocpproxy.index.dialect import Transaction
from ocpproxy.store import keys
from ocpproxy.store.space.usage import Usage, number


@dataclass(frozen=True, slots=True)
class Account:
    """What one level of one stack takes."""

    stack: str
    """Its name; empty where the index has lost it."""
    time: int
    level: int
    usage: Usage
    used: int
    """When one of its tiles was used or fetched last, in seconds since 1970; 0 where nobody knows."""

    @property
    def token(self) -> str:
        """The token of the stack."""
        return self.stack.partition("/")[0]


def add(tx: Transaction, changes: Mapping[int, Usage]) -> None:
    """Add to the accounts of these highkeys. The caller has locked the totals."""
    for high, change in sorted(changes.items()):
        if change == Usage():
            continue
        sql = "UPDATE accounts SET tiles = tiles + ?, bytes = bytes + ? WHERE highkey = ?"
        if not tx.run(sql, change.tiles, change.bytes, high):
            insert = f"{tx.dialect.insert_new} accounts (highkey, tiles, bytes, used) VALUES (?, ?, ?, 0)"
            tx.run(insert, high, change.tiles, change.bytes)
        if change.tiles < 0:
            tx.run("DELETE FROM accounts WHERE highkey = ? AND tiles <= 0", high)


def note_uses(tx: Transaction, uses: Mapping[int, float]) -> None:
    """Note when tiles of these highkeys were used last, in seconds since 1970."""
    for high, seconds in sorted(uses.items()):
        tx.run("UPDATE accounts SET used = ? WHERE highkey = ? AND used < ?", int(seconds), high, int(seconds))


def read(tx: Transaction) -> list[Account]:
    """Return all accounts."""
    rows = tx.many("SELECT highkey, tiles, bytes, used FROM accounts")
    names = {int(row[0]): str(row[1]) for row in tx.many("SELECT datasetid, dataset FROM datasets")}
    found = []
    for row in rows:
        high, tiles, size, used = map(number, row)
        time, level = keys.time_and_level(high)
        found.append(Account(names.get(keys.datasetid(high), ""), time, level, Usage(tiles, size), used))
    return found


def replace(tx: Transaction, counted: Mapping[int, Usage]) -> None:
    """Make the accounts what was counted. The caller has locked the totals."""
    used = {number(row[0]): number(row[1]) for row in tx.many("SELECT highkey, used FROM accounts")}
    tx.run("DELETE FROM accounts")
    tx.run_many(
        "INSERT INTO accounts (highkey, tiles, bytes, used) VALUES (?, ?, ?, ?)",
        [(high, one.tiles, one.bytes, used.get(high, 0)) for high, one in counted.items()],
    )
