"""Where a viewer is going: through the slices of a stack, or from level to level.

A `Track` is fed with the tiles that a client asks for, in the order in which they arrive. It knows the slice that the
viewer is at, the tiles that are in view, the direction, and the pace. Requests for one slice and for the next ones
arrive mixed, for a viewer uses several connections: a tile of a slice that was passed is late unless that very tile had
been asked for before. Then the viewer has turned.

Many viewers go to and fro over the same distance, to follow a neurite or to compare. So the lengths of the last runs
are remembered, also when the viewer jumps, and a run is not expected to be much longer than those.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from ocpproxy.model.dataset import TILE
from ocpproxy.model.stack import Stack, Tile

_REMEMBERED = 8
"""Slices whose tiles are remembered."""
_WIDEST_VIEW = 64
"""Tiles: a screen of 4k has 40."""
_LONGEST_STEP = 16
"""Slices between two steps of one run; CATMAID's longest is ten."""
_RUN = 2
"""Steps in one direction after which the next one is expected."""
_FASTEST = 60
"""Steps a second of a viewer; what is faster is a program, or requests that have arrived together."""
_PAUSE = 3.0
"""Seconds after which a viewer who goes on begins a new run."""
_RUNS, _FEW_RUNS = 4, 2
"""Runs whose lengths are remembered, and from how many on they tell something."""
_LONGER = 1.05
"""How much longer than the longest of them the next run may be."""
_PACED = 8
"""Steps from which the pace is taken."""
Place = tuple[int, int]
"""(row, column) of a tile."""


