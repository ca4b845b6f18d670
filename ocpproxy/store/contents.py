"""What the file of a tile or of a chunk has to look like."""

from __future__ import annotations

from ocpproxy.formats import chunk_file
from ocpproxy.imagery import pictures
from ocpproxy.model.chunks import is_chunk
from ocpproxy.model.stack import Tile


def is_whole(tile: Tile, content: bytes | memoryview) -> bool:
    """Return whether a content begins and ends as it should. That of a torn or foreign file does not."""
    return chunk_file.is_whole(content) if is_chunk(tile) else pictures.is_whole(content)


def is_undamaged(tile: Tile, content: bytes | memoryview) -> bool:
    """Return whether a chunk has its checksum, or a picture begins and ends as it should."""
    return chunk_file.is_undamaged(content) if is_chunk(tile) else pictures.is_whole(content)


def is_uniform(tile: Tile, content: bytes) -> bool:
    """Return whether all pixels or voxels are known to be the same."""
    return chunk_file.is_uniform(content) if is_chunk(tile) else pictures.is_uniform(content)
