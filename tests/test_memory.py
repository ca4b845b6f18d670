"""The memory tier: bounded, and not washed out by a flight through ten thousand tiles."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.cache.memory import S3FifoMemory


class MemoryTests(SynchronousTestCase):
    """The bounds and the choice of what stays."""

    @given(
        st.integers(0, 60),
        st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(1, 25)), max_size=200),
    )
    def test_bounded_and_true(self, size: int, deeds: list[tuple[bool, int, int]]) -> None:
        """Never more bytes than allowed, never another value than was put in, and its size is exact."""
        memory: S3FifoMemory[int, tuple[int, int]] = S3FifoMemory(size)
        sizes = {key: nbytes for _, key, nbytes in reversed(deeds)}
        for adding, key, _ in deeds:
            value = (key, sizes[key])
            if adding:
                memory.add(key, value, sizes[key])
                self.assertEqual(memory.get(key), value if sizes[key] <= size else None)
            else:
                self.assertIn(memory.get(key), (None, value))
            here = [found for one in sizes if (found := memory.get(one)) is not None]
            self.assertEqual(memory.used, sum(nbytes for _, nbytes in here))
            self.assertLessEqual(memory.used, size)
            self.assertEqual(len(memory), len(here))

    def look(self, memory: S3FifoMemory[int, int], key: int) -> bool:
        """Request a tile, which is added if it is not there, and return whether it was a hit."""
        if memory.get(key) is not None:
            return True
        memory.add(key, key, 1)
        return False

    def test_scan(self) -> None:
        """A flight through 10,000 tiles does not evict the 150 (there is space for 300) that are used every minute."""
        memory: S3FifoMemory[int, int] = S3FifoMemory(300)
        for _ in range(3):
            for key in range(150):
                self.look(memory, key)
        for key in range(1000, 11_000):
            self.look(memory, key)
        self.assertEqual(sum(self.look(memory, key) for key in range(150)), 150)

    def test_scan_between_the_first_uses(self) -> None:
        """Tiles in use are recognised even when a flight comes between their first use and their second."""
        memory: S3FifoMemory[int, int] = S3FifoMemory(300)
        for key in range(150):
            self.look(memory, key)
        for start in (1000, 20_000, 40_000):
            for key in range(start, start + 10_000):
                self.look(memory, key)
            hits = sum(self.look(memory, key) for key in range(150))
        self.assertEqual(hits, 150)

    def test_change_of_interest(self) -> None:
        """Tiles that are no longer used are replaced by tiles that are."""
        memory: S3FifoMemory[int, int] = S3FifoMemory(300)
        for first in (0, 1000):
            for _ in range(20):
                hits = sum(self.look(memory, key) for key in range(first, first + 280))
            self.assertEqual(hits, 280)
