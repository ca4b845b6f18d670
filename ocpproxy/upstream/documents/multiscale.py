"""What N5, Zarr and OME-Zarr say of a volume, read from their documents. Nothing in them is trusted.

=============  ==============================================================================================
N5             ``attributes.json`` of an array; of a group ``scales`` or ``downsamplingFactors`` and arrays
               ``s0``, ``s1``, ...; without those, ``s0`` and so on as long as there are any, each with its own
               ``downsamplingFactors``. Axes x, y, z (n5 specification; n5-viewer's and neuroglancer's reading)
Zarr v2        ``.zarray``; axes z, y, x, whatever is before them called t, c
Zarr v3        ``zarr.json``; axes by ``dimension_names``
OME-Zarr 0.4   ``.zattrs`` with ``multiscales``, arrays of Zarr v2 (ngff.openmicroscopy.org/0.4)
OME-Zarr 0.5   ``zarr.json`` with ``attributes.ome.multiscales``, arrays of Zarr v3 (ngff.openmicroscopy.org/0.5)
=============  ==============================================================================================

Only the sizes of voxels are taken from transformations: coarser levels say half-voxel translations, and an address
counts voxels of the level.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from ocpproxy.model.dataset import Triple
from ocpproxy.upstream.documents import checks, pyramids
from ocpproxy.upstream.documents.checks import items, mapping, ratio, unexpected, whole, word
from ocpproxy.upstream.documents.pyramids import Part, Volume, Voxel
from ocpproxy.upstream.grid import Grid

DisplaySettings = Callable[[str], Awaitable[str | None]]
"""The text of a document below the volume's address, or None when there is none."""
Documents = Mapping[str, str]
"""The documents of a volume by their names."""

_ROOTS = {"precomputed": ("info",), "zarr": ("zarr.json", ".zattrs", ".zarray"), "n5": ("attributes.json",)}
_N5 = "attributes.json"
_MOST_DIMENSIONS = 8
_MOST_CHANNELS = 64
_LONGEST = 4 * 2**20
"""Characters of all documents of a volume."""
_PATH = re.compile(r"[\w.~+@=,-][\w.~+@=, /-]*")
_DTYPE = re.compile(r"[<>|]([uif])([1248])")


@dataclass(frozen=True, slots=True)
class Array:
    """One scale of a volume: an array, and what its axes are."""

    place: str | None
    """The channel whose address it is at."""
    driver: str
    """TensorStore's."""
    path: str
    axes: str
    """A letter for each: x, y, z, c, t; ``1`` for one of which there is only one."""
    grid: Grid


async def gathered(look: DisplaySettings, kinds: Sequence[str]) -> dict[str, str] | None:
    """The documents of a volume of one of these kinds (`_ROOTS`), or None when there is none.

    :raises Unexpected: they make no sense.
    """
    for kind in kinds:
        found: dict[str, str] = {}
        for name in _ROOTS[kind]:
            text = await look(name)
            if text is not None and not (name == ".zattrs" and "multiscales" not in _object(name, text)):
                found[name] = text
                break
        if not found:
            continue
        for path in _paths(found):
            for name in (f"{path}/.zarray", f"{path}/zarr.json") if kind == "zarr" else (f"{path}/{_N5}",):
                text = await look(name)
                if text is not None:
                    found[name] = text
                    if sum(map(len, found.values())) > _LONGEST:
                        raise unexpected(f"documents of at most {_LONGEST >> 20} MiB in all", "more")
                    break
            else:
                if kind == "n5" and not _n5_factors(found):
                    break  # probed until there is none
                raise unexpected(f"an array at {path}", None)
        return found
    return None


def _object(name: str, text: str) -> Mapping[str, Any]:
    return mapping(name, checks.parsed(text))


