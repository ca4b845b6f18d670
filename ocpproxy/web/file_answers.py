"""Answers with files of installed packages, compressed where that is accepted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from cachetools import LRUCache

from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.formats import chunk_file
from ocpproxy.web import answers
from ocpproxy.web.answers import Reply
from ocpproxy.web.request import GatewayRequest

TYPES = {
    "js": b"text/javascript; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "wasm": b"application/wasm",
    "html": b"text/html; charset=utf-8",
    "txt": b"text/plain; charset=utf-8",
}
"""The content type of a file, by the end of its name."""
FOR_EVER = b"public, max-age=31536000, immutable"
"""The ``Cache-Control`` of a file whose address changes with its content."""
_NAME = re.compile(r"[\w.-]{1,100}\.(\w{1,8})", re.ASCII)


class FileAnswers:
    """The files of one directory.

    :param read: returns a file by its name, in a thread; raises OSError when there is none.
    """

    def __init__(self, read: Callable[[str], bytes], run_in_thread: RunInThread) -> None:
        self._read = read
        self._run_in_thread = run_in_thread
        self._zipped: LRUCache[str, bytes] = LRUCache(64)

    async def answer(self, request: GatewayRequest, name: str, headers: Mapping[bytes, bytes]) -> Reply | None:
        """Return a file, or None when there is none of this name.

        :param headers: those of the answer, beside what the file itself decides.
        """
        found = _NAME.fullmatch(name)
        kind = None if found is None else TYPES.get(found[1])
        if kind is None:
            return None
        all_headers = {**headers, b"content-type": kind, b"vary": b"Accept-Encoding"}
        zipped = answers.accepts_gzip(request.requestHeaders.getRawHeaders(b"accept-encoding", []))
        if zipped and name in self._zipped:
            body: bytes = self._zipped[name]
        else:
            try:
                body = await self._run_in_thread(self._read, name)
            except OSError:
                return None
            if zipped:
                body = self._zipped[name] = await self._run_in_thread(chunk_file.gzip, body)
        if zipped:
            all_headers[b"content-encoding"] = b"gzip"
        return Reply(200, body, all_headers)
