"""Requests whose answers nobody decodes."""

from __future__ import annotations

from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

from twisted.internet.threads import deferToThread

from tests.daemons import Daemon

GZIP = {"Accept-Encoding": "gzip"}


async def raw_get(
    daemon: Daemon, path: str, headers: dict[str, str], method: str = "GET"
) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers of an answer, whose body nobody decodes."""

    def ask() -> tuple[int, bytes, dict[str, str]]:
        where = urlsplit(daemon.url)
        with closing(HTTPConnection(where.netloc, timeout=60)) as connection:
            connection.putrequest(method, f"/{path}", skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}

    return await deferToThread(ask)
