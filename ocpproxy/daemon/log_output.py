"""Where the daemon's log goes, and what its lines look like (``[server] log``).

The log is twistd's: ``--logfile``, standard output, or ``twistd.log`` of a daemon. `LogOutput` takes twistd's place as
the observer, so that lines can be JSON, lines of the access log can stand among them, and HUP can open the file again.
With ``--syslog`` or ``--logger`` twistd logs by itself.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, formatEvent
from zope.interface import implementer

from ocpproxy.web.log_file import LogFile

_OF_TWISTED = {"time", "message", "system", "isError", "failure", "why", "format", "printed"}
"""Members of events that are no values of ours."""
_LONGEST_VALUE = 2000


@implementer(ILogObserver)
class LogOutput:
    """The log of one process.

    :param path: the file; None for standard output.
    :param as_json: write one JSON object a line.
    :param worker: the number of the process among its siblings.
    """

    def __init__(self, path: Path | None, *, as_json: bool, worker: int | None = None) -> None:
        self._file = None if path is None else LogFile(path.absolute())
        self._out = sys.stdout  # twistd replaces it when it begins to log
        self.as_json = as_json
        self._worker = worker

    def open(self) -> LogOutput:
        """Open the file.

        :raises OSError: it cannot be opened.
        """
        self.reopen()
        return self

    @property
    def has_file(self) -> bool:
        """True if it is a file that can be opened again."""
        return self._file is not None

    def __call__(self, event: LogEvent) -> None:
        """Write an event."""
        line = self._as_json(event) if self.as_json else self._as_text(event)
        if line:
            self.write_lines(line.encode("utf-8", "backslashreplace") + b"\n")

    def _as_text(self, event: LogEvent) -> str:
        if self._worker is not None:
            system = event.get("log_system") or f"{event.get('log_namespace', '-')}#{_level(event)}"
            event = {**event, "log_system": f"worker {self._worker}: {system}"}
        return eventAsText(event).replace("\n", "\n\t")

    def _as_json(self, event: LogEvent) -> str:
        text, failure = formatEvent(event), event.get("log_failure")
        if not text and failure is None:
            return ""
        at = datetime.fromtimestamp(event.get("log_time", 0.0), UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": at.replace("+00:00", "Z"),
            "level": _level(event),
            "logger": event.get("log_namespace", "-"),
            "message": text,
        }
        if self._worker is not None:
            line["worker"] = self._worker
        if failure is not None:
            line["traceback"] = failure.getTraceback()
        values = {name: _value(value) for name, value in event.items() if _is_ours(name)}
        return json.dumps(line | ({"values": values} if values else {}))

    def write_lines(self, lines: bytes) -> None:
        """Write whole lines as they are.

        :raises OSError: they cannot be written.
        """
        if self._file is not None:
            self._file.write(lines)
            return
        self._out.flush()
        while lines:
            lines = lines[os.write(1, lines) :]

    def reopen(self) -> None:
        """Open the file again, which somebody has moved away.

        :raises OSError: that is impossible; the old one stays.
        """
        if self._file is not None:
            self._file.reopen()

    def rotate(self) -> None:
        """Begin a new file, and keep the old one as ``FILE.1``; the one that was that becomes ``FILE.2``, and so on.

        :raises OSError: that is impossible; the old one stays in use.
        """
        if self._file is not None:
            self._file.rotate()


def _level(event: LogEvent) -> str:
    return str(event.get("log_level", LogLevel.info).name)


def _is_ours(name: str) -> bool:
    return not name.startswith("log_") and name not in _OF_TWISTED


def _value(value: object) -> str | int | bool:
    return value if isinstance(value, (bool, int)) else str(value)[:_LONGEST_VALUE]


_outputs: list[LogOutput] = []
"""That of twistd, which takes the name of a function for its logger."""


def log_for_twistd(options: dict[str, Any], *, as_json: bool) -> LogOutput | None:
    """Let twistd log here; return None where its options make it log by itself.

    :param options: those of ``twistd``, which are changed.
    """
    name = options.get("logfile") or ""
    in_foreground = options.get("nodaemon")
    if options.get("logger") or options.get("syslog") or (name == "-" and not in_foreground):
        return None
    to_standard_output = name == "-" or (in_foreground and not name)
    output = LogOutput(None if to_standard_output else Path(name or "twistd.log"), as_json=as_json)
    _outputs[:] = [output]
    options["logger"] = f"{__name__}.{twistd_logger.__name__}"
    return output


def twistd_logger() -> LogOutput:
    """Open the log: twistd calls this when it begins to log.

    :raises OSError: the file cannot be opened.
    """
    (output,) = _outputs
    return output.open()
