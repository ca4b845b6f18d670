"""The course of one fetch: when each of its stages began, for metrics and answers."""

from __future__ import annotations

from dataclasses import dataclass

from ocpproxy.cache.lookup import Timing
from ocpproxy.store.provenance import Provenance


@dataclass(slots=True)
class Course:
    """The course of one fetch, in seconds of the clock."""

    origin: Provenance
    """Where its tiles come from; they count as made when the flight looked for flushes last."""
    began: float
    """When the flight began."""
    asked: float
    """When the upstream was asked."""
    answered: float = 0.0
    """When it had given the voxels."""
    rendered: float | None = None
    """When the first tile was made; None where it came ready-made."""

    def timing(self, now: float) -> Timing:
        """Return what a tile that is ready now has taken."""
        return Timing(self.asked - self.began, self.answered - self.asked, now - self.answered)

    def stages(self, now: float) -> dict[str, float]:
        """Return what each of `metrics.STAGES` has taken, when all is stored now."""
        rendered = now if self.rendered is None else self.rendered
        queue, upstream, render = self.timing(rendered)
        return {"queue": queue, "upstream": upstream, "render": render, "store": now - rendered}
