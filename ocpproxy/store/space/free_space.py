"""The free space of the file system that the cache is on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ocpproxy.store.space.usage import Usage

_PLENTY = 2**62


@dataclass(frozen=True, slots=True)
class KeepFree:
    """What stays free, for whoever else uses the file system."""

    share: float = 0.0
    """Of all bytes, and of all inodes."""
    bytes: int = 0

    def spare(self, directory: Path) -> Usage:
        """Return how many tiles and bytes may still be stored; less than 0 when some have to go. It blocks.

        Where nothing is to stay free, and where nobody can tell, that is plenty.
        """
        try:
            found = os.statvfs(directory)
        except OSError:
            return Usage(_PLENTY, _PLENTY)
        keep = max(int(self.share * found.f_blocks * found.f_frsize), self.bytes)
        size = found.f_bavail * found.f_frsize - keep if keep else _PLENTY
        files = found.f_favail - int(self.share * found.f_files) if found.f_files and self.share else _PLENTY
        return Usage(files, size)


NOTHING = KeepFree()
"""Nothing stays free."""
