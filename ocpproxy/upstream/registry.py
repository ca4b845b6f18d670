"""The kinds of upstream: one line for each.

A kind that is not in this package is found by its entry point: a distribution that declares ::

    [project.entry-points."ocpproxy.upstreams"]
    slices = "their_module:KIND"

adds ``type = slices``. Entry points are looked at only when a configuration names a type that is not built in.
``docs/examples/slices.py`` is a worked example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points

from ocpproxy.config import UpstreamSettings
from ocpproxy.upstream import boss, catmaid, demo, dvid, ocp, precomputed
from ocpproxy.upstream.base import Upstream
from ocpproxy.upstream.kind import Kind, UpstreamContext
from ocpproxy.upstream.renumbered import renumbered
from ocpproxy.upstream.tensorstore import volumes

GROUP = "ocpproxy.upstreams"
_BUILT_IN = (
    ocp.KIND,
    demo.KIND,
    precomputed.KIND,
    boss.KIND,
    dvid.KIND,
    catmaid.KIND,
    volumes.ANY_KIND,
    volumes.N5_KIND,
    volumes.ZARR_KIND,
)


class _Kinds(Mapping[str, Kind]):
    """The built-in kinds, and those that other distributions declare."""

    def __init__(self, built_in: tuple[Kind, ...]) -> None:
        self._kinds = {kind.name: kind for kind in built_in}

    def __getitem__(self, name: str) -> Kind:
        if name not in self._kinds:
            found = entry_points(group=GROUP, name=name)
            if not found:
                raise KeyError(name)
            kind = next(iter(found)).load()
            if not isinstance(kind, Kind) or kind.name != name:
                raise KeyError(name)
            self._kinds[name] = kind
        return self._kinds[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)


KINDS: Mapping[str, Kind] = _Kinds(_BUILT_IN)
"""Every kind of upstream, by its name."""


def build_upstream(settings: UpstreamSettings, context: UpstreamContext) -> Upstream:
    """Return the upstream of these settings, with its slices and levels renumbered as they ask."""
    upstream = KINDS[settings.type].build(settings, context)
    return renumbered(upstream, settings.z_shift, dict(settings.levels))