def _paths(found: Documents) -> list[str]:
    """The arrays of a group, from its own document."""
    (name, text), *_ = found.items()
    said = _object(name, text)
    if name in ("info", ".zarray") or (name == "zarr.json" and said.get("node_type") == "array"):
        return []
    if name == _N5:
        if "dimensions" in said:
            return []
        factors = _n5_factors(found)
        return [f"s{n}" for n in range(len(factors) if factors else checks.LEVELS)]
    return [
        _relative(mapping("a dataset", one).get("path"))
        for one in items("datasets", _multiscale(name, said).get("datasets"))
    ]


def _relative(value: object) -> str:
    path = word("a path", value).strip("/")
    if ".." in path.split("/") or not _PATH.fullmatch(path):
        raise unexpected("a path below the volume", value)
    return path


def _multiscale(name: str, said: Mapping[str, Any]) -> Mapping[str, Any]:
    if name == "zarr.json":
        said = mapping("ome", mapping("attributes", said.get("attributes")).get("ome"))
    found = items("multiscales", said.get("multiscales"))
    return mapping("multiscales", found[0] if found else None)


def _n5_factors(found: Documents) -> list[Any] | None:
    said = _object(_N5, found[_N5])
    factors = said.get("downsamplingFactors", said.get("scales"))
    if not isinstance(factors, list) or not factors or not isinstance(factors[0], list):
        return None
    return items("scales", factors)


def parsed(place: str | None, found: Documents, where: str) -> Volume[Array]:
    """The volume that the documents describe.

    :param where: its address; a volume elsewhere is another one.
    :raises Unexpected: with what was expected.
    """
    if not found:
        raise unexpected("documents of a volume", found)
    name = next(iter(found))
    said = _object(name, found[name])
    if name == _N5:
        volume = _n5(place, found, said)
    elif name == ".zarray" or (name == "zarr.json" and said.get("node_type") == "array"):
        one = _zarr_array(place, name, said, None)
        voxel: Voxel = (Fraction(1), Fraction(1), Fraction(1))
        volume = _volume([(voxel, one)], {}, labels=False)
    else:
        volume = _ome(place, name, found, said)
    return replace(volume, version=pyramids.version([where, dict(found)]))


@dataclass(frozen=True, slots=True)
class _Found:
    """An array as its document tells."""

    array: Array
    dtype: str
    shape: tuple[int, ...]


def _volume(scales: list[tuple[Voxel, _Found]], omero: Mapping[str, Any], *, labels: bool) -> Volume[Array]:
    _, first = scales[0]
    for _, one in scales:
        if one.dtype != first.dtype or one.array.axes != first.array.axes:
            raise unexpected(f"levels of one type {first.dtype} and axes {first.array.axes}", one.dtype)
    sizes = dict(zip(first.array.axes, first.shape, strict=True))
    if sizes.get("c", 1) > _MOST_CHANNELS:
        raise unexpected(f"at most {_MOST_CHANNELS} channels", sizes["c"])
    if any(pyramids.same(a[0], b[0]) for n, a in enumerate(scales) for b in scales[:n]):
        scales = _by_size(scales)
    parts = _parts(sizes.get("c", 1), omero)
    scales = sorted(scales, key=lambda one: (one[0][0] * one[0][1] * one[0][2], one[0]))
    wide = first.dtype in ("uint32", "uint64")  # nobody keeps a picture in those, and nothing tells of ids but this
    return Volume(
        labels or wide,
        first.dtype,
        parts,
        [(voxel, one.array) for voxel, one in scales],
        "",
        sizes.get("t", 1),
    )


def _by_size(scales: list[tuple[Voxel, _Found]]) -> list[tuple[Voxel, _Found]]:
    """Scales of which nothing tells how large their voxels are: their sizes do."""
    (voxel, first), *_ = scales
    found = []
    for _, one in scales:
        ratios = zip(pyramids.size(first.array.grid), pyramids.size(one.array.grid), strict=True)
        x, y, z = (edge * max(1, round(a / b)) for edge, (a, b) in zip(voxel, ratios, strict=True))
        found.append(((x, y, z), one))
    return found


