"""Tests of ocpproxy; run them with ``python tests/run.py``."""

from hypothesis import settings

# On a machine with other work to do, the time that one example takes says nothing.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
