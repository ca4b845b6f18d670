"""Files of this machine, read as objects of a web server: ``file://`` addresses."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from errno import EACCES, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM
from typing import Any
from urllib.parse import unquote

from twisted.internet.defer import TimeoutError as DeferredTimeout

from ocpproxy.concurrency import progress
from ocpproxy.concurrency.threads import RunInThread
from ocpproxy.upstream.base import ResponseTooLarge, UpstreamBroken, UpstreamSlow
from ocpproxy.upstream.http import HttpResponse, ResponseCheck

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_NOT_THERE = (ENOENT, ENOTDIR, ENAMETOOLONG)


class FileClient:
    """GET requests for files, with the statuses that a web server would give.

    :param run_in_thread: where the disk is waited for.
    :param timeout: seconds for one file.
    """

    url = "file://"

    def __init__(self, run_in_thread: RunInThread, timeout: float, clock: Any) -> None:
        self._in_thread = run_in_thread
        self._timeout = timeout
        self._clock = clock

    async def get(
        self, path: str, limit: int, check: ResponseCheck, headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """Return a file, or the part of it that a ``Range`` names; see `HostClient.get`.

        :param path: the absolute path without its first slash, percent-encoded.
        :raises UpstreamFailure: what `check` returns; `UpstreamBroken` for a file over the limit, or one that cannot be
            read; `UpstreamSlow` when the disk does not answer in time.
        """
        reading = self._in_thread(_read, "/" + unquote(path), limit, (headers or {}).get("Range", ""))
        try:
            response: HttpResponse = await reading.addTimeout(self._timeout, self._clock)
        except DeferredTimeout:
            raise UpstreamSlow(f"the file system did not answer within {self._timeout:g} s") from None
        failure = check(response)
        if failure is not None:
            raise failure
        progress.current().report()
        return response


def _read(path: str, limit: int, wanted: str) -> HttpResponse:
    """Return a regular file, as a web server would. (In a thread.)"""
    try:
        # What is no regular file is not waited for: a pipe, say.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", ENOENT)
        if number in _NOT_THERE:
            return HttpResponse(404, b"no such file")
        if number in (EACCES, EPERM):
            return HttpResponse(403, b"the file may not be read")
        raise UpstreamBroken(f"the file cannot be read: {error}") from None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            return HttpResponse(404, b"no regular file")
        first, end = _range(wanted, about.st_size)
        if end - first > limit:
            raise ResponseTooLarge(f"the file has {end - first} bytes, expected at most {limit}")
        body = os.pread(descriptor, end - first, first)
    except OSError as error:
        raise UpstreamBroken(f"the file cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(body) != end - first:
        raise UpstreamBroken("the file was changed while it was read")
    if not wanted:
        return HttpResponse(200, body)
    return HttpResponse(206, body, {"content-range": f"bytes {first}-{end - 1}/{about.st_size}"})


def _range(wanted: str, size: int) -> tuple[int, int]:
    """Return the first byte of a range and the one behind the last (RFC 9110, 14.1)."""
    found = _RANGE.fullmatch(wanted)
    if not wanted or found is None:
        return 0, size
    if not found[1]:
        return max(0, size - int(found[2] or 0)), size
    return min(int(found[1]), size), min(int(found[2]) + 1 if found[2] else size, size)
