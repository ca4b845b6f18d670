"""What all pages have in common: head, header, footer, and a policy under which a browser runs our files only.

Pages are made of Twisted's template tags, which quote every text. Names of datasets and channels, and what upstreams
say, come from outside.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.web.template import Flattenable, Tag, flattenString

from ocpproxy import __version__
from ocpproxy.web.answers import Reply

POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
_QUOTED = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&"}


class _Elements:
    """The elements of HTML by their names. Twisted's own list has none that came after 2010."""

    def __getattr__(self, name: str) -> Tag:
        return Tag(name)


tags = _Elements()


@dataclass(frozen=True)
class PageFrame:
    """Where a page is, relative to the gateway's root."""

    up: str
    """From the page's address to the root: empty, or ``../`` for each step."""
    digest: str
    """`PageFiles.digest`."""

    def file(self, name: str) -> str:
        """Return the address of one of the page's files."""
        return f"{self.up}static/{self.digest}/{name}"

    def to(self, path: str) -> str:
        """Return the address of something below the root."""
        return f"{self.up}{path}" or "./"


async def page(
    frame: PageFrame,
    title: str,
    content: Sequence[Flattenable],
    *,
    scripts: Sequence[str] = (),
    leaflet: bool = False,
    here: str = "",
    code: int = 200,
) -> Reply:
    """Return a page.

    :param content: what is between its header and its footer.
    :param scripts: its modules, the one that begins first; the others are loaded meanwhile.
    :param leaflet: whether it has maps.
    :param here: the name of the page among those that the header leads to.
    """
    head = tags.head(
        tags.meta(charset="utf-8"),
        tags.meta(name="viewport", content="width=device-width, initial-scale=1"),
        tags.meta(name="color-scheme", content="dark light"),
        tags.title(title),
        tags.link(rel="icon", href="data:,"),
        *([tags.link(rel="stylesheet", href=frame.file("leaflet.css"))] if leaflet else []),
        tags.link(rel="stylesheet", href=frame.file("style.css")),
        tags.script(src=frame.file("theme.js")),
        *([tags.script(src=frame.file("leaflet.js"), defer="")] if leaflet else []),
        *(tags.link(rel="modulepreload", href=frame.file(name)) for name in scripts[1:]),
        *(tags.script(src=frame.file(name), type="module") for name in scripts[:1]),
    )
    body = tags.body(_header(frame, here), *content)
    html: bytes = await _flatten(tags.html(head, body, lang="en", **{"data-theme": "dark"}))
    headers = {
        b"content-type": b"text/html; charset=utf-8",
        b"cache-control": b"no-cache" if code == 200 else b"no-store",
        b"content-security-policy": POLICY,
        b"referrer-policy": b"no-referrer",
    }
    return Reply(code, b"<!DOCTYPE html>\n" + html, headers)


def _flatten(tag: Tag) -> Deferred[bytes]:
    return flattenString(None, tag)


def _header(frame: PageFrame, here: str) -> Tag:
    def link(name: str, path: str) -> Tag:
        attributes = {"aria-current": "page"} if name == here else {}
        return tags.a(name, href=frame.to(path), **attributes)

    return tags.header(
        tags.a(icon("stack"), tags.strong("ocpproxy"), href=frame.to(""), class_="brand"),
        tags.nav(link("Datasets", ""), link("Status", "status"), **{"aria-label": "Pages"}),
        tags.button(icon("theme"), tags.span("Light", class_="label"), id="theme", type="button", class_="quiet"),
        class_="top",
    )


def footer(frame: PageFrame) -> Tag:
    """Return the version, and the licences of what the pages are made of."""
    return tags.footer(
        f"ocpproxy {__version__}, Apache License 2.0. Slices are shown with Leaflet, BSD 2-Clause. ",
        tags.a("Licences", href=frame.file("licences.txt")),
        ", ",
        tags.a("metrics", href=frame.to("metrics")),
        ".",
    )


def data_block(name: str, value: object) -> Tag:
    """Return a JSON document within a page, for its scripts. It is not executed."""
    text = json.dumps(value, separators=(",", ":")).translate(_QUOTED)
    return tags.script(text, type="application/json", id=name)


_ICONS = {
    "stack": "M12 3 2 8l10 5 10-5zM4 12l8 4 8-4M4 16l8 4 8-4",
    "theme": "M12 3a9 9 0 1 0 0 18zM12 3v18",
    "slices": "M3 5h18v14H3zM3 12h18M12 5v14",
    "cube": "M12 2 3 7v10l9 5 9-5V7zM3 7l9 5 9-5M12 12v10",
    "paste": "M9 4h6v3H9zM7 5H5v16h14V5h-2M8 12h8M8 16h8",
    "code": "M8 7l-5 5 5 5M16 7l5 5-5 5",
    "copy": "M9 9h11v11H9zM5 15H4V4h11v1",
}


def icon(name: str) -> Tag:
    """Return a small drawing, which always stands beside words."""
    path = Tag("path", attributes={"d": _ICONS[name]})
    return Tag("svg", attributes={"viewBox": "0 0 24 24", "class": "icon", "aria-hidden": "true"}, children=[path])


def copied(text: str, label: str) -> Tag:
    """Return a text with a button that copies it.

    :param label: what the text is, for people.
    """
    return tags.span(
        tags.code(text),
        tags.button(icon("copy"), "Copy", type="button", class_="quiet copy", **{"aria-label": f"Copy {label}"}),
        class_="copied",
    )
