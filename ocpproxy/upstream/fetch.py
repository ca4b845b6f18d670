"""Fetches of metadata documents."""

from __future__ import annotations

from collections.abc import Mapping

from ocpproxy.upstream.codecs import content_encoding
from ocpproxy.upstream.documents import checks
from ocpproxy.upstream.http import HostClient, ResponseCheck, status_failure

DOCUMENT_LIMIT = 2 * 2**20
"""Bytes that a document may have, as it is sent and after its content encoding is undone."""


async def fetch_document(
    client: HostClient, path: str, check: ResponseCheck = status_failure, headers: Mapping[str, str] | None = None
) -> str:
    """Return the text of the document at a path.

    :param check: decides whether a response is the document.
    :raises UpstreamFailure: as `HostClient.get`; `UpstreamBroken` for a document that is too large or is not UTF-8.
    """
    response = await client.get(path, DOCUMENT_LIMIT, check, headers)
    with checks.parsing(path):
        return checks.decode_text(content_encoding.decode_content(response.body, response.encoding, DOCUMENT_LIMIT))
