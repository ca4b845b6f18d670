"""``/status``: what the gateway does, in numbers, small plots and tables that go on by themselves."""

from __future__ import annotations

from typing import Any

from twisted.web.template import Flattenable, Tag

from ocpproxy.web.pages import layout
from ocpproxy.web.pages.figures import GROUPS, PLOTS, Figure, FigureGroup
from ocpproxy.web.pages.layout import PageFrame, tags

SCRIPTS = ("status.js", "page.js", "plots.js", "units.js")
_TABLES = {
    "usage": ("Who uses the space", ("Dataset", "Stored", "Share", "Tiles and chunks", "Last used", "Quota")),
    "jobs": ("Jobs", ("Job", "What", "State", "Progress", "Failed", "Time left")),
    "upstreams": ("Upstreams", ("Kind of request", "Requests", "Failed", "Mean time")),
    "breakers": ("Upstreams that are left alone", ("Dataset", "Address", "State")),
    "slowest": ("The slowest cuboids of the last hour", ("Time", "When", "Dataset", "Cuboid", "Outcome")),
}


def content(frame: PageFrame, state: dict[str, Any]) -> list[Flattenable]:
    """Return what is between header and footer."""
    return [
        layout.data_block("state", state),
        tags.main(
            tags.div(
                tags.h1("Status"),
                tags.p(id="connection", role="status", class_="hint"),
                class_="heading",
            ),
            tags.div(*map(_group, GROUPS), class_="groups"),
            tags.section(
                tags.h2("The last ten minutes"),
                tags.div(*map(_plot, PLOTS), class_="plots"),
                **{"aria-label": "Plots"},
            ),
            *(_table(name, title, columns) for name, (title, columns) in _TABLES.items()),
            tags.noscript(
                tags.p(
                    "A script fills in the numbers, which this browser does not run. ",
                    tags.a("All metrics", href=frame.to("metrics")),
                )
            ),
            id="status",
            **{"data-up": frame.up},
        ),
        layout.footer(frame),
    ]


def _group(group: FigureGroup) -> Tag:
    return tags.section(tags.h2(group.title), tags.dl(*map(_figure, group.figures)), class_="block group")


def _figure(figure: Figure) -> Tag:
    value = tags.dd("–", **{"data-key": figure.key, "data-unit": figure.unit, "data-metric": figure.metric})
    return tags.div(tags.dt(figure.label), value)


def _plot(figure: Figure) -> Tag:
    heading = tags.h3(figure.label, tags.span("–", class_="latest"))
    as_table = tags.details(
        tags.summary("As a table"),
        tags.table(tags.thead(tags.tr(tags.th("Time", scope="col"), tags.th(figure.label, scope="col"))), tags.tbody()),
    )
    return tags.div(
        heading,
        tags.div(class_="drawing"),
        as_table,
        class_="plot",
        **{"data-key": figure.key, "data-unit": figure.unit},
    )


def _table(name: str, title: str, columns: tuple[str, ...]) -> Tag:
    head = tags.thead(tags.tr(*(tags.th(column, scope="col") for column in columns)))
    table = tags.table(head, tags.tbody(), id=f"table-{name}")
    nothing = tags.p("None.", class_="hint none")
    return tags.section(
        tags.h2(title),
        tags.div(table, class_="wide", tabindex="0", role="region", **{"aria-label": title}),
        nothing,
        class_="block",
    )
