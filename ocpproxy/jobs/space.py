"""Who uses the space of a cache, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ocpproxy.index.dialect import Transaction
from ocpproxy.store.space import accounts, pins
from ocpproxy.store.space.accounts import Account
from ocpproxy.store.space.pins import Pin
from ocpproxy.store.space.usage import Usage
from ocpproxy.store.tile_store import TileStore

UNKNOWN = "?"
"""Stands for the token of tiles whose stack the index has lost."""


class UsagePart(NamedTuple):
    """A part of what is stored."""

    token: str
    plane: str | None = None
    level: int | None = None


@dataclass(frozen=True)
class PartUsage:
    """What a part takes."""

    token: str
    plane: str | None
    level: int | None
    tiles: int
    bytes: int
    used: int
    """When one of its tiles was used or fetched last, in seconds since 1970; 0 where nobody knows."""
    quota: int | None = None
    """Bytes that a token may take; None for a part of a token, and where there is no bound of its own."""
    pinned: int | None = None
    """Bytes of a token that are never evicted; None for a part of a token. Of a box they are estimated."""


def _plane(account: Account) -> str:
    return account.stack.partition("/")[2].partition("/")[0] or UNKNOWN


BY: dict[str, Callable[[Account], UsagePart]] = {
    "token": lambda one: UsagePart(one.token or UNKNOWN),
    "plane": lambda one: UsagePart(one.token or UNKNOWN, _plane(one)),
    "level": lambda one: UsagePart(one.token or UNKNOWN, _plane(one), one.level),
}
"""What the usage can be asked for by: how fine the parts are."""


def summed(found: Iterable[Account], by: str) -> list[PartUsage]:
    """Return what each part takes, the largest token first."""
    parts: dict[UsagePart, tuple[Usage, int]] = {}
    tokens: dict[str, int] = {}
    for account in found:
        part = BY[by](account)
        usage, used = parts.get(part, (Usage(), 0))
        parts[part] = (usage + account.usage, max(used, account.used))
        tokens[part.token] = tokens.get(part.token, 0) + account.usage.bytes
    order = sorted(parts, key=lambda part: (-tokens[part.token], part.token, part.plane or "", part.level or 0))
    return [PartUsage(*part, parts[part][0].tiles, parts[part][0].bytes, parts[part][1]) for part in order]


class SpaceReport:
    """The space of one store.

    :param quotas: bytes by token.
    """

    def __init__(self, store: TileStore, quotas: Mapping[str, int]) -> None:
        self._store = store
        self._quotas = quotas

    async def usage(self, by: str) -> list[PartUsage]:
        """Return what each part takes, without counting any rows.

        :param by: a key of `BY`.
        :raises DatabaseUnavailable: the index does not answer.
        """
        found, pinned = await self._store.database.read(_read)
        parts = summed(found, by)
        if by != "token":
            return parts
        known = [*(Pin(0, part, Usage(), 0) for part in self._store.pinned), *pinned]
        return [
            replace(one, quota=self._quotas.get(one.token), pinned=_pinned(one.token, found, known)) for one in parts
        ]


def _read(tx: Transaction) -> tuple[list[Account], list[Pin]]:
    return accounts.read(tx), pins.read(tx)


def _pinned(token: str, found: Iterable[Account], known: Iterable[Pin]) -> int:
    """Return how many bytes of a token are pinned."""
    own = [pin for pin in known if pin.part.token == token]
    boxes = sum(pin.usage.bytes for pin in own if pin.part.areas is not None)
    levels = [pin.part for pin in own if pin.part.areas is None]
    return boxes + sum(
        one.usage.bytes for one in found if any(part.has_level_of(one.stack, one.time, one.level) for part in levels)
    )
