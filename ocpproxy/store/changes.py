"""The changes that a process makes to files of tiles: from its journal to the tiles whose rows are pending."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred

from ocpproxy.concurrency.shield import shield
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.model.stack import Tile
from ocpproxy.store.journal import Journal
from ocpproxy.store.pending import PendingRows
from ocpproxy.store.space.full_disk import is_full


class FileChanges:
    """The changes of one process.

    :param pending: returns the pending rows, which are made after this.
    """

    def __init__(self, journal: Journal, pending: Callable[[], PendingRows], run_in_thread: RunInThread) -> None:
        self._journal = journal
        self._pending = pending
        self._run_in_thread = run_in_thread
        self._working: set[Deferred[None]] = set()
        self.count = 0
        """Changes that have not ended."""

    async def run(self, changed: Mapping[Tile, int], work: Callable[..., Any], *args: Any) -> Any:
        """Return the result of a function that changes files in a thread. To cancel this does not stop it.

        :param changed: the tiles, when the function has ended, with the bytes that they may have added.
        """
        return await shield(self._run(changed, work, *args))

    async def _run(self, changed: Mapping[Tile, int], work: Callable[..., Any], *args: Any) -> Any:
        ended: Deferred[None] = Deferred()
        self._working.add(ended)
        try:
            with self.changing(changed):
                return await self._run_in_thread(work, *args)
        finally:
            self._working.remove(ended)
            ended.callback(None)

    async def settled(self) -> None:
        """Return when all functions that are running now have ended."""
        for ended in list(self._working):
            await ended

    @contextmanager
    def changing(self, changed: Mapping[Tile, int]) -> Iterator[None]:
        """Keep the journal while a block changes files; afterwards the changed tiles are pending."""
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
            self._pending().add(changed)
            self.clear_journal()

    def note(self, tiles: Iterable[Tile]) -> None:
        """Note tiles whose files are removed, if the journal can be written: that is what makes room for it."""
        try:
            self._journal.note(tiles)
        except OSError as error:
            if not is_full(error):
                raise

    def clear_journal(self) -> None:
        """Empty the journal if the index knows all that this process has done."""
        pending = self._pending()
        if not pending and not self.count and not pending.overflowed:
            self._journal.clear()
