"""Tile addresses: what a viewer's URL says, both ways.

One grammar reads and writes. Every historical spelling of a tile (ocp-protocol names D1, D2, D3, D6, mcfc and
viking) is one line of `_FORMS`, a template whose fields have one pattern each; `parse` tries the lines in order,
`write` uses the first that can say the address. So ``parse(write(address)) == address`` for every address there is.

An address is only words: it knows no dataset. Whether its token, channel or plane exists, and whether the tile lies
inside the volume, is for `ocpproxy.geometry` and a dataset's description to say.

============ ===================================================== ==========================================
form         path (``FILE`` is ``{row}_{col}_{level}.png``)        since
============ ===================================================== ==========================================
D1           ``token/slice/FILE``                                  2013-10
D2           ``token/channels/slice/FILE``                         2013-12
D3           ``token/plane/[channels/]slice/FILE``                 2014-11
D6           ``token/channel/plane/[time/]slice/FILE``             2015-06
D6 mcfc      ``mcfc/token/name[:C],.../plane/[time/]slice/FILE``   2015-06
viking       ``viking/token/volume/channel/level/X{c}_Y{r}_Z{s}.png``  2015-10
============ ===================================================== ==========================================

All may stand behind ``[ocpcatmaid|ocptilecache|ndtilecache/][tilecache/]``. A token that is itself called like one of
those prefixes is reached behind the full prefix only, and `write` puts it there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote

from ocpproxy.geometry import Plane

MAX_PATH = 1024
"""Characters of a path that are looked at; a longer one is no tile address."""
MAX_CHANNELS = 6
COLOURS = tuple("CMYRGB")
"""Cyan, magenta, yellow, red, green, blue: a channel without a colour of its own takes the one of its position."""

_HOSTS = ("ocpcatmaid", "ocptilecache", "ndtilecache")
_MOUNT = "tilecache"
_NUMBER_LIMIT = 10**9
_NAME = re.compile(r"\w[\w-]{0,63}", re.ASCII)


class BadAddress(ValueError):
    """The path is none of the known forms. Its text is one sentence that may be shown to anyone."""


class Colouring(Enum):
    """How an address names its channels, which decides how they are shown."""

    PLAIN = "plain"
    """None or one, shown as it is (D1, D3 without a list, D6, viking)."""
    BY_POSITION = "by position"
    """A list (D2, D3): the place in the list is the colour; ``0`` keeps a place free."""
    NAMED = "named"
    """``mcfc``: each item may name its colour."""


@dataclass(frozen=True, slots=True)
class ChannelName:
    """One item of a channel list: a name (or generation-1 number) and the colour it asks for, if any."""

    name: str
    colour: str | None = None


@dataclass(frozen=True, slots=True)
class TileAddress:
    """One tile as a URL names it.

    `slice`, `row`, `col` and `level` are signed, because viewers do ask for tiles before the volume's first
    (their answer is a blank tile). For ``xz`` and ``yz`` the rows run along z and `slice` is y or x.

    :raises BadAddress: when a name, a number or the combination cannot be written in any form.
    """

    token: str
    plane: Plane
    slice: int
    row: int
    col: int
    level: int
    channels: tuple[ChannelName, ...] = ()
    time: int | None = None
    colouring: Colouring = Colouring.PLAIN

    def __post_init__(self) -> None:
        for name in (self.token, *(channel.name for channel in self.channels)):
            if not _NAME.fullmatch(name):
                raise BadAddress(f"expected a name of 1 to 64 letters, digits, '_' and '-', not {name[:80]!r}")
        for number in (self.slice, self.row, self.col, self.level, self.time or 0):
            if abs(number) >= _NUMBER_LIMIT:
                raise BadAddress("expected numbers of at most 9 digits")
        count = len(self.channels)
        if count > MAX_CHANNELS:
            raise BadAddress(f"expected at most {MAX_CHANNELS} channels, not {count}")
        plain = self.colouring is Colouring.PLAIN
        if plain and count > 1:
            raise BadAddress("several channels need a list or mcfc/")
        if not plain and not count:
            raise BadAddress("false colour needs at least one channel")
        if self.time is not None and (self.colouring is Colouring.BY_POSITION or not count):
            raise BadAddress("a time point needs a channel before the plane")
        if self.colouring is Colouring.BY_POSITION and count == 1 and self.channels[0].name in _PLANES:
            raise BadAddress(f"{self.channels[0].name!r} in the place of a channel list is a plane")
        for channel in self.channels:
            if channel.colour is not None and (self.colouring is not Colouring.NAMED or channel.colour not in COLOURS):
                raise BadAddress(f"expected one of the colours {' '.join(COLOURS)} behind mcfc/ only")


_PLANES = {plane.value: plane for plane in Plane}
_NUMBER = r"-?\d{1,9}"
_PATTERNS = {
    "token": r"\w[\w-]{0,63}",
    "plane": "|".join(_PLANES),
    "channel": r"\w[\w-]{0,63}",
    "channels": r"[\w,-]+",
    "colours": r"[\w,:-]+",
    **dict.fromkeys(("time", "slice", "row", "col", "level"), _NUMBER),
}


class _Form:
    """One line of the grammar: a template whose ``{fields}`` make both the pattern and the writer."""

    def __init__(self, template: str, colouring: Colouring = Colouring.PLAIN) -> None:
        self.template = template
        self.colouring = colouring
        self.fields = frozenset(re.findall(r"{(\w+)}", template))
        pattern = re.sub(r"{(\w+)}", lambda m: f"(?P<{m[1]}>{_PATTERNS[m[1]]})", template.replace(".", r"\."))
        self.match = re.compile(pattern, re.ASCII).fullmatch

    def can_say(self, address: TileAddress) -> bool:
        """Whether this form loses nothing of the address."""
        return (
            address.colouring is self.colouring
            and ("plane" in self.fields or address.plane is Plane.XY)
            and ("time" in self.fields) == (address.time is not None)
            and bool(self.fields & {"channel", "channels", "colours"}) == bool(address.channels)
        )

    def say(self, address: TileAddress) -> str:
        """The path of the address in this form."""
        return self.template.format(
            token=address.token,
            plane=address.plane.value,
            slice=address.slice,
            row=address.row,
            col=address.col,
            level=address.level,
            time=address.time,
            channel=address.channels[0].name if address.channels else "",
            channels=",".join(channel.name for channel in address.channels),
            colours=",".join(
                f"{channel.name}:{channel.colour}" if channel.colour else channel.name for channel in address.channels
            ),
        )

    def read(self, path: str) -> TileAddress | None:
        """The address of the path, or None when it is not of this form."""
        found = self.match(path)
        if found is None:
            return None
        said = found.groupdict()
        time = said.get("time")
        return TileAddress(
            token=said["token"],
            plane=_PLANES[said.get("plane") or Plane.XY.value],
            slice=int(said["slice"]),
            row=int(said["row"]),
            col=int(said["col"]),
            level=int(said["level"]),
            channels=_channels(said.get("channel") or said.get("channels") or said.get("colours")),
            time=None if time is None else int(time),
            colouring=self.colouring,
        )


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


_FILE = "{row}_{col}_{level}.png"
# The order decides where two forms could read the same path: a plane's name in a plane's place wins over a channel
# of that name, and the newer D6 over D3. mcfc/ and D6 of a token called "mcfc" never meet: one has its plane fourth,
# the other third, and no plane is a number.
_FORMS = (
    _Form("{token}/{plane}/{slice}/" + _FILE),
    _Form("{token}/{slice}/" + _FILE),
    _Form("{token}/{channels}/{slice}/" + _FILE, Colouring.BY_POSITION),
    _Form("{token}/{channel}/{plane}/{slice}/" + _FILE),
    _Form("{token}/{plane}/{channels}/{slice}/" + _FILE, Colouring.BY_POSITION),
    _Form("mcfc/{token}/{colours}/{plane}/{slice}/" + _FILE, Colouring.NAMED),
    _Form("{token}/{channel}/{plane}/{time}/{slice}/" + _FILE),
    _Form("mcfc/{token}/{colours}/{plane}/{time}/{slice}/" + _FILE, Colouring.NAMED),
    _Form("viking/{token}/volume/{channel}/{level}/X{col}_Y{row}_Z{slice}.png"),
)


def strip_prefix(segments: list[str]) -> list[str]:
    """The segments behind the optional ``ocpcatmaid``-like segment and the optional ``tilecache`` segment."""
    rest = segments[1:] if segments and segments[0] in _HOSTS else segments
    return rest[1:] if rest and rest[0] == _MOUNT else rest


def parse(path: str) -> TileAddress:
    """Read the path of a URL, without its leading slash and query, percent-encoded or not.

    :raises BadAddress: when it is no tile address, with what was expected.
    """
    if len(path) > MAX_PATH:
        raise BadAddress(f"expected a path of at most {MAX_PATH} characters")
    segments = [unquote(segment) for segment in path.split("/")]
    rest = "" if any("/" in segment for segment in segments) else "/".join(strip_prefix(segments))
    for form in _FORMS:
        address = form.read(rest)
        if address is not None:
            return address
    raise BadAddress(
        "expected token/[plane/]slice/row_col_level.png, token/channel/plane/[time/]slice/row_col_level.png "
        "or another form of tile address"
    )


def write(address: TileAddress) -> str:
    """The canonical path of the address, without a leading slash; `parse` reads it back."""
    return spellings(address)[0]


def spellings(address: TileAddress) -> list[str]:
    """Every path that means this address, the canonical one first."""
    prefix = f"{_HOSTS[0]}/{_MOUNT}/" if address.token in (*_HOSTS, _MOUNT) else ""
    return [prefix + form.say(address) for form in _FORMS if form.can_say(address)]
