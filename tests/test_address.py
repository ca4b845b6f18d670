"""Tile addresses: every form, both ways."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy import address
from ocpproxy.address import BadAddress, ChannelName, Colouring, TileAddress
from ocpproxy.geometry import Plane

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", fullmatch=True) | st.sampled_from(
    ["xy", "xz", "mcfc", "viking", "tilecache", "ocpcatmaid", "volume", "0", "12"]
)
numbers = st.integers(-(10**9) + 1, 10**9 - 1)


@st.composite
def addresses(draw: st.DrawFn) -> TileAddress:
    """Any address there is."""
    colouring = draw(st.sampled_from(Colouring))
    count = draw(st.integers(0 if colouring is Colouring.PLAIN else 1, 1 if colouring is Colouring.PLAIN else 6))
    colour = st.none() | st.sampled_from(address.COLOURS) if colouring is Colouring.NAMED else st.none()
    channels = tuple(ChannelName(draw(names), draw(colour)) for _ in range(count))
    if colouring is Colouring.BY_POSITION and count == 1 and channels[0].name in {p.value for p in Plane}:
        channels = (ChannelName("5"),)
    timed = count and colouring is not Colouring.BY_POSITION
    return TileAddress(
        token=draw(names),
        plane=draw(st.sampled_from(Plane)),
        slice=draw(numbers),
        row=draw(numbers),
        col=draw(numbers),
        level=draw(numbers),
        channels=channels,
        time=draw(st.none() | numbers) if timed else None,
        colouring=colouring,
    )


class GrammarTests(SynchronousTestCase):
    """One grammar reads and writes."""

    @given(addresses())
    def test_every_spelling_reads_back(self, one: TileAddress) -> None:
        """Whatever form can say an address, parse reads the same address from it, behind any prefix too."""
        spellings = address.spellings(one)
        self.assertEqual(spellings[0], address.write(one))
        for spelling in spellings:
            self.assertEqual(address.parse(spelling), one)
            self.assertEqual(address.parse(spelling.replace(",", "%2C").replace(":", "%3a")), one)
            if not spelling.startswith(("ocp", "ndtile", "tilecache")):
                for prefix in ("ocpcatmaid/", "ndtilecache/tilecache/", "tilecache/", "ocptilecache/tilecache/"):
                    self.assertEqual(address.parse(prefix + spelling), one)

    @given(st.text(max_size=80) | st.from_regex(r"[a-z0-9_,:/.-]{0,60}\n?", fullmatch=True))
    def test_anything_is_an_address_or_bad(self, path: str) -> None:
        """Hostile paths give an address that can be written again, or BadAddress; nothing else."""
        try:
            found = address.parse(path)
        except BadAddress as bad:
            self.assertNotIn("\n", str(bad))
        else:
            self.assertEqual(address.parse(address.write(found)), found)


class FormTests(SynchronousTestCase):
    """The forms as the historical clients sent them."""

    def tile(self, path: str, **expected: object) -> None:
        """The path means this, with xy, slice 10, row 1, column 2, level 3 where nothing else is said."""
        said = {"token": "kat", "plane": Plane.XY, "slice": 10, "row": 1, "col": 2, "level": 3, **expected}
        self.assertEqual(address.parse(path), TileAddress(**said))  # type: ignore[arg-type]

    def test_forms(self) -> None:
        """D1, D2, D3, D6, mcfc, viking."""
        image, listed = (ChannelName("image"),), Colouring.BY_POSITION
        self.tile("kat/10/1_2_3.png")
        self.tile("kat/xy/10/1_2_3.png")
        self.tile("kat/zy/10/1_2_3.png", plane=Plane.ZY)
        self.tile("kat/0,0,5/10/1_2_3.png", channels=tuple(map(ChannelName, "005")), colouring=listed)
        self.tile("kat/xz/a-b/10/1_2_3.png", plane=Plane.XZ, channels=(ChannelName("a-b"),), colouring=listed)
        self.tile("kat/image/yz/10/1_2_3.png", plane=Plane.YZ, channels=image)
        self.tile("kat/xy/xy/10/1_2_3.png", channels=(ChannelName("xy"),))
        for time in ("0", "7", "12", "345678"):
            self.tile(f"kat/image/xy/{time}/10/1_2_3.png", channels=image, time=int(time))
        named = (ChannelName("a", "R"), ChannelName("b"), ChannelName("c", "M"))
        self.tile("mcfc/kat/a:r,b,c:M/xy/10/1_2_3.png", channels=named, colouring=Colouring.NAMED)
        self.tile("mcfc/kat/a:R,b,c:M/xy/4/10/1_2_3.png", channels=named, colouring=Colouring.NAMED, time=4)
        self.tile("viking/kat/volume/image/3/X2_Y1_Z10.png", channels=image)
        self.tile("kat/-1/-5_-6_7.png", slice=-1, row=-5, col=-6, level=7)

    def test_bad(self) -> None:
        """Near misses are refused."""
        for path in (
            "",
            "kat",
            "kat/10/1_2_3.jpg",
            "kat/10/1_2_3xpng",
            "kat/10/1_2_3.png\n",
            "kat/10/1_2_3.png/",
            "kat//1_2_3.png",
            "kat/10/1_2.png",
            "kat/1234567890/1_2_3.png",
            "k" * 65 + "/10/1_2_3.png",
            "../etc/10/1_2_3.png",
            "kat/a,,b/10/1_2_3.png",
            "kat/a,b/xy/10/1_2_3.png",
            "kat/a,b,c,d,e,f,g/10/1_2_3.png",
            "mcfc/kat/a:,b/xy/10/1_2_3.png",
            "mcfc/kat/a:CM/xy/10/1_2_3.png",
            "mcfc/kat/a:K/xy/10/1_2_3.png",
            "kat/xq/5/6/10/1_2_3.png",
            "kat/\u0661\u0660/1_2_3.png",
            "kat%2Fxy/10/1_2_3.png",
            "x/" * 600,
        ):
            with self.subTest(path=path[:40]):
                self.assertRaises(BadAddress, address.parse, path)

    def test_constructing_is_checked(self) -> None:
        """An address that no form can say cannot be made."""
        for wrong in (
            {"token": "a/b"},
            {"slice": 10**9},
            {"time": 3},
            {"colouring": Colouring.NAMED},
            {"channels": (ChannelName("a"), ChannelName("b"))},
            {"channels": (ChannelName("a", "R"),)},
            {"channels": (ChannelName("xy"),), "colouring": Colouring.BY_POSITION},
        ):
            said = {"token": "kat", "plane": Plane.XY, "slice": 1, "row": 1, "col": 1, "level": 1, **wrong}
            self.assertRaises(BadAddress, TileAddress, **said)
