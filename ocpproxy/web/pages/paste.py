"""``/view/TOKEN/catmaid``: what to enter into CATMAID to see a dataset there."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.web.template import Flattenable, Tag

from ocpproxy.web.catmaid import documents
from ocpproxy.web.catmaid.stacks import StackInfo
from ocpproxy.web.pages import layout
from ocpproxy.web.pages.layout import PageFrame, copied, tags

_MOST = 60
"""Stacks that are shown; the importer's document has all."""


def content(frame: PageFrame, token: str, infos: Sequence[StackInfo], roots: Sequence[str]) -> list[Flattenable]:
    """Return what is between header and footer.

    :param roots: the addresses of the gateway as its clients see it, and of its mirrors.
    """
    root = roots[0]
    export = f"{root}/projects/export"
    others = len(infos) - _MOST
    more = [tags.p(f"{others} more stacks are in the importer's document.")] if others > 0 else []
    return [
        tags.main(
            tags.h1(f"{token} in CATMAID"),
            tags.section(
                tags.h2("All datasets at once"),
                tags.p(
                    "An administrator opens CATMAID's admin page, chooses ",
                    tags.em("Image data importer"),
                    ", ",
                    tags.em("General remote host"),
                    ", and enters:",
                ),
                copied(export, "the importer's address"),
                tags.p("The entry ", tags.em("Remote CATMAID"), " takes the address of this gateway instead:"),
                copied(root, "the address of the gateway"),
                class_="block",
            ),
            tags.section(
                tags.h2("One stack by hand"),
                tags.p(
                    "Without an administrator: open any stack, its layer settings, ",
                    tags.em("Custom mirror"),
                    ", and enter its image base, the extension png, 512 and 512, and tile source type 1. "
                    "An administrator adds a stack and its mirror with these values:",
                ),
                class_="block",
            ),
            *(_stack(info, roots) for info in infos[:_MOST]),
            *more,
        ),
        layout.footer(frame),
    ]


def _stack(info: StackInfo, roots: Sequence[str]) -> Tag:
    exported = documents.exported_stack(info, roots)
    rows = [
        ("Title", exported["title"]),
        ("Dimension", exported["dimension"]),
        ("Resolution (nm)", exported["resolution"]),
        ("Downsample factors", "[" + ", ".join(exported["downsample_factors"]) + "]"),
        ("Canary location (where CATMAID tries a mirror)", exported["canary_location"]),
        ("Orientation", f"{exported['orientation']} ({info.base.plane.value.upper()})"),
        ("Broken sections", ", ".join(map(str, exported["broken_sections"])) or "none"),
    ]
    for n, mirror in enumerate(exported["mirrors"]):
        name = f"Mirror {n + 1}" if len(roots) > 1 else "Mirror"
        rows += [
            (f"{name}: title", mirror["title"]),
            (f"{name}: image base", mirror["url"]),
            (f"{name}: file extension", mirror["fileextension"]),
            (f"{name}: tile width and height", f"{mirror['tile_width']}, {mirror['tile_height']}"),
            (f"{name}: tile source type", str(mirror["tile_source_type"])),
            (f"{name}: position", str(mirror["position"])),
        ]
    return tags.section(
        tags.h3(info.title),
        tags.table(
            tags.tbody(
                *(
                    tags.tr(tags.th(name, scope="row"), tags.td(copied(value, f"{name} of {info.title}")))
                    for name, value in rows
                )
            )
        ),
        class_="block stack",
    )
