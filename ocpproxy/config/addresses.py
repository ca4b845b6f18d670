"""Addresses of volumes, as people copy them from viewers, file managers and scripts.

=============================================  =====================================================================
``zarr://https://host/v``, ``precomputed://``  a scheme of Neuroglancer before the address
``https://host/v|zarr2:``, ``|zarr3:inner/``   a pipeline of Neuroglancer, with a path below the address
``https://host/v/.zattrs``, ``.../info``       a document of the volume, instead of the volume
``HTTPS://host/my volume``                     capitals; spaces and letters that are not ASCII
=============================================  =====================================================================
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, urlsplit

SCHEMES = ("http", "https", "s3", "gs", "bossdb", "file")
FORMATS = {
    "precomputed": "precomputed",
    "neuroglancer-precomputed": "precomputed",
    "n5": "n5",
    "zarr": "zarr",
    "zarr2": "zarr",
    "zarr3": "zarr",
}
"""What Neuroglancer calls the formats that are read, and the type of upstream of each."""
_PREFIX = re.compile(r"(precomputed|n5|zarr[23]?)://(?=[a-z0-9]+:)", re.IGNORECASE)
_DOCUMENT = re.compile(r"/(\.zattrs|\.zgroup|\.zarray|\.zmetadata|zarr\.json|attributes\.json|info)/?\Z")
_EXPECTED = (
    "an http:// or https:// address (or s3://, gs://, bossdb://, file://) without a query or user name, in "
    "which {token} and {channel} may stand for names; or one CHANNEL: ADDRESS a line"
)


class UnusableAddress(ValueError):
    """It is no address. The message says what was expected."""


class VolumeAddress(NamedTuple):
    """The address of a volume."""

    url: str
    """Percent-encoded, without a slash at its end unless there was one."""
    format: str | None
    """The type of upstream that the address names, if it does."""


def parse_address(text: str) -> VolumeAddress:
    """Return the address that somebody has written.

    :raises UnusableAddress: with what was expected.
    """
    base, *pipeline = text.strip().split("|")
    prefix = _PREFIX.match(base)
    found = None
    if prefix:
        base, found = base[prefix.end() :], FORMATS[prefix[1].lower()]
    for step in pipeline:
        name, _, path = step.strip().partition(":")
        name = name.lower()
        if name not in FORMATS:
            raise UnusableAddress(f"the address of a volume itself: what {name[:40]}: opens cannot be read here")
        found = FORMATS[name]
        base = f"{base.rstrip('/')}/{path.strip('/')}" if path.strip("/") else base
    url = _encoded(_DOCUMENT.sub("", base))
    if not _is_fine(url):
        raise UnusableAddress(f"file://{base}, for a directory of this machine" if base.startswith("/") else _EXPECTED)
    return VolumeAddress(url, found)


def _encoded(address: str) -> str:
    """Return an address with its scheme in small letters, and percent-encoded spaces and letters that are not ASCII."""
    scheme, colon, rest = address.partition(":")
    host = re.match("//[^/]*", rest)
    start = host.end() if host else 0
    path = re.sub(r"[ \u0080-\U0010ffff]", lambda letter: quote(letter[0], errors="replace"), rest[start:])
    return f"{scheme.lower()}{colon}{rest[:start]}{path}"


def _is_fine(url: str) -> bool:
    plain = url.replace("{token}", "x").replace("{channel}", "x")
    try:
        parts = urlsplit(plain)
        fine = parts.scheme in SCHEMES and bool(parts.hostname or parts.scheme == "file")
        fine = fine and not (parts.query or parts.fragment or parts.username or parts.password)
        fine = fine and (parts.port is None or parts.port > 0) and "{" not in urlsplit(url).netloc
    except ValueError:
        return False
    return fine and not re.search(r"[\s\x00-\x1f\x7f-\uffff{}\\]", plain)
