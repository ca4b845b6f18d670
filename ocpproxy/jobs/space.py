"""Who uses the space of a cache, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ocpproxy.store import accounts
from ocpproxy.store.accounts import Account
from ocpproxy.store.tile_store import TileStore
from ocpproxy.store.usage import Usage

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
    """The space of one store."""

    def __init__(self, store: TileStore) -> None:
        self._store = store

    async def usage(self, by: str) -> list[PartUsage]:
        """Return what each part takes, without counting any rows.

        :param by: a key of `BY`.
        :raises DatabaseUnavailable: the index does not answer.
        """
        return summed(await self._store.database.read(accounts.read), by)
