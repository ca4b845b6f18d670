"""Signed links: a prefix of every path, by which one dataset can be seen for some time without a login.

``/~TOKEN.EXPIRES.SIGNATURE/...`` is answered like ``/...`` for somebody who may see TOKEN. EXPIRES is in seconds since
1970. SIGNATURE is the first half of the HMAC-SHA256 (RFC 2104) of both by the secret of ``[server] link_secret``, in
Base64 for URLs (RFC 4648, 5). CATMAID sends neither cookies nor passwords to another origin, so what its users may see
there has to be in the address. Whoever has the link can pass it on; another secret ends all links. No log has one whole
(`hidden`).
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import NamedTuple

_TILDE = rb"/(?:~|%7[eE])"
"""Both mean the same (RFC 3986, 2.3)."""
_PREFIX = re.compile(_TILDE + rb"(\w[\w-]{0,63})\.(\d{1,12})\.([\w-]{22})(?=[/?]|\Z)", re.ASCII)
_ANYWHERE = re.compile(_TILDE + rb"(\w[\w-]{0,63})\.\d{1,12}\.[\w-]+", re.ASCII)
_PURPOSE = "ocpproxy link 1"


class BadLink(Exception):
    """A link is none of this gateway's, or has expired. The message is safe to show to clients."""


class SignedPath(NamedTuple):
    """A path with its prefix taken off."""

    token: str
    """The dataset that may be seen."""
    prefix: str
    """Without a slash at its end."""
    rest: bytes
    """The path that is meant, with its query; without a slash where the address ends behind the prefix."""


class SignedLinks:
    """The links of one gateway.

    :param secret: what they are signed with; None where there are none.
    :param now: returns the seconds since 1970.
    """

    def __init__(self, secret: str | None, now: Callable[[], float]) -> None:
        self._secret = secret
        self._now = now

    def read(self, path: bytes) -> SignedPath | None:
        """Return what a path with a prefix means; None for one without.

        :raises BadLink: it cannot be used.
        """
        if not re.match(_TILDE, path):
            return None
        found = _PREFIX.match(path)
        if found is None or self._secret is None:
            raise BadLink("this is no link of this gateway; maybe a part of it is missing")
        token, expires = found[1].decode(), int(found[2])
        if not hmac.compare_digest(found[3], sign(self._secret, token, expires).encode()):
            raise BadLink("this is no link of this gateway, or all links were ended")
        if self._now() >= expires:
            raise BadLink("this link has expired; ask whoever gave it to you for another one")
        written = f"/~{token}.{found[2].decode()}.{found[3].decode()}"
        return SignedPath(token, written, path[found.end() :])


def without_prefix(path: bytes) -> bytes:
    """Return a path without the prefix of a link, whether that can be used or not: for the administrator."""
    found = _PREFIX.match(path)
    return path if found is None else path[found.end() :]


def hidden(text: bytes) -> bytes:
    """Return a target or an address without the signatures of links in it, for logs."""
    return _ANYWHERE.sub(rb"/~\1.-", text)


def sign(secret: str, token: str, expires: int) -> str:
    """Return the signature of a link."""
    digest = hmac.digest(secret.encode(), f"{_PURPOSE}|{token}|{expires}".encode(), "sha256")
    return urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def prefix(secret: str, token: str, expires: int) -> str:
    """Return the prefix of a link, with a slash in front of it and none at its end."""
    return f"/~{token}.{expires}.{sign(secret, token, expires)}"
