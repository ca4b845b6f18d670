"""The documents of a BossDB experiment: its coordinate frame, its channels, and the levels of each channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from ocpproxy.model.dataset import Triple
from ocpproxy.upstream.documents import checks, pyramids
from ocpproxy.upstream.documents.checks import (
    fraction,
    fraction_triple,
    integer,
    integer_triple,
    json_object,
    string,
    unexpected,
)
from ocpproxy.upstream.documents.pyramids import Volume, VolumeChannel, VoxelSize
from ocpproxy.upstream.grid import Grid

BUCKET = "bossdb-open-data"
"""The bucket of a channel that names none."""
_CUBOID = (512, 512, 16)
_RESOLUTIONS = 10
"""The number of a resolution is one digit."""
_UNITS = {"nanometers": 1, "micrometers": 10**3, "millimeters": 10**6, "centimeters": 10**7}
_MAX_TEXT = 2 * 2**20
"""Characters of a document."""


@dataclass(frozen=True, slots=True)
class BossResolution:
    """One level of a channel that is read by cutouts."""

    channel: str
    """The server's name of the channel."""
    number: int
    grid: Grid
    readable: Grid
    """The coordinates that the server accepts."""
    annotation: bool
    timed: bool
    """True if the channel has a time axis."""


class Frame(NamedTuple):
    """A coordinate frame."""

    unit: int
    """Nanometres of the unit of the voxel sizes."""
    edges: VoxelSize
    """Edges of a voxel of level 0 along x, y, z, in nanometres."""
    start: Triple
    stop: Triple
    """The first voxel of level 0, and the first one behind the end."""


class ChannelDocuments(NamedTuple):
    """What the server reports of a channel that is read by cutouts."""

    name: str
    channel: Mapping[str, Any]
    experiment: Mapping[str, Any]
    downsample: object
    """The text of the downsample document, or None for a channel that has level 0 only."""


def read_document(name: str, text: object) -> Mapping[str, Any]:
    """Return the document in a text."""
    return json_object(name, checks.parse_json(string(name, text, max_length=_MAX_TEXT)))


def bucket_address(channel: Mapping[str, Any]) -> str | None:
    """Return the address of a channel that is a precomputed volume in a bucket, or None for other channels."""
    if channel.get("storage_type") != "cloudvol":
        return None
    bucket = string("bucket", channel.get("bucket") or BUCKET)
    path = string("cv_path", channel.get("cv_path")).strip("/")
    if not bucket.replace("-", "").replace(".", "").isalnum() or not path.isascii() or set(path) & set(" ?#{}\\"):
        raise unexpected("a bucket and the path of a volume in it", (bucket, path))
    return f"s3://{bucket}/{path}"


def read_frame(document: Mapping[str, Any]) -> Frame:
    """Return the coordinate frame of a document."""
    unit = _UNITS[string("voxel_unit", document.get("voxel_unit"), *_UNITS)]
    a, b, c = (fraction(f"{axis}_voxel_size", document.get(f"{axis}_voxel_size")) * unit for axis in "xyz")
    x0, y0, z0 = (integer(f"{axis}_start", document.get(f"{axis}_start"), 0, checks.MAX_EXTENT) for axis in "xyz")
    x1, y1, z1 = (integer(f"{axis}_stop", document.get(f"{axis}_stop"), 1, checks.MAX_EXTENT) for axis in "xyz")
    if x0 >= x1 or y0 >= y1 or z0 >= z1:
        raise unexpected("a coordinate frame that is not empty", ([x0, y0, z0], [x1, y1, z1]))
    return Frame(unit, (a, b, c), (x0, y0, z0), (x1, y1, z1))


def make_volume(documents: ChannelDocuments, frame: Frame, address: str) -> Volume[BossResolution]:
    """Return the volume of a channel that is read by cutouts."""
    channel, experiment = documents.channel, documents.experiment
    labels = string("type", channel.get("type"), "image", "annotation") == "annotation"
    times = integer("num_time_samples", experiment.get("num_time_samples", 1), 1, 2**20)
    readable = Grid(frame.start, frame.stop, _CUBOID)
    scales = [
        (voxel, BossResolution(documents.name, number, grid, readable, labels, times > 1))
        for number, voxel, grid in _levels(documents, frame)
    ]
    reported = {name: channel.get(name) for name in ("type", "datatype", "base_resolution", "storage_type")}
    dtype = string("datatype", channel.get("datatype"))
    version = pyramids.version([address, reported])
    return Volume(labels, dtype, [VolumeChannel("", 0)], scales, version, times, writable=labels)


def _levels(documents: ChannelDocuments, frame: Frame) -> Iterator[tuple[int, VoxelSize, Grid]]:
    """Yield number, voxel and grid of each level of a channel."""
    experiment, downsample = documents.experiment, documents.downsample
    base = integer("base_resolution", documents.channel.get("base_resolution", 0), 0, _RESOLUTIONS - 1)
    count = integer("num_hierarchy_levels", experiment.get("num_hierarchy_levels"), 1, 100)
    method = string("hierarchy_method", experiment.get("hierarchy_method"), "isotropic", "anisotropic")
    report = {} if downsample is None else read_document("downsample", downsample)
    extents, sizes = (json_object(name, report.get(name, {})) for name in ("extent", "voxel_size"))
    for n in range(base, min(base + (1 if downsample is None else count), _RESOLUTIONS)):
        # The rule of the hierarchy, for a level whose voxel size the server does not report.
        steps: list[Fraction] = [Fraction(2**n), Fraction(2**n), Fraction(2**n if method == "isotropic" else 1)]
        if str(n) in sizes:
            reported = fraction_triple("voxel_size", sizes[str(n)])
            steps = [size * frame.unit / edge for size, edge in zip(reported, frame.edges, strict=True)]
        x0, y0, z0 = (int(a / step) for a, step in zip(frame.start, steps, strict=True))
        ends = [-int(-b // step) for b, step in zip(frame.stop, steps, strict=True)]
        x1, y1, z1 = integer_triple("extent", extents.get(str(n), ends), 1)
        if x0 >= x1 or y0 >= y1 or z0 >= z1:
            raise unexpected("an extent that is not empty", (n, x1, y1, z1))
        a, b, c = (edge * step for edge, step in zip(frame.edges, steps, strict=True))
        yield n, (a, b, c), Grid((x0, y0, z0), (x1, y1, z1), _CUBOID)
