"""The configuration that a subcommand works on."""

from __future__ import annotations

from ocpproxy.config import BadConfiguration, Settings
from ocpproxy.daemon.tap import load


def load_settings(path: str | None) -> Settings | None:
    """Return the settings of a file, or those of a daemon without one; None after all its faults have been printed."""
    try:
        return load(path, serves=False)
    except BadConfiguration as bad:
        print(bad)
        return None
