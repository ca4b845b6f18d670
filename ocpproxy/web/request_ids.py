"""Ids of requests, by which an answer is found in the logs: ``X-Request-Id``.

A client or a front may send one; else each request gets one that no other has, on this machine since its start.
"""

from __future__ import annotations

import os
import re
from itertools import count

HEADER = b"x-request-id"
_WELL_FORMED = re.compile(rb"[A-Za-z0-9._~+/=:-]{1,128}")
_form = os.urandom(4).hex().encode() + b"-%x"
_next = count(1).__next__


def new_id() -> bytes:
    """Return an id that no other request has."""
    return _form % _next()


def own_id(sent: bytes | None) -> bytes | None:
    """Return the id that a client has sent, if it is well formed."""
    return sent if sent is not None and _WELL_FORMED.fullmatch(sent) else None
