"""The chunks of neuroglancer's precomputed volumes, as they are stored.

============================  =====================================================================================
raw                           little endian, (channel, z, y, x) in C order
jpeg, png                     a picture of any shape; its pixels, row by row, are the voxels in the same order
compressed_segmentation       see `ocpproxy.upstream.codecs.segmentation`
============================  =====================================================================================

Source: neuroglancer, src/datasource/precomputed/volume.rst.
"""

from __future__ import annotations

from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from ocpproxy.model.dataset import Triple
from ocpproxy.model.voxels import Voxels
from ocpproxy.upstream.base import UpstreamBroken
from ocpproxy.upstream.codecs import images, segmentation

_MOST_ROWS = 65500
"""Rows and columns of a JPEG that its library makes."""


class ChunkForm(NamedTuple):
    """How the chunks of a scale are written."""

    encoding: str
    dtype: str
    components: int = 1
    """Values of a voxel."""
    block: Triple = (8, 8, 8)
    """The size of the blocks of compressed segmentation, (x, y, z)."""

    def nbytes(self, shape: Triple) -> int:
        """Return the bytes of so many voxels."""
        z, y, x = shape
        return z * y * x * self.components * np.dtype(self.dtype).itemsize


def decode(body: bytes, form: ChunkForm, shape: Triple) -> Voxels:
    """Return the voxels of a chunk: axes (z, y, x), or (z, y, x, component) where a voxel has several values.

    :param shape: the shape that it must have, (z, y, x).
    :raises UpstreamBroken: the body is damaged, or is not such a chunk.
    """
    z, y, x = shape
    dtype = np.dtype(form.dtype).newbyteorder("<")
    if form.encoding == "compressed_segmentation":
        return segmentation.decode(body, form.dtype, shape, form.block)
    if form.encoding == "raw":
        _check_length(body, form, shape)
        array = np.frombuffer(body, dtype).reshape(form.components, z, y, x)
    else:
        samples = images.decode(body, None, z * y * x, form.components)
        if samples.dtype != dtype:
            raise UpstreamBroken(f"expected a picture of {form.dtype}, not of {samples.dtype}")
        array = samples.reshape(z, y, x, form.components).transpose(3, 0, 1, 2)
    return array[0] if form.components == 1 else np.moveaxis(array, 0, -1)


def check(body: bytes, form: ChunkForm, shape: Triple) -> None:
    """Check that a body can be decoded: pictures by decoding them, which nothing else shows.

    :raises UpstreamBroken: as `decode`.
    """
    if form.encoding == "compressed_segmentation":
        segmentation.check(body, form.dtype, shape, form.block)
    elif form.encoding == "raw":
        _check_length(body, form, shape)
    else:
        decode(body, form, shape)


def encode_picture(voxels: Voxels, encoding: str) -> bytes:
    """Return voxels of 8 or 16 bits, axes (z, y, x), as a picture.

    It has z * y rows, or fewer and longer ones where a JPEG could not have so many.

    :param encoding: ``jpeg`` or ``png``.
    :raises UpstreamBroken: no picture of so many pixels can be made.
    """
    z, y, x = voxels.shape
    rows = z * y
    fitting = (n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= _MOST_ROWS and x * n <= _MOST_ROWS)
    factor = next(fitting, None)
    if factor is None:
        raise UpstreamBroken(f"a chunk of {x} x {y} x {z} voxels is missing, and no picture has so many pixels")
    output = BytesIO()
    Image.fromarray(voxels.reshape(rows // factor, x * factor)).save(output, encoding)
    return output.getvalue()


def _check_length(body: bytes, form: ChunkForm, shape: Triple) -> None:
    if len(body) != form.nbytes(shape):
        raise UpstreamBroken(f"expected {form.nbytes(shape)} bytes of voxels, not {len(body)}")
