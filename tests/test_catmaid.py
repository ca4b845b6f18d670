"""What CATMAID's front end and its Python clients request, through the daemon."""

from __future__ import annotations

import json
from fractions import Fraction
from io import BytesIO

import numpy as np
from PIL import Image
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest

from tests import ocpserver, oracle
from tests.channels import SMALL, Array, ViewsCase, channels
from tests.ocpserver import Served
from tests.pictures import opaque
from tests.volumes import em, level, shared


class CatmaidTests(ViewsCase):
    """What CATMAID's front end and its Python clients request."""

    async def test_types(self) -> None:
        """Every tile source type gives the same tile, behind every form of image base."""
        service = ocpserver.Service(em(), 2, levels=2, channels={"em": Served(em())}, scale=1, **SMALL)
        daemon = await self.view(service)
        for base, plane in (
            ("kat/", "xy"),
            ("kat/xz/", "xz"),
            ("kat/em/zy/", "zy"),
            ("ocpcatmaid/tilecache/kat/em/xz/", "xz"),
        ):
            first = await self.pictures(daemon, [f"{base}5/0_1_0.png"])
            want = oracle.cut(oracle.plane(em(), plane, 4 if plane == "xy" else 5), 0, 1)
            np.testing.assert_array_equal(first[0], opaque(want))
            host, _, rest = base.partition("tilecache/")
            prefixed = f"h2n5/{rest or host}"
            same = [
                f"{base}5/0/0_1.png",
                f"{base}0/5/0/1.png",
                f"{base}largeDataTileSource/512/512/0/5/0/1.png?maxTileSpecsToRender=5",
                f"{base}?x=512&y=0&width=512&height=512&row=y&col=x&scale=1&z=5",
                f"{base}?x=512&y=0&width=512&height=512&row=0&col=1&scale=0&z=5",
                f"{base}5/0_1_0.png?quality=80",
                f"{prefixed}s0/0_1_2/512_512/512_0_5.png",
                {"xy": f"{base}xy/0/1_0_5", "xz": f"{base}xz/0/1_5_0", "zy": f"{base}yz/512/0/1/0/5"}[plane],
                {"xy": f"{base}xy/512/0/1/0/5", "xz": f"{base}xz/512/0/1/5/0", "zy": f"{base}yz/512/0/1/0/5"}[plane],
            ]
            for got in await self.pictures(daemon, same):
                np.testing.assert_array_equal(got, first[0])
        transposed = await self.pictures(daemon, ["kat/yz/0/7_1_0", "kat/zy/7/1_0_0.png"])
        np.testing.assert_array_equal(transposed[0].transpose(1, 0, 2), transposed[1])
        code, _, headers = await daemon.get("kat/xy/512/0/1/0/5", "OPTIONS")
        self.assertEqual(code, 204)
        self.assertIn("Authorization", headers["access-control-allow-headers"])
        for base in ("kat/", "kat/xz/", "kat/em/zy/", "kat/em,em/", "mcfc/kat/em:R/xy/", "kat/xy/?unknown=1"):
            code, body, headers = await daemon.get(base)
            self.assertEqual(
                (code, headers["content-type"], json.loads(body)["token"]), (200, "application/json", "kat")
            )

    async def test_vectors(self) -> None:
        """Each URL that CATMAID's own front end makes is a tile, and the right one."""
        path = shared("fixtures", "catmaid-url-vectors.json")
        if path is None:
            raise SkipTest("the fixtures are not here")
        service = ocpserver.Service(em(), 2, levels=2, channels={"em": Served(em())}, scale=1, **SMALL)
        daemon = await self.view(service)
        for one in json.loads(path.read_text())["vectors"]:
            plane = one["orientation"].lower()
            base = f"kat/em/{plane}/"
            url = one["url"].replace("http://gw/base/", base).replace("http://gw/h2n5/vol/", f"h2n5/{base}")
            same = f"{base}{one['z']}/{one['row']}_{one['col']}_{one['zoom']}.png"
            got, want = await self.pictures(daemon, [url, same])
            np.testing.assert_array_equal(got.transpose(1, 0, 2) if one["client_transposes"] else got, want, url)

    async def test_tone_and_overview(self) -> None:
        """Type 9's contrast and colour; small.png of types 1, 4, 5 and 7, of few tiles."""
        service = ocpserver.Service(em(), 2, levels=2, channels=channels(), scale=1, **SMALL)
        daemon = await self.view(service)
        plain, contrast, tinted, again = await self.pictures(
            daemon,
            [
                "kat/em/xy/5/0_0_0.png",
                "kat/em/xy/5/0_0_0.png?min=60&max=180&gamma=1&quality=70",
                "kat/em/xy/5/0_0_0.png?min=60&max=180&color=magenta",
                "kat/em/xy/5/0_0_0.png",
            ],
        )
        want = oracle.grey(plain[..., 0], (60, 180))
        np.testing.assert_array_equal(contrast, opaque(want))
        np.testing.assert_array_equal(tinted[..., 0], want)
        np.testing.assert_array_equal(tinted[..., 1], want * 0)
        np.testing.assert_array_equal(again, plain)
        etags = {
            (await daemon.get(f"kat/em/xy/5/0_0_0.png{q}"))[2]["etag"] for q in ("", "?min=60", "?min=61", "?gamma=2")
        }
        self.assertEqual(len(etags), 4)
        code, body, _ = await daemon.get("kat/ids/xy/5/0_0_0.png?min=3")
        self.assertEqual((code, b"only grey" in body), (404, True))
        before = len(service.cutouts)
        pictures = set()
        for path in ("5/small.png", "small/5.png", "largeDataTileSource/512/512/small/5.png"):
            code, body, headers = await daemon.get(f"kat/em/xy/{path}")
            image = Image.open(BytesIO(body))
            self.assertEqual(
                (code, image.size, image.mode, headers["content-type"]), (200, (192, 180), "L", "image/png")
            )
            self.assertLess(abs(float(np.array(image).mean()) - float(em()[4].mean())), 2)
            pictures.add(body)
            self.assertEqual((await daemon.get(f"kat/em/xy/{path}", "HEAD"))[0], 200)
        self.assertEqual(len(pictures), 1)
        self.assertLessEqual(len(service.cutouts), before + 1)
        for path, size in (("kat/em/xz/300/small.png", (192, 6)), ("kat/ids/zy/300/small.png", (6, 192))):
            _, body, _ = await daemon.get(path)
            self.assertEqual(Image.open(BytesIO(body)).size, size)
        for plane, size in (("xy", (192, 180)), ("xz", (192, 6)), ("zy", (6, 192))):
            _, body, _ = await daemon.get(f"kat/em/{plane}/9999/small.png")
            small = Image.open(BytesIO(body))
            self.assertEqual((small.size, np.array(small).max()), (size, 0))

    async def test_catpy(self) -> None:
        """catpy reads the volume through the gateway alone: all orientations, types and zoom levels 0 and 1."""
        offset = (0, 0, 0)
        service = ocpserver.Service(em(), 2, offset, levels=2, channels={"em": Served(em())}, scale=1, **SMALL)
        extra = "[dataset katmaid]\ntoken = kat\nslice_coordinate = full\n"
        daemon = await self.view(service, extra, upstream_max_cutout="2")
        code, body, headers = await daemon.get("projects/")
        self.assertEqual((code, headers["content-type"]), (200, "application/json"))
        (project,) = (one for one in json.loads(body) if one["title"] == "katmaid")
        _, listed, _ = await daemon.get(f"{project['id']}/stacks")
        self.assertEqual({one["id"] for one in json.loads(listed)}, {one["id"] for one in project["stacks"]})
        for number in (f"{project['id']}/stack/1/info", "77/stacks", "77/stack/1/info"):
            self.assertEqual((await daemon.get(number))[0], 404)
        stacks = {one["title"].split()[-1]: one["id"] for one in project["stacks"]}
        self.assertEqual(set(stacks), {"XY", "XZ", "ZY"})
        for orientation, number in stacks.items():
            _, body, _ = await daemon.get(f"{project['id']}/stack/{number}/info")
            document = json.loads(body)
            self.assertEqual(len(document), 18)
            for zoom in (0, 1):
                volume = level(em(), zoom)
                scale = Fraction(1, 2**zoom)
                want = self.as_stack(em() if orientation == "XY" else volume, volume, orientation, scale, zoom)
                for type_ in (1, 4, 5):
                    got = await deferToThread(
                        self.read_by_catpy, daemon.url, project["id"], number, f"type {type_}", zoom, want.shape
                    )
                    np.testing.assert_array_equal(got, want, f"{orientation} {zoom} {type_}")

    def as_stack(self, finest: Array, volume: Array, orientation: str, scale: Fraction, zoom: int) -> Array:
        """Return a part of the volume, axes (slice, row, column) of the stack, across tiles if it can."""
        if orientation == "XY":
            return volume[3:6, :, :]
        axis = 1 if orientation == "XZ" else 2
        slices = [301, 302, 303]
        planes = [oracle.plane(volume, orientation.lower(), n >> zoom, scale) for n in slices]
        self.assertGreater(finest.shape[axis], 100)
        return np.stack(planes)

    @staticmethod
    def read_by_catpy(url: str, project: int, stack: int, mirror: str, zoom: int, shape: tuple[int, int, int]) -> Array:
        """Return the same part as catpy reads it, axes (slice, row, column)."""
        from catpy import CatmaidClient
        from catpy.image import ImageFetcher

        first = 3 if shape[2] > 100 and shape[1] > 100 else 301
        fetcher = ImageFetcher.from_catmaid(CatmaidClient(url, project_id=project), stack, preferred_mirror=mirror)
        roi = [[first, 0, 0], [first + shape[0], shape[1], shape[2]]]
        found: Array = fetcher.get_scaled_space(roi, zoom)
        return found
