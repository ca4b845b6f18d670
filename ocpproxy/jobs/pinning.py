"""Pins as people ask for them: which parts are never evicted, if that fits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from ocpproxy.cache.catalogue import CatalogueEntry
from ocpproxy.jobs.flushing import make_part
from ocpproxy.jobs.plan import Estimate, Plan
from ocpproxy.jobs.spec import JobSpec, read_spec
from ocpproxy.store import evicting, pins
from ocpproxy.store.pins import Pin
from ocpproxy.store.tile_store import TileStore

_AT_A_TIME = 1000
"""Tiles that are unpinned in one transaction."""
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
        :raises TooMuchPinned: it does not fit.
        :raises DatabaseUnavailable: the index does not answer.
        """
        spec = read_spec(document, _KEYS)
        entry = await self._context.describe(spec.token)
        if not spec.channels:
            spec = replace(spec, channels=tuple(channel.name for channel in entry.dataset.channels))
        _, estimate = await self._context.estimate(spec)
        part = replace(make_part(spec, spec.planes, entry), false_colours=False)
        limits = self._store.capacity.limits
        most = int(limits.to * limits.size)
        pin = await self._store.database.run(pins.insert, part, estimate.bytes, self._context.now(), most)
        if pin is None:
            raise TooMuchPinned(
                f"its {estimate.tiles} tiles take about {estimate.bytes} bytes; with what is pinned already that is "
                f"more than the {most} bytes to which the cache is evicted"
            )
        return _as_json(pin)

    async def unpin(self, number: int) -> dict[str, Any]:
        """Let a part be evicted again; return what is known of its pin.

        :raises NoSuchPin: there is none.
        :raises DatabaseUnavailable: the index does not answer.
        """
        database, now = self._store.database, self._context.now()
        pin = await database.run(pins.delete, number)
        if pin is None:
            raise NoSuchPin(f"there is no pin {number}")
        while await database.run(evicting.unpin_some, pin.part.token, now, _AT_A_TIME):
            pass
        return _as_json(pin)


def _as_json(pin: Pin) -> dict[str, Any]:
    return {
        "id": pin.id,
        "title": str(pin.part),
        "part": pin.part.to_json(),
        "bytes": pin.bytes,
        "created": pin.created,
    }
