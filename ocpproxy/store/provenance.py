"""Where a tile comes from, as its file records it: when it was made, by which home, and the home's own validators.

The time is that of the file. The rest is in extended attributes, so it costs no row; a file system without them records
only the time. A file is somebody else's to change, so what is read here is checked.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import NamedTuple

_HOME = "user.ocpproxy.home"
_VALIDATORS = "user.ocpproxy.said"
_LONGEST_VALIDATORS = 1024
_SAFE_HOME = re.compile(rb"[\w.,-]{1,200}", re.ASCII)


class Provenance(NamedTuple):
    """Where a tile comes from."""

    made: float
    """Seconds since 1970, as `flush.Flush` understands it: when its voxels were asked for."""
    home: str = ""
    """The homes that have given its voxels (`upstream.breaker.GuardedUpstream.home`), with commas between them."""


def write(file: int, provenance: Provenance) -> None:
    """Record the provenance of an open file.

    :raises OSError: the disk refuses.
    """
    home = provenance.home.encode()
    if _SAFE_HOME.fullmatch(home):
        with contextlib.suppress(OSError):  # no such attributes here
            os.setxattr(file, _HOME, home)
    os.utime(file, (provenance.made, provenance.made))


def read_home(file: int) -> str:
    """Return the homes that are recorded with an open file, or an empty text."""
    try:
        home = os.getxattr(file, _HOME)
    except OSError:
        return ""
    return home.decode() if _SAFE_HOME.fullmatch(home) else ""


def keep_validators(name: str, validators: bytes) -> None:
    """Keep some bytes with a tile's file; not with a shared one, nor where the file system cannot."""
    with contextlib.suppress(OSError):
        if os.stat(name, follow_symlinks=False).st_nlink == 1:
            os.setxattr(name, _VALIDATORS, validators[:_LONGEST_VALIDATORS], follow_symlinks=False)


def read_validators(name: str) -> bytes | None:
    """Return the bytes that are kept with a tile's file, or None."""
    try:
        return os.getxattr(name, _VALIDATORS, follow_symlinks=False)
    except OSError:
        return None
