"""The process in which TensorStore lives: see `ocpproxy.upstream.tensorstore.reader`.

It answers frames in whatever order the work is done, and ends when its parent does. Its main thread reads frames;
TensorStore's threads send answers.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import time
from collections.abc import Mapping
from threading import Lock, Thread
from typing import Any

_OPEN_FOR = 600.0
"""Seconds that an array stays open; then its metadata is read again."""
_MOST_OPEN = 64
_WATCH_EVERY = 0.05
_TOO_LARGE = 3
"""Exit code of a process that was about to take too much memory."""


class Answers:
    """Frames to the parent, one at a time."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._turn = Lock()

    def send(self, head: Mapping[str, Any], body: Any = b"") -> None:
        """Send one; a parent that is gone is the end."""
        said = json.dumps({**head, "bytes": len(body)}).encode()
        try:
            with self._turn:
                self._link.sendall(len(said).to_bytes(4, "big") + said)
                if len(body):
                    self._link.sendall(body)
        except OSError:
            os._exit(0)

    def fail(self, number: int, error: BaseException) -> None:
        """Something went wrong; the spec that TensorStore puts behind its words has headers in it."""
        self.send({"id": number, "error": str(error).partition("[tensorstore_spec")[0][:300] or type(error).__name__})


class Arrays:
    """What is open, and what is being read."""

    def __init__(self, library: Any, context: Any, answers: Answers) -> None:
        self._library = library
        self._context = context
        self._answers = answers
        self._open: dict[str, tuple[float, Any]] = {}
        self._reading: dict[int, Any] = {}

    def read(self, number: int, asked: Mapping[str, Any]) -> None:
        """Begin to read part of an array."""
        key = json.dumps(asked["spec"], sort_keys=True)
        since, opening = self._open.get(key, (0.0, None))
        if opening is None or time.monotonic() - since > _OPEN_FOR:
            if len(self._open) >= _MOST_OPEN:
                self._open.clear()
            opening = self._library.open(asked["spec"], context=self._context, open=True, read=True)
            self._open[key] = (time.monotonic(), opening)

        def opened(future: Any) -> None:
            try:
                index = tuple(slice(*one) if isinstance(one, list) else one for one in asked["index"])
                part = future.result()[index].transpose(asked["order"])
                reading = self._reading[number] = part.read(order="C")
                reading.add_done_callback(done)
            except BaseException as error:
                self._failed(number, key, error)

        def done(future: Any) -> None:
            try:
                voxels = future.result()
            except BaseException as error:
                self._failed(number, key, error)
            else:
                self._reading.pop(number, None)
                head = {"id": number, "dtype": voxels.dtype.str, "shape": voxels.shape}
                self._answers.send(head, voxels.reshape(-1).view("u1").data)

        opening.add_done_callback(opened)

    def _failed(self, number: int, key: str, error: BaseException) -> None:
        self._reading.pop(number, None)
        self._open.pop(key, None)  # what is kept of it (the index of a shard) may be what is broken
        self._answers.fail(number, error)

    def cancel(self, number: int) -> None:
        """Call off what can be called off."""
        reading = self._reading.pop(number, None)
        if reading is not None:
            reading.cancel()

    def document(self, number: int, asked: Mapping[str, Any]) -> None:
        """Begin to read a whole value."""

        def opened(future: Any) -> None:
            try:
                future.result().read(asked["key"]).add_done_callback(done)
            except BaseException as error:
                self._answers.fail(number, error)

        def done(future: Any) -> None:
            try:
                found = future.result()
                missing = found.state == "missing"
                body = b"" if missing else bytes(found.value)
                if len(body) > asked["most"]:
                    raise ValueError(f"{asked['key']} has {len(body)} bytes, expected at most {asked['most']}")
            except BaseException as error:
                self._answers.fail(number, error)
            else:
                self._answers.send({"id": number, "missing": missing}, body)

        self._library.KvStore.open(asked["store"], context=self._context).add_done_callback(opened)


def watch(most: int) -> None:
    """End the process when it has more memory than that: one that runs into a hard limit hangs."""
    page = os.sysconf("SC_PAGESIZE")
    while True:
        with open("/proc/self/statm", "rb") as told:
            resident = int(told.read().split()[1]) * page
        if resident > most:
            os._exit(_TOO_LARGE)
        time.sleep(_WATCH_EVERY)


def main() -> None:
    """HttpResponse until the parent is gone."""
    link = socket.socket(fileno=int(sys.argv[1]))
    link.setblocking(True)
    stream = link.makefile("rb")

    def frame() -> Any:
        size = stream.read(4)
        return json.loads(stream.read(int.from_bytes(size, "big"))) if len(size) == 4 else None

    said = frame()
    if said is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Thread(target=watch, args=(said["memory"],), daemon=True).start()
    import tensorstore

    answers = Answers(link)
    arrays = Arrays(tensorstore, tensorstore.Context(said["context"]), answers)
    while (asked := frame()) is not None:
        number = asked["id"]
        try:
            if asked["do"] == "cancel":
                arrays.cancel(number)
            else:
                {"read": arrays.read, "document": arrays.document}[asked["do"]](number, asked)
        except Exception as error:
            answers.fail(number, error)
    os._exit(0)  # whatever is still being read


if __name__ == "__main__":
    main()
