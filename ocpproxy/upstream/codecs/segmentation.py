"""neuroglancer's compressed segmentation, by the ``compressed-segmentation`` library.

The library trusts its input: a changed byte makes it read outside of the body. So the header of each block is checked
first: its table of labels and its packed values must begin, and the values must end, within the body. The length of a
table is not in the file. The body is padded with zeros up to the end of the longest table that the values of a block
could refer to.

Format, in 32-bit little-endian words (neuroglancer, src/sliceview/compressed_segmentation/README.md)::

    file     one offset for each channel, in words
    channel  for each block, x fastest: [table offset : 24][bits : 8] [values offset], in words from the channel's start
    values   one index of so many bits for each voxel of the block, padded to whole words
    table    labels, one or two words each
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ocpproxy.model.dataset import Triple
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamBroken

_BITS = (0, 1, 2, 4, 8, 16)
"""Widths of an index. The format has 32 too, but no block is large enough to need it."""
_PIECE = 2**16
"""Headers of blocks that are checked at a time."""


def decode(body: bytes, dtype: str, shape: Triple, block: Triple) -> Voxels:
    """Return the voxels of a volume of one channel, axes (z, y, x).

    :param dtype: uint32 or uint64.
    :param shape: the shape that it must have, (z, y, x).
    :param block: the size of the encoding's blocks, (x, y, z).
    :raises UpstreamBroken: the body is damaged, or is not such a volume.
    """
    import compressed_segmentation

    size, end = shape[::-1], check(body, dtype, shape, block)
    if 4 * end > len(body):
        body += bytes(4 * end - len(body))
    try:
        decoded = compressed_segmentation.decompress(body, size, np.dtype(dtype), block, order="F")
    except Exception as error:  # the library's own errors
        raise UpstreamBroken(f"the compressed segmentation is damaged: {error}") from None
    voxels: Voxels = np.ascontiguousarray(np.asarray(decoded).reshape(size, order="F").T)
    return voxels


def check(body: bytes, dtype: str, shape: Triple, block: Triple) -> int:
    """Check the headers of all blocks, and return the number of words that the library may read.

    The parameters are those of `decode`.

    :raises UpstreamBroken: the body is damaged, or is not such a volume.
    """
    size = shape[::-1]
    blocks = int(np.prod([-(-n // step) for n, step in zip(size, block, strict=True)], dtype=np.int64))
    if len(body) % 4 or len(body) < 4:
        raise UpstreamBroken(f"expected compressed segmentation, in words of 4 bytes, not {len(body)} bytes")
    return _reach(np.frombuffer(body, "<u4"), np.dtype(dtype).itemsize // 4, blocks, block)


def encode(voxels: Voxels, block: Triple) -> bytes:
    """Return voxels of uint32 or uint64, axes (z, y, x), as compressed segmentation of one channel.

    :param block: the size of the encoding's blocks, (x, y, z).
    """
    import compressed_segmentation

    # A copy in any case, for the library does not take what is read-only.
    encoded: bytes = compressed_segmentation.compress(np.array(voxels.T, order="F"), block, order="F")
    return encoded


def _reach(words: npt.NDArray[np.uint32], label_words: int, blocks: int, block: Triple) -> int:
    """Return the number of words that the library may read.

    :param label_words: words of a label.
    :param blocks: the number of blocks.
    :raises UpstreamBroken: the header of a block is damaged.
    """
    start = int(words[0])
    if start != 1 or 1 + 2 * blocks > len(words):
        raise UpstreamBroken(
            f"expected compressed segmentation of one channel and {blocks} blocks, and it is too short"
        )
    voxels, end = int(np.prod(block, dtype=np.int64)), 0
    for first in range(0, blocks, _PIECE):  # a volume of small blocks has as many headers as voxels
        count = min(_PIECE, blocks - first)
        headers = words[1 + 2 * first : 1 + 2 * (first + count)].reshape(count, 2).astype(np.int64)
        table, bits, values = headers[:, 0] & 0xFFFFFF, headers[:, 0] >> 24, headers[:, 1]
        if not np.isin(bits, _BITS).all():
            raise UpstreamBroken(f"the compressed segmentation is damaged: an index has none of {_BITS} bits")
        packed = -(-voxels * bits // 32)
        if (start + values + packed > len(words)).any() or (start + table + label_words > len(words)).any():
            raise UpstreamBroken("the compressed segmentation is damaged: a block ends after the end of the body")
        end = max(end, int((table + (label_words << bits)).max()))
    return start + end
