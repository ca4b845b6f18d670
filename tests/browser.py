"""Chromium without a screen, driven by its own protocol over a pair of pipes. It blocks: use threads.

Source: chromedevtools.github.io/devtools-protocol; ``--remote-debugging-pipe`` takes messages on descriptor 3 and sends
them on descriptor 4, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

CHROMIUM = shutil.which("chromium")
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--no-first-run", "--disable-background-networking", "--hide-scrollbars"),
    "--window-size=1280,800",
)
_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""For pages with WebGL: all is drawn by a graphics card that is imitated, which is slow."""
_CODES = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "+": 187, "-": 189}
"""Numbers of keys, for scripts that ask for these."""


@dataclass
class Page:
    """One page."""

    read: int
    write: int
    messages: list[str] = field(default_factory=list)
    """What its scripts have reported, and what went wrong."""
    answers: list[tuple[str, int]] = field(default_factory=list)
    """The address and the status of each answer."""
    _session: str = ""
    _left: bytes = b""
    _ids: Iterator[int] = field(default_factory=count)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a command."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next(60)
            if found is None:
                raise TimeoutError(method)
            if found.get("id") == number:
                if "error" in found:
                    raise ValueError(f"{method}: {found['error']}")
                result: dict[str, Any] = found["result"]
                return result
            self._note(found)

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """Return the next message, or None when none comes in time."""
        deadline = time.monotonic() + seconds
        while b"\0" not in self._left:
            ready, _, _ = select.select([self.read], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            part = os.read(self.read, 2**20)
            if not part:
                raise ConnectionError("the browser has ended")
            self._left += part
        first, _, self._left = self._left.partition(b"\0")
        found: dict[str, Any] = json.loads(first)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled":
                values = [str(one.get("value", one.get("description"))) for one in parameters["args"]]
                self.messages.append(f"{parameters['type']}: {' '.join(values)}")
            case "Runtime.exceptionThrown":
                self.messages.append(f"exception: {json.dumps(parameters['exceptionDetails'])[:500]}")
            case "Log.entryAdded":
                entry = parameters["entry"]
                self.messages.append(f"{entry['level']}: {entry['text']} {entry.get('url', '')}")
            case "Network.responseReceived":
                self.answers.append((parameters["response"]["url"], parameters["response"]["status"]))

    def attach(self) -> None:
        """Take the first page of the browser."""
        while not (pages := [one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page"]):
            time.sleep(0.05)
        self._session = self.call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=url)
        self.call("Page.bringToFront")

    def resize(self, width: int, height: int) -> None:
        """Give the page a size, in pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript, which may be a promise.

        :raises ValueError: it has thrown something.
        """
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise ValueError(json.dumps(found["exceptionDetails"])[:2000])
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression is true in the sense of JavaScript.

        :raises TimeoutError: it is not in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.evaluate(f"Boolean({expression})"):
                    return
            except ValueError:  # while it changes from one page to another
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"{expression} is not true: {self.messages}")
            while (event := self._next(0.02)) is not None:
                self._note(event)

    def key(self, key: str, *, hold: float = 0.0, modifiers: int = 0) -> None:
        """Press a key; while it is held it repeats 30 times a second, as keyboards do.

        :param hold: seconds.
        :param modifiers: 8 for shift.
        """
        event: dict[str, Any] = {"key": key, "modifiers": modifiers}
        if len(key) == 1:
            event["text"] = key
        if key in _CODES:
            event |= {"code": key, "windowsVirtualKeyCode": _CODES[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event)
        end = time.monotonic() + hold
        while time.monotonic() < end:
            time.sleep(1 / 30)
            self.call("Input.dispatchKeyEvent", type="keyDown", autoRepeat=True, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **{k: v for k, v in event.items() if k != "text"})

    def png(self, *, whole: bool = False) -> bytes:
        """Return what is seen as a PNG.

        :param whole: the whole page, and not only what is in the window.
        """
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def screenshot(self) -> npt.NDArray[Any]:
        """Return what is seen, axes (row, column, red green blue)."""
        with Image.open(BytesIO(self.png())) as image:
            return np.asarray(image.convert("RGB")).astype(int)

    def wait(self, what: Callable[[npt.NDArray[Any]], bool], seconds: float = 120) -> npt.NDArray[Any]:
        """Return what is seen as soon as it is as wanted, or what is seen in the end."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                seen = self.screenshot()
            except ValueError:  # while it changes from one page to another, nothing is seen
                seen = np.zeros((800, 1280, 3), int)
            if what(seen) or time.monotonic() > deadline:
                return seen
            while (event := self._next(0.3)) is not None:
                self._note(event)


@contextmanager
def browser(place: Path, *, webgl: bool = False) -> Iterator[Page]:
    """Run a browser for the time of a block.

    :param place: a directory for what it keeps.
    :param webgl: whether its pages need WebGL.
    """
    if CHROMIUM is None:
        raise FileNotFoundError("chromium")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # The shell puts the pipes where the browser expects them.
    graphics = _GL if webgl else ("--disable-gpu",)
    command = [
        CHROMIUM,
        *_FLAGS,
        *graphics,
        f"--user-data-dir={place}/chromium",
        "--remote-debugging-pipe",
        "about:blank",
    ]
    script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    process = subprocess.Popen(
        ["/bin/bash", "-c", script, "-", *command],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        page = Page(ours_in, ours_out)
        page.attach()
        yield page
    finally:
        process.terminate()
        process.wait(30)
        os.close(ours_in)
        os.close(ours_out)
