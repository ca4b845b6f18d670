"""What the readers of volumes make of an address: every level whole, as arrays in C order. They block: use threads."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal
from urllib.request import urlopen

import cloudvolume
import numpy as np
import numpy.typing as npt
import tensorstore as ts
import zarr
from obstore.store import HTTPStore
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from zarr.storage import FsspecStore, ObjectStore

Array = npt.NDArray[Any]
Read = Callable[[str], list[Array]]


def document(url: str) -> Any:
    """Return a JSON document."""
    with urlopen(url, timeout=60) as answer:
        return json.load(answer)


def _store(driver: str, url: str, **spec: Any) -> Any:
    kvstore = {"driver": "http", "base_url": url}
    return ts.open({"driver": driver, "kvstore": kvstore, **spec}, read=True).result()


def tensorstore_precomputed(url: str) -> list[Array]:
    """Levels of a precomputed volume, axes (z, y, x)."""
    count = len(document(f"{url}/info")["scales"])
    stores = [_store("neuroglancer_precomputed", f"{url}/", scale_index=n) for n in range(count)]
    return [np.asarray(store.read().result())[..., 0].T for store in stores]


def tensorstore_zarr2(url: str) -> list[Array]:
    """Levels of OME-Zarr 0.4, with the axes of the array."""
    paths = [one["path"] for one in document(f"{url}/.zattrs")["multiscales"][0]["datasets"]]
    return [np.asarray(_store("zarr", f"{url}/{path}/").read().result()) for path in paths]


def tensorstore_zarr3(url: str) -> list[Array]:
    """Levels of OME-Zarr 0.5, with the axes of the array."""
    attributes = document(f"{url}/zarr.json")["attributes"]
    paths = [one["path"] for one in attributes["ome"]["multiscales"][0]["datasets"]]
    return [np.asarray(_store("zarr3", f"{url}/{path}/").read().result()) for path in paths]


def tensorstore_n5(url: str) -> list[Array]:
    """Levels of an N5 container, with the axes of the array in C order."""
    count = len(document(f"{url}/attributes.json")["scales"])
    return [np.asarray(_store("n5", f"{url}/s{n}/").read().result()).T for n in range(count)]


def cloud_volume(url: str) -> list[Array]:
    """Levels of a precomputed volume, axes (z, y, x)."""
    first = cloudvolume.CloudVolume(f"precomputed://{url}", progress=False, parallel=1, fill_missing=False)
    found = []
    for mip in first.available_mips:
        volume = cloudvolume.CloudVolume(f"precomputed://{url}", mip=mip, progress=False, parallel=1)
        found.append(np.asarray(volume[:, :, :])[..., 0].T)
    return found


def _zarr_levels(store: Any, version: Literal[2, 3]) -> list[Array]:
    group = zarr.open_group(store, mode="r", zarr_format=version)
    attributes: Any = group.attrs["ome"] if version == 3 else group.attrs
    return [np.asarray(group[one["path"]]) for one in attributes["multiscales"][0]["datasets"]]


def zarr_fsspec(version: Literal[2, 3]) -> Read:
    """zarr-python over fsspec."""
    return lambda url: _zarr_levels(FsspecStore.from_url(url, read_only=True), version)


def zarr_obstore(version: Literal[2, 3]) -> Read:
    """zarr-python over obstore."""

    def read(url: str) -> list[Array]:
        store = HTTPStore.from_url(url, client_options={"allow_http": True})
        return _zarr_levels(ObjectStore(store, read_only=True), version)

    return read


def ome_zarr(url: str) -> list[Array]:
    """ome-zarr-py."""
    location = parse_url(url)
    if location is None:
        raise ValueError(f"no OME-Zarr at {url}")
    (node, *_) = Reader(location)()
    return [np.asarray(level) for level in node.data]


READERS: dict[str, dict[str, Read]] = {
    "precomputed": {"TensorStore": tensorstore_precomputed, "cloud-volume": cloud_volume},
    "zarr": {
        "TensorStore": tensorstore_zarr2,
        "zarr over fsspec": zarr_fsspec(2),
        "ome-zarr-py": ome_zarr,
    },
    "zarr3": {
        "TensorStore": tensorstore_zarr3,
        "zarr over fsspec": zarr_fsspec(3),
        "zarr over obstore": zarr_obstore(3),
        "ome-zarr-py": ome_zarr,
    },
    "n5": {"TensorStore": tensorstore_n5},
}
"""By format, readers by name."""
