"""Which false colours are stored.

Six colours for each of six channels make thousands of stacks of one dataset, and anybody can ask for all of them. So
a dataset has a few that are stored on disk, the first ones that are asked for, and one more each hour. All others are
made from voxels whenever they are not in memory: they evict nobody's tiles.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace

from cachetools import LRUCache
from twisted.internet.interfaces import IReactorTime

from ocpproxy.model.display import DrawMode
from ocpproxy.model.stack import Stack

_FIRST = 8
"""False colours of one dataset and plane that are stored at once."""
_ONE_MORE_EVERY = 3600.0
"""Seconds."""
_MOST_KNOWN = 256
"""False colours of one dataset and plane that are remembered; the ones used least recently are forgotten."""
_MOST_DATASETS = 10_000


@dataclass
class _Stored:
    """The stored false colours of one dataset and plane."""

    names: OrderedDict[str, None] = field(default_factory=OrderedDict)
    last: float = 0.0
    """When one more was allowed."""


class Colourings:
    """The false colours that are stored, of all datasets."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._stored: LRUCache[tuple[str, str], _Stored] = LRUCache(_MOST_DATASETS)

    def is_stored(self, stack: Stack) -> bool:
        """Return whether tiles of a stack are stored on disk."""
        if stack.mode is not DrawMode.FALSE_COLOUR:
            return True
        key, now = (stack.dataset.token, stack.plane.value), self._clock.seconds()
        name = replace(stack, epoch=0).name  # tiles that are fetched again are of the same colouring
        stored = self._stored.get(key)
        if stored is None:
            stored = self._stored[key] = _Stored(last=now)
        if name in stored.names:
            stored.names.move_to_end(name)
            return True
        if len(stored.names) >= _FIRST:
            if now - stored.last < _ONE_MORE_EVERY:
                return False
            stored.last = now
        stored.names[name] = None
        if len(stored.names) > _MOST_KNOWN:
            stored.names.popitem(last=False)
        return True
