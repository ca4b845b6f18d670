"""Tests of ocpproxy; run them with ``python tests/run.py``."""

import os

from hypothesis import settings

# On a machine with other work to do, the time that one example takes says nothing.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

# TensorStore reads it when it is imported, and tests write volumes with it before the gateway could say so.
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "2")
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
