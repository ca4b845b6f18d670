"""The daemon's log as text and as JSON."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

from twisted.logger import LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.daemon.log_output import LogOutput, log_for_twistd
from ocpproxy.log import Logger
from tests import ocpserver
from tests.daemons import DaemonCase, pause
from tests.volumes import em


class LogOutputTests(SynchronousTestCase):
    """Lines in a file."""

    def logged(self, *, as_json: bool, worker: int | None = None) -> list[str]:
        """Return the lines of an event with values, of a failure and of an empty event."""
        path = Path(self.mktemp())
        output = LogOutput(path, as_json=as_json, worker=worker).open()
        logger = Logger("ocpproxy.test", observer=output)
        logger.warn("{count} of {what}", count=3, what='a "quoted"\nline', part=io.BytesIO(b"x"))
        try:
            raise ValueError("for the test")
        except ValueError:
            logger.failure("while testing")
        logger.info("")
        output.write_lines(b"whole line\n")
        return path.read_text().splitlines()

    def test_json(self) -> None:
        """Each event is one object, with its values; a failure has its traceback."""
        first, second, last = self.logged(as_json=True, worker=2)
        event = json.loads(first)
        self.assertRegex(event.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertIn("BytesIO", event["values"].pop("part"))
        message = '3 of a "quoted"\\nline'
        self.assertEqual(
            event,
            {
                "level": "warn",
                "logger": "ocpproxy.test",
                "message": message,
                "worker": 2,
                "values": {"count": 3, "what": 'a "quoted"\\nline'},
            },
        )
        failure = json.loads(second)
        self.assertEqual((failure["level"], failure["message"]), ("critical", "while testing"))
        self.assertIn("ValueError: for the test", failure["traceback"])
        self.assertEqual(last, "whole line")

    def test_text(self) -> None:
        """A line begins with time, level and logger; further lines of one event are indented."""
        lines = self.logged(as_json=False, worker=1)
        self.assertRegex(lines[0], r'^\S+ \[worker 1: ocpproxy.test#warn\] 3 of a "quoted"\\nline$')
        self.assertTrue(all(line.startswith("\t") for line in lines[2:-2]), lines)

    def test_reopened(self) -> None:
        """A file that was moved away is opened again, unless that is impossible; a rotated one is kept."""
        path = Path(self.mktemp())
        output = LogOutput(path, as_json=False).open()
        output.write_lines(b"1\n")
        path.rename(f"{path}.old")
        output.reopen()
        self.assertEqual(path.read_text(), "")
        output.write_lines(b"2\n")
        self.assertEqual((Path(f"{path}.old").read_text(), path.read_text()), ("1\n", "2\n"))
        output.rotate()
        output.write_lines(b"3\n")
        self.assertEqual((Path(f"{path}.1").read_text(), path.read_text()), ("2\n", "3\n"))
        path.unlink()
        path.mkdir()
        self.assertRaises(OSError, output.reopen)
        output.write_lines(b"4\n")

    def test_disk_full(self) -> None:
        """A directory that is away loses no line; afterwards there is a file in it again, by itself."""
        place = Path(self.mktemp())
        place.mkdir()
        output = LogOutput(place / "log", as_json=False).open()
        output.write_lines(b"1\n")
        place.rename(f"{place}.away")
        for _ in range(3):
            output.write_lines(b"2\n")
            self.assertRaises(OSError, output.rotate)
            self.assertRaises(OSError, output.reopen)
        place.mkdir()
        output.write_lines(b"3\n")
        self.assertEqual((place / "log").read_text(), "3\n")
        self.assertEqual((Path(f"{place}.away") / "log").read_text(), "1\n2\n2\n2\n")

    def test_of_twistd(self) -> None:
        """twistd's own options say where the log is; where it was told to log otherwise, it does."""
        for options, expected in (
            ({}, "twistd.log"),
            ({"logfile": "x.log", "nodaemon": True}, "x.log"),
            ({"nodaemon": True}, None),
            ({"nodaemon": True, "logfile": "-"}, None),
        ):
            said: dict[str, Any] = {**options}
            output = log_for_twistd(said, as_json=False)
            assert output is not None
            self.assertEqual(output._file and output._file.path, expected and Path(expected).absolute())
            self.assertEqual(said["logger"], "ocpproxy.daemon.log_output.twistd_logger")
        for own in ({"logfile": "-"}, {"syslog": True}, {"logger": "a.b"}):
            self.assertIsNone(log_for_twistd({**own}, as_json=False))

    def test_publisher(self) -> None:
        """It is an observer as Twisted knows them."""
        path = Path(self.mktemp())
        publisher = LogPublisher(LogOutput(path, as_json=True).open())
        publisher({"log_format": "{n}", "n": 1.5})
        self.assertEqual(json.loads(path.read_text())["values"], {"n": "1.5"})


class JsonLogTests(DaemonCase):
    """The real daemon."""

    async def test_json(self) -> None:
        """Every line of the log is an object: of the daemon, its workers, the access log."""
        for workers in ("1", "2"):
            service = self.serve(ocpserver.Service(em(), 2))
            daemon = await self.start(self.configure(service, server_log="json", server_workers=workers))
            path = f"kat/3/{int(workers) - 1}_0_0.png"
            await daemon.get(path, Referer='a "b" "c', X_Request_Id="mine")
            os.kill(daemon.pid, signal.SIGHUP)
            while '"mine"' not in daemon.log or "read again" not in daemon.log:
                await pause(0.05)
            self.assertEqual(await daemon.stop(), 0)
            events = [json.loads(line) for line in daemon.log.splitlines()]
            (found,) = [event for event in events if event.get("request_id") == "mine"]
            self.assertEqual((found["logger"], found["status"], found["result"]), ("access", 200, "miss"))
            self.assertEqual(found["request"], f"GET /{path} HTTP/1.1")
            self.assertEqual(found["referer"], "a \\x22b\\x22 \\x22c")
            self.assertGreater(found["seconds"], 0)
