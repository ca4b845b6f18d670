"""The logger of all modules, in whose lines nobody else can write.

Names, reasons and addresses come from clients and upstreams. A line break in one would begin a line of the log that
looks like ours, and other control characters change what a terminal shows. So they are escaped where they are logged.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.python.failure import Failure

from twisted import logger

_CONTROL = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f"  # C0 but the tab, C1
    "\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"  # separators, directions, halves of letters
)
_NAMES = {"\n": "\\n", "\r": "\\r"}


def escape(text: str) -> str:
    """Return a text without control characters and line breaks."""
    if text.isprintable():  # nearly always, and ten times as fast
        return text
    return _CONTROL.sub(lambda found: _NAMES.get(found[0]) or f"\\u{ord(found[0]):04x}", text)


class Logger(logger.Logger):
    """A logger that escapes the values of its lines; see `twisted.logger.Logger`."""

    def emit(self, level: Any, format: str | None = None, **values: object) -> None:
        """Emit an event."""
        for name, value in values.items():
            if isinstance(value, str):
                if not value.isprintable():
                    values[name] = escape(value)
            elif isinstance(value, Failure):
                _escape_traceback(value)
            elif isinstance(value, BaseException):
                values[name] = escape(str(value))
        super().emit(level, format, **values)


def _escape_traceback(failure: Failure) -> None:
    """Escape what an exception says in its traceback, whose lines are our own."""
    original = failure.getTraceback

    def escaped(*args: Any, **kwargs: Any) -> str:
        return "\n".join(map(escape, original(*args, **kwargs).split("\n")))

    failure.getTraceback = escaped  # type: ignore[method-assign]