def _parts(count: int, omero: Mapping[str, Any]) -> list[Part]:
    if count == 1:
        return [Part("", 0)]
    said = omero.get("channels")
    told = said if isinstance(said, list) and len(said) == count else [{}] * count
    parts = []
    for number, channel in enumerate(told):
        window = channel.get("window") if isinstance(channel, dict) else None
        low, high = (window.get("start"), window.get("end")) if isinstance(window, dict) else (0, 0)
        fine = all(isinstance(v, (int, float)) and 0 <= v < 2**16 for v in (low, high))
        parts.append(Part(f"_{number}", number, (int(low), int(high)) if fine else (0, 0)))  # type: ignore[arg-type]
    return parts


# -- N5


def _n5(place: str | None, found: Documents, group: Mapping[str, Any]) -> Volume[Array]:
    factors = _n5_factors(found)
    names = [_N5] if "dimensions" in group else [name for name in found if name != _N5]
    if not names:
        raise unexpected("an array, or scales s0, s1, ...", list(found))
    told = [_object(name, found[name]) for name in names]
    scales: list[tuple[Voxel, _Found]] = []
    for number, (name, said) in enumerate(zip(names, told, strict=True)):
        array = _n5_array(place, name, said)
        factor = factors[number] if factors else said.get("downsamplingFactors")
        if factor is None:
            edges = _n5_edges(said) or _n5_edges(group) or [Fraction(1)] * 3
        else:
            whole_ = _n5_edges(group) or _n5_edges(told[0]) or [Fraction(1)] * 3
            steps = [ratio("downsamplingFactors", v) for v in items("downsamplingFactors", factor)]
            if len(steps) != len(whole_):
                raise unexpected(f"{len(whole_)} downsamplingFactors", factor)
            edges = [edge * step for edge, step in zip(whole_, steps, strict=True)]
        scales.append((_along(array.array.axes, edges), array))
    return _volume(scales, {}, labels=False)


def _along(axes: str, values: Sequence[Fraction]) -> Voxel:
    """The values of x, y and z, which are in the order of the axes, or in that one where there are only three."""
    letters = axes if len(values) == len(axes) else "xyz"
    x, y, z = (values[letters.index(a)] if a in letters else Fraction(1) for a in "xyz")
    return (x, y, z)


def _n5_edges(said: Mapping[str, Any]) -> list[Fraction] | None:
    """The edges of a voxel in the order of an array's axes."""
    value = said.get("pixelResolution", said.get("resolution"))
    if isinstance(value, dict):
        value = value.get("dimensions")
    if not isinstance(value, list) or not 3 <= len(value) <= _MOST_DIMENSIONS:
        return None
    return [ratio("pixelResolution", v) for v in value]


def _n5_array(place: str | None, name: str, said: Mapping[str, Any]) -> _Found:
    shape = _shape(said.get("dimensions"))
    axes = said.get("axes")
    named = "".join(str(a).lower()[:1] for a in axes) if isinstance(axes, list) and len(axes) == len(shape) else ""
    letters = _axes(named if {"x", "y", "z"} <= set(named) else "xyz" + "1" * (len(shape) - 3), shape)
    chunk = [whole("blockSize", v, 1, checks.LARGEST) for v in items("blockSize", said.get("blockSize"), len(shape))]
    dtype = word("dataType", said.get("dataType"))
    return _Found(_array(place, "n5", name.removesuffix(_N5).strip("/"), letters, shape, chunk), dtype, shape)


# -- Zarr


