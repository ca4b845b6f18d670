"""Neuroglancer, as the package ``neuroglancer`` from PyPI has it, with a dataset open.

===============================  ==================================================================================
``/neuroglancer/TOKEN``          redirects to the page; ``?x=&y=&z=`` is a place in voxels of the finest level
``/neuroglancer/v/TOKEN/``       the page and its files
``/neuroglancer/TOKEN/state``    what the page opens: all channels, ids as segmentation, and the place
``/neuroglancer/LICENSE``        its licence
===============================  ==================================================================================

The client in the package is the one for Python: it wants a path with ``/v/TOKEN`` in it, and a stream of events from
Python. So a script before its own replaces ``EventSource`` by a class that does nothing. The package is not imported:
only the files of its client are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ocpproxy.cache.entries import CatalogueEntry
from ocpproxy.model.address import BadAddress
from ocpproxy.model.dataset import NAME, CannotDisplay, Channel
from ocpproxy.web import answers
from ocpproxy.web.answers import Reply
from ocpproxy.web.file_answers import FOR_EVER, FileAnswers
from ocpproxy.web.request import GatewayRequest
from ocpproxy.web.resources import AsyncResource
from ocpproxy.web.voxels import voxel_answers
from ocpproxy.web.voxels.resource import PRECOMPUTED, VoxelSources

_NOT_INSTALLED = (
    "Neuroglancer is not installed here; the administrator can do that: pip install 'ocpproxy[neuroglancer]'"
)
_TOKEN = re.compile(NAME, re.ASCII)
_NO_EVENTS = "no-events.js"
_BEFORE_SCRIPTS = b'<link rel="icon" href="data:,"><script src="%b"></script><script ' % _NO_EVENTS.encode()
_NO_EVENTS_SCRIPT = b"""\
// Python's events, which this page has no need of.
window.EventSource = class {
  constructor() { setTimeout(() => this.onopen && this.onopen(), 0); }
  addEventListener() {}
  close() {}
};
"""
_POLICY = (
    b"default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src *; font-src 'self' data:"
)
_LARGEST_FILE = 16 * 2**20
_PLACE = re.compile(r"-?\d{1,9}(?:\.\d{1,3})?", re.ASCII)


@dataclass(frozen=True)
class ClientFiles:
    """The files of the client."""

    directory: Path | None
    """None where it is not installed."""

    @property
    def are_installed(self) -> bool:
        """True if the client can be shown."""
        return self.directory is not None

    @classmethod
    def installed(cls) -> ClientFiles:
        """Return the files of the installed package."""
        spec = find_spec("neuroglancer")
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            directory = Path(place) / "static" / "client"
            if (directory / "index.html").is_file():
                return cls(directory)
        return cls(None)

    @cached_property
    def licence(self) -> str:
        """The text of its licence."""
        try:
            files = distribution("neuroglancer").files or []
        except PackageNotFoundError:
            return ""
        found = next((file for file in files if file.name == "LICENSE"), None)
        return "" if found is None else found.read_text()

    def read(self, name: str) -> bytes:
        """Return a file of the client, the page with our script before its own. (In a thread.)

        :raises OSError: there is none.
        """
        if self.directory is None:
            raise FileNotFoundError(name)
        if name == _NO_EVENTS:
            return _NO_EVENTS_SCRIPT
        with (self.directory / name).open("rb") as file:
            body = file.read(_LARGEST_FILE)
        return body.replace(b"<script ", _BEFORE_SCRIPTS, 1) if name == "index.html" else body


class NeuroglancerResource(AsyncResource):
    """The page, its files, and what it opens."""

    def __init__(self, sources: VoxelSources, files: ClientFiles) -> None:
        super().__init__()
        self._sources = sources
        self._files = files
        self._answers = FileAnswers(lambda name: self._files.read(name), sources.run_in_thread)

    async def answer(self, request: GatewayRequest) -> Reply:
        """Return a redirection, a file or a state."""
        segments = [segment.decode("latin-1") for segment in (request.postpath or [])]
        match segments:
            case ["LICENSE"] if self._files.directory is not None:
                return answers.text(200, self._files.licence)
            case [token] | [token, ""] if _TOKEN.fullmatch(token):
                return await self._open(request, token)
            case [token, "state"] if _TOKEN.fullmatch(token):
                entry = await self._entry(request, token)
                return answers.document(200, state(entry, request.root_url, _position(request)))
            case ["v", token, name] if _TOKEN.fullmatch(token):
                return await self._file(request, name or "index.html")
        raise BadAddress("expected the token of a dataset below /neuroglancer/")

    async def _entry(self, request: GatewayRequest, token: str) -> CatalogueEntry:
        self._sources.access.check(token, request)
        entry = await self._sources.cache.entry(token)
        if not entry.source.display.as_chunks:
            raise CannotDisplay(f"{token} is served as tiles only")
        return entry

    async def _open(self, request: GatewayRequest, token: str) -> Reply:
        if self._files.directory is None:
            return answers.text(501, _NOT_INSTALLED)
        await self._entry(request, token)
        root, query = request.root_url, "&".join(f"{axis}={value}" for axis, value in _position(request).items())
        state_url = f"{root}/neuroglancer/{token}/state" + (f"?{query}" if query else "")
        where = f"{root}/neuroglancer/v/{token}/#!{state_url}"
        reply = answers.text(302, "Neuroglancer")
        return Reply(302, reply.body, {**reply.headers, b"location": where.encode()})

    async def _file(self, request: GatewayRequest, name: str) -> Reply:
        """Return a file of the client."""
        if self._files.directory is None:
            return answers.text(501, _NOT_INSTALLED)
        changes = name in ("index.html", _NO_EVENTS)
        headers = {
            b"cache-control": b"no-cache" if changes else FOR_EVER,
            b"content-security-policy": _POLICY,
        }
        found = await self._answers.answer(request, name, headers)
        if found is None:
            raise BadAddress("Neuroglancer has no such file")
        return found

    def failure(self, request: GatewayRequest, error: Exception) -> Reply | None:
        """Return 404 for what is not there, and 503 or 504 for what fails."""
        return voxel_answers.failure(error)


def _position(request: GatewayRequest) -> dict[str, str]:
    """Return the place that a request names, by axis."""
    found: dict[str, str] = {}
    for axis in "xyz":
        values: list[bytes] = (request.args or {}).get(axis.encode(), [])
        text = values[0].decode("latin-1") if values else ""
        if _PLACE.fullmatch(text):
            found[axis] = text
    return found


def state(entry: CatalogueEntry, root: str, place: Mapping[str, str]) -> dict[str, Any]:
    """Return the state of Neuroglancer that shows a dataset.

    :param root: the address of the gateway.
    :param place: in voxels of the finest level, by axis; the middle of the volume where it is not named.
    """
    dataset, finest = entry.dataset, entry.dataset.finest
    position = []
    for letter, offset, size in zip("xyz", finest.offset, finest.size, strict=True):
        position.append(float(place[letter]) + 0.5 if letter in place else offset + size / 2)
    layers = [_layer(dataset.token, channel, root) for channel in dataset.channels]
    return {
        "dimensions": {letter: [float(edge) * 1e-9, "m"] for letter, edge in zip("xyz", finest.voxel, strict=True)},
        "position": position,
        "crossSectionScale": 1,
        "layers": layers,
        "selectedLayer": {"layer": layers[0]["name"]} if layers else {},
        "layout": "xy" if finest.size[2] == 1 else "4panel",
        "title": dataset.token,
    }


def _layer(token: str, channel: Channel, root: str) -> dict[str, Any]:
    first, last = channel.time
    is_precomputed = last == first and PRECOMPUTED.has_type(channel.dtype)
    name = "precomputed" if is_precomputed else "zarr3"
    address = f"{root}/{name}/{token}/{channel.name}"
    layer: dict[str, Any] = {"name": channel.name, "source": f"{name}://{address}"}
    if channel.kind == "annotation":
        return {**layer, "type": "segmentation", "notSelectedAlpha": 0.3, "hideSegmentZero": True}
    shader = _COLOURS if channel.kind == "rgba" else _WINDOW
    layer |= {"type": "image", "shader": shader, "opacity": 1, "blend": "additive"}
    low, high = channel.window
    if high > low and channel.kind != "rgba":
        layer["shaderControls"] = {"normalized": {"range": [low, high]}}
    return layer


_WINDOW = "#uicontrol invlerp normalized\nvoid main() {\n  emitGrayscale(normalized());\n}\n"
_COLOURS = """\
void main() {
  uint v = toRaw(getDataValue());
  emitRGB(vec3(float(v & 255u), float((v >> 8) & 255u), float((v >> 16) & 255u)) / 255.0);
}
"""
