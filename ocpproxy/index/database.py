"""The index database: adbapi as a service whose callers never wait for longer than they want.

MySQL (or MariaDB) through PyMySQL, or SQLite, behind one `Database`.

**Available or not.** The gateway works without its index: a hit does not need it, and a miss is fetched and stored, and
its rows are inserted later. So the database is *available* or *unavailable* at any time. While it is unavailable,
`Database.run` raises `DatabaseUnavailable` at once. It becomes unavailable when it refuses a connection or a statement,
when it is damaged, read-only or without its tables, or when an interaction takes longer than its caller waits (a frozen
server neither answers nor refuses). Then all connections are dropped, for the next ones may reach another server, or
another file. A probe on a connection of its own looks again and again: it makes missing tables, and writes. When the
database fails again soon after a look that went well, the next look is later. At the start the database is unavailable
until the first look.

**Run twice.** A connection that MySQL has closed is noticed only by the statement that uses it (adbapi's
``cp_reconnect`` still lets that one fail), and InnoDB may choose a transaction as the victim of a deadlock. In both
cases the interaction is run again, so interactions must be safe to run twice. Ours compute what they add to the totals
from the rows that they find, within the transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from twisted.application.service import Service
from twisted.enterprise import adbapi
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from ocpproxy.concurrency.threads import LanedThreadPool
from ocpproxy.index.availability import Availability
from ocpproxy.index.backends import Backend
from ocpproxy.index.dialect import Transaction
from ocpproxy.index.probe import Probe
from ocpproxy.log import Logger

T = TypeVar("T")
P = ParamSpec("P")

PATIENCE = 5.0
"""Seconds that a background interaction may take before the database counts as unavailable."""
_PROBE_EVERY = 0.5
_LONGEST_PAUSE = 30.0
"""Seconds between two looks at a database that fails soon after each look that went well."""
_SOON = 10.0
_ATTEMPTS = 10
"""Runs of one interaction: more than the pool has connections, for the server may have closed all of them."""
_THREADS = 4
"""Threads that probe, and that close pools, which may be stuck for seconds."""


class DatabaseUnavailable(Exception):
    """The database does not answer, or not in time. The interaction itself is fine."""


class OutcomeUnknown(DatabaseUnavailable):
    """The interaction was begun, and may still succeed: `late` gets its outcome."""


class Database(Service):
    """The index database.

    :param report: called with each change between available and unavailable.
    """

    _log = Logger()

    def __init__(self, reactor: Any, backend: Backend, report: Callable[[bool], None] = lambda available: None) -> None:
        self._reactor = reactor
        self._backend = backend
        self._availability = Availability(report)
        self._probe = Probe(backend)
        self._pool: adbapi.ConnectionPool | None = None
        self._size = backend.most_connections
        self._closing: Deferred[None] | None = None
        self._up_since: float | None = None
        self._pause, self._next_look = _PROBE_EVERY, 0.0
        self._asking: Deferred[Any] | None = None
        self._askers: list[Deferred[bool]] = []
        self._on_emptied: list[Callable[[], None]] = []
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._looking: Deferred[None] | None = None

    # -- life

    def startService(self) -> None:
        """Start to look for the database. Not earlier, because twistd forks."""
        super().startService()
        self._threads = LanedThreadPool(self._reactor, _THREADS, "index")
        self._threads.startService()
        self._availability.start()
        self._next_look = 0.0
        self._loop.start(_PROBE_EVERY)

    def stopService(self) -> Deferred[None]:
        """Refuse interactions. The pool closes itself when the reactor stops, after the services that may use it."""
        super().stopService()
        self._loop.stop()
        self._availability.stop()
        if self._looking is not None:
            self._looking.cancel()
        return self._threads.stopService()

    def close(self) -> None:
        """Close the pool now; for programs that end without a reactor's shutdown."""
        if self._pool is not None:
            self._pool.close()

    # -- availability

    @property
    def available(self) -> bool:
        """True while the database answers."""
        return self._availability.available

    @property
    def reason(self) -> str:
        """Why the database is unavailable, for people."""
        return self._availability.reason

    def when_available(self, call: Callable[[], None]) -> None:
        """Call `call` each time that the database becomes available, the first time included."""
        self._availability.when_available(call)

    def wait_available(self) -> Deferred[None]:
        """Return a Deferred that fires as soon as the database is available."""
        return self._availability.wait()

    def when_emptied(self, call: Callable[[], None]) -> None:
        """Call `call` when tables have gone, and are made again: the index knows nothing of what was there before."""
        self._on_emptied.append(call)

    def _look(self) -> None:
        """Look at an unavailable database, unless that is being done, or it is too early."""
        if self.available or self._looking is not None or self._reactor.seconds() < self._next_look:
            return
        self._looking = Deferred.fromCoroutine(self._try_connect())
        self._looking.addErrback(lambda failure: self._log.failure("looking for the database", failure))
        self._looking.addBoth(lambda _: setattr(self, "_looking", None))

    async def _try_connect(self) -> None:
        try:
            steps = await self._threads.run(self._probe.look)
        except CancelledError:
            return
        except Exception as error:  # whatever a driver may raise: it is still unavailable
            self._availability.down(str(error))
            return
        if steps or self._up_since is None:
            self._log.info("the index schema is ready, {steps} steps were applied", steps=steps)
        if not self.running:
            return
        self._size = self._backend.most_connections
        self._pool = self._backend.make_pool(self._reactor, self._size)
        first, self._up_since = self._up_since is None, self._reactor.seconds()
        self._availability.up()
        if steps == self._probe.all_steps and not first:
            for call in self._on_emptied:
                call()

    def _failed(self, pool: adbapi.ConnectionPool, reason: str) -> None:
        """Note that the database is unavailable, and drop its connections."""
        if pool is not self._pool:
            return  # those were dropped before
        now = self._reactor.seconds()
        soon = self._up_since is not None and now - self._up_since < _SOON
        self._pause = min(2 * self._pause, _LONGEST_PAUSE) if soon else _PROBE_EVERY
        self._next_look = now + (self._pause if soon else 0)
        self._availability.down(reason)
        self._pool = None
        self._close_pool(pool)

    def _close_pool(self, pool: adbapi.ConnectionPool) -> Deferred[None]:
        """Close a pool in a thread: its own threads may be stuck for seconds."""
        if not self.running:  # it closes itself when the reactor stops
            return succeed(None)
        if pool.shutdownID:
            self._reactor.removeSystemEventTrigger(pool.shutdownID)
            pool.shutdownID = None
        closing: Deferred[None] = self._threads.run(pool.close)
        closing.addErrback(lambda failure: self._log.failure("closing connections to the index", failure))
        return closing

    async def _make_room(self, pool: adbapi.ConnectionPool) -> bool:
        """Use fewer connections: the server gives no more. Return whether another attempt makes sense."""
        if self._closing is None and pool is self._pool:
            size = max(1, len(pool.connections))
            if size >= self._size:
                return False
            self._log.warn("the index database gives only {count} connections", count=size)
            self._size = size
            self._pool = self._backend.make_pool(self._reactor, size)
            self._closing = self._close_pool(pool).addBoth(lambda _: setattr(self, "_closing", None))
        if self._closing is not None:
            closed: Deferred[None] = Deferred(lambda _: None)
            self._closing.addBoth(lambda _: None if closed.called else closed.callback(None))
            await closed
        return True

    # -- interactions

    async def run(self, interaction: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the interaction in a transaction, and return its result.

        :raises DatabaseUnavailable: when the database is unavailable, or does not answer within `PATIENCE`.
        """
        return await self._run(self._begun, PATIENCE, None, interaction, args, kwargs)

    async def read(self, interaction: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an interaction that only reads. Each of its statements sees a snapshot, and it blocks nobody.

        :raises DatabaseUnavailable: as `run`.
        """
        return await self._run(self._transaction, PATIENCE, None, interaction, args, kwargs)

    async def read_within(
        self, patience: float, interaction: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run an interaction that only reads, for a caller who waits at most `patience` seconds.

        :raises DatabaseUnavailable: as `run`; `OutcomeUnknown` when it takes longer.
        """
        return await self._run(self._transaction, patience, None, interaction, args, kwargs)

    async def answers(self, patience: float) -> bool:
        """Return whether the database answers anything within `patience` seconds; one that is only slow does.

        It is asked on a connection of its own: those of the pool may all be waiting for locks.
        """
        if self._asking is None:
            self._asking = self._threads.run(self._probe.answers)
            self._asking.addErrback(lambda _: False).addCallback(self._asked)
        answer: Deferred[bool] = Deferred(lambda _: None)
        self._askers.append(answer)
        try:
            return await answer.addTimeout(patience, self._reactor)
        except DeferredTimeout:
            return False

    def _asked(self, answers: bool) -> None:
        self._asking, askers, self._askers = None, self._askers, []
        for asker in askers:
            if not asker.called:
                asker.callback(answers)

    async def run_within(
        self,
        patience: float,
        late: Callable[[T | None], None] | None,
        interaction: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run the interaction for a caller who waits at most `patience` seconds.

        An interaction cannot be called back: it may still be done when nobody waits any more (the time is over, or
        the caller was cancelled). Then `late` gets its result, or None when it failed. The end of a patience shorter
        than `PATIENCE` does not make the database unavailable.

        :raises DatabaseUnavailable: when the database is unavailable.
        :raises OutcomeUnknown: when it does not answer in time.
        """
        return await self._run(self._begun, patience, late, interaction, args, kwargs)

    def _begun(self, cursor: Any) -> Transaction:
        """Return a transaction that writes."""
        if self._backend.dialect.begin:
            cursor.execute(self._backend.dialect.begin)
        return self._transaction(cursor)

    def _transaction(self, cursor: Any) -> Transaction:
        return Transaction(cursor, self._backend.dialect)

    async def _run(
        self,
        begin: Callable[[Any], Transaction],
        patience: float,
        late: Callable[[T | None], None] | None,
        interaction: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> T:
        failed: Exception = DatabaseUnavailable("it was not asked")
        pool = self._pool
        dialect = self._backend.dialect
        for _ in range(_ATTEMPTS):
            pool = self._pool
            if not self.available or pool is None:
                raise DatabaseUnavailable(self.reason)
            attempt = _Attempt(lambda cursor: interaction(begin(cursor), *args, **kwargs), late)
            try:
                return await attempt.start(pool, self._reactor, patience, partial(self._too_slow, pool))
            except CancelledError:
                raise
            except dialect.errors as error:
                failed = error
                if dialect.conflict(error) or dialect.lost(error):
                    continue
                if dialect.crowded(error) and await self._make_room(pool):
                    continue
                if dialect.refused(error):
                    break
                raise
        if pool is not None:
            self._probe.suspect(failed)
            self._failed(pool, str(failed))
        raise DatabaseUnavailable(str(failed)) from failed

    def _too_slow(self, pool: adbapi.ConnectionPool, patience: float) -> OutcomeUnknown:
        reason = f"no answer within {patience:g} s"
        if patience == PATIENCE:  # that a caller in a hurry gave up means nothing
            self._failed(pool, reason)
        return OutcomeUnknown(reason)


class _Attempt(Generic[T]):
    """One run of an interaction, for a caller who may stop waiting.

    :param late: gets the result when nobody waits any more, or None when it failed.
    """

    def __init__(self, interaction: Callable[[Any], T], late: Callable[[T | None], None] | None) -> None:
        self._interaction = interaction
        self._late = late
        self._wanted = True

    def start(
        self,
        pool: adbapi.ConnectionPool,
        reactor: Any,
        patience: float,
        too_slow: Callable[[float], DatabaseUnavailable],
    ) -> Deferred[T]:
        """Return the result, for `patience` seconds and as long as the Deferred is not cancelled."""

        def cancelled(_: object) -> None:
            self._wanted = False
            timer.cancel()

        def out_of_patience() -> None:
            self._wanted = False
            result.errback(too_slow(patience))

        def finished(outcome: Any) -> None:
            if not result.called:
                timer.cancel()
                result.callback(outcome)
            elif self._late is not None:
                self._late(None if isinstance(outcome, Failure) else outcome)

        result: Deferred[T] = Deferred(cancelled)
        timer = reactor.callLater(patience, out_of_patience)
        pool.runInteraction(self._begin).addBoth(finished)
        return result

    def _begin(self, cursor: Any) -> T:
        """Run the interaction, unless it was given up while it waited for a thread. (In a database thread.)"""
        if not self._wanted:
            raise DatabaseUnavailable("nobody waits for it any more")
        return self._interaction(cursor)
