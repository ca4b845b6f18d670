"""Fetches of metadata documents."""

from __future__ import annotations

from collections.abc import Mapping

from ocpproxy.upstream import trail
from ocpproxy.upstream.base import UpstreamFailure
from ocpproxy.upstream.codecs import content_encoding
from ocpproxy.upstream.documents import checks
from ocpproxy.upstream.http import ResponseCheck, status_failure
from ocpproxy.upstream.locations import ObjectClient

DOCUMENT_LIMIT = 2 * 2**20
"""Bytes that a document may have, as it is sent and after its content encoding is undone."""


async def fetch_document(
    client: ObjectClient, path: str, check: ResponseCheck = status_failure, headers: Mapping[str, str] | None = None
) -> str:
    """Return the text of the document at a path.

    :param check: decides whether a response is the document.
    :raises UpstreamFailure: as `HostClient.get`; `NotUnderstood` for a document that is too large or is not UTF-8.
    """
    address = f"{client.url}/{path}"
    try:
        response = await client.get(path, DOCUMENT_LIMIT, check, headers)
        with checks.parsing(path.rpartition("/")[2]):
            body = content_encoding.decode_content(response.body, response.encoding, DOCUMENT_LIMIT)
            text = checks.decode_text(body)
    except UpstreamFailure as failure:
        trail.note_document(address, str(failure))
        raise
    trail.note_document(address, f"{len(body)} bytes", text)
    return text
