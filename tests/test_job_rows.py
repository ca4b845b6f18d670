"""The rows of prefetch jobs, on both databases."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from ocpproxy.index.jobs import Failure, JobRows, JobState
from tests.databases import OnDatabase, OnMariaDB, OnSQLite, started


class RowTests(OnDatabase):
    """`JobRows` on every database."""

    async def test_life(self) -> None:
        """A job is inserted, saved, changed; failures come and go."""
        rows = JobRows(await started(self, self.index_url()), reactor)
        number = await rows.insert('{"token": "a"}', {"done": 0, "title": "a"}, 1000.0)
        second = await rows.insert('{"token": "b"}', {}, 1001.0)
        self.assertEqual((second, await rows.running()), (number + 1, [number, second]))
        failed = [Failure("c1", "x" * 400, 5.0), Failure("c2", "é", 6.0)]
        self.assertIs(await rows.save(number, {"done": 4, "title": "a"}, failed, [], 1002.0), JobState.RUNNING)
        await rows.save(number, {"done": 5, "title": "a"}, [Failure("c2", "again", 7.0)], ["c1"], 1003.0)
        self.assertEqual(await rows.failures(number, 10), [Failure("c2", "again", 7.0)])
        job = await rows.load(number)
        assert job is not None
        self.assertEqual((job.text, job.progress["done"], job.created, job.changed), ('{"token": "a"}', 5, 1000, 1003))
        self.assertTrue(await rows.change(number, [JobState.RUNNING], JobState.PAUSED, "", 1004.0, {"done": 1}))
        self.assertFalse(await rows.change(number, [JobState.RUNNING], JobState.DONE, "", 1004.0))
        self.assertEqual(await rows.running(), [second])
        self.assertIs(await rows.save(number, {}, [], [], 1005.0), JobState.PAUSED)
        self.assertEqual(
            [(one.id, one.state) for one in await rows.load_all()],
            [(second, JobState.RUNNING), (number, JobState.PAUSED)],
        )
        self.assertIsNone(await rows.load(99))
        self.assertIsNone(await rows.save(99, {}, [], [], 1.0))

    async def test_nonsense(self) -> None:
        """A row that somebody has written nonsense into is a job that has failed."""
        database = await started(self, self.index_url())
        rows = JobRows(database, reactor)
        number = await rows.insert("{}", {}, 1.0)
        await database.run(lambda tx: tx.run("UPDATE jobs SET progress = '[[', state = 'odd' WHERE id = ?", number))
        (job,) = await rows.load_all()
        self.assertIs(job.state, JobState.FAILED)
        await rows.save(number, {}, [Failure("c", "r", 1.0)], [], 1.0)
        await rows.forget_failures(number)
        self.assertEqual(await rows.failures(number, 9), [])

    async def test_large(self) -> None:
        """A job of megabytes is kept whole."""
        rows = JobRows(await started(self, self.index_url()), reactor)
        text = json.dumps({"token": "a", "segments": [[n * 1.5] * 6 for n in range(100_000)]})
        number = await rows.insert(text, {}, 1.0)
        job = await rows.load(number)
        assert job is not None
        self.assertEqual(job.text, text)
        self.assertEqual([one.text for one in await rows.load_all()], [""])

    async def test_old_ones_go(self) -> None:
        """Of a thousand ended jobs and more the oldest are forgotten; those that go on stay."""
        database = await started(self, self.index_url())
        rows = JobRows(database, reactor)
        kept = await rows.insert("{}", {}, 1.0)

        def fill(tx: Any) -> None:
            columns = "id, spec, state, reason, progress, created, changed"
            line = f"INSERT INTO jobs ({columns}) VALUES (?, '', 'done', '', '{{}}', 1, 1)"
            tx.run_many(line, [(n,) for n in range(2, 1103)])

        await database.run(fill)
        await rows.insert("{}", {}, 1.0)
        left = await rows.load_all()
        self.assertEqual((len(left), left[-1].id), (1002, kept))


class SQLiteRowTests(OnSQLite, RowTests, TestCase):
    """The same on SQLite."""


class MariaDBRowTests(OnMariaDB, RowTests, TestCase):
    """The same on MariaDB."""