class Track:
    """The way of one viewer through a stack at one time point.

    :param before: the way of the same viewer until it jumped here.
    """

    def __init__(self, stack: Stack, tile: Tile, now: float, before: Track | None = None) -> None:
        self.stack = stack
        self.time = tile.time
        self.level = tile.level
        self.slice = tile.slice
        self.step = 0
        """Slices from one step to the next; negative downwards."""
        self.lead = 1.0
        """How many times earlier than usual cuboids have to be fetched for this viewer."""
        self.finer = 0
        """Levels that the viewer zooms in with each step; negative when it zooms out."""
        self._moves = deque([(now, tile.slice)], _PACED)
        """When the viewer came to the last slices of this run."""
        self._began = tile.slice
        """Where the viewer turned last."""
        self._runs: deque[int] = deque(maxlen=_RUNS)
        """Slices from turn to turn."""
        if before is not None:
            self._runs.extend(before._runs)
            if before._is_run:
                self._runs.append(before._length)
        self._stride = 0
        """The shortest step of this run."""
        self._zooms = 0
        self._zoomed = now
        self._seen: OrderedDict[int, set[Place]] = OrderedDict({tile.slice: {(tile.row, tile.col)}})
        """The tiles asked for at the last slices."""

    def is_near(self, tile: Tile) -> bool:
        """Return whether a tile may be asked for by this viewer."""
        return abs(tile.slice - self.slice_at(tile.level)) <= _LONGEST_STEP and abs(tile.level - self.level) <= 1

    def slice_at(self, level: int) -> int:
        """Return the slice of another level that shows the same place."""
        levels, through = self.stack.dataset.levels, self.stack.plane.axes[2]
        if level == self.level or level not in levels or self.level not in levels:
            return self.slice
        return int(self.slice * levels[self.level].voxel[through] / levels[level].voxel[through])

    def saw(self, tile: Tile, now: float) -> bool:
        """Note a request; return whether the viewer has moved by it."""
        if tile.level != self.level:
            return self._zoom(tile, now)
        place, seen = (tile.row, tile.col), self._seen.get(tile.slice, set())
        if tile.slice == self.slice or (self._has_passed(tile.slice) and place not in seen):
            self._note(tile.slice, seen | {place}, last=False)
            return False
        self._go(tile.slice, now)
        self._note(tile.slice, {place}, last=True)
        return True

    def _has_passed(self, slice_: int) -> bool:
        """Return whether the viewer has just come by a slice."""
        back = (self.slice - slice_) * (1 if self.step > 0 else -1)
        return self._stride > 0 and back > 0 and back % self._stride == 0 and back // self._stride < _REMEMBERED

    def _note(self, slice_: int, seen: set[Place], *, last: bool) -> None:
        new = slice_ not in self._seen
        if len(seen) <= _WIDEST_VIEW:
            self._seen[slice_] = seen
        if new or last:
            self._seen.move_to_end(slice_, last=last)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)

    def _go(self, slice_: int, now: float) -> None:
        step, (last, _) = slice_ - self.slice, self._moves[-1]
        goes_on = step * self.step > 0 and abs(step) <= _LONGEST_STEP and now - last < _PAUSE
        self._stride = min(self._stride, abs(step)) if goes_on else abs(step)
        if step * self.step < 0:
            self._end_run()
        if not goes_on:
            self._moves = deque([(last, self.slice)], _PACED)
        self._moves.append((now, slice_))
        self._zooms = 0
        self.step, self.slice = step, slice_

    def _end_run(self) -> None:
        """Remember the length of a run."""
        if self._is_run:
            self._runs.append(self._length)
        self._began = self.slice

    @property
    def _length(self) -> int:
        """Slices since the viewer turned."""
        return abs(self.slice - self._began)

    @property
    def _is_run(self) -> bool:
        """Whether those are a run: a few steps are none."""
        return self._length > _RUN * max(1, abs(self.step))

    @property
    def expected(self) -> int | None:
        """How many slices more the viewer is expected to go before it turns; None where nobody can tell."""
        if len(self._runs) < _FEW_RUNS:
            return None
        left = int(_LONGER * max(self._runs)) - self._length
        return left if left > 0 else None  # it goes farther than it used to

    @property
    def pace(self) -> float:
        """Slices a second, over the last steps of this run."""
        (began, first), (now, last) = self._moves[0], self._moves[-1]
        return abs(last - first) / max(now - began, 1e-6)

    def _zoom(self, tile: Tile, now: float) -> bool:
        finer = self.level - tile.level
        self._zooms = self._zooms + 1 if finer == self.finer and now - self._zoomed < _PAUSE else 1
        self.finer, self._zoomed = finer, now
        self.level, self.slice = tile.level, tile.slice
        self._began = tile.slice
        self._runs.clear()  # the slices of another level may be thicker
        self._moves = deque([(now, tile.slice)], _PACED)
        self._seen = OrderedDict({tile.slice: {(tile.row, tile.col)}})
        return True

    @property
    def flies(self) -> bool:
        """Whether a viewer goes through the slices, and is expected to go on.

        Who looks at one tile of many, or faster than anybody can see, is a program.
        """
        if len(self._moves) <= _RUN or self.pace > _FASTEST * self._stride:
            return False
        columns, rows = self.stack.tiles(self.stack.dataset.levels[self.level])
        return len(self.view) > (columns * rows > 1)

    @property
    def zooms(self) -> bool:
        """Whether the viewer goes from level to level, and is expected to go on."""
        return self._zooms >= _RUN

    @property
    def view(self) -> set[Place]:
        """The tiles in view: those of the last two slices, for not all of the newest have been asked for yet."""
        slices = list(self._seen.values())[-2:]
        return set().union(*slices)

    def view_at_next_level(self) -> set[Place]:
        """Return the tiles in view when the viewer has zoomed once more, at the same middle."""
        levels, view = self.stack.dataset.levels, self.view
        number = self.level - self.finer
        if number not in levels:
            return set()
        here, there = self.stack.extent(levels[self.level]), self.stack.extent(levels[number])
        around: list[range] = []
        for axis in (0, 1):
            numbers = [place[axis] for place in view]
            middle = (min(numbers) + max(numbers) + 1) * TILE * there[1 - axis] / here[1 - axis] / 2
            half = (max(numbers) - min(numbers) + 1) * TILE / 2
            around.append(range(int(middle - half) // TILE, int(middle + half - 1) // TILE + 1))
        return {(row, col) for row in around[0] for col in around[1]}
