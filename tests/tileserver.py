"""A double of a remote CATMAID tile server, for the tile source types whose tiles are plain images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from email.utils import parsedate_to_datetime
from functools import cache
from io import BytesIO
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Answer = tuple[str, int, dict[str, str], bytes]
Address = tuple[int, int, int, int]
"""Slice (of the server's numbers), zoom level, row and column."""

TILES = {
    1: r"(?P<z>-?\d+)/(?P<row>-?\d+)_(?P<col>-?\d+)_(?P<level>\d+)",
    4: r"(?P<z>-?\d+)/(?P<level>\d+)/(?P<row>-?\d+)_(?P<col>-?\d+)",
    5: r"(?P<level>\d+)/(?P<z>-?\d+)/(?P<row>-?\d+)/(?P<col>-?\d+)",
}
SMALL = {1: r"(?P<z>-?\d+)/small", 4: r"(?P<z>-?\d+)/small", 5: r"small/(?P<z>-?\d+)"}
"""Overviews. Type 9 is as 1, and type 7 as 5 with a prefix; type 2 has its tiles in queries, and no overview."""


class TileServer:
    """A stack of `volume` (z, y, x) in full-size tiles, padded with 0; `tile` is their width and height.

    `missing` tiles, and those outside the stack, get `missing_status`; if that is 200, with a black tile. `sent` and
    `unchanged` count the responses 200 and 304 for tiles, `absent` the others.
    """

    def __init__(
        self,
        volume: npt.NDArray[np.uint8],
        levels: int = 3,
        tile: tuple[int, int] = (512, 512),
        type: Literal[1, 2, 4, 5, 7, 9] = 1,
        format: Literal["png", "jpg"] = "png",
        missing: Collection[Address] = (),
        missing_status: int = 404,
        first_slice: int = 0,
    ) -> None:
        self.volume, self.levels, self.tile, self.type, self.format = volume, levels, tile, type, format
        self.missing, self.missing_status, self.first_slice = set(missing), missing_status, first_slice
        self.last_modified = "Wed, 21 Oct 2015 07:28:00 GMT"
        self.sent = self.unchanged = self.absent = 0
        self.tile_bytes = cache(self._tile_bytes)
        self._type = {"content-type": "image/png" if format == "png" else "image/jpeg"}

    def pixels(self, z: int, level: int, row: int, col: int) -> npt.NDArray[np.uint8]:
        """Return the pixels of a tile before they are encoded; all 0 outside the stack."""
        width, height = self.tile
        pixels = np.zeros((height, width), np.uint8)
        if self._inside(z, level, row, col):
            plane = self.volume[z - self.first_slice, :: 2**level, :: 2**level]
            part = plane[row * height : (row + 1) * height, col * width : (col + 1) * width]
            pixels[: part.shape[0], : part.shape[1]] = part
        return pixels

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Answer:
        """Respond to a GET: ``cutout`` for a tile or ``info`` for all else, the status, headers and body."""
        address = self._by_query(query) if self.type == 2 else self._by_path(path)
        if address is None:
            return self._overview(path)
        exists = address not in self.missing and self._inside(*address)
        if not exists and self.missing_status != 200:
            self.absent += 1
            body = b"" if self.missing_status == 204 else b"<h1>no such tile</h1>"
            return "cutout", self.missing_status, {"content-type": "text/html"}, body
        body = self.tile_bytes(*address) if exists else self._encode(np.zeros(self.tile[::-1], np.uint8))
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        validators = {"etag": etag, "last-modified": self.last_modified}
        if self._fresh(etag, headers):
            self.unchanged += 1
            return "cutout", 304, validators, b""
        self.sent += 1
        return "cutout", 200, self._type | validators, body

    def _inside(self, z: int, level: int, row: int, col: int) -> bool:
        if not (0 <= level < self.levels and 0 <= z - self.first_slice < len(self.volume)):
            return False
        _, height, width = self.volume[:, :: 2**level, :: 2**level].shape
        return bool(0 <= row * self.tile[1] < height and 0 <= col * self.tile[0] < width)

    def _match(self, patterns: dict[int, str], path: str) -> re.Match[str] | None:
        pattern = patterns.get({7: 5, 9: 1}.get(self.type, self.type), "(?!)")
        prefix = "largeDataTileSource/{}/{}/".format(*self.tile) if self.type == 7 else ""
        return re.search(rf"(?:^|/){prefix}{pattern}\.{self.format}$", path)

    def _by_path(self, path: str) -> Address | None:
        match = self._match(TILES, path)
        return (int(match["z"]), int(match["level"]), int(match["row"]), int(match["col"])) if match else None

    def _by_query(self, query: dict[str, list[str]]) -> Address | None:
        """Return the tile of a query of type 2, or None if the parameters contradict each other."""
        try:
            z, row, col = (int(query[name][0]) for name in ("z", "row", "col"))
            corner = tuple(int(query[name][0]) for name in ("x", "y", "width", "height"))
            level = [1 / 2**n for n in range(100)].index(float(query["scale"][0]))
        except (KeyError, ValueError):
            return None
        return (z, level, row, col) if corner == (col * self.tile[0], row * self.tile[1], *self.tile) else None

    def _overview(self, path: str) -> Answer:
        match = self._match(SMALL, path)
        z = int(match["z"]) - self.first_slice if match else -1
        if not 0 <= z < len(self.volume):
            return "info", 404, {"content-type": "text/html"}, b"<h1>not found</h1>"
        step = -(-max(self.volume.shape[1:]) // 192)
        return "info", 200, dict(self._type), self._encode(self.volume[z, ::step, ::step])

    def _fresh(self, etag: str, headers: dict[str, str]) -> bool:
        """Return whether the client has this already: by its tags, or by its date where it sends no tags."""
        if "if-none-match" in headers:
            tags = [tag.strip().removeprefix("W/") for tag in headers["if-none-match"].split(",")]
            return etag in tags or "*" in tags
        try:
            since = parsedate_to_datetime(headers["if-modified-since"])
            return parsedate_to_datetime(self.last_modified) <= since
        except (KeyError, ValueError, TypeError):
            return False

    def _tile_bytes(self, z: int, level: int, row: int, col: int) -> bytes:
        return self._encode(self.pixels(z, level, row, col))

    def _encode(self, pixels: npt.NDArray[np.uint8]) -> bytes:
        out = BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG" if self.format == "png" else "JPEG", quality=90)
        return out.getvalue()
