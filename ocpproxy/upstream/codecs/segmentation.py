"""neuroglancer's compressed segmentation, decoded by the ``compressed-segmentation`` library.

The library trusts what it reads (a changed byte makes it read anywhere), so each block's header is checked first: where
its table of labels and its packed indices lie, and that they lie within the body. A table's length is written nowhere;
what the widest index could reach is made to exist, as zeros behind the body.

Format, in 32-bit little-endian words (neuroglancer, src/sliceview/compressed_segmentation/README.md)::

    file     one offset for each channel, in words
    channel  for each block, x fastest: [table offset : 24][bits : 8] [values offset], in words from the channel's start
    values   one index of so many bits for each voxel of the block, padded to whole words
    table    labels, one or two words each
"""

from __future__ import annotations

import numpy as np

from ocpproxy.model.dataset import Triple
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamBroken

_BITS = (0, 1, 2, 4, 8, 16)
"""32 would be allowed, and no block is large enough to need it."""


def decode(body: bytes, dtype: str, shape: Triple, block: Triple) -> Voxels:
    """The voxels, axes (z, y, x).

    :param block: the block size of the encoding, in the order x, y, z.
    :raises UpstreamBroken: when the body is no such volume.
    """
    import compressed_segmentation

    if len(body) % 4 or len(body) < 4:
        raise UpstreamBroken("no compressed segmentation: it is not made of whole words")
    words = np.frombuffer(body, "<u4")
    size = shape[::-1]
    grid = [-(-n // step) for n, step in zip(size, block, strict=True)]
    blocks = int(np.prod(grid, dtype=np.int64))
    start = int(words[0])
    if start != 1 or 1 + 2 * blocks > len(words):
        raise UpstreamBroken(f"no compressed segmentation of {blocks} blocks: it is too short")
    headers = words[1 : 1 + 2 * blocks].reshape(blocks, 2).astype(np.int64)
    table, bits, values = headers[:, 0] & 0xFFFFFF, headers[:, 0] >> 24, headers[:, 1]
    if not np.isin(bits, _BITS).all():
        raise UpstreamBroken("no compressed segmentation: a block has a strange number of bits")
    packed = -(-int(np.prod(block, dtype=np.int64)) * bits // 32)
    label = np.dtype(dtype).itemsize // 4
    if (values + packed + start > len(words)).any() or (table + label + start > len(words)).any():
        raise UpstreamBroken("no compressed segmentation: a block lies behind its end")
    reach = int((table + (label << bits)).max()) + start
    padded = body + bytes(4 * max(0, reach - len(words)))
    try:
        found = compressed_segmentation.decompress(padded, size, np.dtype(dtype), block, order="F")
    except Exception as error:  # the library's own errors
        raise UpstreamBroken(f"the compressed segmentation is damaged: {error}") from None
    voxels: Voxels = np.ascontiguousarray(np.asarray(found).reshape(size, order="F").T)
    return voxels
