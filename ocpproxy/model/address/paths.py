"""The grammar of paths: image bases and tails, read and written by the same templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from urllib.parse import unquote

from ocpproxy.model.address.parts import (
    PLANES,
    BadAddress,
    ChannelName,
    Colouring,
    ImageBase,
    OverviewAddress,
    TileAddress,
)
from ocpproxy.model.address.query import tile_number, tile_of
from ocpproxy.model.dataset import NAME, TILE, Plane

MAX_PATH = 1024
"""Characters; a longer path is no address."""

_HOSTS = ("ocpcatmaid", "ocptilecache", "ndtilecache", "h2n5")
_MOUNT = "tilecache"
_NUMBER = r"-?\d{1,9}"
_PATTERNS = {
    **dict.fromkeys(("token", "channel"), NAME),
    "channels": r"[\w,-]+",
    "colours": r"[\w,:-]+",
    **dict.fromkeys(("plane", "ignored_plane"), "|".join(PLANES)),
    **dict.fromkeys(("time", "slice", "row", "col", "level"), _NUMBER),
    **dict.fromkeys(("x", "y"), r"-?\d{1,12}"),
}


class _Form:
    """One line of the grammar: a template whose ``{fields}`` make both the pattern that is read and the text written.

    :param plane: the plane of every address of this form, where the template has no ``{plane}``.
    """

    def __init__(self, template: str, colouring: Colouring = Colouring.PLAIN, plane: Plane = Plane.XY) -> None:
        self._template = template
        self._colouring = colouring
        self._plane = plane
        self._fields = frozenset(re.findall(r"{(\w+)}", template))
        pattern = re.sub(r"{(\w+)}", lambda m: f"(?P<{m[1]}>{_PATTERNS[m[1]]})", template.replace(".", r"\."))
        self._pattern = pattern
        self.slashes = template.count("/")

    @cached_property
    def _match(self) -> Callable[[str], re.Match[str] | None]:
        """The compiled pattern, made at the first use: commands that parse no address need none of them."""
        return re.compile(self._pattern, re.ASCII).fullmatch

    def can_write_base(self, base: ImageBase) -> bool:
        """Return whether this form can express the image base."""
        return (
            base.colouring is self._colouring
            and ("plane" in self._fields or base.plane is self._plane)
            and bool(self._fields & {"channel", "channels", "colours"}) == bool(base.channels)
        )

    def can_write_time(self, time: int | None) -> bool:
        """Return whether this form has a time exactly if there is one."""
        return ("time" in self._fields) == (time is not None)

    def write(self, base: ImageBase, **numbers: int | None) -> str:
        """Return the path in this form."""
        return self._template.format(
            token=base.token,
            plane=base.plane.value,
            ignored_plane=base.plane.value,
            channel=base.channels[0].name if base.channels else "",
            channels=",".join(channel.name for channel in base.channels),
            colours=",".join(
                f"{channel.name}:{channel.colour}" if channel.colour else channel.name for channel in base.channels
            ),
            x=(numbers.get("col") or 0) * TILE,
            y=(numbers.get("row") or 0) * TILE,
            **numbers,
        )

    def read(self, path: str) -> tuple[ImageBase, dict[str, int]] | None:
        """Return the image base and the numbers in the path, or None when it is not of this form."""
        match = self._match(path)
        if match is None:
            return None
        fields = match.groupdict()
        plane = fields.get("plane")
        named = fields.get("channel") or fields.get("channels") or fields.get("colours")
        base = ImageBase(fields["token"], PLANES[plane] if plane else self._plane, _channels(named), self._colouring)
        numbers = {name: int(fields[name]) for name in self._fields & {"time", "slice", "row", "col", "level"}}
        if "x" in fields:
            numbers |= {"col": tile_number(fields["x"]), "row": tile_number(fields["y"])}
        return base, numbers


def _channels(text: str | None) -> tuple[ChannelName, ...]:
    if text is None:
        return ()
    items = []
    for item in text.split(","):
        name, colon, colour = item.partition(":")
        if colon and not colour:
            raise BadAddress(f"expected name:COLOUR, not {item[:80]!r}")
        items.append(ChannelName(name, colour.upper() or None))
    return tuple(items)


_PLAIN, _LIST, _NAMED = Colouring.PLAIN, Colouring.BY_POSITION, Colouring.NAMED
# Where two lines match the same path, the first one wins. So the name of a plane in a place where a plane is allowed is
# the plane, not a channel of that name; and D6 wins over D3. A path of mcfc/ never matches D6 for a token "mcfc": its
# fourth segment is a plane, where D6 has the first segment of the tail.
_BASES = (
    ("{token}/{plane}/", _PLAIN),
    ("{token}/", _PLAIN),
    ("{token}/{channels}/", _LIST),
    ("{token}/{channel}/{plane}/", _PLAIN),
    ("{token}/{plane}/{channels}/", _LIST),
    ("mcfc/{token}/{colours}/{plane}/", _NAMED),
)
_TAILS = (
    "{slice}/{row}_{col}_{level}.png",
    "{slice}/{level}/{row}_{col}.png",
    "{level}/{slice}/{row}/{col}.png",
    "largeDataTileSource/512/512/{level}/{slice}/{row}/{col}.png",
)
_PLANED_TAILS = (
    ("xy/{level}/{col}_{row}_{slice}", Plane.XY),
    ("xz/{level}/{col}_{slice}_{row}", Plane.XZ),
    ("yz/{level}/{slice}_{col}_{row}", Plane.YZ),
    ("xy/512/{level}/{col}/{row}/{slice}", Plane.XY),
    ("xz/512/{level}/{col}/{slice}/{row}", Plane.XZ),
    ("yz/512/{level}/{col}/{row}/{slice}", Plane.ZY),
)
_PIXEL_TAIL = "s{level}/0_1_2/512_512/{x}_{y}_{slice}.png"
_OVERVIEW_TAILS = ("{slice}/small.png", "small/{slice}.png", "largeDataTileSource/512/512/small/{slice}.png")


def _with_time(tail: str) -> str:
    return tail.replace("{slice}/", "{time}/{slice}/")


_BASE_FORMS = tuple(_Form(base, colouring) for base, colouring in _BASES)
_TILE_FORMS = (
    *(_Form(base + tail, colouring) for tail in _TAILS for base, colouring in _BASES),
    *(_Form(base + _with_time(tail), c) for tail in _TAILS for base, c in _BASES if "channel}" in base or c is _NAMED),
    _Form("viking/{token}/volume/{channel}/{level}/X{col}_Y{row}_Z{slice}.png"),
    *(
        _Form(base + tail, Colouring.PLAIN, plane)
        for tail, plane in _PLANED_TAILS
        for base in ("{token}/", "{token}/{ignored_plane}/", "{token}/{channel}/{ignored_plane}/")
    ),
    *(_Form(base + _PIXEL_TAIL, colouring) for base, colouring in _BASES),
)
_OVERVIEW_FORMS = tuple(_Form(base + tail, colouring) for tail in _OVERVIEW_TAILS for base, colouring in _BASES)


def _by_slashes(forms: tuple[_Form, ...]) -> Mapping[int, list[_Form]]:
    grouped: dict[int, list[_Form]] = {}
    for form in forms:
        grouped.setdefault(form.slashes, []).append(form)
    return grouped


_TILES, _OVERVIEWS, _IMAGE_BASES = map(_by_slashes, (_TILE_FORMS, _OVERVIEW_FORMS, _BASE_FORMS))


def strip_prefix(segments: list[str]) -> list[str]:
    """Return the segments without the optional ``ocpcatmaid``-like segment and the optional ``tilecache`` segment."""
    rest = segments[1:] if segments and segments[0] in _HOSTS else segments
    return rest[1:] if rest and rest[0] == _MOUNT else rest


def parse(path: str, query: str = "") -> TileAddress | OverviewAddress | ImageBase:
    """Return what the path of a URL and its query address.

    An image base with a query of CATMAID's type 2 is a tile; with any other query, or none, it is an image base.

    :param path: without its leading slash, percent-encoded or not.
    :raises BadAddress: when it is none of these, with what was expected.
    """
    if len(path) > MAX_PATH:
        raise BadAddress(f"expected a path of at most {MAX_PATH} characters")
    segments = [unquote(segment) for segment in path.split("/")]
    rest = "" if any("/" in segment for segment in segments) else "/".join(strip_prefix(segments))
    slashes = rest.count("/")
    for form in _TILES.get(slashes, ()):
        read = form.read(rest)
        if read is not None:
            return TileAddress(read[0], **read[1])
    for form in _OVERVIEWS.get(slashes, ()):
        read = form.read(rest)
        if read is not None:
            return OverviewAddress(read[0], **read[1])
    if not slashes and rest:
        rest, slashes = rest + "/", 1  # the token without its slash
    for form in _IMAGE_BASES.get(slashes, ()):
        read = form.read(rest)
        if read is not None:
            return tile_of(read[0], query) or read[0]
    raise BadAddress(
        "expected token/[plane/]slice/row_col_level.png, token/channel/plane/[time/]slice/row_col_level.png "
        "or another form of tile address"
    )


def write(address: TileAddress) -> str:
    """Return the canonical path of the address, without a leading slash; `parse` reads it back."""
    return all_paths(address)[0]


def all_paths(address: TileAddress) -> list[str]:
    """Return every path that means this address, the canonical one first."""
    base = address.base
    numbers = {name: getattr(address, name) for name in ("slice", "row", "col", "level", "time")}
    return [
        _prefix(base) + form.write(base, **numbers)
        for form in _TILE_FORMS
        if form.can_write_base(base) and form.can_write_time(address.time)
    ]


def write_base(base: ImageBase) -> str:
    """Return the path of an image base, with its last slash and without a leading one."""
    return _prefix(base) + next(form.write(base) for form in _BASE_FORMS if form.can_write_base(base))


def _prefix(base: ImageBase) -> str:
    return f"{_HOSTS[0]}/{_MOUNT}/" if base.token in (*_HOSTS, _MOUNT) else ""
