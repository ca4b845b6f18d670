"""Pins as people ask for them: which parts are never evicted, if that fits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.index.dialect import Transaction
from ocpproxy.jobs.flushing import make_part
from ocpproxy.jobs.plan import Estimate, Plan
from ocpproxy.jobs.spec import JobSpec, read_spec
from ocpproxy.store import rows
from ocpproxy.store.part import TilePart
from ocpproxy.store.space import accounts, pins
from ocpproxy.store.space.pins import Pin
from ocpproxy.store.space.usage import Usage
from ocpproxy.store.tile_store import TileStore

_LARGEST = 2**53
_KEYS = ("token", "channels", "planes", "levels", "times", "box")
EstimateOf = Callable[[JobSpec], Awaitable[tuple[Plan, Estimate]]]
"""Returns what a part comes to."""


class NoSuchPin(LookupError):
    """There is no pin of this number."""


class TooMuchPinned(Exception):
    """What is to be pinned does not fit. The message is one sentence for people."""


@dataclass(frozen=True)
class PinContext:
    """Dependencies of pins."""

    describe: Callable[[str], Awaitable[CatalogueEntry]]
    estimate: EstimateOf
    quotas: Mapping[str, int]
    """Bytes that tokens may take."""
    now: Callable[[], float]
    """Returns the seconds since 1970."""


class Pinning:
    """The pins of one store, for people."""

    def __init__(self, store: TileStore, context: PinContext) -> None:
        self._store = store
        self._context = context

    async def all(self) -> list[dict[str, Any]]:
        """Return all pins, the oldest first.

        :raises DatabaseUnavailable: the index does not answer.
        """
        return [_as_json(pin) for pin in await self._store.database.read(pins.read)]

    async def pin(self, document: Any) -> dict[str, Any]:
        """Pin a part, which is a JSON object like that of a job, and return what is known of the pin.

        :raises BadJob: it makes no sense.
        :raises Undescribed: its dataset is not described.
        :raises TooMuchPinned: it does not fit, or is pinned already.
        :raises DatabaseUnavailable: the index does not answer.
        """
        spec = read_spec(document, _KEYS)
        entry = await self._context.describe(spec.token)
        if not spec.channels:
            spec = replace(spec, channels=tuple(channel.name for channel in entry.dataset.channels))
        _, estimate = await self._context.estimate(spec)
        part = replace(make_part(spec, tuple(plane.value for plane in spec.planes), entry), false_colours=False)
        await self._store.refresh()  # the limits follow the disk
        wanted = Usage(estimate.tiles, estimate.bytes)
        pin = await self._store.database.run(self._insert, part, wanted)
        return _as_json(pin)

    def _insert(self, tx: Transaction, part: TilePart, wanted: Usage) -> Pin:
        """Insert a pin, if all that is pinned fits then. (An interaction.)"""
        rows.lock(tx)  # one pin after the other
        known, found = pins.read(tx), accounts.read(tx)
        if any(pin.part == part for pin in known):
            raise TooMuchPinned(f"{part} is pinned already")
        own = [pin for pin in known if pin.part.token == part.token]
        quota = self._context.quotas.get(part.token)
        if quota and sum(pin.usage.bytes for pin in own) + wanted.bytes > quota:
            raise TooMuchPinned(f"it takes about {_mib(wanted.bytes)}; with its other pins that is more than its quota")
        configured = [
            one.usage
            for one in found
            if any(fixed.has_level_of(one.stack, one.time, one.level) for fixed in self._store.pinned)
        ]
        before = sum((pin.usage for pin in known), sum(configured, Usage()))
        limits, after = self._store.capacity.limits, before + wanted
        most = int(limits.to * limits.size)
        if after.bytes > most:
            raise TooMuchPinned(
                f"its {wanted.tiles:,} tiles take about {_mib(wanted.bytes)}, and {_mib(before.bytes)} are pinned "
                f"already: together that is more than the {_mib(most)} to which the cache is evicted"
            )
        if limits.max_tiles and after.tiles > limits.to * limits.max_tiles:
            raise TooMuchPinned(f"with it {after.tiles:,} tiles are pinned, and the cache is evicted to fewer")
        return pins.insert(tx, part, wanted, self._context.now())

    async def unpin(self, number: int) -> dict[str, Any]:
        """Let a part be evicted again; return what is known of its pin.

        :raises NoSuchPin: there is none.
        :raises DatabaseUnavailable: the index does not answer.
        """
        if not 0 < number < _LARGEST:
            raise NoSuchPin(f"there is no pin {number}")
        pin = await self._store.database.run(pins.delete, number)
        if pin is None:
            raise NoSuchPin(f"there is no pin {number}")
        await self._store.release_unpinned()
        return _as_json(pin)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _as_json(pin: Pin) -> dict[str, Any]:
    return {
        "id": pin.id,
        "token": pin.part.token,
        "title": str(pin.part),
        "part": pin.part.to_json(),
        "tiles": pin.usage.tiles,
        "bytes": pin.usage.bytes,
        "created": pin.created,
    }
