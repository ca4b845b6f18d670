"""Pins: parts that are never evicted. All of this are interactions."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ocpproxy.index.dialect import Transaction
from ocpproxy.store.part import BadPart, TilePart
from ocpproxy.store.usage import number


@dataclass(frozen=True, slots=True)
class Pin:
    """A part that is never evicted."""

    id: int
    part: TilePart
    bytes: int
    """Bytes that all its tiles take, as they were estimated."""
    created: int
    """Seconds since 1970."""


def read(tx: Transaction) -> list[Pin]:
    """Return all pins, the oldest first. Rows that are none are left out."""
    found = []
    for id_, text, size, created in tx.many("SELECT id, part, bytes, created FROM pins ORDER BY id"):
        try:
            found.append(Pin(number(id_), TilePart.of_json(json.loads(text)), number(size), number(created)))
        except (BadPart, ValueError, TypeError, RecursionError):
            continue
    return found


def insert(tx: Transaction, part: TilePart, size: int, now: float, most: int) -> Pin | None:
    """Insert a pin, if all of them take no more than `most` bytes then; return it, or None."""
    tx.one("SELECT numtiles FROM metadata" + tx.dialect.for_update)  # one pin after the other
    pins = read(tx)
    if size + sum(pin.bytes for pin in pins) > most:
        return None
    (last,) = tx.one("SELECT COALESCE(MAX(id), 0) FROM pins")
    pin = Pin(number(last) + 1, part, size, int(now))
    text = json.dumps(part.to_json())
    tx.run("INSERT INTO pins (id, part, bytes, created) VALUES (?, ?, ?, ?)", pin.id, text, pin.bytes, pin.created)
    return pin


def delete(tx: Transaction, number_: int) -> Pin | None:
    """Delete a pin and return it; None when there is none. Its tiles have to be unpinned then."""
    pin = next((pin for pin in read(tx) if pin.id == number_), None)
    tx.run("DELETE FROM pins WHERE id = ?", number_)
    return pin
