"""How far a job is, and what is to be saved of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ocpproxy.index.jobs import Failure

_LARGEST = 2**62


@dataclass
class JobProgress:
    """How far a job is. Saved in the index as JSON."""

    cuboids: int = 0
    tiles: int = 0
    position: int = 0
    """All cuboids with a smaller number are done."""
    done: int = 0
    """Cuboids that need no more work."""
    fetched: int = 0
    """Cuboids that were fetched."""
    cached: int = 0
    """Cuboids that were there."""
    failed: int = 0
    bytes: int = 0
    """Bytes of the tiles that were fetched."""
    fingerprint: str = ""
    began: float = 0.0
    """Seconds since 1970; tiles that were used since then are not evicted for the job."""
    deadline: float = 0.0
    """When the job stops, 0 for never; seconds since 1970."""
    seconds: float = 0.0
    """How long it has been running."""
    rate: float = 0.0
    """Cuboids a second, of late."""
    checking: bool = False
    """True while it is checked that everything is there."""
    title: str = ""
    """What the job fetches, for people."""
    bytes_before: int = 0
    """Bytes when somebody started or resumed the job: its limits count from there."""
    done_before: int = 0
    failed_before: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def of(cls, saved: Any) -> JobProgress:
        """Return the progress that was saved; values that make no sense are left out."""
        progress = cls()
        for key, default in asdict(progress).items():
            value = saved.get(key, default) if isinstance(saved, dict) else default
            if isinstance(value, (int, float)) and not isinstance(default, str):
                if abs(value) < _LARGEST:  # neither is no number, nor infinite
                    setattr(progress, key, type(default)(value))
            elif isinstance(value, str) and isinstance(default, str):
                setattr(progress, key, value)
        return progress


@dataclass
class Outcome:
    """What is to be saved next to the progress."""

    failures: dict[str, Failure] = field(default_factory=dict)
    mended: dict[str, None] = field(default_factory=dict)

    def take(self) -> tuple[list[Failure], list[str]]:
        """Return what is new, and forget it."""
        taken = (list(self.failures.values()), list(self.mended))
        self.failures, self.mended = {}, {}
        return taken

    def give_back(self, failures: list[Failure], mended: list[str]) -> None:
        """Keep what could not be saved, unless something newer has come."""
        self.failures = {failure.cuboid: failure for failure in failures} | self.failures
        self.mended = dict.fromkeys(mended) | self.mended
