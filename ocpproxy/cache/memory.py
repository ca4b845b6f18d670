"""A memory of bounded bytes that a scan does not flush.

Viewers do two things at once: they come back to the same few hundred tiles every minute, and they fly through ten
thousand that nobody will ask for again. A plain LRU keeps the second and forgets the first. This is S3-FIFO (Yang et
al., *FIFO queues are all you need for cache eviction*, SOSP 2023), which approximates LRU and resists scans:

* A new value enters a *small* queue, a tenth of the memory. When it leaves that queue unused it is forgotten, but its
  key is remembered for a while; when it was used meanwhile it moves to the *main* queue.
* A new value whose key is remembered was wanted twice: it enters the main queue at once.
* A value at the end of the main queue goes round again once for each use since, three times at most.

A hit only counts itself: nothing is moved, so it costs a look-up and an addition.

Far more keys are remembered than values fit into memory (the paper remembers about as many), because a tile that is
used once a minute has to be recognised behind a whole flight.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_SMALL = 0.1
"""The share of the small queue."""
_MOST_USES = 3
_KEYS = 50_000
"""Keys remembered, as hashes of some 100 bytes each. Of two keys with one hash the second is only let in early."""


class _Held(Generic[V]):
    """A value in memory."""

    __slots__ = ("size", "uses", "value")

    def __init__(self, value: V, size: int) -> None:
        self.value = value
        self.size = size
        self.uses = 0


class S3FifoMemory(Generic[K, V]):
    """Values by key, `size` bytes of them at most."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self._small_used = 0
        self._held: dict[K, _Held[V]] = {}
        self._small: OrderedDict[K, None] = OrderedDict()
        self._main: OrderedDict[K, None] = OrderedDict()
        self._remembered: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: K) -> bool:
        return key in self._held

    def get(self, key: K) -> V | None:
        """Return the value and count the use; or return None."""
        held = self._held.get(key)
        if held is None:
            return None
        if held.uses < _MOST_USES:
            held.uses += 1
        return held.value

    def add(self, key: K, value: V, size: int) -> None:
        """Keep the value, which takes `size` bytes.

        A key that is there keeps its value. A value that is larger than the whole memory is not kept.
        """
        if key in self._held or size > self.size:
            return
        while self.used + size > self.size:
            if self._small_used > _SMALL * self.size or not self._main:
                self._shift_small()
            else:
                self._shift_main()
        self._held[key] = _Held(value, size)
        self.used += size
        if hash(key) in self._remembered:
            del self._remembered[hash(key)]
            self._main[key] = None
        else:
            self._small[key] = None
            self._small_used += size

    def forget(self, wanted: Callable[[K], bool]) -> None:
        """Forget the values of these keys."""
        for key in [key for key in self._held if wanted(key)]:
            self.discard(key)

    def discard(self, key: K) -> None:
        """Forget the value of a key, if there is one."""
        held = self._held.get(key)
        if held is None:
            return
        if key in self._small:
            del self._small[key]
            self._small_used -= held.size
        else:
            del self._main[key]
        self._forget(key, held)

    def _shift_small(self) -> None:
        """Take the oldest value from the small queue: to the main queue if it was used, else out."""
        key, _ = self._small.popitem(last=False)
        held = self._held[key]
        self._small_used -= held.size
        if held.uses:
            held.uses = 0
            self._main[key] = None
            return
        self._forget(key, held)
        self._remembered[hash(key)] = None
        if len(self._remembered) > _KEYS:
            self._remembered.popitem(last=False)

    def _shift_main(self) -> None:
        """Take the oldest value from the main queue: to its end if it was used, else out."""
        key = next(iter(self._main))
        held = self._held[key]
        if held.uses:
            held.uses -= 1
            self._main.move_to_end(key)
            return
        del self._main[key]
        self._forget(key, held)

    def _forget(self, key: K, held: _Held[V]) -> None:
        del self._held[key]
        self.used -= held.size
