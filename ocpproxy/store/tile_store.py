"""Tiles on disk and their account in the index, as one promise.

The file is the truth, the row is its account. `TileStore.read` opens one file and needs no database; `write` creates
files and answers as soon as they are there, and the account follows in the background, many tiles in one transaction.
While the index is away the tiles that were written wait to be *settled* (`ocpproxy.store.rows`); the journal
remembers them should the process die. A use is noted in memory and written down every few seconds.

====================  ============================================================
`keys`                path and key of a tile, both ways
`files`               tiles as files: whole or not there
`pagecache`           what the event loop may read itself
`journal`             what a crash would leave in doubt
`account`             rows and totals, as interactions
`mend`                finds and mends what disagrees, at the start and for fsck
====================  ============================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.index.database import PATIENCE, Database, DatabaseUnavailable, OutcomeUnknown
from ocpproxy.metrics import Metrics
from ocpproxy.model.stack import Tile
from ocpproxy.store import rows
from ocpproxy.store.files import OpenTile, StoredTile, TileFiles, TornTile
from ocpproxy.store.journal import Journal
from ocpproxy.store.keys import NotIndexable
from ocpproxy.store.rows import Usage

__all__ = ["NotIndexable", "OpenTile", "StoredTile", "TileStore", "Usage"]

_SETTLE_AT_ONCE = 512
_USES_EVERY = 2.0
_USES_AT_ONCE = 2000
_MOST_IN_DOUBT = 200_000
"""Tiles that may wait for the index in memory; beyond, the journal remembers them and the mender finds them."""
_MOST_USES = 500_000


class TileStore(Service):
    """The store of one cache directory.

    :param directory: of the cache; tiles are in ``tiles/``, the journals of the processes in ``journal/``.
    :param run_in_thread: runs blocking work on files.
    :param owner: a name of this process that no other has.
    """

    _log = Logger()

    def __init__(
        self,
        directory: Path,
        database: Database,
        reactor: Any,
        run_in_thread: RunInThread,
        owner: str,
        metrics: Metrics,
    ) -> None:
        self.files = TileFiles(directory / "tiles", owner)
        self.journal = Journal(directory / "journal", owner)
        self._database = database
        self._reactor = reactor
        self._in_thread = run_in_thread
        self._metrics = metrics
        self._said = Usage()
        self._sayings = 0
        self._doubts: dict[Tile, int] = {}
        self._doubted_bytes = 0
        self._doubted_tiles = 0
        self._uses: dict[Tile, float] = {}
        self._changing = 0
        self._settling: Deferred[None] | None = None
        self.overflowed = False
        """More tiles were stored while the index was away than are remembered here: a sweep has to find them."""
        self._uses_loop = LoopingCall(self._write_uses)
        self._uses_loop.clock = reactor
        database.when_up(self._up)

    # -- life

    def startService(self) -> None:
        """Take the directory into use.

        :raises OSError: when it cannot be written to.
        """
        super().startService()
        self.files.directory.mkdir(parents=True, exist_ok=True)
        self.journal.open()
        self.files.writable()
        self._uses_loop.start(_USES_EVERY, now=False)

    def stopService(self) -> Deferred[None]:
        """Write down what is only in memory; what the index will not take stays in the journal."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._uses_loop.stop()
        await self._write_uses()
        if self._settling is None:
            self._settle_soon()
        if self._settling is not None:
            await self._settling
        self._maybe_clear()
        self.journal.close()

    def _up(self) -> None:
        self._settle_soon()
        Deferred.fromCoroutine(self.refresh()).addErrback(
            lambda failure: failure.trap(DatabaseUnavailable) and None,
        )

    # -- tiles

    def open_now(self, tile: Tile) -> OpenTile | None:
        """The tile's file, if that needs no waiting for the disk, or None when there is none.

        :raises BlockingIOError: that cannot be told at once: `read` can.
        :raises NotIndexable: when there can be no such tile.
        """
        return self.files.open_now(tile)

    async def read(self, tile: Tile) -> StoredTile | None:
        """The tile from disk, or None. A torn file is removed, and is None.

        :raises NotIndexable: when there can be no such tile.
        """
        try:
            found: StoredTile | None = await self._in_thread(self.files.read, tile)
        except TornTile:
            self._log.warn("{tile} is torn: removed", tile=tile)
            self._metrics.mended.labels("torn tile").inc()
            await self.discard([tile])
            return None
        return found

    def used(self, tile: Tile) -> None:
        """The tile was served just now."""
        if len(self._uses) < _MOST_USES or tile in self._uses:
            self._uses[tile] = self._reactor.seconds()

    async def mark(self, tile: Tile, said: Mapping[str, str]) -> None:
        """Keep with a tile's file what its upstream said of its version, where the file system can."""
        await self._in_thread(self.files.mark, tile, json.dumps(dict(said)).encode())

    async def marked(self, tile: Tile) -> tuple[bytes, Mapping[str, str]] | None:
        """The tile with what was kept with it; None when it is not here, or nothing was."""
        found = await self.read(tile)
        mark = None if found is None else await self._in_thread(self.files.marked, tile)
        if found is None or mark is None:
            return None
        try:
            said = json.loads(mark)
        except ValueError:
            return None
        fine = isinstance(said, dict) and all(isinstance(part, str) for pair in said.items() for part in pair)
        return (found.picture, said) if fine else None

    async def write(self, pictures: Sequence[tuple[Tile, bytes]]) -> int:
        """Store the tiles; those that are there already stay as they are. Returns how many are stored now.

        The account follows by itself. A disk that refuses is logged, and the tiles are not stored.
        """
        created: list[tuple[Tile, int]] = []
        refused = await self._in_hand(self._create, pictures, created, then=lambda: dict(created))
        if refused is not None:
            self._metrics.unstored.inc(len(pictures) - len(created))
            self._log.error("a tile could not be stored: {reason}", reason=str(refused))
        return len(created)

    def _in_hand(
        self, work: Callable[..., Any], *args: Any, then: Callable[[], Mapping[Tile, int]], **kwargs: Any
    ) -> Deferred[Any]:
        """Change files in a thread; when the thread has ended, the tiles that `then` names are in doubt.

        That is so whether or not anybody still waits for the result: a thread cannot be called back.
        """
        self._changing += 1
        answer: Deferred[Any] = Deferred(lambda _: None)

        def ended(result: Any) -> None:
            self._changed(then())
            if not answer.called:
                answer.callback(result)

        self._in_thread(work, *args, **kwargs).addBoth(ended)
        return answer

    def _changed(self, tiles: Mapping[Tile, int]) -> None:
        self._changing -= 1
        for tile, size in tiles.items():
            self.doubt(tile, size)
        self._settle_soon()
        self._maybe_clear()

    def _create(self, pictures: Sequence[tuple[Tile, bytes]], created: list[tuple[Tile, int]]) -> OSError | None:
        try:
            self.journal.note(tile for tile, _ in pictures)
            for tile, picture in pictures:
                if self.files.create(tile, picture):
                    created.append((tile, len(picture)))
        except OSError as error:
            return error
        return None

    async def discard(self, tiles: Iterable[Tile]) -> None:
        """Remove the tiles' files, whatever the index says; the account follows."""
        tiles = list(tiles)
        await self._in_hand(self._remove, tiles, then=lambda: dict.fromkeys(tiles, 0))

    def _remove(self, tiles: Sequence[Tile]) -> None:
        self.journal.note(tiles)
        for tile in tiles:
            self.files.remove(tile)

    # -- the account

    @property
    def usage(self) -> Usage:
        """What the cache holds: the account as it was last seen, and what is not in it yet."""
        return Usage(self._said.tiles + self._doubted_tiles, self._said.bytes + self._doubted_bytes)

    @property
    def in_doubt(self) -> int:
        """Tiles whose account is not settled."""
        return len(self._doubts)

    async def refresh(self) -> Usage:
        """DisplaySettings what the account says now: other processes change it too.

        :raises DatabaseUnavailable:
        """
        said = self._sayings
        usage = await self._database.read(rows.usage)
        if said == self._sayings:  # else something newer has been said meanwhile
            self._say(usage)
        return self.usage

    def _say(self, usage: Usage) -> None:
        self._said = usage
        self._sayings += 1
        self._metrics.cache_tiles.set(self.usage.tiles)
        self._metrics.cache_bytes.set(self.usage.bytes)
        self._metrics.unsettled.set(self.in_doubt)

    def doubt(self, tile: Tile, size: int = 0) -> None:
        """The account of this tile has to be looked at; `size` bytes may have come to it."""
        if len(self._doubts) < _MOST_IN_DOUBT or tile in self._doubts:
            self._undoubt(tile)
            self._doubts[tile] = size
            self._doubted_bytes += size
            self._doubted_tiles += size > 0
        else:
            self.overflowed = True

    def _undoubt(self, tile: Tile) -> None:
        size = self._doubts.pop(tile, 0)
        self._doubted_bytes -= size
        self._doubted_tiles -= size > 0

    def is_in_hand(self, tile: Tile) -> bool:
        """Whether this process will settle the tile anyway."""
        return tile in self._doubts

    def _settle_soon(self) -> None:
        if self._settling is None and self._doubts and self._database.up:
            self._settling = Deferred.fromCoroutine(self._settle())
            self._settling.addErrback(lambda failure: self._log.failure("settling the account", failure))
            self._settling.addBoth(self._settled)

    def _settled(self, _: object) -> None:
        self._settling = None
        self._maybe_clear()

    async def _settle(self) -> None:
        while self._doubts:
            batch = {tile: self._doubts[tile] for tile, _ in zip(self._doubts, range(_SETTLE_AT_ONCE), strict=False)}
            try:
                done = await self._database.run(rows.settle, list(batch), self.files.stat)
            except DatabaseUnavailable:
                return
            except CancelledError:
                raise
            except Exception:
                self._metrics.failed_turns.labels("settle").inc()
                self._log.failure("{count} tiles could not be accounted for; a sweep will look again", count=len(batch))
                self.overflowed = True
                done = None
            for tile, size in batch.items():
                if self._doubts.get(tile) == size:
                    self._undoubt(tile)
            self._say(done.usage if done else self._said)

    async def settled(self) -> None:
        """Returns when nothing is in doubt, or the index is away."""
        while self._doubts and self._database.up:
            self._settle_soon()
            if self._settling is not None:
                done: Deferred[None] = Deferred()
                self._settling.addBoth(lambda _: done.callback(None))  # noqa: B023 - awaited before the next turn
                await done

    def _maybe_clear(self) -> None:
        if not self._doubts and not self._changing and not self.overflowed:
            self.journal.clear()

    async def _write_uses(self) -> None:
        """Put the uses that are only in memory into the index; they stay in memory while it is away."""
        while self._uses and self._database.up:
            some = {tile: self._uses[tile] for tile, _ in zip(self._uses, range(_USES_AT_ONCE), strict=False)}
            try:
                await self._database.run(rows.record_uses, some)
            except DatabaseUnavailable:
                return
            except CancelledError:
                raise
            except Exception:
                self._metrics.failed_turns.labels("uses").inc()
                self._log.failure("uses could not be noted")
            for tile, used in some.items():
                if self._uses.get(tile) == used:
                    del self._uses[tile]
            if len(some) < _USES_AT_ONCE:
                return

    async def shrink(self, keep: Usage, at_most: int) -> Usage:
        """Remove the tiles used least recently, `at_most` so many, until no more than `keep` is left.

        Returns what was removed. The rows go first; what a crash leaves of their files is in the journal. Whatever
        becomes of the transaction, when it has ended, perhaps long after patience has, the tiles that it meant are
        settled.

        :raises DatabaseUnavailable:
        """
        await self.settled()  # what is chosen is chosen from the rows: all that is on disk must have one
        await self._write_uses()
        meant: dict[Tile, int] = {}

        def intend(tiles: list[Tile]) -> None:
            self.journal.note(tiles)
            meant.update(dict.fromkeys(tiles, 0))

        def late(done: rows.Evicted | None) -> None:
            removing = self._in_hand(self._remove, done.tiles if done else [], then=lambda: meant)
            removing.addErrback(lambda failure: self._log.failure("removing what was forgotten late", failure))
            self._changing -= 1

        self._changing += 1
        try:
            done = await self._database.run_within(PATIENCE, late, rows.delete_least_recent, at_most, keep, intend)
        except (OutcomeUnknown, CancelledError):
            raise  # `late` will be told
        except BaseException:
            self._changed(meant)
            raise
        self._say(done.usage)
        removing = self._in_hand(self._remove, done.tiles, then=lambda: meant)
        self._changing -= 1
        await removing
        self._metrics.reclaimed.inc(done.rows)
        return Usage(done.rows, done.bytes)
