"""The kinds of upstream: one line each.

A kind outside this package is found by its entry point. A distribution that declares ::

    [project.entry-points."ocpproxy.upstreams"]
    slices = "their_module:KIND"

adds ``type = slices``. Entry points are read only when a configuration names a type that is not built in.
``docs/extending.md`` explains it by a worked example, ``docs/examples/slices.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points

from ocpproxy.config import UpstreamSettings
from ocpproxy.upstream import boss, catmaid, demo, dvid, ocp, precomputed
from ocpproxy.upstream.base import Upstream
from ocpproxy.upstream.breaker import CacheOnly, GuardedUpstream
from ocpproxy.upstream.kind import Kind, UpstreamContext
from ocpproxy.upstream.mirrors import Mirrored
from ocpproxy.upstream.renumbered import renumbered
from ocpproxy.upstream.tensorstore import volumes

Guard = Callable[[Upstream, int], GuardedUpstream]
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
    """The built-in kinds, and the kinds that other distributions declare.

    :raises KeyError: for a name that is neither.
    :raises TypeError: for an entry point that is not a `Kind` of its name.
    """

    def __init__(self, built_in: tuple[Kind, ...]) -> None:
        self._kinds = {kind.name: kind for kind in built_in}

    def __getitem__(self, name: str) -> Kind:
        if name not in self._kinds:
            declared = tuple(entry_points(group=GROUP, name=name))
            if not declared:
                raise KeyError(name)
            kind = declared[0].load()
            if not isinstance(kind, Kind) or kind.name != name:
                raise TypeError(f"the entry point {name} of {GROUP} is {kind!r}, expected a Kind with the name {name}")
            self._kinds[name] = kind
        return self._kinds[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)


KINDS = _Kinds(_BUILT_IN)
"""All kinds of upstream, by name."""


def build_upstream(
    settings: UpstreamSettings,
    context: UpstreamContext,
    guard: Callable[[Upstream, int], GuardedUpstream] | None = None,
) -> Upstream:
    """Return the upstream of these settings: its homes together, with the numbers of ``z_shift`` and ``levels``.

    :param guard: puts a home behind a breaker; it gets the number of the home, from 0 on. Without it there is none, and
        only the first home counts.
    """
    build = KINDS[settings.type].build
    homes = [build(home, context) for home in settings.homes()]
    upstream = homes[0]
    guarded = [] if guard is None else [guard(home, number) for number, home in enumerate(homes)]
    if settings.cache_only:
        upstream = CacheOnly(upstream)
    elif guarded:
        upstream = Mirrored(guarded) if len(guarded) > 1 else guarded[0]
    return renumbered(upstream, settings.z_shift, dict(settings.levels))
