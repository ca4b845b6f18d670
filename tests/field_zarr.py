"""Inputs of the field suite: Zarr arrays, by zarr-python and numcodecs."""

from __future__ import annotations

import json
from math import nan
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import zarr
from zarr.codecs import numcodecs as wrapped

from tests.field import (
    CHUNK,
    Array,
    Json,
    Outcome,
    Refused,
    Shown,
    Writer,
    annotation,
    edited,
    given,
    gradient,
    image,
    put,
    refused,
)


def zarr2(directory: Path, voxels: Array, **options: Any) -> None:
    """Write an array of version 2; without compression where nothing else is said."""
    usual: Json = {"chunks": CHUNK[-voxels.ndim :], "compressors": None, "filters": None, "fill_value": 0}
    zarr.create_array(str(directory), data=voxels, zarr_format=2, **usual | options)


def zarr3(directory: Path, voxels: Array, **options: Any) -> None:
    """Write an array of version 3."""
    usual: Json = {"chunks": (1,) * (voxels.ndim - 3) + CHUNK, "fill_value": 0}
    zarr.create_array(str(directory), data=voxels, zarr_format=3, **usual | options)


def told(directory: Path, **members: object) -> None:
    """Change members of the document of an array."""
    path = directory / ".zarray"
    with edited(path if path.exists() else directory / "zarr.json") as document:
        document.update(members)


# -- 2: what nobody here reads is refused when it is described


def _renamed(codec: Json) -> Writer:
    """Version 2 whose compressor is one that other programs have."""

    def write(directory: Path) -> Outcome:
        zarr2(directory, gradient())
        told(directory, compressor=codec)
        return refused(str(codec["id"]))

    return write


put(2, "zarr2_jpeg2k", _renamed({"id": "imagecodecs_jpeg2k", "level": 90}))
put(2, "zarr2_jpegxl", _renamed({"id": "imagecodecs_jpegxl"}))
put(2, "zarr2_lerc", _renamed({"id": "lerc", "maxZError": 0.1}))
put(2, "zarr2_own_codec", _renamed({"id": "my_lab_codec"}))


@given(2)
def zarr3_lzma(directory: Path) -> Outcome:
    """Version 3 with a codec of zarr-python's own."""
    zarr3(directory, gradient(), compressors=[wrapped.LZMA()])
    return refused("numcodecs.lzma", otherwise=image(gradient()))


@given(2)
def zarr3_zfp(directory: Path) -> Outcome:
    """Version 3 with a codec that only some programs have, in shards."""
    zarr3(directory, gradient("float32"), shards=(8, 32, 48))
    with edited(directory / "zarr.json") as document:
        document["codecs"][0]["configuration"]["codecs"][-1:] = [{"name": "zfp", "configuration": {"mode": "lossless"}}]
    return refused("zfp")


@given(2)
def zarr3_unknown_grid(directory: Path) -> Outcome:
    """Version 3 whose chunks are not of one size."""
    zarr3(directory, gradient())
    told(directory, chunk_grid={"name": "rectangular", "configuration": {"chunk_shape": [4, 16, [16, 24]]}})
    return refused("rectangular")


@given(2)
def zarr3_strings(directory: Path) -> Outcome:
    """Version 3 that holds texts, not voxels."""
    texts = np.full((4, 8, 8), "a", dtype=object)
    zarr.create_array(str(directory), data=texts.astype("U"), zarr_format=3, chunks=(4, 8, 8))
    return refused("data_type")


@given(2)
def zarr2_complex(directory: Path) -> Outcome:
    """Version 2 of complex numbers."""
    zarr2(directory, gradient().astype("complex64"))
    return refused("<c8")


@given(2)
def zarr2_structured(directory: Path) -> Outcome:
    """Version 2 with fields."""
    zarr2(directory, np.zeros((4, 8, 8), [("r", "u1"), ("g", "u1")]), fill_value=None)
    return refused("dtype")


# -- 5: not needed


@given(5)
def zarr2_nan_fill(directory: Path) -> Outcome:
    """A fill value that is NaN and not in quotes, as some programs write it."""
    zarr2(directory, gradient("float32"))
    told(directory, fill_value=nan)
    return image(gradient("float32"))


@given(5)
def zarr2_nan_attributes(directory: Path) -> Outcome:
    """Attributes of an array that are NaN."""
    zarr2(directory, gradient(), attributes={"valid_max": nan, "offset": -np.inf})
    return image(gradient())


@given(5)
def zarr3_infinite_attributes(directory: Path) -> Outcome:
    """The same in version 3."""
    zarr3(directory, gradient(), attributes={"valid_max": np.inf})
    return image(gradient())


@given(5)
def zarr2_trailing_comma(directory: Path) -> Outcome:
    """What nobody reads: a comma too many."""
    zarr2(directory, gradient())
    text = (directory / ".zarray").read_text()
    (directory / ".zarray").write_text(text.rstrip().removesuffix("}").rstrip() + ",\n}")
    return refused(".zarray", "JSON")


