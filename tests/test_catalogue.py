"""What is known of each token over time, on fake time with an upstream in the test's hand."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.cache.catalogue import Catalogue
from ocpproxy.cache.entries import CatalogueEntry, DatasetSource, Undescribed
from ocpproxy.index.descriptions import Description
from ocpproxy.model.dataset import Channel, Cutout, Dataset, Level
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import (
    NotUnderstood,
    UnknownToken,
    UpstreamBroken,
    UpstreamDown,
    UpstreamFailure,
    UpstreamRefused,
    VoxelsOnly,
)

LEVEL = Level((512, 512, 16), (0, 0, 0), (512, 512, 16))
INFO_MAX_AGE = 3600.0


class Scripted(VoxelsOnly):
    """An upstream whose next answers are a list of descriptions and failures; the last one is repeated."""

    origin = "scripted http://example.org/v"

    def __init__(self, *answers: str | UpstreamFailure) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def describe(self, token: str) -> str:
        """The next answer."""
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, UpstreamFailure):
            raise answer
        return answer

    def dataset(self, token: str, description: str) -> Dataset:
        """A dataset whose only note, if it has one, is the description."""
        notes = (description,) if description else ()
        return Dataset(token, {0: LEVEL}, (Channel("image", "image", "uint8"),), "image", notes=notes)

    async def cutout(self, cutout: Cutout) -> Voxels:
        """Never asked here."""
        raise UpstreamDown("nothing")


class Kept:
    """Descriptions that are kept in memory."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Description] = {}

    async def load(self, token: str, origin: str) -> Description | None:
        """The description of a token."""
        return self.kept.get((token, origin))

    async def save(self, dataset: Dataset, origin: str, description: Description) -> None:
        """Keep it."""
        self.kept[dataset.token, origin] = description