def _ome(place: str | None, name: str, found: Documents, said: Mapping[str, Any]) -> Volume[Array]:
    multiscale = _multiscale(name, said)
    attributes = mapping("attributes", said.get("attributes")).get("ome", {}) if name == "zarr.json" else said
    axes = "".join(
        word("an axis", one.get("name") if isinstance(one, dict) else one)[:1].lower()
        for one in items("axes", multiscale.get("axes", ["t", "c", "z", "y", "x"]), most=_MOST_DIMENSIONS)
    )
    over_all = _scale(multiscale.get("coordinateTransformations", []), len(axes))
    scales: list[tuple[Voxel, _Found]] = []
    for one in items("datasets", multiscale.get("datasets")):
        path = _relative(mapping("a dataset", one).get("path"))
        key = next((key for key in (f"{path}/.zarray", f"{path}/zarr.json") if key in found), None)
        if key is None:
            raise unexpected(f"an array at {path}", None)
        array = _zarr_array(place, key, _object(key, found[key]), axes)
        own = _scale(one.get("coordinateTransformations", []), len(axes))
        x, y, z = (own[axes.index(a)] * over_all[axes.index(a)] if a in axes else Fraction(1) for a in "xyz")
        scales.append(((x, y, z), array))
    if not scales:
        raise unexpected("at least one dataset", multiscale)
    omero = attributes.get("omero", {})
    return _volume(scales, omero if isinstance(omero, dict) else {}, labels="image-label" in attributes)


def _scale(value: object, count: int) -> list[Fraction]:
    """The factors of the first scale among transformations."""
    for one in items("coordinateTransformations", value):
        said = mapping("a transformation", one)
        if said.get("type") == "scale":
            return [ratio("scale", v) for v in items("scale", said.get("scale"), count)]
    return [Fraction(1)] * count


def _zarr_array(place: str | None, name: str, said: Mapping[str, Any], axes: str | None) -> _Found:
    shape = _shape(said.get("shape"))
    third = name.endswith("zarr.json")
    if third:
        named = said.get("dimension_names")
        if axes is None and isinstance(named, list) and len(named) == len(shape):
            letters = "".join(str(n or "1").lower()[:1] for n in named)
            axes = letters if {"x", "y"} <= set(letters) else None
        grid = mapping("chunk_grid", said.get("chunk_grid"))
        chunk_said = mapping("configuration", grid.get("configuration")).get("chunk_shape")
        for codec in items("codecs", said.get("codecs", [])):
            if isinstance(codec, dict) and codec.get("name") == "sharding_indexed":
                chunk_said = mapping("configuration", codec.get("configuration")).get("chunk_shape")
        dtype = word("data_type", said.get("data_type"))
    else:
        chunk_said = said.get("chunks")
        match = _DTYPE.fullmatch(word("dtype", said.get("dtype")))
        words = {"u": "uint", "i": "int", "f": "float"}
        dtype = f"{words[match[1]]}{8 * int(match[2])}" if match else str(said.get("dtype"))
    if axes is None:
        axes = "tczyx"[-len(shape) :] if len(shape) <= 5 else "1" * (len(shape) - 5) + "tczyx"
    chunk = [whole("chunks", v, 1, checks.LARGEST) for v in items("chunks", chunk_said, len(shape))]
    path = name.rpartition("/")[0]
    return _Found(_array(place, "zarr3" if third else "zarr", path, _axes(axes, shape), shape, chunk), dtype, shape)


# -- any


def _shape(value: object) -> tuple[int, ...]:
    found = tuple(whole("a size", v, 1, checks.LARGEST) for v in items("the sizes", value, most=_MOST_DIMENSIONS))
    if len(found) < 2:
        raise unexpected("at least two dimensions", value)
    return found


def _axes(letters: str, shape: tuple[int, ...]) -> str:
    """The letters, checked: x and y are there, each once, and what is not known has a size of 1."""
    if len(letters) != len(shape):
        raise unexpected(f"{len(letters)} dimensions, one for each axis", shape)
    found = "".join(
        letter if letter in "xyzct" else "1" if size == 1 else "?" for letter, size in zip(letters, shape, strict=True)
    )
    known = found.replace("1", "")
    if "?" in found or len(set(known)) != len(known) or not {"x", "y"} <= set(known):
        raise unexpected("axes x, y, z, c, t, each at most once", letters)
    return found


def _array(place: str | None, driver: str, path: str, axes: str, shape: tuple[int, ...], chunk: list[int]) -> Array:
    def along(values: Sequence[int]) -> Triple:
        x, y, z = (values[axes.index(a)] if a in axes else 1 for a in "xyz")
        return (x, y, z)

    return Array(place, driver, path, axes, Grid((0, 0, 0), along(shape), along(chunk)))