# -- 6: documents that TensorStore takes another view of


def _document(dtype: str = "uint8", fill: object = 0, doubtful: str = "", **members: object) -> Writer:
    """Version 2 whose document has these members; those that zarr-python does not read either may be refused."""

    def write(directory: Path) -> Outcome:
        zarr2(directory, gradient(dtype))
        told(directory, fill_value=fill, **members)
        shown = image(gradient(dtype))
        return Refused(words=[doubtful], otherwise=shown) if doubtful else shown

    return write


def _compressed(codec: Any, item: Json | None = None, **options: Any) -> Writer:
    """Version 2 with a compressor of numcodecs, and other words for it in the document, which zarr-python reads."""

    def write(directory: Path) -> Outcome:
        zarr2(directory, gradient("uint16"), compressors=codec, **options)
        if item is not None:
            told(directory, compressor=item)
            assert np.array_equal(np.asarray(zarr.open_array(str(directory), mode="r")[:]), gradient("uint16"))
        return image(gradient("uint16"))

    return write


put(6, "zstd_checksum_false", _compressed(numcodecs.Zstd(6), {"id": "zstd", "level": 6, "checksum": False}))
put(6, "zstd_no_level", _compressed(numcodecs.Zstd(3), {"id": "zstd"}))
put(6, "blosc_typesize", _compressed(numcodecs.Blosc("zstd"), numcodecs.Blosc("zstd").get_config() | {"typesize": 2}))
put(6, "blosc_autoshuffle", _compressed(numcodecs.Blosc("lz4", shuffle=-1)))
put(6, "blosc_short", _compressed(numcodecs.Blosc("lz4"), {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}))
put(6, "fill_text", _document(fill="0"))
put(6, "fill_text_16", _document("uint16", fill="0"))
put(6, "fill_text_float", _document("float32", fill="0.0"))
put(6, "fill_null", _document(fill=None))
put(6, "fill_float", _document(fill=0.0))
put(6, "fill_false", _document(fill=False))
put(6, "fill_too_large", _document(fill=65535, doubtful="fill_value"))
put(6, "fill_negative", _document(fill=-1, doubtful="fill_value"))
put(6, "fill_nan_text", _document("float32", fill="NaN"))
put(6, "filters_empty", _document(filters=[]))
put(6, "more_members", _document(comment="ours", _nczarr_array={"dimrefs": ["z", "y", "x"]}))


@given(6)
def fill_text_counts(directory: Path) -> Outcome:
    """A fill value in quotes where chunks are missing."""
    voxels = gradient()
    voxels[:4, :16, :16] = 100
    zarr2(directory, voxels)
    (directory / "0.0.0").unlink()
    told(directory, fill_value="100")
    return image(voxels)


@given(6)
def order_f_big_endian(directory: Path) -> Outcome:
    """Fortran's order and the other end first."""
    zarr2(directory, gradient(">u2"), order="F", compressors=numcodecs.GZip(1))
    return image(gradient("uint16"))


@given(6)
def zarr3_members(directory: Path) -> Outcome:
    """Version 3 with extensions that need not be understood."""
    zarr3(directory, gradient(), compressors=None)
    told(directory, storage_transformers=[], extra={"must_understand": False, "name": "x"})
    return image(gradient())


@given(6)
def zarr3_zstd_short(directory: Path) -> Outcome:
    """Version 3 whose zstd does not say whether there is a checksum."""
    zarr3(directory, gradient("uint16"))
    with edited(directory / "zarr.json") as document:
        del document["codecs"][-1]["configuration"]["checksum"]
    return image(gradient("uint16"))


# -- 10: names of axes


@given(10)
def xarray_order(directory: Path) -> Outcome:
    """xarray's names of the axes, in another order."""
    voxels = gradient()
    zarr2(directory, np.ascontiguousarray(voxels.T), attributes={"_ARRAY_DIMENSIONS": ["x", "y", "z"]})
    return image(voxels)


@given(10)
def xarray_channels_last(directory: Path) -> Outcome:
    """xarray's names of four axes."""
    both = np.stack([gradient(), gradient(shift=99)], axis=-1)
    names = {"_ARRAY_DIMENSIONS": ["z", "y", "x", "c"]}
    zarr2(directory, both, chunks=(*CHUNK, 1), attributes=names)
    channels = image(both[..., 0], name="image_0").channels, image(both[..., 1], name="image_1").channels
    return Shown(channels={**channels[0], **channels[1]})


@given(10)
def xarray_order_3(directory: Path) -> Outcome:
    """The names of version 3, in another order."""
    voxels = gradient()
    zarr3(directory, voxels.transpose(1, 0, 2).copy(), dimension_names=["y", "z", "x"], chunks=(16, 4, 16))
    return image(voxels)


