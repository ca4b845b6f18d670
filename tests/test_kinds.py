"""Whatever `config.parse` accepts can be built: every option that a kind of upstream needs is demanded."""

from __future__ import annotations

from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent

from ocpproxy import config
from ocpproxy.config.options import UPSTREAM
from ocpproxy.daemon.gateway import make_sources
from ocpproxy.metrics import Metrics
from ocpproxy.upstream.http import HttpClient
from ocpproxy.upstream.kind import UpstreamContext
from ocpproxy.upstream.plain_treq import make_treq
from ocpproxy.upstream.registry import KINDS
from ocpproxy.upstream.tensorstore.reader import TensorStoreReaders

GOOD_VALUES = {
    "format": ("blosc",),
    "channels": ("a", "a, b: c/d"),
    "missing": ("error",),
    "missing_status": ("403, 404",),
    "credentials": ("on",),
    "tile_source_type": ("2", "8"),
    "tile_size": ("1024", "300, 200"),
    "file_extension": ("png",),
    "dimension": ("640, 600, 20",),
    "resolution": ("4, 4, 35",),
    "zoom_levels": ("3",),
    "z_shift": ("-2",),
    "levels": ("1: 0, 2: 1",),
}
"""Values other than the default, by option: all options of the kinds, and those of every kind that wrap an upstream."""
URLS = (
    "http://h/a",
    "http://h/{token}/",
    "https://h/{token}/{channel}",
    "a: http://h/a\n  b: http://h/{token}",
    "s3://b/{token}",
    "gs://b/a.b",
    "bossdb://c/{token}",
    "file:///v/{token}",
)
OPTIONS = {key: option for kind in KINDS.values() for key, option in kind.options.items()}


@st.composite
def sections(draw: st.DrawFn, header: str) -> str:
    """Lines of a section: perhaps a type, perhaps an address, and some options of a kind or of no use to it."""
    lines = [header]
    kind = draw(st.sampled_from(sorted(KINDS)))
    if draw(st.booleans()):
        lines.append(f"type = {kind}")
    if draw(st.booleans()):
        lines.append(f"url = {draw(st.sampled_from(URLS))}")
    for key in draw(st.lists(st.sampled_from([*KINDS[kind].options, "z_shift", "levels"]), unique=True)):
        default = (OPTIONS.get(key) or UPSTREAM[key]).default
        lines.append(f"{key} = {draw(st.sampled_from((*GOOD_VALUES[key], default)))}")
    return "\n".join(lines) + "\n"


class BuildTests(SynchronousTestCase):
    """Upstreams of accepted configurations."""

    def setUp(self) -> None:
        """Make a context in memory."""
        reactor = MemoryReactorClock()
        http = HttpClient(make_treq(Agent(reactor)), reactor, Random(1))
        self.context = UpstreamContext(http, lambda *_: None, lambda *_: None, reactor, TensorStoreReaders(reactor))
        self.metrics = Metrics()

    def build(self, text: str) -> bool:
        """Build all upstreams of a configuration as the daemon does; return whether it is accepted."""
        try:
            settings = config.parse(text, Path(), {}, KINDS)
        except config.BadConfiguration:
            return False
        make_sources(settings, self.context, self.metrics).watch(self.metrics)
        return True

    @settings(max_examples=500)
    @given(st.one_of(st.just(""), sections("[upstream]")), st.lists(sections("[dataset a]"), max_size=1))
    def test_accepted(self, upstream: str, datasets: list[str]) -> None:
        """Any combination of sections that is accepted can be built."""
        self.build(upstream + "".join(datasets))

    def test_each_option(self) -> None:
        """Every kind accepts and builds every good value of each of its options, in a section of either sort."""
        for name, kind in KINDS.items():
            token = "{token}" if kind.has_address else "ocp"
            url = f"http://h/{token}"
            required = {key: GOOD_VALUES[key][0] for key in kind.required}
            for key in kind.options:
                for value in (*GOOD_VALUES[key], kind.options[key].default):
                    values = {"type": name, "url": url, **required, key: value}
                    lines = "".join(f"{key} = {value}\n" for key, value in values.items())
                    for header in ("[upstream]", "[dataset a]"):
                        accepted = self.build(f"{header}\n{lines}")
                        self.assertEqual(accepted, bool(value) or key not in kind.required, (header, lines))

    def test_required(self) -> None:
        """A required option that is missing is a fault of a dataset, and of an [upstream] that serves tokens."""
        for name, kind in KINDS.items():
            for key in kind.required:
                for header in ("[upstream]", "[dataset a]"):
                    text = f"{header}\ntype = {name}\nurl = http://h/{{token}}\n"
                    bad = self.assertRaises(config.BadConfiguration, config.parse, text, Path(), {}, KINDS)
                    self.assertEqual([fault.key for fault in bad.faults], [key])
