"""Inputs of the field suite: addresses as people paste them from viewers and file managers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.field import Array, Outcome, Writer, given, gradient, image, put, refused
from tests.field_n5 import array as n5_array
from tests.field_n5 import pyramid as n5_pyramid
from tests.field_ome import ASPECT, ome
from tests.field_precomputed import cloud
from tests.field_zarr import zarr2, zarr3

ADDRESS = 30
"""The number of these inputs: they belong to 3."""


def _of(write: Callable[[Path, Array], object], aspect: int | None = None, below: str = "") -> Writer:
    """One volume under some address."""

    def writer(directory: Path) -> Outcome:
        write(directory / below if below else directory, gradient())
        return image(gradient(), aspect=aspect)

    return writer


def _ome4(directory: Path, voxels: Array) -> None:
    ome(directory, voxels)


def _ome5(directory: Path, voxels: Array) -> None:
    ome(directory, voxels, version="0.5")


OME = int(ASPECT)
put(ADDRESS, "ends_zattrs", _of(_ome4, OME), url="{at}/.zattrs", kind="zarr")
put(ADDRESS, "ends_zgroup", _of(_ome4, OME), url="{at}/.zgroup")
put(ADDRESS, "ends_zarray", _of(zarr2), url="{at}/.zarray", kind="zarr")
put(ADDRESS, "ends_zarr_json", _of(_ome5, OME), url="{at}/zarr.json")
put(ADDRESS, "ends_zarr_json_array", _of(zarr3), url="{at}/zarr.json", kind="zarr")
put(ADDRESS, "ends_info", _of(cloud, 10), url="{at}/info", kind="precomputed")
put(ADDRESS, "ends_info_volume", _of(cloud, 10), url="{at}/info")
put(ADDRESS, "ends_attributes", _of(n5_pyramid), url="{at}/attributes.json", kind="n5")
put(ADDRESS, "ends_slash", _of(_ome4, OME), url="{at}/")
put(ADDRESS, "pipe_zarr2", _of(_ome4, OME), url="{at}|zarr2:", kind="zarr")
put(ADDRESS, "pipe_zarr3", _of(_ome5, OME), url="{at}/|zarr3:")
put(ADDRESS, "pipe_zarr", _of(zarr2), url="{at}|zarr:")
put(ADDRESS, "pipe_path", _of(_ome4, OME, "inner"), url="{at}/|zarr2:inner/")
put(ADDRESS, "pipe_n5", _of(n5_array), url="{at}/|n5:", kind="n5")
put(ADDRESS, "pipe_precomputed", _of(cloud, 10), url="{at}/|neuroglancer-precomputed:", kind="precomputed")
put(ADDRESS, "scheme_zarr", _of(_ome4, OME), url="zarr://{at}", kind="zarr")
put(ADDRESS, "scheme_zarr3", _of(_ome5, OME), url="zarr3://{at}")
put(ADDRESS, "scheme_n5", _of(n5_array), url="n5://{at}", kind="n5")
put(ADDRESS, "scheme_precomputed", _of(cloud, 10), url="precomputed://{at}", kind="precomputed")
put(ADDRESS, "scheme_upper", _of(_ome4, OME), url="{upper}")
put(ADDRESS, "scheme_upper_precomputed", _of(cloud, 10), url="precomputed://{upper}")
put(ADDRESS, "spaces", _of(_ome4, OME, "my volume.zarr"), url="{at}/my volume.zarr")
put(ADDRESS, "spaces_encoded", _of(_ome4, OME, "my volume.zarr"), url="{at}/my%20volume.zarr")
put(ADDRESS, "spaces_precomputed", _of(cloud, 10, "my volume"), url="{at}/my volume", kind="precomputed")
put(ADDRESS, "letters", _of(_ome4, OME, "Gehirn Schädel 脳"), url="{at}/Gehirn Schädel 脳", kind="zarr")
put(ADDRESS, "letters_n5", _of(n5_array, below="Gehirn ä.n5"), url="{at}/Gehirn ä.n5")


@given(ADDRESS, url="{at}/v.zip|zip:|zarr2:")
def in_zip(directory: Path) -> Outcome:
    """A volume in an archive."""
    zarr2(directory, gradient())
    return refused("zip")


@given(ADDRESS, url="{at}|nifti:")
def pipe_nifti(directory: Path) -> Outcome:
    """A format that is not read."""
    zarr2(directory, gradient())
    return refused("nifti")


@given(ADDRESS, url="graphene://{at}")
def scheme_graphene(directory: Path) -> Outcome:
    """A source that is not read."""
    cloud(directory, gradient())
    return refused("graphene")


@given(ADDRESS, url="{at}|n5:", kind="zarr")
def pipe_of_other_kind(directory: Path) -> Outcome:
    """The address says n5, and the section zarr."""
    n5_array(directory, gradient())
    return refused("n5", otherwise=image(gradient()))