class CatalogueTests(SynchronousTestCase):
    """One token with a section of its own, ``kat``, and an upstream for all others."""

    def setUp(self) -> None:
        """Nothing is known."""
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.descriptions = Kept()

    def catalogue(self, *answers: str | UpstreamFailure) -> Catalogue:
        """A catalogue before a new upstream, as after a start."""
        self.upstream = Scripted(*answers)
        source = DatasetSource(self.upstream, INFO_MAX_AGE, 4, 60)
        return Catalogue({"kat": source}, source, self.descriptions, self.clock, self.clock.seconds)

    def ask(self, catalogue: Catalogue, token: str = "kat") -> CatalogueEntry:
        """The entry of a token."""
        return self.successResultOf(Deferred.fromCoroutine(catalogue.entry(token)))

    def refusal(self, catalogue: Catalogue, token: str = "kat") -> Undescribed:
        """Why there is none."""
        asking = Deferred.fromCoroutine(catalogue.entry(token))
        refusal: Undescribed = self.failureResultOf(asking, Undescribed).value
        return refusal

    def lines(self, events: Sequence[LogEvent]) -> list[str]:
        """What is logged, debugging aside."""
        return [formatEvent(event) for event in events if event["log_level"].name != "debug"]

    def test_retry_within_a_daemon(self) -> None:
        """A kept description serves while the upstream is down; it is asked every 30 s, without anybody waiting."""
        self.ask(self.catalogue(""))
        self.clock.advance(INFO_MAX_AGE + 1)
        catalogue = self.catalogue(UpstreamDown("refused"), UpstreamDown("refused"), "")
        entry = self.ask(catalogue)
        self.assertEqual(self.upstream.asked, 1)
        for asked, seconds in ((1, 29.0), (2, 2.0), (2, 29.0), (3, 2.0), (3, INFO_MAX_AGE - 1)):
            self.clock.advance(seconds)
            self.assertIs(self.ask(catalogue), entry)
            self.assertEqual(self.upstream.asked, asked)
        self.assertIsNone(catalogue.trouble("kat"))

    def test_logged_once_per_change(self) -> None:
        """A state is logged when it begins and when it ends, and not for each request."""
        first, other = UpstreamDown("refused"), NotUnderstood("the info: expected JSON")
        catalogue = self.catalogue(first, first, other, "")
        with capturedLogs() as events:
            for _ in range(3):
                self.assertIs(self.refusal(catalogue).failure, first)
            self.clock.advance(2)
            self.refusal(catalogue)
            since = catalogue.trouble("kat")
            self.clock.advance(2)
            for _ in range(3):
                self.assertIs(self.refusal(catalogue).failure, other)
            self.clock.advance(61)
            self.ask(catalogue)
        self.assertIsNotNone(since)
        self.assertEqual(
            self.lines(events),
            [
                "kat is not described: unreachable: refused (scripted http://example.org/v)",
                "kat is not described: not understood: the info: expected JSON (scripted http://example.org/v)",
                "kat is described again",
            ],
        )

    def test_lasting(self) -> None:
        """What does not pass by itself is asked for once a minute; what does, after a moment."""
        catalogue = self.catalogue(NotUnderstood("no"))
        for seconds, asked in ((0.0, 1), (59.0, 1), (2.0, 2)):
            self.clock.advance(seconds)
            self.assertTrue(self.refusal(catalogue).configured)
            self.assertEqual(self.upstream.asked, asked)
        catalogue = self.catalogue(UpstreamDown("no"))
        for seconds, asked in ((0.0, 1), (0.5, 1), (1.0, 2)):
            self.clock.advance(seconds)
            self.refusal(catalogue)
            self.assertEqual(self.upstream.asked, asked)

    def test_tokens_without_a_section(self) -> None:
        """Anybody may ask for them: what nobody knows is not logged, and what is wrong with them all is logged once."""
        catalogue = self.catalogue(UnknownToken("no"), UnknownToken("no"), UpstreamDown("refused"))
        with capturedLogs() as events:
            for number in range(10):
                self.assertFalse(self.refusal(catalogue, f"q{number}").configured)
        self.assertEqual(len(self.lines(events)), 1)
        self.assertIn("q2 is not described: unreachable", self.lines(events)[0])

    def test_other_words_each_time(self) -> None:
        """A server whose words differ each time fills no log."""
        catalogue = self.catalogue(*(UpstreamBroken(f"500: request {n}") for n in range(20)))
        with capturedLogs() as events:
            for _ in range(10):
                self.refusal(catalogue)
                self.clock.advance(2)
            for number in range(5):
                self.refusal(catalogue, f"q{number}")
        self.assertEqual(len(self.lines(events)), 2, "one for the token, one for all that have no section")

    def test_refused_after_a_restart(self) -> None:
        """A stored description that its upstream refuses now is not said to be shown."""
        self.ask(self.catalogue(""))
        self.clock.advance(INFO_MAX_AGE + 1)
        catalogue = self.catalogue(UpstreamRefused("403"))
        with capturedLogs() as events:
            self.refusal(catalogue)
        self.assertNotIn("earlier", self.lines(events)[0])

    def test_notes(self) -> None:
        """What a description leaves out is logged when it changes."""
        catalogue = self.catalogue("level 1 is left out", "level 1 is left out", "level 2 is left out", "")
        with capturedLogs() as events:
            for _ in range(4):
                self.ask(catalogue)
                self.clock.advance(INFO_MAX_AGE + 1)
            self.ask(catalogue)
        self.assertEqual(self.lines(events), ["kat: level 1 is left out", "kat: level 2 is left out"])

    def test_an_earlier_description(self) -> None:
        """A document that is not understood any more does not take the dataset away; the reason is kept."""
        catalogue = self.catalogue("", NotUnderstood("the info: expected JSON"))
        entry = self.ask(catalogue)
        self.clock.advance(INFO_MAX_AGE + 1)
        with capturedLogs() as events:
            for _ in range(3):
                self.assertIs(self.ask(catalogue), entry)
        self.assertEqual(len(self.lines(events)), 1)
        self.assertIn("kat is not described, and shown by its earlier description", self.lines(events)[0])
        trouble = catalogue.trouble("kat")
        assert trouble is not None
        self.assertEqual(trouble.failure.explanation, "not understood: the info: expected JSON")


class Slow(Scripted):
    """An upstream that answers when the test says so."""

    origin = "slow http://example.org/v"

    def __init__(self) -> None:
        super().__init__("")
        self.answer: Deferred[str] = Deferred()

    async def describe(self, token: str) -> str:
        """The answer of the test."""
        self.asked += 1
        return await self.answer


