"""Inputs of the field suite: collections, plates, wells and labels of OME-Zarr, by ome-zarr-py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ome_zarr import writer
from ome_zarr.format import FormatV04, FormatV05

from tests.field import Outcome, Writer, annotation, gradient, image, put, refused
from tests.field_ome import ASPECT, Version, group, label, ome


def _bioformats(version: Version, *images: str, series: bool = False) -> Writer:
    """What bioformats2raw writes: a root with images below it; the group OME lists them, or does not exist."""

    def write(directory: Path) -> Outcome:
        layout = {"bioformats2raw.layout": 3}
        root = group(directory, version)
        root.attrs.update(layout if version == "0.4" else {"ome": {"version": "0.5", **layout}})
        if series:
            listed = group(directory / "OME", version)
            listed.attrs.update({"series": list(images)} if version == "0.4" else {"ome": {"series": list(images)}})
            (directory / "OME" / "METADATA.ome.xml").write_text("<OME/>")
        for n, name in enumerate(images):
            ome(directory / name, gradient(shift=n), version=version)
        return image(gradient(), aspect=ASPECT) if len(images) == 1 else refused("collection", *images)

    return write


put(3, "collection_of_one", _bioformats("0.4", "0"), kind="zarr")
put(3, "collection_of_one_5", _bioformats("0.5", "0"))
put(3, "collection_of_one_listed", _bioformats("0.4", "first", series=True))
put(3, "collection_of_one_listed_5", _bioformats("0.5", "first", series=True))
put(3, "collection_of_two", _bioformats("0.4", "0", "1"))
put(3, "collection_of_two_5", _bioformats("0.5", "0", "1"))
put(3, "collection_of_three_listed", _bioformats("0.4", "brain", "label", "macro", series=True))
put(3, "image_of_collection", _bioformats("0.4", "0"), url="{at}/0/")


def _plate(version: Version, wells: Mapping[str, Sequence[str]]) -> Writer:
    """A plate: wells by their paths, each with its fields."""

    def write(directory: Path) -> Outcome:
        every = ome_plate(directory, version, wells)
        return image(gradient(), aspect=ASPECT) if len(every) == 1 else refused("plate", next(iter(wells)))

    return write


def ome_plate(directory: Path, version: Version, wells: Mapping[str, Sequence[str]]) -> list[str]:
    """Write a plate, and return the paths of its images."""
    kind = FormatV04() if version == "0.4" else FormatV05()
    rows, columns = (sorted({path.split("/")[n] for path in wells}) for n in (0, 1))
    writer.write_plate_metadata(group(directory, version), rows, columns, list(wells), fmt=kind)
    every: list[str] = []
    for path, fields in wells.items():
        group(directory / path.split("/")[0], version)
        writer.write_well_metadata(group(directory / path, version), list(fields), fmt=kind)
        for name in fields:
            ome(directory / path / name, gradient(shift=len(every)), version=version)
            every.append(f"{path}/{name}")
    return every


put(3, "plate_of_one", _plate("0.4", {"A/1": ["0"]}))
put(3, "plate_of_one_5", _plate("0.5", {"B/03": ["0"]}))
put(3, "plate_of_wells", _plate("0.4", {"A/1": ["0"], "B/2": ["0"]}))
put(3, "plate_of_fields_5", _plate("0.5", {"A/1": ["0", "1"]}))


def _well(*fields: str) -> Writer:
    """A well by itself."""

    def write(directory: Path) -> Outcome:
        writer.write_well_metadata(group(directory), list(fields), fmt=FormatV04())
        for n, name in enumerate(fields):
            ome(directory / name, gradient(shift=n))
        return image(gradient(), aspect=ASPECT) if len(fields) == 1 else refused("well", *fields)

    return write


put(3, "well_of_one", _well("0"))
put(3, "well_of_two", _well("0", "1"))


def _labels(version: Version, *names: str) -> Writer:
    """The container of an image's labels."""

    def write(directory: Path) -> Outcome:
        container = group(directory, version)
        container.attrs.update({"labels": list(names)} if version == "0.4" else {"ome": {"labels": list(names)}})
        for n, name in enumerate(names):
            label(directory / name, gradient("uint16", shift=n), version)
        return annotation(gradient("uint16"), aspect=ASPECT) if len(names) == 1 else refused("labels", *names)

    return write


put(3, "labels_of_one", _labels("0.4", "nuclei"))
put(3, "labels_of_one_5", _labels("0.5", "nuclei"))
put(3, "labels_of_two", _labels("0.4", "nuclei", "cells"))