@given(10, kind="zarr", server="pages")
def zarr2_among_pages(directory: Path) -> Outcome:
    """A server that answers every address with a page."""
    zarr2(directory, gradient())
    return image(gradient())


@given(10, server="pages")
def zarr3_among_pages(directory: Path) -> Outcome:
    """The same before version 3."""
    zarr3(directory, gradient())
    return image(gradient())


@given(10, server="pages")
def nothing_among_pages(directory: Path) -> Outcome:
    """Nothing but pages."""
    directory.mkdir(parents=True)
    return refused("zarr")


def _beside(info: Json) -> Writer:
    """A Zarr array with an info that is no volume's."""

    def write(directory: Path) -> Outcome:
        zarr2(directory, gradient())
        (directory / "info").write_text(json.dumps(info))
        return image(gradient())

    return write


POINTS: Json = {"@type": "neuroglancer_annotations_v1", "annotation_type": "POINT", "by_id": {"key": "by_id"}}
put(10, "annotations_beside", _beside(POINTS))
put(10, "meshes_beside", _beside({"@type": "neuroglancer_legacy_mesh"}))
put(10, "skeletons_beside", _beside({"@type": "neuroglancer_skeletons", "vertex_attributes": []}))
put(10, "other_info_beside", _beside({"title": "ours"}))


@given(10)
def annotations_alone(directory: Path) -> Outcome:
    """Points and no volume."""
    directory.mkdir(parents=True)
    (directory / "info").write_text(json.dumps(POINTS))
    return refused("neuroglancer_annotations_v1")


# -- 11: types


def _bool(version: int) -> Writer:
    def write(directory: Path) -> Outcome:
        (zarr2 if version == 2 else zarr3)(directory, gradient("bool"), fill_value=False)
        return image(gradient("bool").astype(np.uint8) * 255)

    return write


put(11, "bool_2", _bool(2))
put(11, "bool_3", _bool(3))


# -- 13: codecs of numcodecs


def _codecs(dtype: str = "uint16", or_refused: str | None = None, exact: bool = True, **options: Any) -> Writer:
    """Version 2 with codecs that numcodecs has: read, or refused by name."""

    def write(directory: Path) -> Outcome:
        voxels = gradient(dtype)
        zarr2(directory, voxels, **options)
        read = zarr.open_array(str(directory), mode="r")[:]
        assert not exact or np.array_equal(read, voxels)
        shown = image(np.asarray(read))
        return Refused(words=(or_refused,), otherwise=shown) if or_refused else shown

    return write


put(13, "lz4", _codecs(compressors=numcodecs.LZ4()))
put(13, "lz4_bytes", _codecs("uint8", compressors=numcodecs.LZ4(9)))
put(13, "lzma", _codecs(compressors=numcodecs.LZMA()))
put(13, "bz2", _codecs(compressors=numcodecs.BZ2()))
put(13, "zlib", _codecs(compressors=numcodecs.Zlib(9)))
put(13, "gzip", _codecs(compressors=numcodecs.GZip(9)))
put(13, "zstd_checksum_true", _codecs(compressors=numcodecs.Zstd(6, checksum=True)))
put(13, "delta", _codecs(filters=[numcodecs.Delta("<u2")], compressors=numcodecs.Blosc()))
put(13, "delta_alone", _codecs("uint8", filters=[numcodecs.Delta("|u1")]))
put(13, "shuffle", _codecs(filters=[numcodecs.Shuffle(2)], compressors=numcodecs.Zlib()))
put(13, "crc32", _codecs(filters=[numcodecs.CRC32()]))
put(13, "fletcher32", _codecs(filters=[numcodecs.Fletcher32()]))
put(13, "adler32", _codecs(filters=[numcodecs.Adler32()], compressors=numcodecs.LZ4()))
put(13, "quantize", _codecs("float32", filters=[numcodecs.Quantize(2, "<f4")], exact=False))
SCALED = numcodecs.FixedScaleOffset(offset=0, scale=251, dtype="<f4", astype="|u1")
put(13, "fixedscaleoffset", _codecs("float32", filters=[SCALED], exact=False))
put(13, "astype", _codecs("uint16", filters=[numcodecs.AsType("<u4", "<u2")]))


@given(13)
def packbits(directory: Path) -> Outcome:
    """A mask of bits."""
    zarr2(directory, gradient("bool"), filters=[numcodecs.PackBits()], fill_value=False)
    return refused("packbits", otherwise=image(gradient("bool").astype(np.uint8) * 255))


@given(13)
def vlen(directory: Path) -> Outcome:
    """Texts of any length."""
    zarr2(directory, gradient())
    told(directory, dtype="|O", filters=[{"id": "vlen-utf8"}])
    return refused("|O")


@given(13)
def lz4_ids(directory: Path) -> Outcome:
    """Ids of 64 bits."""
    zarr2(directory, gradient("uint64"), compressors=numcodecs.LZ4())
    return annotation(gradient("uint64"))