class SlowlyKept(Kept):
    """An index that answers when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.loading: Deferred[Description | None] = Deferred()

    async def load(self, token: str, origin: str) -> Description | None:
        """The answer of the test."""
        return await self.loading


class ReplacedSourceTests(SynchronousTestCase):
    """Sources that are replaced while they are asked."""

    def setUp(self) -> None:
        """Ask a slow upstream, and replace it."""
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.old, self.new = Slow(), Scripted("new")
        self.catalogue = Catalogue(self.sources(self.old), None, Kept(), self.clock, self.clock.seconds)
        self.asking = Deferred.fromCoroutine(self.catalogue.entry("kat"))
        self.assertEqual(self.catalogue.set_sources(self.sources(self.new), None), {"kat"})

    def sources(self, upstream: Scripted) -> dict[str, DatasetSource]:
        """A source of one token."""
        return {"kat": DatasetSource(upstream, INFO_MAX_AGE, 4, 60)}

    def assert_new(self) -> None:
        """Check that the new upstream has described the token, and what it has said is kept."""
        for _ in range(2):
            entry = self.successResultOf(Deferred.fromCoroutine(self.catalogue.entry("kat")))
            self.assertEqual(entry.dataset.notes, ("new",))
            self.assertGreater(entry.refresh_at, 0)
        self.assertIsNone(self.catalogue.trouble("kat"))
        self.assertEqual(self.new.asked, 1)

    def test_old_one_fails(self) -> None:
        """What the old upstream refuses says nothing of the new one."""
        with capturedLogs() as events:
            self.old.answer.errback(UpstreamRefused("401: the old password"))
        self.failureResultOf(self.asking, Undescribed)
        self.assertEqual([event for event in events if event["log_level"].name == "warn"], [])
        self.assert_new()

    def test_old_one_answers(self) -> None:
        """Those who wait get what the old upstream says; nobody keeps it."""
        self.old.answer.callback("old")
        entry = self.successResultOf(self.asking)
        self.assertEqual((entry.dataset.notes, entry.refresh_at), (("old",), 0))
        self.assertIs(self.catalogue.source_of(entry.dataset).upstream, self.old)
        self.assert_new()

    def test_kept_description(self) -> None:
        """A description of the old upstream that the index has says nothing of the new one's trouble."""
        kept, old, new = SlowlyKept(), Scripted("old"), Scripted(UpstreamDown("refused"))
        catalogue = Catalogue(self.sources(old), None, kept, self.clock, self.clock.seconds)
        Deferred.fromCoroutine(catalogue.entry("kat")).addErrback(lambda _: None)
        loading, kept.loading = kept.loading, Deferred()
        catalogue.set_sources(self.sources(new), None)
        self.failureResultOf(Deferred.fromCoroutine(self.asked_now(catalogue, kept)), Undescribed)
        self.assertIsNotNone(catalogue.trouble("kat"))
        with capturedLogs() as events:
            loading.callback(Description("old", self.clock.seconds()))
        self.assertIsNotNone(catalogue.trouble("kat"))
        self.assertEqual([event for event in events if "again" in formatEvent(event)], [])

    async def asked_now(self, catalogue: Catalogue, kept: SlowlyKept) -> CatalogueEntry:
        """The entry, of which the index has no description."""
        kept.loading.callback(None)
        return await catalogue.entry("kat")

    def test_entry_in_use(self) -> None:
        """An entry that was replaced is never refreshed or put off, and what it describes still has its source."""
        self.asking.addErrback(lambda _: None)
        self.assert_new()
        entry = self.successResultOf(Deferred.fromCoroutine(self.catalogue.entry("kat")))
        other = Scripted("other")
        self.assertEqual(self.catalogue.set_sources(self.sources(other), None), {"kat"})
        self.assertEqual(entry.refresh_at, 0)
        self.catalogue._postpone(entry)
        self.assertEqual(entry.refresh_at, 0)
        self.assertIs(self.catalogue.source_of(entry.dataset).upstream, self.new)
        self.assertEqual(self.catalogue.set_sources({}, None), {"kat"})
        self.assertIs(self.catalogue.source_of(entry.dataset).upstream, self.new)
        self.failureResultOf(Deferred.fromCoroutine(self.catalogue.entry("kat")), Undescribed)
        self.old.answer.callback("late")
        self.assertIsNone(self.catalogue.entry_now("kat"))
