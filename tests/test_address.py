"""Tile addresses: every form, both ways."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ocpproxy.model import address
from ocpproxy.model.address import (
    Adjustment,
    BadAddress,
    ChannelName,
    Colouring,
    ImageBase,
    OverviewAddress,
    TileAddress,
)
from ocpproxy.model.dataset import Plane
from tests.volumes import shared

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", fullmatch=True) | st.sampled_from(
    ["xy", "xz", "mcfc", "viking", "tilecache", "ocpcatmaid", "h2n5", "volume", "small", "s1", "0", "12"]
)
numbers = st.integers(-(10**9) + 1, 10**9 - 1)


@st.composite
def bases(draw: st.DrawFn) -> ImageBase:
    """Return a strategy for any image base."""
    colouring = draw(st.sampled_from(Colouring))
    count = draw(st.integers(0 if colouring is Colouring.PLAIN else 1, 1 if colouring is Colouring.PLAIN else 6))
    colour = st.none() | st.sampled_from(address.COLOURS) if colouring is Colouring.NAMED else st.none()
    channels = tuple(ChannelName(draw(names), draw(colour)) for _ in range(count))
    if colouring is Colouring.BY_POSITION and count == 1 and channels[0].name in {p.value for p in Plane}:
        channels = (ChannelName("5"),)
    return ImageBase(draw(names), draw(st.sampled_from(Plane)), channels, colouring)


@st.composite
def addresses(draw: st.DrawFn) -> TileAddress:
    """Return a strategy for any address."""
    base = draw(bases())
    timed = base.channels and base.colouring is not Colouring.BY_POSITION
    time = draw(st.none() | numbers) if timed else None
    return TileAddress(base, draw(numbers), draw(numbers), draw(numbers), draw(numbers), time)


class GrammarTests(SynchronousTestCase):
    """Addresses are read and written by one grammar."""

    @given(addresses())
    def test_every_spelling_reads_back(self, one: TileAddress) -> None:
        """In whatever form an address is written, parse reads the same address, behind any prefix too."""
        all_paths = address.all_paths(one)
        self.assertEqual(all_paths[0], address.write(one))
        for spelling in all_paths:
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
            if not isinstance(found, OverviewAddress):
                written = address.write(found) if isinstance(found, TileAddress) else address.write_base(found)
                self.assertEqual(address.parse(written), found)

    @given(bases(), numbers)
    def test_bases(self, base: ImageBase, slice_: int) -> None:
        """An image base reads back, and so do its overviews."""
        path = address.write_base(base)
        self.assertEqual(address.parse(path), base)
        for tail in (f"{slice_}/small.png", f"small/{slice_}.png", f"largeDataTileSource/512/512/small/{slice_}.png"):
            self.assertEqual(address.parse(path + tail), OverviewAddress(base, slice_))

    @given(st.text(max_size=60) | st.from_regex(r"([a-z]{1,6}=[-0-9a-zA-Z.,%]{0,9}&?){0,8}", fullmatch=True))
    def test_any_query(self, query: str) -> None:
        """A query gives a tile or the image base, and a tone or none, or BadAddress; nothing else."""
        for read in (lambda: address.parse("kat/xy/", query), lambda: address.adjustment(query)):
            try:
                read()
            except BadAddress as bad:
                self.assertNotIn("\n", str(bad))


class FormTests(SynchronousTestCase):
    """The forms as the historical clients sent them."""

    def tile(self, path: str, **expected: Any) -> None:
        """Check that a path means this tile: xy, slice 10, row 1, column 2, level 3 unless the arguments differ."""
        numbers = {"slice": 10, "row": 1, "col": 2, "level": 3, **expected}
        base = {name: numbers.pop(name) for name in ("plane", "channels", "colouring") if name in numbers}
        self.assertEqual(address.parse(path), TileAddress(ImageBase("kat", **base), **numbers))

    def test_forms(self) -> None:
        """The forms D1, D2, D3, D6, mcfc and viking."""
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
        """Paths that are nearly addresses are refused."""
        for path in (
            "",
            "kat/xq/image/",
            "kat/10/5_2.png/small.png",
            "kat/largeDataTileSource/256/256/3/10/1/2.png",
            "kat/s3/0_1_2/512_512/1_512_10.png",
            "kat/xy/256/3/2/1/10",
            "kat/10/1_2_3.jpg",
            "kat/10/1_2_3xpng",
            "kat/10/1_2_3.png\n",
            "kat/10/1_2_3.png/",
            "kat//1_2_3.png",
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

    def test_catmaid_types(self) -> None:
        """Each tile source type behind each form of image base, as its clients spell it."""
        image = (ChannelName("image"),)
        for base, expected in (
            ("kat/", {}),
            ("kat/xz/", {"plane": Plane.XZ}),
            ("kat/image/zy/", {"plane": Plane.ZY, "channels": image}),
            (
                "mcfc/kat/image:R/xz/",
                {"plane": Plane.XZ, "channels": (ChannelName("image", "R"),), "colouring": Colouring.NAMED},
            ),
        ):
            self.tile(f"{base}10/3/1_2.png", **expected)
            self.tile(f"{base}3/10/1/2.png", **expected)
            self.tile(f"{base}largeDataTileSource/512/512/3/10/1/2.png", **expected)
            self.tile(f"h2n5/{base}s3/0_1_2/512_512/1024_512_10.png", **expected)
        self.tile("kat/image/xy/7/10/3/1_2.png", channels=image, time=7)
        self.tile("kat/image/xy/3/7/10/1/2.png", channels=image, time=7)
        planed: tuple[tuple[str, dict[str, object]], ...] = (
            ("kat/", {}),
            ("kat/zy/", {}),
            ("kat/image/xz/", {"channels": image}),
        )
        for base, expected in planed:
            self.tile(f"{base}xy/3/2_1_10", **expected)
            self.tile(f"{base}xz/3/2_10_1", plane=Plane.XZ, **expected)
            self.tile(f"{base}yz/3/10_2_1", plane=Plane.YZ, **expected)
            self.tile(f"{base}xy/512/3/2/1/10", **expected)
            self.tile(f"{base}xz/512/3/2/10/1", plane=Plane.XZ, **expected)
            self.tile(f"{base}yz/512/3/2/1/10", plane=Plane.ZY, **expected)

    def test_type_2(self) -> None:
        """Both dialects of type 2; anything else behind a bare base is no tile."""
        base = ImageBase("kat", Plane.XZ)
        expected = TileAddress(base, 10, 1, 2, 3)
        for query in (
            "x=1024&y=512&width=512&height=512&row=y&col=x&scale=0.125&z=10",
            "z=10&scale=0.125&y=512&x=1024",
            "x=1024&y=512&z=10&width=512&height=512&scale=3&row=1&col=2",
        ):
            self.assertEqual(address.parse("kat/xz/", query), expected)
        for query in (
            "",
            "nocache=1",
            "z=10",
            "x=1&y=2",
            "z=1&scale=1&row=y&col=x"[:12],
            "z=1&scale=1&x=0" + "0" * 2000,
        ):
            self.assertEqual(address.parse("kat/xz/", query), base)
        for query in (
            "x=1&y=512&scale=0.125&z=10",
            "x=0&y=512&scale=0.3&z=10",
            "x=0&y=512&scale=nan&z=10",
            "x=0&y=512&scale=0&z=10",
            "x=0&y=512&scale=1&z=ten",
            "x=0&y=512&scale=1&z=1&width=256",
        ):
            self.assertRaises(BadAddress, address.parse, "kat/xz/", query)

    def test_tone(self) -> None:
        """Type 9: contrast and colour."""
        self.assertEqual(
            address.adjustment("min=10&max=200.5&gamma=0.5&color=cyan&quality=3"),
            Adjustment(10, 200.5, 0.5, (0, 255, 255)),
        )
        self.assertEqual(address.adjustment("color=00ff80,red"), Adjustment(colour=(0, 255, 128)))
        self.assertIsNone(address.adjustment("nocache=3&quality=1"))
        for query in ("min=low", "color=mauve", "gamma=0", "gamma=-1", "max=1e999"):
            self.assertRaises(BadAddress, address.adjustment, query)

    def test_catmaid_vectors(self) -> None:
        """What CATMAID's own front end appends to an image base, type by type."""
        path = shared("fixtures", "catmaid-url-vectors.json")
        if path is None:
            raise SkipTest("the fixtures are not here")
        vectors = json.loads(path.read_text())["vectors"]
        self.assertGreater(len(vectors), 60)
        for one in vectors:
            url = one["url"].replace("http://gw/base/", "kat/").replace("http://gw/h2n5/vol/", "h2n5/kat/")
            found = address.parse(*url.split("?"))
            plane, row, col = Plane[one["orientation"]], one["row"], one["col"]
            if one["client_transposes"]:
                plane, row, col = Plane.YZ, col, row
            self.assertEqual(found, TileAddress(ImageBase("kat", plane), one["z"], row, col, one["zoom"]), url)

    def test_constructing_is_checked(self) -> None:
        """An address that no form can express cannot be made."""
        for wrong in (
            {"slice": 10**9},
            {"time": 3},
        ):
            numbers = {"slice": 1, "row": 1, "col": 1, "level": 1, **wrong}
            self.assertRaises(BadAddress, TileAddress, ImageBase("kat"), **numbers)
        for base in (
            {"token": "a/b"},
            {"colouring": Colouring.NAMED},
            {"channels": (ChannelName("a"), ChannelName("b"))},
            {"channels": (ChannelName("a", "R"),)},
            {"channels": (ChannelName("xy"),), "colouring": Colouring.BY_POSITION},
        ):
            self.assertRaises(BadAddress, ImageBase, **{"token": "kat", **base})
