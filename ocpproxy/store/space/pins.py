"""Pins: parts that are never evicted. All of this are interactions."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ocpproxy.index.dialect import Transaction
from ocpproxy.store import rows
from ocpproxy.store.part import BadPart, TilePart
from ocpproxy.store.space.usage import Usage, number


@dataclass(frozen=True, slots=True)
class Pin:
    """A part that is never evicted."""

    id: int
    part: TilePart
    usage: Usage
    """What all its tiles take, as it was estimated."""
    created: int
    """Seconds since 1970."""


def read(tx: Transaction) -> list[Pin]:
    """Return all pins, the oldest first. Rows that are none are left out."""
    found = []
    for id_, text, tiles, size, created in tx.many("SELECT id, part, tiles, bytes, created FROM pins ORDER BY id"):
        try:
            part = TilePart.of_json(json.loads(text))
        except (BadPart, ValueError, TypeError, RecursionError):
            continue
        found.append(Pin(number(id_), part, Usage(number(tiles), number(size)), number(created)))
    return found


def insert(tx: Transaction, part: TilePart, usage: Usage, now: float) -> Pin:
    """Insert a pin and return it. The caller has locked the totals (`rows.lock`)."""
    (last,) = tx.one("SELECT COALESCE(MAX(id), 0) FROM pins")
    pin = Pin(number(last) + 1, part, usage, int(now))
    text = json.dumps(part.to_json())
    insert = "INSERT INTO pins (id, part, tiles, bytes, created) VALUES (?, ?, ?, ?, ?)"
    tx.run(insert, pin.id, text, usage.tiles, usage.bytes, pin.created)
    return pin


def delete(tx: Transaction, number_: int) -> Pin | None:
    """Delete a pin and return it; None when there is none. Its tiles have to be released then."""
    rows.lock(tx)  # who evicts has read the pins, and marks tiles by them
    pin = next((pin for pin in read(tx) if pin.id == number_), None)
    tx.run("DELETE FROM pins WHERE id = ?", number_)
    return pin
